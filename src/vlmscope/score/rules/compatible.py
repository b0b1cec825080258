"""Answers that may be correct although they differ from the ground truth.

*A large truck* is a truck; whether it is a pickup is not known from the ground truth. A longer name
is equal to the ground truth if it adds only adjectives of size, age or color, or if annotators gave
both.

*A laptop* does not contradict the ground truth *vase* of *What is on the table?*: both may be
there. A woman in jeans also wears a shirt, a man who walks may talk, and one event has several
reasons. An answer that only repeats the question (*an animal*), or that gives a property that was
not asked for (*a small room* if its kind is asked), contradicts nothing either. If ten annotators
agree, no other answer is compatible.
"""

from __future__ import annotations

import re
from itertools import product

from vlmscope.score.language.denial import plain
from vlmscope.score.language.lexicon import is_part, known, lemma, same
from vlmscope.score.language.text import is_figure, word_set, words
from vlmscope.score.parsing.case import Case
from vlmscope.score.parsing.claims import COLOURS
from vlmscope.score.parsing.phrases import Words, relation

_PLAIN = (
    word_set("large small big little tall short young old tiny huge long single beautiful cute new")
    | COLOURS
) - {"orange"}
_PARTS = word_set("slice piece")
_BRAND = re.compile(r"\b(?:brand|company|make|manufacturer|logo)\b")


def is_longer_name(case: Case, phrase: Words, truth: Words) -> bool:
    """Return whether a phrase is a longer name for the ground truth.

    >>> from vlmscope.schema import Answered
    >>> case = Case(Answered("q", "What is it?", "", "truck"))
    >>> [is_longer_name(case, tuple(said.split()), ("truck",)) for said in (
    ...     "large truck", "pickup truck", "toy truck", "truck stop")]
    [True, False, False, False]
    """
    size = len(truth)
    if len(phrase) <= size or any(map(is_figure, truth)) or not COLOURS.isdisjoint(truth):
        return False
    if phrase[:size] == truth:
        kept = phrase[size:]
        return set(kept) <= _PARTS or (len(kept) == 1 and bool(_BRAND.search(case.question.asked)))
    if not all(map(same, phrase[-size:], truth)) or not is_part(lemma(truth[-1]), "n"):
        return False
    more = phrase[:-size]
    if any(word in case.question.words and word in COLOURS for word in more):
        return False
    return set(more) <= _PLAIN and not known(" ".join(phrase))


def means_accepted_answer(case: Case, answer: Words) -> bool:
    """Return whether an answer given by few annotators is equivalent to an accepted one.

    *$2.50* is equivalent to *2.50*, *a Santa hat* to *hat*; *red and black* is not.
    """
    accepted = [words(text) for text in case.truths]
    if "and" in answer:
        parts = words(" ".join(answer).replace(" and ", " ; "))
        at = answer.index("and")
        return len(parts) > 1 and answer[:at] in accepted and answer[at + 1 :] in accepted
    for truth in accepted:
        if not truth or not COLOURS.isdisjoint(truth) or truth in (("yes",), ("no",)):
            continue
        if relation(answer, truth, case.question) == "equal":
            return True
        figure = is_figure(truth[0]) and len(truth) == 1 and not any(map(is_figure, answer[1:]))
        if figure and answer[0] == truth[0] and len(answer) > 1:
            return True
        if not figure and len(answer) > len(truth) and answer[-len(truth) :] == truth:
            return True
    return False


_IS = (
    r"(?:(?:is|are|was|were)(?: there| visible| seen| located| placed| parked| shown| sitting"
    r"| standing| lying| hanging)?|can (?:be|you|we|i) (?:see|seen|spot|find|found)"
    r"|do (?:you|we|i) see|stands?|sits?|lies|hangs?)"
)
_AT_LOCATION = re.compile(
    rf"^(?:what|who)(?: else)? {_IS} (?:next to|close to|beside|near|behind|around|in front of"
    r"|between|by|against|along|through|to the (?:left|right) of|across from|outside|among) "
)
_WIDE = re.compile(
    rf"^(?:what|who)(?: else)? {_IS} (?:in|on|at|over|above|across|on top of) (?:the|this"
    r"|that|his|her|their) (?:[\w'-]+ )?(?:table|desk|counter|countertop|walls?|shelf|shelves|floor"
    r"|ground|background|foreground|distance|sky|bed|couch|sofa|street|road|sidewalk|room|water"
    r"|yard|grass|field|nightstand|dresser|stove|plate|tray|cake|bench|kitchen|bathroom|window|tree"
    r"|beach|park|river|lake|ocean|corner|refrigerator|fridge|mantle|roof|ceiling|court|lawn"
    r"|snow|sand|mirror)$"
)
"""Locations that usually contain several objects."""

_ONE = re.compile(r"\b(?:the (?:only )?(?:object|thing|item|animal|person) |only )")
_WORN = re.compile(r"\b(?:wear|wears|wearing|dressed in|have on)\b")
_ACTIVITY = re.compile(r"^what (?:is|are|was|were) .+ doing\b|^what (?:does|do) .+ do$")
_REASON = re.compile(
    r"^why\b|^for what\b|\bused? for$|\b(?:purpose|reason|function|cause|benefit|advantage)\b"
    r"|\bwhat (?:is|are) .+ for$|\bhow come\b"
)
_LOOSE = re.compile(
    r"^what (?:does|do|did) .+ have$|\bdecorated with\b|\btheme\b|\bsymboli\w+"
    r"|\brelation(?:ship)? between\b|\bsuggests?\b|\bwhat else\b|\bexample of\b"
)
_FEELING = re.compile(r"\b(?:emotion|mood|feel|feels|feeling|expression|look(?:s)? like he)\b")
_FEELINGS = tuple(
    word_set(kind)
    for kind in (
        "happy joyful excited content cheerful relaxed calm pleased amused peaceful smiling"
        " friendly delighted glad satisfied proud playful",
        "sad upset unhappy disappointed lonely gloomy",
        "angry annoyed frustrated upset mad irritated",
        "scared worried anxious nervous afraid tense surprised shocked",
        "bored tired serious calm neutral indifferent focused concentrated thoughtful",
    )
)
"""Feelings that a person may have at the same time."""

_GARMENTS = tuple(
    word_set(kind)
    for kind in (
        "hat cap helmet beanie hood crown bonnet turban headband sombrero",
        "shirt tshirt blouse sweater sweatshirt jacket coat hoodie vest polo cardigan tank blazer",
        "jeans pants trousers shorts skirt leggings slacks",
        "shoe shoes boots sandals sneakers slippers heels loafers",
        "glasses sunglasses goggles",
        "dress suit uniform gown tuxedo robe wetsuit kimono swimsuit bikini costume",
        "tie bowtie",
    )
)
"""Kinds of garments of which a person wears only one."""

_SIMULTANEOUS = word_set(
    "talk speak smile laugh look watch listen hold wear pose sing wait carry eat drink chew smoke"
    " text wave rest relax work stare think use enjoy point lean perform compete exercise"
    " train practice chat gaze observe face turn hug kiss clap cheer celebrate travel wink"
    " photograph film shop gather"
)
"""Activities that are possible at the same time as others."""

_POSTURES = word_set("stand sit lie kneel crouch squat lean")
_MOVES = word_set("walk run jump swim climb dance crawl sleep march jog hike")
_IN_AIR = word_set("skateboard snowboard ski surf bike ride skate cycle jump fly hop trick dive")
_GENERAL = word_set(
    "thing object item animal creature instrument device machine vehicle meal food dish plant"
    " person human people someone something stuff appliance tool building structure furniture"
    " container case product equipment drink beverage clothes clothing garment"
    " outfit room place area activity sport game nature material accessory electronics symbol shape"
    " kind type variety organism being individual figure artwork art decoration utensil gadget"
    " piece part unit vessel document"
)
"""Very general words: an answer of these contradicts few ground truths."""

_DESCRIPTIVE = (
    word_set(
        "large small big little tall short young old long huge tiny beautiful modern vintage wooden"
        " metal plastic open closed empty full bright dark light new clean dirty colorful cold hot"
        " warm wild domestic famous popular traditional simple nice soft hard round square cute"
        " pretty busy quiet rural urban fresh"
    )
    | COLOURS
) - {"orange"}
_HUES = {
    hue: word_set(near)
    for hue, near in {
        "blonde": "yellow brown white gold", "blond": "yellow brown white gold",
        "beige": "brown white yellow pink gray", "tan": "brown yellow white orange",
        "cream": "white yellow brown", "khaki": "brown green yellow", "gold": "yellow brown orange",
        "golden": "yellow brown orange", "silver": "gray white", "maroon": "red purple brown",
        "teal": "blue green", "turquoise": "blue green", "navy": "blue black", "aqua": "blue green",
        "violet": "purple pink blue", "lavender": "purple pink blue", "peach": "pink orange",
        "salmon": "pink orange", "coral": "pink orange red", "burgundy": "red purple brown",
        "rust": "red brown orange", "bronze": "brown yellow orange", "copper": "brown orange red",
        "magenta": "pink purple red", "cyan": "blue green", "mint": "green blue",
        "olive": "green brown", "mustard": "yellow brown", "charcoal": "black gray",
        "ivory": "white yellow", "brunette": "brown black", "wood": "brown", "wooden": "brown",
    }.items()
}  # fmt: skip


def allows_other_answers(case: Case, phrase: Words) -> bool:
    """Return whether an answer's phrase and a different ground truth may both be correct.

    >>> from vlmscope.schema import Answered
    >>> def allowed(question, truth, answer):
    ...     case = Case(Answered("q", question, answer, truth))
    ...     return allows_other_answers(case, case.phrase)
    >>> allowed("What is on the table?", "vase", "a laptop")
    True
    >>> allowed("What is it?", "vase", "a laptop")
    False
    """
    pairs = list(product([phrase], case.short_truths))
    if any(is_figure(word) for pair in pairs for part in pair for word in part):
        return False
    if _says_nothing_new(case, phrase) or any(_of_another_kind(case, *pair) for pair in pairs):
        return True
    if any(_near_hue(*pair) for pair in pairs):
        return True
    return not case.truth.voted and any(_allows_several(case, *pair) for pair in pairs)


def _says_nothing_new(case: Case, phrase: Words) -> bool:
    """Return whether a phrase only repeats words of the question, or is very general."""
    if not case.question.offered.isdisjoint(phrase):
        return False
    asked = case.question.words - case.question.offered
    bases = {lemma(word) for word in phrase} - _DESCRIPTIVE
    return bool(bases) and all(word in _GENERAL or word in asked for word in bases)


def _of_another_kind(case: Case, phrase: Words, truth: Words) -> bool:
    """Return whether a phrase describes an object, while the ground truth names it."""
    if case.question.offered or re.search(r"\bcolou?r|\bhow\b|\blike$", case.question.asked):
        return False
    if any(len(word) < 2 for word in (*phrase, *truth)):
        return False
    if not is_part(truth[-1], "n") or not _DESCRIPTIVE.isdisjoint(truth):
        return False
    return _DESCRIPTIVE.issuperset(phrase)


def _near_hue(phrase: Words, truth: Words) -> bool:
    """Return whether two names of colors may be of one color, as *blonde* and *yellow*."""
    return any(
        other in _HUES.get(one, ())
        for one, other in (*product(phrase, truth), *product(truth, phrase))
    )


def _allows_several(case: Case, phrase: Words, truth: Words) -> bool:
    """Return whether a question may have several correct answers, including these two."""
    asked = case.question.asked
    if _AT_LOCATION.match(asked) or _WIDE.match(asked):
        return phrase[0][:3] != truth[0][:3] and not _ONE.search(plain(case.final))
    if _REASON.search(asked) or _LOOSE.search(asked):
        return True
    if _WORN.search(asked):
        return not any(_both_in(kind, phrase, truth) for kind in _GARMENTS)
    if _ACTIVITY.search(asked):
        return _simultaneous(phrase, truth)
    if _FEELING.search(asked):
        return any(kind.intersection(phrase) and kind.intersection(truth) for kind in _FEELINGS)
    return False


def _both_in(kind: frozenset[str], phrase: Words, truth: Words) -> bool:
    def named(part: Words) -> bool:
        return part[-1] in kind or lemma(part[-1]) in kind

    return named(phrase) and named(truth)


def _simultaneous(phrase: Words, truth: Words) -> bool:
    """Return whether a person may do both at the same time."""
    one, other = (
        {base for word in part for base in (lemma(word), word.removesuffix("ing"))}
        for part in (phrase, truth)
    )
    both = one | other
    if (one == {"play"} or other == {"play"}) and not both & {"sleep", "lie"}:
        return True
    if "phone" in both and not both & _POSTURES:
        return False
    if one & (_POSTURES | _MOVES) and other & (_POSTURES | _MOVES):
        return "sleep" in both and bool(both & {"lie", "sit", "lean"})
    return bool(both & (_SIMULTANEOUS | _POSTURES)) or ("jump" in both and len(both & _IN_AIR) > 1)
