"""``detect``: every detector that a labelled run allows, on the same rows and the same folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.arguments import listener
from vlmscope.detectors.checks import (
    check_detector,
    check_requires,
    is_own,
    risks_of,
    undefined_rows,
)
from vlmscope.detectors.detector import GROUPS, Detector
from vlmscope.detectors.evaluate import evaluate
from vlmscope.detectors.meaning import SameMeaning, by_rules
from vlmscope.detectors.methods import Flags, Task
from vlmscope.detectors.missing import is_of_images, remedy
from vlmscope.detectors.registry import DETECTORS, chosen, named
from vlmscope.detectors.results import LACKS, NO_IMAGES, Detection, Dropped, Unavailable
from vlmscope.detectors.rows import Rows, rows_of
from vlmscope.errors import InputError
from vlmscope.probes.base import block_numbers
from vlmscope.schema import Progress
from vlmscope.shown import count
from vlmscope.store import DEFAULT, AnyRun, as_run
from vlmscope.sweeps import ProbeData, SweepSpec, probe_data
from vlmscope.sweeps.data import with_columns
from vlmscope.sweeps.run import repeats_of
from vlmscope.sweeps.splitting import grouped_by, repeated_splits, stacked
from vlmscope.sweeps.transfer.fits import take_rows

MOST_UNDEFINED = 0.2
"""Largest share of the rows without a value of some detector; with more, detectors are left out."""


def detect(
    run: AnyRun,
    detectors: str | Detector | Iterable[str | Detector] | None = None,
    spec: SweepSpec | None = None,
    *,
    labels: str = DEFAULT,
    same_meaning: SameMeaning | None = None,
    progress: Progress | bool | None = None,
) -> Detection:
    """Evaluate detectors of hallucinations on a labelled run.

    Args:
        run: The run, with labels (``vlmscope label``), or its folder.
        detectors: Names of detectors or groups, or detectors of your own; by default all. The
            baselines that need no model are always included.
        spec: Folds, repeats, groups, draws and seed, as for the sweep; its estimators, permutations
            and protocol are not used.
        labels: The label set.
        same_meaning: Whether two answers to a question mean the same; by default, rules for short
            answers. See ``detectors.nli``.
        progress: Called with a line of text about each step; True prints it.

    Raises:
        InputError: No labels, an unknown detector, none of the named ones can be evaluated, too few
            images of either class, or an error in a detector of your own.
    """
    report, spec = listener("progress", progress), spec or SweepSpec()
    opened = as_run(run)
    wanted, asked = _wanted(detectors)
    data = grouped_by(probe_data(opened, spec.copies, labels=labels), opened, spec.group_by)
    data = with_columns(data, spec.by)
    rows = rows_of(opened, data, same_meaning or by_rules)
    found = detect_rows(data, rows, wanted, spec, asked=asked, progress=report)
    return replace(found, complete=detectors is None)


def _wanted(
    detectors: str | Detector | Iterable[str | Detector] | None,
) -> tuple[tuple[Detector, ...], frozenset[str]]:
    """Return the detectors with some names and those that are given, and which are asked for."""
    if detectors is None or isinstance(detectors, str):
        return chosen(detectors), named(detectors)
    own, texts = _separated([detectors] if isinstance(detectors, Detector) else detectors)
    registered = chosen(texts if texts or not own else ["no_model"])
    names = Counter((*DETECTORS, *GROUPS, *(each.name for each in own)))
    if taken := [each.name for each in own if names[each.name] > 1]:
        where = "a registered one" if taken[0] in DETECTORS else "another one"
        where = "a group" if taken[0] in GROUPS else where
        raise InputError(
            f"detector {taken[0]!r}: is the name of {where} too, expected a name of its own; "
            "rename it"
        )
    asked = named(texts) if texts else frozenset[str]()
    return (*registered, *own), asked | {each.name for each in own}


def _separated(given: Iterable[Any]) -> tuple[list[Detector], list[str]]:
    """Return a user's own detectors, which are checked, and the names of the others."""
    own: list[Detector] = []
    texts: list[str] = []
    for each in given:
        if isinstance(each, str):
            texts.append(each)
        elif not isinstance(each, Detector):
            what = type(each).__name__
            raise InputError(f"detectors: found a {what}, expected names or Detectors; wrap it")
        elif is_own(each):
            check_detector(each)
            own.append(each)
        else:
            texts.append(each.name)
    return own, texts


def detect_rows(
    data: ProbeData,
    rows: Rows,
    detectors: Iterable[Detector],
    spec: SweepSpec | None = None,
    *,
    asked: Collection[str] = (),
    progress: Progress = lambda _: None,
) -> Detection:
    """Evaluate detectors on some rows: what ``detect`` does, without a run.

    Args:
        data: Labels and groups of the rows.
        rows: What the detectors read of them.
        detectors: The detectors.
        spec: Settings.
        asked: Names of which one at least must be evaluated; by default, of any.
        progress: Called with a line of text about each step.

    Raises:
        InputError: Too few groups have a class, or no detector can be evaluated.
    """
    spec = spec or SweepSpec()
    usable, unavailable = _usable(detectors, rows)
    _check_some(usable, unavailable, asked)
    undefined = dict(_undefined(usable, rows, progress))
    kept, found, dropped, left_out = _kept(undefined, usable)
    _check_some(found.values(), (*unavailable, *left_out), asked)
    if len(kept) < len(rows):
        data, rows = rows_kept(data, kept), rows.take(kept)
    splits = repeated_splits(data, spec.folds, spec.seed, repeats_of(spec, data))
    task = Task(rows, data.truth, data.groups, splits)
    risks: dict[str, NDArray[np.float64]] = {}
    for name, detector in found.items():
        progress(detector.title)
        risks[name] = risks_of(detector, task)
    progress("intervals")
    fold_of = np.stack([block_numbers(folds, len(data.truth)) for folds in splits])
    stack = stacked(data.truth, data.groups, fold_of, risks)
    results, rivals = evaluate(found, stack, draws=spec.draws, seed=spec.seed)
    return Detection(
        results=results,
        unavailable=(*unavailable, *left_out),
        dropped=dropped,
        detectors=found,
        risks=risks,
        data=data,
        fold_of=fold_of,
        best_model_free=rivals["model_free"],
        best_single=rivals["single"],
        settings=_settings(spec, len(splits), rows.same_meaning),
    )


def _usable(
    detectors: Iterable[Detector], rows: Rows
) -> tuple[tuple[Detector, ...], tuple[Unavailable, ...]]:
    """Return the detectors that the rows have everything for, and the others with the reason."""
    usable, unavailable, imageless = [], [], rows.without_images
    for each in detectors:
        check_requires(each, rows)
        if missing := rows.lacks(each.requires):
            of_images = imageless and any(map(is_of_images, missing.split(", ")))
            reason = NO_IMAGES if of_images else f"{LACKS}{missing}"
            unavailable.append(Unavailable(each.name, each.title, reason))
        else:
            usable.append(each)
    return tuple(usable), tuple(unavailable)


def _check_some(
    detectors: Iterable[Detector], unavailable: Iterable[Unavailable], asked: Collection[str]
) -> None:
    """Raise if none of the detectors that are asked for can be evaluated."""
    if any(each.name in asked or not asked for each in detectors):
        return
    why = [each for each in unavailable if each.name in asked or not asked]
    more = f", and {count(len(why) - 1, 'other')} for similar reasons" if len(why) > 1 else ""
    raise InputError(
        "--detectors: found none that can be evaluated, expected one or more: "
        + "".join(f"{each.title} ({each.reason})" for each in why[:1])
        + f"{more}; name others{_remedies(why)}"
    )


def _remedies(unavailable: Iterable[Unavailable]) -> str:
    """Return how a run gets what the first of some detectors lacks, to follow "name others"."""
    first = next((each for each in unavailable if each.reason != NO_IMAGES), None)
    if first is None:
        return ""
    every = dict.fromkeys(map(remedy, first.missing))
    needed = " and ".join(filter(None, every)) or "the --signals that they need"
    return f", or extract a run with {needed}"


def _undefined(
    detectors: Iterable[Detector], rows: Rows, progress: Progress
) -> Iterator[tuple[str, Flags]]:
    """Yield each detector's name with the rows that it has no value for."""
    for each in detectors:
        progress(f"{each.title}: rows with a value")
        yield each.name, undefined_rows(each, rows)


def _kept(
    undefined: Mapping[str, Flags], detectors: Iterable[Detector]
) -> tuple[NDArray[np.int64], dict[str, Detector], tuple[Dropped, ...], tuple[Unavailable, ...]]:
    """Return the rows that every detector has a value for.

    Returns:
        The rows; the detectors; the dropped rows; and the detectors that are left out because they
        have no value for many rows (``incomplete``).
    """
    every = {each.name: each for each in detectors}
    reasons_of = incomplete(undefined)
    found = {name: each for name, each in every.items() if name not in reasons_of}
    left_out = tuple(
        Unavailable(name, every[name].title, reason) for name, reason in reasons_of.items()
    )
    bad = np.stack([undefined[name] for name in found], axis=1)
    reasons = Counter(
        ", ".join(name for name, one in zip(found, row, strict=True) if one)
        for row in bad.tolist()
        if any(row)
    )
    dropped = tuple(
        Dropped(number, f"without a value of {names}") for names, number in reasons.most_common()
    )
    return np.flatnonzero(~bad.any(axis=1)), found, dropped, left_out


def incomplete(undefined: Mapping[str, Flags]) -> dict[str, str]:
    """Return the detectors to leave out so that few rows are, with the reason.

    A detector without a value for more than ``MOST_UNDEFINED`` of the rows is one. If those of all
    others together are more than that, the ones that lack the most rows are left out until they are
    not; detectors that lack the same rows stay or go together.

    Args:
        undefined: Name → the rows that a detector has no value for, ``[N]``.
    """
    alike: dict[bytes, list[str]] = {}
    for name, bad in undefined.items():
        alike.setdefault(np.packbits(bad).tobytes(), []).append(name)
    # The fewest rows last; of as many, the rows of fewer detectors are given up first.
    order = sorted(
        alike.values(), key=lambda names: (int(undefined[names[0]].sum()), -len(names)),
        reverse=True,
    )  # fmt: skip
    found: dict[str, str] = {}
    while order and np.any([undefined[names[0]] for names in order], axis=0).mean() > (
        MOST_UNDEFINED
    ):
        names = order.pop(0)
        bad = undefined[names[0]]
        reason = f"has no value for {int(bad.sum()):,} of {len(bad):,} rows"
        if bad.mean() <= MOST_UNDEFINED:
            reason += ", which with those of other detectors are more than a fifth"
        found |= dict.fromkeys(names, reason)
    return {name: found[name] for name in undefined if name in found}


def rows_kept(data: ProbeData, kept: NDArray[np.int64]) -> ProbeData:
    """Return the data of some of the rows.

    Raises:
        InputError: Their labels are all equal.
    """
    truth = data.truth[kept]
    if not len(truth) or truth.all() or not truth.any():
        raise InputError(
            f"detect: of the {len(truth):,} rows that every detector has a value for, "
            f"{int(truth.sum()):,} are hallucinated, expected some that are and some that are not; "
            "select fewer --detectors"
        )
    exact = data.grouping.exact
    return replace(
        data,
        rows=data.rows[kept],
        ids=tuple(data.ids[row] for row in kept),
        truth=truth,
        grouping=replace(
            data.grouping,
            groups=data.grouping.groups[kept],
            exact=None if exact is None else exact[kept],
        ),
        baseline_inputs=take_rows(data.baseline_inputs, kept),
        categories=None if data.categories is None else _some(data.categories, kept),
        metadata={name: _some(cells, kept) for name, cells in data.metadata.items()},
        columns={name: _some(cells, kept) for name, cells in data.columns.items()},
        split=None if data.split is None else data.split[kept],
        without_value=None if data.without_value is None else data.without_value[kept],
    )


def _some(cells: Sequence[str], kept: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(cells[row] for row in kept)


def _settings(spec: SweepSpec, repeats: int, same_meaning: SameMeaning) -> dict[str, Any]:
    """Return the settings that were used; whether answers mean the same may be given."""
    meaning = "rules" if same_meaning is by_rules else "given"
    names = ("folds", "group_by", "copies", "draws", "seed", "by")
    return {name: getattr(spec, name) for name in names} | {
        "repeats": repeats,
        "meaning": meaning,
    }
