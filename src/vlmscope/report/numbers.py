"""The numbers worth a tile of their own, and the table of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from vlmscope.metrics import Abstention, abstention, share_bounds
from vlmscope.probe.baselines import JOINT
from vlmscope.probing import SavedSweep
from vlmscope.probing.abstaining import ABSTAIN, abstaining_of
from vlmscope.probing.judging import JOINT_AND_PROBE
from vlmscope.report.document import CategoryRow, LabelSummary, Number, ResultRow
from vlmscope.report.provenance import when
from vlmscope.report.rows import Row, hashes_of
from vlmscope.schema import ErrorKind, Score

ERROR_KINDS: Mapping[ErrorKind, str] = {
    "affirms": "affirms what is not so",
    "denies": "denies what is so",
    "other": "neither",
}
"""Which way an answer to a yes/no question is wrong, as the page says it."""


def numbers(
    rows: Sequence[Row],
    total: CategoryRow | None,
    sweep: SavedSweep | None,
    labels: LabelSummary | None,
    failed: int,
) -> Iterator[Number]:
    """Yield the tiles.

    Args:
        rows: The run's rows.
        total: Outcomes of all rows; None without labels.
        sweep: Its probes, where it has some that fit.
        labels: How the labels were made.
        failed: Rows that could not be captured.
    """
    lost = "1 row" if failed == 1 else f"{failed:,} rows"
    note = f"{lost} failed, in no number here" if failed else "none failed"
    yield Number("rows", f"{len(rows):,}", note)
    pictures = {sha256 for row in rows for sha256 in hashes_of(row.image_sha256)}
    bare = sum(not row.image_sha256 for row in rows)
    none = "1 question has none" if bare == 1 else f"{bare:,} questions have none"
    note = f"different ones; {none}" if bare else "different ones"
    if not pictures:
        note = "no question has one"
    yield Number("pictures", f"{len(pictures):,}", note)
    if total is not None and total.share is not None:
        scorable = total.hallucinated + total.faithful
        note = f"{total.hallucinated:,} of {scorable:,} scorable answers"
        note += _bounds(total)
        yield Number("hallucinated", f"{total.share:.1%}", note)
    if sweep is not None:
        yield from _of_probes(sweep)
    if total is not None:
        reason = labels.reasons[0][0] if labels is not None and labels.reasons else ""
        yield Number("unscorable", f"{total.unscorable:,}", reason and f"most often: {reason}")


def _bounds(total: CategoryRow) -> str:
    """Return what the share would be were the unscorable answers all one thing, if there are any.

    >>> _bounds(CategoryRow("all", 4, 1, 2, 1, 1 / 3, 0, 1, None, None, None))
    '; 25.0% if no unscorable answer were hallucinated, 50.0% if all were'
    """
    if not total.unscorable:
        return ""
    found = share_bounds(total.hallucinated, total.faithful, total.unscorable)
    low, high = found.values()
    return f"; {low:.1%} if no unscorable answer were hallucinated, {high:.1%} if all were"


def _of_probes(sweep: SavedSweep) -> Iterator[Number]:
    selected, baseline = sweep["selected"], sweep[sweep.summary["best_baseline"]]
    if selected["found_nothing"]:
        yield Number("AUROC before the answer", "–", "the probe found nothing")
    else:
        span = f"95% interval {selected['auroc_low']:.3f} to {selected['auroc_high']:.3f}"
        yield Number("AUROC before the answer", f"{selected['auroc']:.3f}", span)
    joint, gain = sweep[JOINT], sweep[JOINT_AND_PROBE]
    ends = f"{gain['above_joint_low']:+.3f} to {gain['above_joint_high']:+.3f}"
    note = f"AUROC in one model; with the probe {gain['above_joint']:+.3f} ({ends})"
    yield Number("known without hidden states", f"{joint['auroc']:.3f}", note)
    yield Number(
        "best single baseline", f"{baseline['auroc']:.3f}", f"AUROC of {baseline['title']}"
    )
    if selected["found_nothing"]:
        return
    found = _abstention(sweep)
    low, high = 100 * found.interval.low, 100 * found.interval.high
    note = f"hallucinated, without the riskiest {ABSTAIN:.0%} of answers"
    if low == low:
        note += f": {100 * found.change:+.1f} points (95% interval {low:+.1f} to {high:+.1f})"
    yield Number("abstaining", f"{found.before:.1%} → {found.after:.1%}", note)


def _abstention(sweep: SavedSweep) -> Abstention:
    """Return what abstaining changes as the sweep tells it; earlier versions did not."""
    if (saved := abstaining_of(sweep.summary)) is not None:
        return saved
    rows, seed = sweep.stacked("selected"), int(sweep.summary["settings"].get("seed", 0))
    risk = rows.risks["selected"]
    return abstention(rows.truth, risk, rows.groups, ABSTAIN, rows.folds, seed=seed)


def results(sweep: SavedSweep) -> Iterator[ResultRow]:
    """Yield the results as the page's table has them."""
    names = ResultRow.__dataclass_fields__
    for row in sweep.results:
        yield ResultRow(**{name: row[name] for name in names})


def label_summary(settings: Mapping[str, object], labels: Mapping[str, Score]) -> LabelSummary:
    """Return how labels were made and what they came to.

    Args:
        settings: As ``store.label_settings`` returns them.
        labels: The labels, by id.
    """
    asked, scores = settings.get("settings"), labels.values()
    words = dict(asked) if isinstance(asked, Mapping) else {}
    judge = words.pop("judge", None)
    if isinstance(judge, Mapping):
        words["judge_model"] = judge.get("model")
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in words.items())
    made = (
        f"Labelled on {when(datetime.fromisoformat(str(settings.get('created_at'))))} "
        f"by vlmscope {settings.get('vlmscope_version')}"
        + (f" with {options}." if options else ".")
    )
    decided = Counter(score.scorer for score in scores if score.hallucinated is not None)
    reasons = Counter(s.evidence.split(":")[0] for s in scores if s.outcome == "unscorable")
    kinds = Counter(score.error_kind for score in scores)
    return LabelSummary(
        made,
        tuple(decided.most_common()),
        tuple(reasons.most_common()),
        tuple((text, kinds[kind]) for kind, text in ERROR_KINDS.items() if kinds[kind]),
    )
