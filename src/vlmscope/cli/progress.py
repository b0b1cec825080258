"""Display of a run: the plan, a live bar, and the summary."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from vlmscope.cli.output import count, human_size, show_note, shown_text, stderr
from vlmscope.errors import VlmscopeError
from vlmscope.executors import Outline, Summary
from vlmscope.signals import DEFAULT_SIGNALS
from vlmscope.store import CaptureRecord, failures_shown, frequent_reasons, last_failures

LOG_SECONDS = 30.0
"""Interval of the progress lines if there is no terminal for a bar."""

LONGEST_REASON = 240
"""Maximum number of characters shown of a reason, which ends with what to do."""

SHOWN_REASONS = 5
"""Number of reasons shown if none occurs twice."""


def samples_text(record: CaptureRecord) -> str:
    """Return what to add about sampled answers.

    >>> record = CaptureRecord((0,), ("last_prompt_token",), "all", 9, samples=5, seed=3)
    >>> samples_text(record)
    '; 5 samples at temperature 1, seed 3'
    """
    if not record.samples:
        return ""
    how = f"at temperature {record.temperature:g}, seed {record.seed}"
    return f"; {count(record.samples, 'sample')} {how}"


def show_plan(plan: Outline) -> None:
    """Print the plan."""
    record, request = plan.manifest.capture, plan.request
    answer = (
        f"up to {record.max_new_tokens} new tokens, greedy{samples_text(record)}"
        if record.max_new_tokens
        else "none: stop after the prefill"
    )
    lines = {
        "rows": f"{plan.todo:,} to do, {len(plan.done):,} already done",
        "model": f"{plan.title}, {plan.manifest.model.num_layers} layers, {plan.manifest.dtype} "
        f"on {plan.manifest.device}",
        "layers": ", ".join(map(str, record.layers))
        + (f"; layer_k is {record.layer_k}, as in {record.compat}" if record.compat else ""),
        "positions": ", ".join(record.positions),
        **({"signals": ", ".join(record.signals)} if record.signals != DEFAULT_SIGNALS else {}),
        "answer": answer,
        "batch size": "found while running"
        if request.batch_size == "auto"
        else str(request.batch_size),
        "on disk": f"about {human_size(plan.bytes_todo)} more in {request.out}"
        if plan.todo
        else str(request.out),
    }
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(Text(name, style="dim"), Text(text))
    stderr.print(table, soft_wrap=False)
    for note in plan.notes:
        show_note(note)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("– rows/s" if speed is None else f"{speed:.2f} rows/s", style="cyan")


class RunProgress:
    """An ``Observer`` that shows a live bar on a terminal, or else lines at intervals."""

    def __init__(self, plan: Outline) -> None:
        self._captured = self._failed = 0
        self._todo = plan.todo
        self._start = self._logged = time.monotonic()
        self._live = stderr.is_terminal
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("[dim]batch[/] {task.fields[batch]}"),
            TextColumn("{task.fields[failures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=stderr,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=self._todo, batch="–", failures="")

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        """Show rows that were just published or recorded as failed."""
        self._captured += captured
        self._failed += failed
        failures = f"[red]{self._failed} failed[/]" if self._failed else ""
        self._progress.update(
            self._task, advance=captured + failed, batch=batch_size, failures=failures
        )
        now = time.monotonic()
        if not self._live and now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._log(now)

    def _log(self, now: float) -> None:
        done = self._captured + self._failed
        rate = done / (now - self._start)
        left = (self._todo - done) / rate if rate else float("inf")
        stderr.print(
            f"{done:,}/{self._todo:,} rows, {rate:.2f} rows/s, {left / 60:.1f} min left, "
            f"{self._failed} failed"
        )


def show_summary(plan: Outline, summary: Summary) -> None:
    """Print the summary of a session."""
    rate = summary.captured / summary.seconds if summary.seconds else 0.0
    speed = f" ({rate:.2f} rows/s)" if summary.captured else ""
    stderr.print(
        f"{count(summary.captured, 'row')} captured in {summary.seconds:.1f} s{speed}, "
        f"{summary.already_done:,} were already done"
    )
    if summary.captured and plan.request.batch_size == "auto":
        stderr.print(f"batch size at the end: {count(summary.batch_size, 'row')} per prefill")
    if summary.failed:
        _show_failed(plan, summary)
    if summary.stopped:
        left = plan.todo - summary.captured - summary.failed
        stderr.print(f"stopped with {count(left, 'row')} to do; the same command continues")


def _show_failed(plan: Outline, summary: Summary) -> None:
    """Print how many rows failed and why, and what to do."""
    nothing = not (summary.captured or summary.already_done or summary.stopped)
    rows = count(summary.failed, "row")
    if nothing:
        rows = "the only row" if summary.failed == 1 else f"all {rows}"
    again = "" if nothing else "; the same command tries them again"
    where = failures_shown(plan.request.out)
    stderr.print(Text(f"{rows} failed: see {where}{again}", style="red"))
    errors, name = _last_errors(plan, summary.failed), plan.table.reader.source.name
    found = [(shown_text(r, LONGEST_REASON), n) for r, n in frequent_reasons(errors, name)]
    _show_reasons(found, summary.failed)
    if nothing:
        one = len(found) == 1 or (found and found[0][1] > 1)
        which = "this" if one else "the first"
        stderr.print(f"check {which} reason; then the same command tries all rows again")


def _last_errors(plan: Outline, number: int) -> list[str]:
    """Return the errors of this session's failures: the last attempts at its rows.

    They may include attempts of other ranks.
    """
    try:
        failures = last_failures(plan.request.out, frozenset(plan.scan.ids), number)
    except VlmscopeError:
        return []  # the number of failed rows is shown in any case
    return [failure.error for failure in failures]


def _show_reasons(reasons: list[tuple[str, int]], failed: int) -> None:
    """Print why rows failed: the most frequent reason, or some if none occurs twice.

    Args:
        reasons: Each with its count, the most frequent first.
        failed: Number of failed rows.
    """
    if not reasons:
        return
    reason, often = reasons[0]
    if failed == 1:
        stderr.print(f"reason: {reason}")
    elif often > 1:
        stderr.print(f"most often ({often:,} of {failed:,}): {reason}")
    else:
        for each, _ in reasons[:SHOWN_REASONS]:
            stderr.print(f"1 of {failed:,}: {each}")
        if (more := len(reasons) - SHOWN_REASONS) > 0:
            stderr.print(f"… and {count(more, 'more reason')}")
