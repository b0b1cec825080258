"""Builds the document of a report from a run.

Missing parts are not errors: if labels, probes, the table, its images or the model are not
available, the document contains a sentence about it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vlmscope.errors import InputError
from vlmscope.metrics import share_bounds
from vlmscope.plots import Plot
from vlmscope.plots.canvas import CONSTANT_RISK
from vlmscope.probes.baselines import JOINT
from vlmscope.report.categories import categories
from vlmscope.report.columns import columns
from vlmscope.report.detectors import detectors
from vlmscope.report.document import (
    CategoryRow,
    Document,
    FailureRow,
    LabelSummary,
    Number,
    ReportSpec,
)
from vlmscope.report.figures import figure, plots
from vlmscope.report.gallery import gallery, lens_summary
from vlmscope.report.held_out import held_out
from vlmscope.report.provenance import provenance, title, when
from vlmscope.report.rows import Row, draw, hashes_of, read_rows
from vlmscope.report.thumbnails import Thumbnails
from vlmscope.report.transfers import Transfers, transfers
from vlmscope.schema import ErrorKind, Progress, Score
from vlmscope.store import DEFAULT, Run, are_stale, label_sets, label_settings, read_labels
from vlmscope.sweeps import ProbeResult, SavedSweep, read_sweep
from vlmscope.sweeps.abstaining import abstaining_of, rounded_change
from vlmscope.sweeps.evaluation import JOINT_AND_PROBE
from vlmscope.sweeps.source import option_of_set
from vlmscope.sweeps.verdict import Verdict
from vlmscope.version import __version__


def missing(
    run: Run,
    labels: Mapping[str, Score] | None,
    total: CategoryRow | None,
    saved: SavedSweep | None,
    name: str = DEFAULT,
) -> Iterator[str]:
    """Yield sentences on missing parts; commands are in backticks.

    Args:
        run: The run.
        labels: Its labels, None without.
        total: Outcomes of all rows, None without labels.
        saved: Its probes, stale or not, None without.
        name: The label set of the report.
    """
    folder = shlex.quote(str(run.path))
    made, probed = folder + option_of_set("--name", name), folder + option_of_set("--labels", name)
    if not run.manifest.capture.max_new_tokens:
        yield (
            "The run stopped after the prefill and has no answers: extract again into another "
            "folder with `--max-new-tokens` above 0."
        )
    if failed := len(run.failures):
        rows = "1 row" if failed == 1 else f"{failed:,} rows"
        yield f"{rows} failed: the same `vlmscope extract` tries them again."
    if labels is None or total is None:
        yield (
            f"No labels yet: `vlmscope label {made}` determines which answers are hallucinated."
            if run.manifest.capture.max_new_tokens
            else f"No labels yet: `vlmscope label {made} --labels FILE` reads them from a file."
        )
        for other in label_sets(run.path):
            shown = folder + option_of_set("--labels", other)
            yield f"There is a label set {other}: `vlmscope report {shown}` makes its report."
        return
    if later := sum(id_ not in labels for id_ in run.ids):
        yield f"{later:,} of {len(run):,} rows have no label: `vlmscope label {made}` again."
    unlabelled = Counter(s.evidence.split(":")[0] for s in labels.values() if not s.labelled)
    for reason, number in unlabelled.most_common():
        yield f"{number:,} of {len(run):,} rows are unlabelled: {reason}."
    if are_stale(run.path, name):
        yield (
            "The ground truth in the table has changed since the labels were made: "
            f"`vlmscope label {made}` again."
        )
    if saved is None:
        yield _no_probes(total, probed)
    elif saved.stale:
        yield f"The saved probes are left out, {saved.stale}: `vlmscope probe {probed}` again."


def _no_probes(total: CategoryRow, folder: str) -> str:
    """Return how to make probes, or why that is not possible, as text."""
    if total.hallucinated and total.faithful:
        return (
            f"No probes yet: `vlmscope probe {folder}` trains probes that predict hallucinations "
            "before the answer."
        )
    return (
        f"No probes: of {total.hallucinated + total.faithful:,} scorable answers "
        f"{total.hallucinated:,} are hallucinated, and `vlmscope probe` needs answers of both "
        "classes."
    )


ERROR_KINDS: Mapping[ErrorKind, str] = {
    "affirms": "affirms something false",
    "denies": "denies something true",
    "other": "neither",
}
"""Kind of error of an answer to a yes/no question → its description on the page."""


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
        sweep: Its probes, if they are up to date.
        labels: The record of how the labels were made.
        failed: Number of rows that could not be captured.
    """
    lost = "1 row" if failed == 1 else f"{failed:,} rows"
    note = f"{lost} failed and not counted" if failed else "none failed"
    yield Number("rows", f"{len(rows):,}", note)
    images = {sha256 for row in rows for sha256 in hashes_of(row.image_sha256)}
    bare = sum(not row.image_sha256 for row in rows)
    none = "1 question has none" if bare == 1 else f"{bare:,} questions have none"
    note = f"distinct; {none}" if bare else "distinct"
    if not images:
        note = "no question has one"
    yield Number("images", f"{len(images):,}", note)
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
    """Return the bounds of the rate if all unscorable answers had the same label.

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
    if selected.found_nothing:
        yield Number("AUROC before the answer", CONSTANT_RISK, "the probe: one risk in most folds")
    else:
        span = f"95% interval {selected.auroc_low:.3f} to {selected.auroc_high:.3f}"
        yield Number("AUROC before the answer", f"{selected.auroc:.3f}", span)
    yield _joint(sweep)
    note = f"AUROC of {baseline.title}"
    yield Number("best single baseline", _auroc(baseline), note)
    if selected.found_nothing:
        return
    found = abstaining_of(sweep.summary)
    low, high = 100 * found.interval.low, 100 * found.interval.high
    note = f"hallucinated, without the riskiest {found.share:.0%} of answers"
    if low == low:
        change = rounded_change(found)
        note += f": {change:+.1f} points (95% interval {low:+.1f} to {high:+.1f})"
    yield Number("abstaining", f"{found.before:.1%} → {found.after:.1%}", note)


def _joint(sweep: SavedSweep) -> Number:
    """Return the tile of the joint baseline, and what the probe adds to it."""
    joint, both = sweep[JOINT], sweep[JOINT_AND_PROBE]
    note = "AUROC in one model"
    gain = both.shown_above(joint)
    if gain is not None and not sweep["selected"].found_nothing:
        ends = f"{both.above_joint_low:+.3f} to {both.above_joint_high:+.3f}"
        note += f"; adding the probe {gain:+.3f} ({ends})"
    return Number("known without hidden states", _auroc(joint), note)


def _auroc(row: ProbeResult) -> str:
    return CONSTANT_RISK if row.found_nothing else f"{row.auroc:.3f}"


def results(sweep: SavedSweep) -> Iterator[ProbeResult]:
    """Yield the results as shown in the table of the page.

    Differences are those of the rounded AUROCs; there is none if one of the two risks is constant.
    """
    rivals = {"above_baseline": sweep[sweep.summary["best_baseline"]], "above_joint": sweep[JOINT]}
    for row in sweep.results:
        shown: dict[str, Any] = {}
        for name, rival in rivals.items():
            gap = None if getattr(row, name) is None else row.shown_above(rival)
            shown[name] = gap
            if gap is None:
                shown |= dict.fromkeys((f"{name}_low", f"{name}_high"))
        yield replace(row, **shown)


def label_summary(settings: Mapping[str, object], labels: Mapping[str, Score]) -> LabelSummary:
    """Return how labels were made, and their counts.

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


@dataclass(frozen=True, slots=True)
class Gathered:
    """A document without its images, and the files to write."""

    document: Document
    """Everything except the images, whose size depends on the rest."""

    thumbnails: Thumbnails
    """The images in every size that may fit."""
    plots: tuple[Plot, ...]
    """The figures, to be saved as files."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The labels and probes of the run."""

    labels: Mapping[str, Score] | None
    """None before ``vlmscope label``."""
    settings: Mapping[str, Any] | None
    """The settings that they were made with."""
    saved: SavedSweep | None
    """None before ``vlmscope probe``."""

    @property
    def sweep(self) -> SavedSweep | None:
        """The probes, if they are up to date."""
        return self.saved if self.saved is not None and not self.saved.stale else None

    @property
    def summary(self) -> LabelSummary | None:
        """How the labels were made."""
        return None if self.labels is None else label_summary(self.settings or {}, self.labels)

    @property
    def verdict(self) -> Verdict:
        """The findings of the probes."""
        return self.sweep.verdict if self.sweep is not None else Verdict((), ())

    @property
    def risks(self) -> dict[str, float]:
        """Out-of-fold risk of each row that has one."""
        if self.sweep is None:
            return {}
        risks = self.sweep.risk("selected").tolist()
        return dict(zip(self.sweep.predictions["id"], risks, strict=True))


def gather(run: Run, spec: ReportSpec, progress: Progress) -> Gathered:
    """Collect the content of the report of a run.

    Args:
        run: The run.
        spec: The options of the report.
        progress: Called with the current step.

    Raises:
        InputError: The run has no row with the requested id.
        StoreError: Rows, labels or probes are damaged.
    """
    progress("rows")
    rows, captures = read_rows(run, draw(run, spec.samples, spec.seed, spec.id))
    found = _find(run, spec.labels)
    sweep = found.sweep
    by_category = () if found.labels is None else categories(rows, found.labels, sweep)
    total = by_category[-1] if by_category else None
    seen = gallery(run, captures, found.labels or {}, found.risks, spec, progress)
    progress("figures")
    drawn = tuple(plots(sweep, by_category, run.manifest.model.num_layers))
    detected = detectors(run, spec.labels)
    carried = transfers(run, spec.labels) if sweep is not None else Transfers()
    lacks = missing(run, found.labels, total, found.saved, spec.labels)
    document = Document(
        title=title(run.manifest),
        made=_made(),
        headline=next(iter(found.verdict.main), None),
        sentences=(*found.verdict.main[1:], *carried.sentences),
        details=found.verdict.details,
        missing=(*lacks, *filter(None, [carried.missing, detected.missing])),
        numbers=tuple(numbers(rows, total, sweep, found.summary, len(run.failures))),
        figures=tuple(figure(plot) for plot in drawn),
        results=() if sweep is None else tuple(results(sweep)),
        best_baseline=None if sweep is None else sweep.summary["best_baseline"],
        categories=by_category,
        cards=seen.cards,
        rows=len(run),
        images={},
        images_note=seen.thumbnails.note,
        token_view=seen.view,
        token_view_note=seen.view_note,
        labels=found.summary,
        failures=tuple(_failures(run)),
        provenance=tuple(provenance(run, found.settings, sweep, spec.labels)),
        columns=tuple(columns(sweep)),
        held_out=held_out(sweep),
        lens=lens_summary(run.manifest.capture.recorded, len(seen.cards)),
        attention=seen.attention,
        detectors=detected.section,
    )
    return Gathered(document, seen.thumbnails, (*drawn, *detected.plots))


def _find(run: Run, name: str) -> _Found:
    """Read a label set and its probes, if there are any."""
    saved = read_sweep(run, name)
    try:
        labels, settings = read_labels(run.path, name), label_settings(run.path, name)
    except InputError:
        return _Found(None, None, saved)
    return _Found({id_: labels[id_] for id_ in run.ids if id_ in labels}, settings, saved)


def _failures(run: Run) -> Iterator[FailureRow]:
    for found in run.failures.values():
        yield FailureRow(found.id, found.stage, found.error, found.attempt)


def _made() -> str:
    return f"Made on {when(datetime.now(UTC))} by vlmscope {__version__}."
