"""The verdict of a transfer in sentences, for the terminal and transfer.json."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlmscope.metrics.small_samples import is_small
from vlmscope.probes.baselines import JOINT
from vlmscope.shown import rounded_difference
from vlmscope.sweeps.data import LeftOut
from vlmscope.sweeps.transfer.run import SELECTED, TransferredResult, TransferTest
from vlmscope.sweeps.transfer.targets import Target


def transfer_verdict(test: TransferTest) -> list[str]:
    """Return sentences on one test run, the main ones first."""
    names = {row.name for row in test.rows}
    lines = [_what(test.target)]
    if SELECTED in names:
        lines += [*_selected(test), _joint(test), _calibrated(test[SELECTED])]
    else:
        lines.append("No layer that is known before the answer can be transferred.")
    return [*lines, *_warnings(test), *map(_left_out, test.target.left_out), *_inputs(test)]


def relation_phrase(target: Target) -> str:
    """Return the relation to the training run as text: ``the same questions on another model``."""
    which = "the same questions" if _same_questions(target) else "other questions"
    return f"{which} on {target.relation.model}"


def _same_questions(target: Target) -> bool:
    """Return whether most questions are asked in the training run, of the same images."""
    return 2 * int(target.overlap.same_question.sum()) > len(target.overlap.same_question)


def unseen_phrase(target: Target) -> str:
    """Return how the tested rows are separated from training, as text."""
    what = "question" if target.overlap.by == "question" else "image"
    if target.paired:
        return (
            f"paired by {what}: no tested {what} was in training (each row is predicted by the "
            f"fit of the fold that excludes its {what})"
        )
    return f"no tested {what} was in training"


def _what(target: Target) -> str:
    """Return a sentence on the tested rows."""
    count = len(np.unique(target.groups))
    about = "groups of images" if target.data.grouping.images else "different questions"
    return (
        f"On {target.run.path.name}, {relation_phrase(target)}: {len(target.kept):,} answers in "
        f"{count:,} {about}, {int(target.truth.sum()):,} hallucinated; {unseen_phrase(target)}."
    )


def _selected(test: TransferTest) -> Iterator[str]:
    """Yield sentences on the AUROC of the selected layer, and its loss by the transfer."""
    row = test[SELECTED]
    layer = " or ".join(test[name].title for name in dict.fromkeys(test.chosen))
    if row.found_nothing:
        yield (
            f"The probe of the training run ({layer}) gives most answers there the same risk, so "
            "there is no AUROC."
        )
        return
    if row.auroc_low > 0.5:
        conclusion = "it distinguishes hallucinated from faithful answers there better than chance"
    elif row.auroc_high < 0.5:
        conclusion = "it is worse than chance there: its direction is reversed"
    else:
        conclusion = "it is not significantly better than chance there"
    found = _span(row.auroc, row.auroc_low, row.auroc_high)
    yield f"The probe of the training run ({layer}) has an AUROC of {found} there: {conclusion}."
    yield from _loss(row, test.no_own)


def _loss(row: TransferredResult, why: str) -> Iterator[str]:
    """Yield sentences on its AUROC in training, and within the test run."""
    if row.source_auroc == row.source_auroc:
        yield (
            "On the training run it reaches "
            f"{_span(row.source_auroc, row.source_auroc_low, row.source_auroc_high)}, out of fold."
        )
    low, high = row.above_own_low, row.above_own_high
    if low is None or high is None:
        unknown = f"The AUROC of training within the test run is unknown: {why}."
        yield unknown if why else "Trained within the test run it has a constant risk."
        return
    if high < 0:
        conclusion = "the transfer loses"
    elif low > 0:
        conclusion = "the transfer gains"
    else:
        conclusion = "the difference is not significant"
    own = f"Trained within the test run it reaches {row.own_auroc:.3f}"
    value = rounded_difference(row.auroc, row.own_auroc)
    yield f"{own}: {conclusion}, {_signed(value, low, high)}."


def _joint(test: TransferTest) -> str:
    """Return a sentence on the difference to the joint baseline, transferred in the same way."""
    joint, selected = test[JOINT], test[SELECTED]
    low, high = selected.above_joint_low, selected.above_joint_high
    reaches = "has a constant risk" if joint.found_nothing else f"reaches {joint.auroc:.3f} there"
    text = (
        f"Everything known before the answer, in one model transferred in the same way, {reaches}"
    )
    if low is None or high is None or selected.found_nothing or joint.found_nothing:
        return f"{text}."
    difference = _signed(rounded_difference(selected.auroc, joint.auroc), low, high)
    if low > 0:
        return f"{text}: the probe is better, {difference}."
    if high < 0:
        return f"{text}: the probe is worse, {difference}."
    return f"{text}: the difference to the probe is not significant, {difference}."


def _calibrated(row: TransferredResult) -> str:
    """Return a sentence on the calibration of the risks."""
    return (
        f"Its risks are off by {row.ece:.3f} on average there (Brier score {row.brier:.3f}, "
        f"{row.prevalence:.1%} are hallucinated)."
    )


def _warnings(test: TransferTest) -> Iterator[str]:
    """Yield warnings about the results."""
    target = test.target
    if is_small(target.truth, target.groups):
        yield (
            "Warning: the test run has little data: intervals are those of small samples, and "
            "differences that are not significant may be with more."
        )
    overlap = target.overlap
    asked = int(overlap.same_text[target.kept].sum())
    if asked and overlap.by != "question" and not _same_questions(target):
        rows = f"{asked:,} of the {len(target.kept):,} tested questions"
        yield f"{rows} are asked in the training run too, word for word."
    if overlap.by == "content":
        yield (
            "Copies of an image are recognised by their content alone: a run has no perceptual "
            "hashes, so a resized copy counts as another image."
        )


def _left_out(each: LeftOut) -> str:
    """Return a sentence on what is left out, and why."""
    if each.what == "row":
        number = "1 row is" if each.count == 1 else f"{each.count:,} rows are"
        return f"{number} left out: {each.reason}."
    return f"{each.what}: left out, {each.reason}."


def _inputs(test: TransferTest) -> Iterator[str]:
    """Yield the inputs that the baselines lack."""
    for each in test.inputs_left_out:
        yield f"Baselines do without {each}."


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.3f} (95% interval {low:.3f} to {high:.3f})"


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} (95% interval {low:+.3f} to {high:+.3f})"
