"""What a run lacks yet, a sentence each, with the command that makes it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping

from vlmscope.probing import SavedSweep
from vlmscope.probing.source import of_set
from vlmscope.report.document import CategoryRow
from vlmscope.schema import Score
from vlmscope.store import DEFAULT, Run, are_stale, label_sets


def missing(
    run: Run,
    labels: Mapping[str, Score] | None,
    total: CategoryRow | None,
    saved: SavedSweep | None,
    name: str = DEFAULT,
) -> Iterator[str]:
    """Yield what is missing; commands stand in backticks.

    Args:
        run: The run.
        labels: Its labels, None without.
        total: Outcomes of all rows, None without labels.
        saved: Its probes, stale or not, None without.
        name: The label set that the report is about.
    """
    folder = shlex.quote(str(run.path))
    made, probed = folder + of_set("--name", name), folder + of_set("--labels", name)
    if not run.manifest.capture.max_new_tokens:
        yield (
            "The run stopped after the prefill and holds no answers: extract again into another "
            "folder with `--max-new-tokens` above 0."
        )
    if failed := len(run.failures):
        rows = "1 row" if failed == 1 else f"{failed:,} rows"
        yield f"{rows} failed: the same `vlmscope extract` tries them again."
    if labels is None or total is None:
        yield f"No labels yet: `vlmscope label {made}` says which answers are hallucinated."
        for other in label_sets(run.path):
            shown = folder + of_set("--labels", other)
            yield f"There is the label set {other}: `vlmscope report {shown}` is about it."
        return
    if later := sum(id_ not in labels for id_ in run.ids):
        yield f"{later:,} of {len(run):,} rows have no label: `vlmscope label {made}` again."
    unlabelled = Counter(s.evidence.split(":")[0] for s in labels.values() if not s.labelled)
    for reason, number in unlabelled.most_common():
        yield f"{number:,} of {len(run):,} rows are unlabelled: {reason}."
    if are_stale(run.path, name):
        yield (
            "The labels are of truths that have changed in the table since: "
            f"`vlmscope label {made}` again."
        )
    if saved is None:
        yield _no_probes(total, probed)
    elif saved.stale:
        yield f"The saved probes are left out, {saved.stale}: `vlmscope probe {probed}` again."


def _no_probes(total: CategoryRow, folder: str) -> str:
    """Say how to make probes, or why there can be none."""
    if total.hallucinated and total.faithful:
        return (
            f"No probes yet: `vlmscope probe {folder}` asks whether the model knew before it wrote."
        )
    return (
        f"No probes: of {total.hallucinated + total.faithful:,} scorable answers "
        f"{total.hallucinated:,} are hallucinated, and `vlmscope probe` needs some that are and "
        "some that are not."
    )
