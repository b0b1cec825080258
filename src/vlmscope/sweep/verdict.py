"""What a sweep says, in sentences: the same on the terminal, in results.json and in the report."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vlmscope.metrics import Difference, abstain
from vlmscope.sweep.results import SweepResult

ABSTAIN = 0.10
"""Share of the answers that one might abstain from."""


def verdict(result: SweepResult) -> list[str]:
    """Return what the sweep says, the main thing first."""
    data, selected = result.data, result["selected"]
    low, high = selected.intervals["auroc"].low, selected.intervals["auroc"].high
    baseline = result[result.best_baseline]
    place, times = Counter(result.chosen["selected"]).most_common(1)[0]
    before, after = abstain(data.truth, result.risks["selected"], ABSTAIN)
    shuffled = result["shuffled"]
    lines = [
        f"Before the answer is written, a linear probe tells hallucinated from faithful answers "
        f"with an AUROC of {selected.metrics.auroc:.3f} (95% interval {low:.3f} to {high:.3f}), on "
        f"{len(data.truth):,} answers about {len(np.unique(data.groups)):,} images that it had not "
        f"seen; its layer, chosen inside training, is {result[place].title} in {times} of "
        f"{len(result.chosen['selected'])} folds.",
        f"The best baseline known by then, {baseline.title}, reaches {baseline.metrics.auroc:.3f}: "
        + _comparison(selected.against),
        "Against the question's words alone: " + _comparison(selected.over_question),
        f"Abstaining from the riskiest {ABSTAIN:.0%} lowers the share of hallucinations from "
        f"{before:.1%} to {after:.1%}.",
    ]
    found = shuffled.intervals["auroc"]
    if found.low > 0.5:
        lines.append(
            f"Warning: with shuffled labels the AUROC is {shuffled.metrics.auroc:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), above chance: something leaks, so do not "
            "trust these numbers."
        )
    if data.unscorable:
        lines.append(f"{data.unscorable:,} answers could not be scored and are left out.")
    return lines


def _comparison(gap: Difference | None) -> str:
    """Say whether a difference is one."""
    if gap is None:
        return "not compared."
    span = f"{gap.value:+.3f} (95% interval {gap.interval.low:+.3f} to {gap.interval.high:+.3f})"
    if gap.interval.low > 0:
        return f"the probe is better by {span}."
    if gap.interval.high < 0:
        return f"the probe is worse, {span}."
    return f"the probe does not beat it, {span}."
