"""The verdict of a sweep in sentences: three main ones with their warnings, then details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmscope.metrics import Difference, WithinKinds
from vlmscope.metrics.small_samples import effective_images_of_rarer, is_small, too_few_to_resample
from vlmscope.probes.baselines import JOINT
from vlmscope.shown import rounded_difference
from vlmscope.sweeps.abstaining import abstaining_sentence
from vlmscope.sweeps.by_column import column_sentences
from vlmscope.sweeps.data import LeftOut
from vlmscope.sweeps.evaluation import JOINT_AND_PROBE, QUESTION_ONLY
from vlmscope.sweeps.halp_protocol import halp_sentences
from vlmscope.sweeps.missing_inputs import SOMETHING_MORE, qualified, unknown_sentence
from vlmscope.sweeps.results import PlannedTest, SweepResult, penalty_sentence
from vlmscope.sweeps.splitting import IMAGE, QUESTION

LEVEL = 0.05
"""Significance level of tests."""

CHANCE = 0.5
"""AUROC of an uninformative risk."""

NEGLIGIBLE = 0.01
"""A gain whose interval is within this distance of 0 counts as none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings of a sweep, in sentences."""

    main: tuple[str, ...]
    """Whether the probe predicts, the comparison with the joint baseline, results within categories
    and by abstaining; then warnings about these.
    """
    details: tuple[str, ...]
    """All other sentences."""

    @property
    def sentences(self) -> list[str]:
        """All of them, the main ones first."""
        return [*self.main, *self.details]


_MAIN = 3
"""Number of main sentences of a summary that does not specify it."""


def verdict_document(found: Verdict) -> dict[str, Any]:
    """Return the entry of a verdict in ``results.json``."""
    return {"verdict": found.sentences, "verdict_main": len(found.main)}


def verdict_in(summary: Mapping[str, Any]) -> Verdict:
    """Return the verdict in a ``results.json``, which has a list of sentences."""
    sentences, main = tuple(map(str, summary["verdict"])), summary.get("verdict_main")
    main = main if isinstance(main, int) and main > 0 else _MAIN
    return Verdict(sentences[:main], sentences[main:])


def verdict(result: SweepResult) -> list[str]:
    """Return all sentences of the verdict, the main ones first."""
    return verdict_of(result).sentences


def verdict_of(result: SweepResult) -> Verdict:
    """Return the verdict of a sweep, with main sentences and details."""
    selected, inputs = result["selected"], result.data.baseline_inputs
    main = [_found(result), _joint(result), *_within_and_abstaining(result), *_warnings(result)]
    details = [*_joined(result), *_single(result), *_within(result)]
    details = [*qualified(details, inputs), *unknown_sentence(inputs)]
    if not selected.found_nothing:
        details += column_sentences(result.by_column, joint=not result[JOINT].found_nothing)
    details += [*_chance(result), *_corrected(result)]
    details += penalty_sentence(result[result.selected_probe].chosen_c)
    details += _speaks_of(result)
    if result.halp is not None:
        grouped = None if selected.found_nothing else selected.auroc
        details += halp_sentences(result.halp, grouped)
    details += [*_images_by(result), *map(_left_out, result.data.left_out)]
    return Verdict(tuple(main), tuple(details))


def _found(result: SweepResult) -> str:
    """Return a sentence on the AUROC of the selected probe, or that its risk is constant."""
    data, selected = result.data, result["selected"]
    where = f"{len(data.truth):,} held-out answers {_groups(result)}"
    if selected.found_nothing:
        constant = _constant_folds(result)
        return (
            "Before the answer is written, a linear probe on hidden states predicts a constant "
            f"risk, on {where}: in {constant} of {len(result.chosen['selected'])} folds it gives "
            "every answer the same risk, so there is no AUROC."
        )
    low, high = selected.auroc_low, selected.auroc_high
    layer = result.selected_probe
    chosen = result.chosen["selected"]
    found = f"AUROC of {selected.auroc:.3f} (95% interval {low:.3f} to {high:.3f}), on {where}"
    if low > CHANCE:
        text = f"predicts hallucinations with an {found}"
    elif high < CHANCE:
        text = f"has an {found}: it is worse than chance"
    else:
        text = f"has an {found}: it is not significantly better than chance"
    return (
        f"Before the answer is written, a linear probe on hidden states {text}; chosen inside "
        f"training: {result[layer].title} in {chosen.count(layer)} of {len(chosen)} "
        f"folds{_of_repeats(result)}."
    )


def _of_repeats(result: SweepResult) -> str:
    repeats = len(result.fold_of)
    return f" ({repeats} splits)" if repeats > 1 else ""


def _groups(result: SweepResult) -> str:
    """Return a description of the held-out groups, to follow "answers"."""
    data = result.data
    if data.split is None:
        return data.grouping.phrase
    count = len(np.unique(data.split))
    if data.split_by == QUESTION:
        return f"to {count:,} questions"
    without = np.zeros(len(data.split), bool) if data.without_value is None else data.without_value
    values = f"of {len(np.unique(data.split[~without])):,} values of {data.split_by}"
    number = int(without.sum())
    return f"{values}, and {number:,} without one that are grouped by image" if number else values


def _constant_folds(result: SweepResult) -> int:
    """Return the number of folds in which the selected probe gives every answer the same risk."""
    rows = result.stacked("selected")
    risk, folds = rows.risks["selected"], rows.folds
    return sum(np.ptp(risk[folds == fold]) == 0 for fold in np.unique(folds))


def _speaks_of(result: SweepResult) -> Iterator[str]:
    """Yield a sentence on whether the results are for new images, new questions or both."""
    found, by = result.novelty, result.data.split_by
    if found is None:
        return
    imaged = (("images", found.images),) if result.data.grouping.images else ()
    new = [name for name, seen in (*imaged, ("questions", found.questions)) if not seen]
    if by not in (IMAGE, QUESTION):
        new.insert(0, f"values of {by}")
    old = [
        f"{_share(seen)} of the answers are {words} in training too"
        for seen, words in (
            (found.images, "about an image that is"),
            (found.questions, "to a question that is, word for word,"),
        )
        if seen
    ]
    if not new:
        new = ["nothing that is new"]
    text = f"These numbers are of new {' and new '.join(new)}"
    if not old:
        yield f"{text}."
        return
    hint = " (--group-by question keeps equal questions together)" if by == IMAGE else ""
    yield f"{text} only: {', and '.join(old)}{hint}."


def _share(value: float) -> str:
    """Return a share in percent that is never rounded to none or all.

    >>> _share(0.0004), _share(0.52), _share(0.9996)
    ('less than 1%', '52%', 'almost all')
    """
    if value < 0.01:
        return "less than 1%"
    return "almost all" if 0.995 <= value < 1 else f"{value:.0%}"


def _chance(result: SweepResult) -> Iterator[str]:
    """Yield sentences on what the search through layers finds in permuted labels."""
    found = result.chance
    if found is None:
        yield (
            "No fold of the rows that labels are permuted on has both outcomes: what the search "
            "finds by chance is not known."
        )
        return
    layers = len(found.by_layer)
    best = "the best representation and layer" if layers > 1 else "the probe"
    text = (
        f"Permutation test: with the labels of whole {_permuted_groups(result)} permuted "
        f"{found.permutations} times, {best} reaches a median AUROC of {found.median:.3f} and a "
        f"95th percentile of {found.high:.3f}; with the labels as they are {found.observed:.3f} "
        f"(ridge probe, p = {found.p_value:.3f})"
    )
    if found.rows < len(result.data.truth):
        text += f", on {found.rows:,} of the rows"
    if found.p_value > LEVEL:
        yield f"{text}: this is not significant."
        return
    known = sum(each.p_value <= LEVEL for each in found.by_layer.values())
    text += f": {known} of {layers} are above chance, corrected for their number."
    if result["selected"].found_nothing:
        text += " A signal that the probe above is too strongly penalised, or too cautious, to use."
    yield text


def _permuted_groups(result: SweepResult) -> str:
    if result.data.split is None:
        return "images" if result.data.grouping.images else "questions"
    return "questions" if result.data.split_by == QUESTION else f"values of {result.data.split_by}"


def _corrected(result: SweepResult) -> Iterator[str]:
    """Yield for how many comparisons the differences are corrected, or that they cannot be."""
    count = len(result.tests)
    if count < 2 or result["selected"].found_nothing:
        return
    if _too_few_draws(result):
        yield (
            f"{count} differences are compared here, and {result.settings['draws']} draws are too "
            "few to correct for their number."
        )
        return
    yield (
        f"Differences are corrected for the {count} that are compared here (Holm); those that "
        "are not significant at 5% afterwards are marked."
    )


def _too_few_draws(result: SweepResult) -> bool:
    """Return whether no p-value of the draws can be below the corrected level."""
    rows = result.stacked()
    drawn = not too_few_to_resample(rows.truth, rows.groups, rows.folds)
    return drawn and 2 * len(result.tests) / (result.settings["draws"] + 1) > LEVEL


def _joint(result: SweepResult) -> str:
    """Return a sentence on the joint baseline, and how the probe compares with it."""
    joint = result[JOINT]
    text = (
        "Joint baseline, one model of everything known before the answer except hidden states: "
        f"{joint.shown_auroc}"
    )
    return f"{text}{_against(result, JOINT, result['selected'].above('joint'))}."


def _joined(result: SweepResult) -> Iterator[str]:
    """Return a sentence on what the probe adds to the joint baseline."""
    if result["selected"].found_nothing or result[JOINT].found_nothing:
        return
    gap = result[JOINT_AND_PROBE].above("joint")
    yield f"Adding the probe to the joint baseline {_gain(result, gap, within=False)}."


def _single(result: SweepResult) -> Iterator[str]:
    """Yield sentences on the best single baseline, and the question's words."""
    best, selected = result.best_baseline, result["selected"]
    yield (
        f"Best single baseline before the answer, {result[best].title}: {result[best].shown_auroc}"
        f"{_against(result, best, selected.above('baseline'))}."
    )
    if best == QUESTION_ONLY or selected.found_nothing:
        return
    words = result[QUESTION_ONLY]
    yield (
        f"The question's words alone: {words.shown_auroc}"
        f"{_against(result, QUESTION_ONLY, selected.above('question'))}."
    )


def _against(result: SweepResult, name: str, gap: Difference | None) -> str:
    """Return how the probe compares with a baseline; empty if either risk is constant."""
    if result["selected"].found_nothing or result[name].found_nothing:
        return ""
    return f"; {_comparison(result, name, gap, within=False)}"


def _test(result: SweepResult, of: str, over: str, *, within: bool) -> PlannedTest | None:
    """Return the test of a comparison, with its corrected p-value."""
    return next(
        (
            test
            for test in result.tests
            if (test.of, test.over, test.within_category) == (of, over, within)
        ),
        None,
    )


def _correction(result: SweepResult, of: str, over: str, *, within: bool) -> str:
    """Return a note if a difference is not significant after correction for all comparisons."""
    test = _test(result, of, over, within=within)
    if test is None or test.p_holm <= LEVEL:
        return ""
    count = len(result.tests)
    if _too_few_draws(result):
        draws = result.settings["draws"]
        return f", which {draws} draws are too few to correct for {count} comparisons"
    if count == 1:
        return f", which is not significant at 5% (p = {test.p_holm:.3f})"
    return (
        f", which is not significant after correction for {count} comparisons "
        f"(p = {test.p_holm:.3f})"
    )


_ADDED = (JOINT_AND_PROBE, JOINT)


def _warnings(result: SweepResult) -> Iterator[str]:
    """Yield warnings about the results."""
    data = result.data
    images = len(np.unique(data.groups))
    rarer = effective_images_of_rarer(data.truth, data.groups)
    if is_small(data.truth, data.groups):
        yield (
            f"Warning: {images:,} groups of answers are little data ({rarer:.0f} with the rarer "
            "label, if all were of equal size): intervals are those of small samples, a fold's "
            "probe is trained on very few answers, and one that finds little here may find more "
            "with more data."
        )
    seen = result.recognition
    if seen is not None and seen.suspicious:
        yield (
            f"Warning: groups whose vectors are each other's nearest ({seen.pairs:,} pairs) got "
            f"labels of other pairs, and the probe is right above chance in {seen.above:.0%} of "
            f"{result.settings['permutations']} such permutations (mean AUROC {seen.auroc:.3f}, "
            f"{seen.low:.3f} to {seen.high:.3f}): it recognises {_permuted_groups(result)} across "
            "folds. Is one there under two names, or in two versions? Then these numbers are "
            "not reliable."
        )


def _images_by(result: SweepResult) -> Iterator[str]:
    """Yield how images are identified, if not by their content."""
    if result.data.grouped_by.startswith("image_id"):
        yield (
            f"Images are identified by their {result.data.grouped_by}: there are no hashes, so a "
            "copy of an image under another name counts as another image."
        )


def _within_and_abstaining(result: SweepResult) -> Iterator[str]:
    """Return a sentence on the results within categories, and on abstaining."""
    if result["selected"].found_nothing:
        return
    on_abstaining = abstaining_sentence(result.abstaining)
    found = _within_selected(result)
    if found is None:
        yield on_abstaining
        return
    text = (
        "Within categories (pairs of answers of one category), the probe's AUROC is "
        f"{_span(found, '95% interval ')}"
    )
    if found.interval.low <= CHANCE:
        text += ", not significantly better than chance"
    yield f"{text}; {on_abstaining[0].lower()}{on_abstaining[1:]}"


def _within_selected(result: SweepResult) -> WithinKinds | None:
    """Return the probe's AUROC within categories; None if unknown."""
    found = result.within_category.get("selected")
    if found is None or not np.isfinite(found.interval.low) or result["selected"].found_nothing:
        return None
    return found


def _within(result: SweepResult) -> Iterator[str]:
    """Yield sentences on the baselines within categories."""
    if _within_selected(result) is None:
        return
    names = {JOINT: "the joint baseline"}
    best = result.best_baseline
    names[best] = f"the best single baseline, {result[best].title}"
    for each in result.within_gaps:
        if each.of == "selected" and each.over in names:
            start = f"Within categories, {names[each.over]}: "
            if result[each.over].found_nothing:
                yield f"{start}constant risk."
                continue
            rival = _span(result.within_category[each.over])
            yield f"{start}AUROC {rival}; {_comparison(result, each.over, each.gap, within=True)}."
        elif (each.of, each.over) == _ADDED and not result[JOINT].found_nothing:
            yield (
                "Within categories, adding the probe to the joint baseline "
                f"{_gain(result, each.gap, within=True)}."
            )


def _span(found: WithinKinds, level: str = "") -> str:
    return f"{found.auroc:.3f} ({level}{found.interval.low:.3f} to {found.interval.high:.3f})"


def _left_out(each: LeftOut) -> str:
    """Return a sentence on what is left out, and why."""
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


def _comparison(result: SweepResult, over: str, gap: Difference | None, *, within: bool) -> str:
    """Return whether the probe differs from a baseline, corrected for all comparisons."""
    if gap is None or not np.isfinite(gap.interval.low):
        return "not compared"
    value = _rounded(result, "selected", over, gap, within=within)
    counted = _correction(result, "selected", over, within=within)
    if gap.interval.low > 0:
        return f"the probe is better by {_signed(value, gap, '')}{counted}"
    if gap.interval.high < 0:
        return f"the probe is worse by {_signed(-value, gap, '', -1)}{counted}"
    return f"the difference to the probe is not significant, {_signed(value, gap)}"


def _gain(result: SweepResult, gap: Difference | None, *, within: bool) -> str:
    """Return what the probe adds to the joint baseline, as far as its interval shows it."""
    if gap is None or not np.isfinite(gap.interval.low):
        return "was not compared"
    low, high = gap.interval.low, gap.interval.high
    value = _rounded(result, *_ADDED, gap, within=within)
    counted = _correction(result, *_ADDED, within=within) if low > 0 or high < 0 else ""
    little = max(-low, high) < NEGLIGIBLE
    if low > 0 and not counted:
        more = f"less than {NEGLIGIBLE:g}, but not nothing" if little else SOMETHING_MORE
        return f"adds {_signed(value, gap)}: {more}"
    if high < 0:
        return f"makes it worse, {_signed(value, gap)}{counted}"
    text = f"changes it by {_signed(value, gap)}{counted}"
    if little:
        return f"{text}: less than {NEGLIGIBLE:g} either way"
    return text if counted else f"{text}, which is not significant"


def _rounded(result: SweepResult, of: str, over: str, gap: Difference, *, within: bool) -> float:
    """Return a difference, computed from the rounded AUROCs if both are shown."""
    if not within:
        return rounded_difference(result[of].auroc, result[over].auroc)
    kinds = result.within_category
    if of != "selected" or not {of, over} <= kinds.keys():
        return gap.value
    return rounded_difference(kinds[of].auroc, kinds[over].auroc)


def _signed(value: float, gap: Difference, sign: str = "+", turned: int = 1) -> str:
    """Return a difference with its interval, negated if ``turned`` is -1."""
    low, high = sorted((turned * gap.interval.low, turned * gap.interval.high))
    return f"{value:{sign}.3f} (95% interval {low:{sign}.3f} to {high:{sign}.3f})"
