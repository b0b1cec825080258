"""Questions that name two alternatives, and answers that name one of them in a sentence.

*The people are sitting on the benches* answers *Are they sitting or standing?* whatever it says
besides, as long as the sentence is about nothing else before it.
"""

from __future__ import annotations

import re

from vlmscope.score.case import LIGHT, Case
from vlmscope.score.claims import COLOURS, SIDES
from vlmscope.score.compared import compared_options
from vlmscope.score.denial import hedge_in, plain, sentences
from vlmscope.score.lexicon import lemma
from vlmscope.score.phrases import Words
from vlmscope.score.scorer import Finding
from vlmscope.score.text import is_figure, word_set, words

_LEADING = LIGHT | word_set(
    "all both slightly currently clearly completely fully turned switched wide still now mostly in"
    " on of"
)
_BETWEEN = re.compile(
    r"\b(?:neither|both|between|half|partly|partially|almost|nearly|than|or|some|one|while|but"
    r"|other|others|if|semi)\b"
)
_ENDING = word_set("up down position pose")


def picks(case: Case) -> Finding | None:
    """Compare which of the alternatives of a question a sentence names."""
    offered = case.question.offered
    if case.question.negated or compared_options(case.question):
        return None
    if (
        len(offered) not in (2, 3)
        or len(case.row.target) > 1_000
        or _is_sided(offered)
        or case.doubt
    ):
        return None
    true = {word for truth in case.short_truths for word in truth if word in offered}
    own = [part for part in (words(truth) for truth in case.truths) if true.issuperset(part)]
    said = _named(case, offered)
    if len(true) != 1 or not own or said is None:
        return None
    return Finding(said not in true, f'says "{said}" in {case.shown}, truth {case.truth_shown}')


def _is_sided(offered: frozenset[str]) -> bool:
    """Return whether alternatives are sides, colors or numbers: other rules bind these."""
    sides = frozenset().union(*SIDES) - {"on", "off"}
    return bool(offered & (sides | COLOURS)) or any(map(is_figure, offered))


def _named(case: Case, offered: frozenset[str]) -> str | None:
    """Return the one alternative that an answer of one sentence names, or None."""
    line = plain(case.final)
    said = words(case.final)
    if len(sentences(line)) != 1 or len(said) > 20 or _BETWEEN.search(line) or hedge_in(line):
        return None
    found = [at for at, word in enumerate(said) if word in offered]
    if len(found) != 1:
        return None
    [at] = found
    before, after = said[:at], said[at + 1 :]
    if said[at] in ("on", "off") and after:
        return None
    led = all(w in _LEADING or w in case.question.words or lemma(w) in case.question.words
              for w in before)  # fmt: skip
    return said[at] if led and _closed(after, case) else None


def _closed(after: Words, case: Case) -> bool:
    """Return whether what follows an alternative leaves it as it is (*sitting on a bench*)."""
    return (
        not after
        or after[0] in _ENDING
        or re.fullmatch(r"in|on|at|by|near|next|with|behind|under|to", after[0]) is not None
        or all(word in case.question.words for word in after)
    )
