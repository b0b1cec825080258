"""What a sweep says, in sentences: the same on the terminal, in results.json and in the report."""

from __future__ import annotations

from vlmscope.metrics import Difference, WithinKinds, abstain
from vlmscope.probing.data import LeftOut
from vlmscope.probing.results import ProbeResult, SweepResult

ABSTAIN = 0.10
"""Share of the answers that one might abstain from."""


def verdict(result: SweepResult) -> list[str]:
    """Return what the sweep says, the main thing first."""
    data, selected = result.data, result["selected"]
    low, high = selected.intervals["auroc"].low, selected.intervals["auroc"].high
    baseline = result[result.best_baseline]
    place = result.selected_place
    times = result.chosen["selected"].count(place)
    before, after = abstain(data.truth, result.risks["selected"], ABSTAIN, result.fold_of)
    shuffled = result["shuffled"]
    lines = [
        f"Before the answer is written, a linear probe tells hallucinated from faithful answers "
        f"with an AUROC of {selected.metrics.auroc:.3f} (95% interval {low:.3f} to {high:.3f}), on "
        f"{len(data.truth):,} answers {data.grouping.phrase} that it had not seen; "
        f"its layer, chosen inside training, is {result[place].title} in {times} of "
        f"{len(result.chosen['selected'])} folds.",
        f"The best baseline known by then, {baseline.title}, reaches {baseline.metrics.auroc:.3f}: "
        + _comparison(selected.against),
        "Against the question's words alone: " + _comparison(selected.over_question),
        *_within(result, baseline),
        _abstaining(before, after),
    ]
    found = shuffled.intervals["auroc"]
    if found.low > 0.5:
        lines.append(
            f"Warning: with shuffled labels the AUROC is {shuffled.metrics.auroc:.3f} "
            f"({found.low:.3f} to {found.high:.3f}), above chance: one sweep in forty shows "
            "that by luck; if another --seed shows it too, something leaks, and these numbers "
            "cannot be trusted."
        )
    if data.grouped_by.startswith("image_id"):
        lines.append(
            f"Images are told apart by their {data.grouped_by}: there are no hashes, so a copy of "
            "a picture under another name counts as another image."
        )
    return lines + [_left_out(each) for each in data.left_out]


def _abstaining(before: float, after: float) -> str:
    """Say what abstaining does to the share of hallucinations, as far as the digits show it.

    >>> _abstaining(0.425, 0.4721)
    'Abstaining from the riskiest 10% raises the share of hallucinations from 42.5% to 47.2%.'
    """
    start, old, new = f"Abstaining from the riskiest {ABSTAIN:.0%}", f"{before:.1%}", f"{after:.1%}"
    if old == new:
        return f"{start} leaves the share of hallucinations at {old}."
    verb = "lowers" if after < before else "raises"
    return f"{start} {verb} the share of hallucinations from {old} to {new}."


def _within(result: SweepResult, baseline: ProbeResult) -> list[str]:
    """Say how much is left where categories cannot help, and how much the best baseline has."""
    found = result.within_category.get("selected")
    if found is None:
        return []
    text = f"Comparing only answers of the same category, its AUROC is {_span(found)}"
    if found.interval.low <= 0.5:
        text += ": that it knows more than the category cannot be told"
    rival = result.within_category.get(baseline.name)
    if rival is not None:
        text += f"; that of the baseline, {baseline.title}, is {_span(rival)}"
    return [f"{text}."]


def _span(found: WithinKinds) -> str:
    return f"{found.auroc:.3f} ({found.interval.low:.3f} to {found.interval.high:.3f})"


def _left_out(each: LeftOut) -> str:
    """Say what is left out, and why."""
    if each.what not in _NOUNS:
        return f"{each.what} is left out: {each.reason}."
    one, many = _NOUNS[each.what]
    number = f"1 {one} is" if each.count == 1 else f"{each.count:,} {many} are"
    return f"{number} left out: {each.reason}."


_NOUNS = {
    "row": ("row", "rows"),
    "label": ("label", "labels"),
    "copy": ("earlier copy", "earlier copies"),
}


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
