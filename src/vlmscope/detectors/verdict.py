"""The findings of detection in sentences, computed from the numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlmscope.detectors.detector import KNOWN
from vlmscope.detectors.results import (
    SIGNIFICANT,
    DetectorResult,
    Dropped,
)
from vlmscope.shown import count

MOST_NAMED = 6
"""Most detectors that a sentence names."""


def verdict(
    results: Sequence[DetectorResult],
    best_model_free: str,
    best_single: str,
    dropped: Sequence[Dropped] = (),
) -> tuple[str, ...]:
    """Return the findings, a sentence each, the main one first.

    Args:
        results: A result for each detector.
        best_model_free: Name of the best baseline that needs no model.
        best_single: Name of the best single number without training; empty for none.
        dropped: Rows that were left out.
    """
    return tuple(_sentences(results, best_model_free, best_single, dropped))


def _sentences(
    results: Sequence[DetectorResult],
    best_model_free: str,
    best_single: str,
    dropped: Sequence[Dropped],
) -> Iterator[str]:
    by_name = {row.name: row for row in results}
    yield from _best_of_each(results)
    for kind, name, words in (
        ("model_free", best_model_free, "the best baseline that needs no model"),
        ("single", best_single, "the best single number without training"),
    ):
        compared = [row for row in results if getattr(row, f"above_{kind}") is not None]
        if name in by_name and compared:
            yield _above(kind, by_name[name], words, compared)
    if wrong := [row.title for row in results if row.worse_than_chance]:
        yield (
            f"Worse than chance, so that the direction of the paper is wrong here: {named(wrong)}."
        )
    if nothing := [row.title for row in results if row.found_nothing]:
        yield f"Constant risk in most folds: {named(nothing)}."
    for each in dropped:
        yield f"{count(each.count, 'row')} left out for all detectors, {each.reason}."


def _best_of_each(results: Sequence[DetectorResult]) -> Iterator[str]:
    """Yield the best detector of all, and that of each earlier time at which one is known."""
    found = [row for row in results if not row.found_nothing]
    if not found:
        return
    best = max(found, key=lambda row: row.auroc)
    yield f"Best detector: {best.title}, {_auroc(best)}, known {best.known}{_chance(best, found)}."
    for known in KNOWN[: KNOWN.index(best.known) if best.known in KNOWN else None]:
        own = [row for row in found if row.known == known]
        if own:
            first = max(own, key=lambda row: row.auroc)
            yield (
                f"Best of those known {known}: {first.title}, {_auroc(first)}"
                f"{_chance(first, found)}."
            )


def _chance(row: DetectorResult, found: Sequence[DetectorResult]) -> str:
    """Return a note if a detector is not better than chance, as the best of several."""
    if row.better_than_chance:
        return ""
    others = f", corrected for {count(len(found), 'detector')}" if len(found) > 1 else ""
    return f"; not significantly better than chance{others}"


def _auroc(row: DetectorResult) -> str:
    return f"AUROC {row.auroc:.3f} ({row.auroc_low:.3f} to {row.auroc_high:.3f})"


def _above(kind: str, rival: DetectorResult, words: str, compared: Sequence[DetectorResult]) -> str:
    """Return how many detectors are better than a rival, the best ones first, as a sentence."""
    ordered = sorted(compared, key=lambda row: -row.auroc)
    better = [row.title for row in ordered if row.better_than(kind)]
    names = f": {named(better)}" if better else ""
    verb = "is" if 1 in (len(better), len(compared)) else "are"
    reached = "constant risk" if rival.found_nothing else f"AUROC {rival.auroc:.3f}"
    return (
        f"{len(better)} of {count(len(compared), 'detector')} {verb} better than {words} "
        f"({rival.title}, {reached}) at p < {SIGNIFICANT}, corrected for all comparisons{names}."
    )


def named(titles: Sequence[str]) -> str:
    """Return titles as a list, shortened if there are many.

    >>> named(["a", "b"]), named(list("abcdefgh"))
    ('a; b', 'a; b; c; d; e; f; and 2 more')
    """
    shown = "; ".join(titles[:MOST_NAMED])
    more = len(titles) - MOST_NAMED
    return f"{shown}; and {more} more" if more > 0 else shown
