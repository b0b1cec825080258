"""What nobody can compare hidden states with, because the source does not hold it.

Hidden states that beat everything known may only know what the source did not keep. So what is not
known is named beside the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from vlmscope.metrics import Abstention, Difference, Interval, WithinKinds, abstention
from vlmscope.metrics.small_samples import is_small, too_few_to_draw, worth_of_rarer
from vlmscope.probes.baselines import JOINT, Facts
from vlmscope.sweeps.by_column import column_sentences
from vlmscope.sweeps.data import LeftOut
from vlmscope.sweeps.evaluation import JOINT_AND_PROBE, QUESTION_ONLY
from vlmscope.sweeps.halp_protocol import halp_sentences
from vlmscope.sweeps.results import ProbeResult, SweepResult, penalty_sentence
from vlmscope.sweeps.splitting import IMAGE, QUESTION


def unknown_facts(facts: Facts) -> tuple[str, ...]:
    """Return what is not known before the answer, in words.

    >>> unknown_facts(Facts(["Is it red?"], None, None, None, None, None, None))
    ("the first token's probabilities", "the question's category")
    """
    return (*_of_first_token(facts), *_of_question(facts))


def unknown_sentence(facts: Facts) -> Iterator[str]:
    """Yield what is not known, and what cannot be told for that; nothing where all is known."""
    if unknown := unknown_facts(facts):
        yield (
            f"Not known here: {', '.join(unknown)}: whether hidden states know more than "
            f"{'this' if len(unknown) == 1 else 'these'} cannot be told."
        )


def qualified(lines: Iterable[str], facts: Facts) -> Iterator[str]:
    """Yield what is said of hidden states with what it is held against, where not all is known.

    Args:
        lines: Sentences, some of which may say ``SOMETHING_MORE``.
        facts: What is known.
    """
    more = SOMETHING_MORE
    if unknown_facts(facts):
        more += " than what is known here"
    return (line.replace(SOMETHING_MORE, more) for line in lines)


SOMETHING_MORE = "hidden states know something more"
"""What a verdict says where the probe adds to everything known."""


def _of_first_token(facts: Facts) -> Iterator[str]:
    if facts.first_token_logprob is None and facts.first_token_logprobs is None:
        yield "the first token's probabilities"
    elif facts.first_token is None and facts.first_token_ids is None:
        yield "the first token"
    if facts.first_token_entropy is None and facts.first_token_logprob is not None:
        yield "the entropy of the first token"


def _of_question(facts: Facts) -> Iterator[str]:
    if facts.category is None or not any(facts.category):
        yield "the question's category"


ABSTAIN = 0.10
"""Share of the answers that one might abstain from."""


def abstaining(result: SweepResult) -> Abstention:
    """Return what abstaining by the risk of the selected probe does to the hallucination rate."""
    rows, seed = result.stacked("selected"), int(result.settings["seed"])
    risk = rows.risks["selected"]
    return abstention(rows.truth, risk, rows.groups, ABSTAIN, rows.folds, seed=seed)


def abstaining_document(found: Abstention) -> dict[str, Any]:
    """Return what ``results.json`` says of it."""
    return {"abstaining": asdict(found)}


def abstaining_of(document: Mapping[str, Any]) -> Abstention | None:
    """Return what a document of ``abstaining_document`` says; None where it says nothing whole."""
    found = document.get("abstaining")
    if not isinstance(found, Mapping) or not isinstance(found.get("interval"), Mapping):
        return None
    names = ("share", "before", "after", "change")
    share, before, after, change = (_number(found.get(name)) for name in names)
    if np.isnan([share, before, after, change]).any():
        return None
    low, high = (_number(found["interval"].get(end)) for end in ("low", "high"))
    return Abstention(share, before, after, change, Interval(low, high))


def _number(value: Any) -> float:
    """Return a number of a file; NaN, which JSON does not have, where it is none."""
    return float(value) if isinstance(value, int | float) else float("nan")


def abstaining_sentence(found: Abstention) -> str:
    """Say what abstaining does to the share of hallucinations, as far as the interval shows it.

    >>> from vlmscope.metrics import Interval
    >>> abstaining_sentence(Abstention(0.1, 0.425, 0.381, -0.044, Interval(-0.06, -0.02)))
    'Abstaining from the riskiest 10% lowers the share of hallucinations from 42.5% to 38.1%, by \
4.4 points (95% interval 2.0 to 6.0).'
    """
    start = f"Abstaining from the riskiest {found.share:.0%}"
    low, high = 100 * found.interval.low, 100 * found.interval.high
    span = f"from {found.before:.1%} to {found.after:.1%}"
    if not np.isfinite(low):
        return f"{start} changes the share of hallucinations {span}; there is no interval of it."
    if high < 0 or low > 0:
        verb = "lowers" if high < 0 else "raises"
        ends = sorted((abs(low), abs(high)))
        return (
            f"{start} {verb} the share of hallucinations {span}, by {100 * abs(found.change):.1f} "
            f"points (95% interval {ends[0]:.1f} to {ends[1]:.1f})."
        )
    if low == high == 0:
        return f"{start} leaves the share of hallucinations at {found.before:.1%}."
    return (
        f"{start} does not measurably change the share of hallucinations: {span}, "
        f"{100 * found.change:+.1f} points (95% interval {low:+.1f} to {high:+.1f})."
    )


LEVEL = 0.05
"""Level of tests."""

CHANCE = 0.5
"""AUROC of a risk that knows nothing."""

NEGLIGIBLE = 0.01
"""An interval of a gain that lies this near to 0 says that nothing is gained."""


def verdict(result: SweepResult) -> list[str]:
    """Return what the sweep says, the main thing first."""
    selected, facts = result["selected"], result.data.facts
    lines = [_found(result), *_joint(result), *_single(result), *_within(result)]
    lines = [*qualified(lines, facts), *unknown_sentence(facts)]
    lines += column_sentences(result.by_column)
    lines += [*_chance(result), *_corrected(result)]
    if not selected.found_nothing:
        lines.append(abstaining_sentence(abstaining(result)))
    lines += penalty_sentence(result[result.selected_place].chosen_c)
    lines += _speaks_of(result)
    if result.halp is not None:
        grouped = None if selected.found_nothing else selected.metrics.auroc
        lines += halp_sentences(result.halp, grouped)
    return [
        *lines,
        *_warnings(result),
        *map(_left_out, result.data.left_out),
    ]


def _found(result: SweepResult) -> str:
    """Say what the selected probe reaches, or that it found nothing."""
    data, selected = result.data, result["selected"]
    where = f"{len(data.truth):,} held-out answers {_groups(result)}"
    if selected.found_nothing:
        constant = _constant_folds(result)
        return (
            f"Before the answer is written, a linear probe on hidden states found nothing, on "
            f"{where}: in {constant} of {len(result.chosen['selected'])} folds it gives every "
            "answer the same risk, so there is no AUROC to tell."
        )
    low, high = selected.intervals["auroc"].low, selected.intervals["auroc"].high
    place = result.selected_place
    chosen = result.chosen["selected"]
    found = (
        f"AUROC of {selected.metrics.auroc:.3f} (95% interval {low:.3f} to {high:.3f}), on {where}"
    )
    if low > CHANCE:
        text = f"predicts hallucinations with an {found}"
    elif high < CHANCE:
        text = f"has an {found}: it is worse than chance"
    else:
        text = f"has an {found}: that it predicts hallucinations better than chance is not shown"
    return (
        f"Before the answer is written, a linear probe on hidden states {text}; its layer, chosen "
        f"inside training, is {result[place].title} in {chosen.count(place)} of {len(chosen)} "
        f"folds{_of_repeats(result)}."
    )


def _of_repeats(result: SweepResult) -> str:
    repeats = len(result.fold_of)
    return f" ({repeats} splits)" if repeats > 1 else ""


def _groups(result: SweepResult) -> str:
    """Say what the groups are that were not seen, behind "answers"."""
    data = result.data
    if data.split is None:
        return data.grouping.phrase
    count = len(np.unique(data.split))
    if data.split_by == QUESTION:
        return f"to {count:,} questions"
    return f"of {count:,} values of {data.split_by}"


def _constant_folds(result: SweepResult) -> int:
    """Return in how many folds the selected probe gives every answer the same risk."""
    rows = result.stacked("selected")
    risk, folds = rows.risks["selected"], rows.folds
    return sum(np.ptp(risk[folds == fold]) == 0 for fold in np.unique(folds))


def _speaks_of(result: SweepResult) -> Iterator[str]:
    """Say whether the numbers are of new images, new questions or both."""
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
            (found.images, "about an image that stands"),
            (found.questions, "to a question that stands, word for word,"),
        )
        if seen
    ]
    if not new:
        new = ["nothing that is new"]
    text = f"These numbers are of new {' and new '.join(new)}"
    if not old:
        yield f"{text}."
        return
    yield f"{text}, and of nothing else: {', and '.join(old)}."
    if by == IMAGE:
        yield "--group-by question keeps equal questions together instead."


def _share(value: float) -> str:
    """Return a share in percent that is never rounded to none or all.

    >>> _share(0.0004), _share(0.52), _share(0.9996)
    ('less than 1%', '52%', 'almost all')
    """
    if value < 0.01:
        return "less than 1%"
    return "almost all" if 0.995 <= value < 1 else f"{value:.0%}"


def _chance(result: SweepResult) -> Iterator[str]:
    """Say what the search through layers finds in permuted labels."""
    found = result.chance
    if found is None:
        yield (
            "No fold of the rows that labels are permuted on has both outcomes: what the search "
            "finds by chance is not known."
        )
        return
    layers = len(found.by_place)
    best = "the best representation and layer" if layers > 1 else "the probe"
    text = (
        f"Permutation test: with the labels of whole {_whole(result)} permuted "
        f"{found.permutations} times, {best} reaches a median AUROC of {found.median:.3f} and a "
        f"95th percentile of {found.high:.3f}; with the labels as they are {found.observed:.3f} "
        f"(ridge probe, p = {found.p_value:.3f})"
    )
    if found.rows < len(result.data.truth):
        text += f", on {found.rows:,} of the rows"
    if found.p_value > LEVEL:
        yield f"{text}: chance alone may give as much."
        return
    known = sum(each.p_value <= LEVEL for each in found.by_place.values())
    text += f": {known} of {layers} are above chance, corrected for their number."
    if result["selected"].found_nothing:
        text += " A signal that the probe above is too strongly penalised, or too cautious, to use."
    yield text


def _whole(result: SweepResult) -> str:
    if result.data.split is None:
        return "images" if result.data.grouping.images else "questions"
    return "questions" if result.data.split_by == QUESTION else f"values of {result.data.split_by}"


def _corrected(result: SweepResult) -> Iterator[str]:
    """Say which of the told differences do not hold once all of them are counted."""
    lost = [
        test for test in result.tests
        if test.p_holm > LEVEL and (test.gap.interval.low > 0 or test.gap.interval.high < 0)
    ]  # fmt: skip
    if not lost:
        return
    draws = result.settings["draws"]
    rows = result.stacked()
    drawn = not too_few_to_draw(rows.truth, rows.groups, rows.folds)
    if drawn and 2 * len(result.tests) / (draws + 1) > LEVEL:
        yield (
            f"{len(result.tests)} differences are told here, and {draws} draws are too few to "
            "correct for their number."
        )
        return
    names = ", ".join(
        f"{'the probe added, ' * ((test.of, test.over) == _ADDED)}over "
        f"{result[test.over].title}{' within categories' * test.within_category} "
        f"(p = {test.p_holm:.3f})"
        for test in lost
    )
    yield (
        f"Corrected for the {len(result.tests)} differences that are told here (Holm), "
        f"{'this one does' if len(lost) == 1 else 'these do'} not hold at 5%: {names}."
    )


def _joint(result: SweepResult) -> Iterator[str]:
    """Say what is known without hidden states, and what they add to it."""
    joint, both, selected = result[JOINT], result[JOINT_AND_PROBE], result["selected"]
    text = (
        "Joint baseline, one model of everything known before the answer except hidden states: "
        f"{_auroc(joint)}"
    )
    if selected.found_nothing:
        yield f"{text}."
        return
    yield f"{text}; {_comparison(selected.over_joint)}"
    yield f"Adding the probe to that model {_gain(both.over_joint, _holds(result, within=False))}"


def _single(result: SweepResult) -> Iterator[str]:
    """Say what the best single baseline reaches, and the question's words."""
    baseline, selected = result[result.best_baseline], result["selected"]
    text = f"Best single baseline before the answer, {baseline.title}: {_auroc(baseline)}"
    if selected.found_nothing:
        yield f"{text}."
        return
    yield f"{text}; {_comparison(selected.against)}"
    if result.best_baseline != QUESTION_ONLY:
        yield f"Against the question's words alone, {_comparison(selected.over_question)}"


def _holds(result: SweepResult, *, within: bool) -> bool:
    """Return whether what the probe adds holds once all differences that are told are counted."""
    return all(
        test.p_holm <= LEVEL
        for test in result.tests
        if (test.of, test.over) == _ADDED and test.within_category == within
    )


_ADDED = (JOINT_AND_PROBE, JOINT)


def _auroc(row: ProbeResult) -> str:
    """Say what a baseline reaches."""
    return "finds nothing" if row.found_nothing else f"AUROC {row.metrics.auroc:.3f}"


def _warnings(result: SweepResult) -> Iterator[str]:
    """Say what makes the numbers doubtful."""
    data = result.data
    images = len(np.unique(data.groups))
    rarer = worth_of_rarer(data.truth, data.groups)
    if is_small(data.truth, data.groups):
        yield (
            f"Warning: {images:,} groups of answers are little data (those with the rarer label "
            f"are worth {rarer:.0f} of equal size): intervals are those of small samples, a fold's "
            "probe learns from next to nothing, and one that finds little may find more in more."
        )
    seen = result.recognition
    if seen is not None and seen.suspicious:
        yield (
            f"Warning: groups whose vectors are each other's nearest ({seen.pairs:,} pairs) got "
            f"labels of other pairs, and the probe is right above chance in {seen.above:.0%} of "
            f"{result.settings['permutations']} such permutations (mean AUROC {seen.auroc:.3f}, "
            f"{seen.low:.3f} to {seen.high:.3f}): it recognises {_whole(result)} across folds. Is "
            "one there under two names, or in two versions? Then these numbers cannot be trusted."
        )
    if data.grouped_by.startswith("image_id"):
        yield (
            f"Images are told apart by their {data.grouped_by}: there are no hashes, so a copy of "
            "an image under another name counts as another image."
        )


def _within(result: SweepResult) -> Iterator[str]:
    """Say how much is left where categories cannot help, beside what the baselines have left."""
    found = result.within_category.get("selected")
    if found is None or not np.isfinite(found.interval.low) or result["selected"].found_nothing:
        return
    text = (
        f"Within categories (pairs of answers of one category), the probe's AUROC is {_span(found)}"
    )
    if found.interval.low <= 0.5:
        text += ": that it knows more than the category is not shown"
    yield f"{text}."
    names = {JOINT: "the joint baseline"}
    names[result.best_baseline] = f"the best single baseline, {result[result.best_baseline].title}"
    for each in result.within_gaps:
        if each.of == "selected" and each.over in names:
            rival = result.within_category[each.over]
            yield f"There {names[each.over]}: {_span(rival)}; {_comparison(each.gap)}"
        elif (each.of, each.over) == _ADDED:
            holds = _holds(result, within=True)
            yield f"There adding the probe to the joint baseline {_gain(each.gap, holds)}"


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
    if gap is None or not np.isfinite(gap.interval.low):
        return "not compared."
    if gap.interval.low > 0:
        return f"the probe is better by {_signed(gap, '')}."
    if gap.interval.high < 0:
        return f"the probe is worse by {_signed(gap, '', -1)}."
    return f"no difference to the probe is shown, {_signed(gap)}."


def _gain(gap: Difference | None, holds: bool) -> str:
    """Say what is gained, as far as the interval shows it.

    Args:
        gap: The gain.
        holds: Whether it is one once all differences that are told are counted.
    """
    if gap is None or not np.isfinite(gap.interval.low):
        return "was not compared."
    low, high = gap.interval.low, gap.interval.high
    little = max(-low, high) < NEGLIGIBLE
    if low > 0 and holds:
        more = f"less than {NEGLIGIBLE:g}, but not nothing" if little else SOMETHING_MORE
        return f"adds {_signed(gap)}: {more}."
    if high < 0:
        return f"makes it worse, {_signed(gap)}."
    if little:
        return f"changes it by {_signed(gap)}: less than {NEGLIGIBLE:g} either way."
    return f"changes it by {_signed(gap)}: whether hidden states know more cannot be told."


def _signed(gap: Difference, sign: str = "+", turned: int = 1) -> str:
    """Return a difference with its interval, or with -1 that of the other order."""
    low, high = sorted((turned * gap.interval.low, turned * gap.interval.high))
    return f"{turned * gap.value:{sign}.3f} (95% interval {low:{sign}.3f} to {high:{sign}.3f})"
