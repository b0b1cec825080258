"""Yes or no? Reads the side that an answer takes, and scores answers to yes/no questions.

The keyword rules of earlier research code produced wrong labels: they found *no* in *now* and
*snow*, read *The floor appears to be clean* as *No*, and labelled answers that no rule covered as
faithful. Here an answer takes a side only if its own words state it:

1. by the *yes* or *no* that opens a sentence (``read_stance``), in other languages too, unless what
   follows contradicts it;
2. by a sentence that denies or affirms what the question asks (``denial``, ``claims``), anywhere in
   the answer. Two such sentences that disagree make the answer unclear.

*The tail is not visible* is not a *No* to a question about the tail's colour: it states that the
question cannot be answered. For a negated question (*Isn't it red?*), *yes* and *no* are ambiguous:
if the ground truth is a sentence, only a sentence that states the same or the opposite is scored;
if it is one word, an answer of one word is compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vlmscope.schema import Answered, Score
from vlmscope.score.language.denial import (
    HEDGE,
    NEGATIVE,
    clause,
    content,
    deny,
    hedge_in,
    plain,
    sentences,
)
from vlmscope.score.language.lexicon import is_a, lemma
from vlmscope.score.language.text import word_set, words
from vlmscope.score.parsing.choices import Choices
from vlmscope.score.parsing.claims import side_of
from vlmscope.score.parsing.presence import presence
from vlmscope.score.parsing.question import Question, claim_words, read_question
from vlmscope.score.parsing.reply import read_reply, strip_frame
from vlmscope.score.parsing.truth import accepted_answers, read_truth
from vlmscope.score.rules.comparison import relative_side
from vlmscope.score.scorer import Finding, excerpt

_FOREIGN_YES = re.compile(
    r"(?:да|sí|si|sì|oui|ja|sim|tak|evet|ya)(?=$|[,.!;:])|(?:是的|是|对|有)(?!不|没|否)|はい"
    r"|(?:네|예)(?=$|[,. ])"
)
_FOREIGN_NO = re.compile(
    r"(?:нет|nein|nee|não|nao|nie|hayır|tidak|non)(?=$|[,.!;:])|(?:没有|不是|不|没|否)|いいえ|아니[요오]?"
)
_NOT = re.compile(
    r"\b(?:no|не|нет|nicht|keine?[mnrs]?|pas|não|nie|non|niet|geen|ni|aucune?|ningun[ao]?|değil"
    r"|aber|pero|mais|но|però)\b|[没不無无]|ません|ない|없|아니"
)
_ALSO_YES = re.compile(r"\b(?:да|sí|oui|sim|doch|aber|pero|mais|но|però)\b|但")


def foreign_side(text: str) -> Literal["yes", "no"] | None:
    """Return the side that the first word of an answer in another language takes.

    >>> [foreign_side(text) for text in ("Да, есть.", "Nein.", "没有。", "是的,有。", "Si on")]
    ['yes', 'no', 'no', 'yes', None]
    >>> foreign_side("Oui, mais il n'y en a pas.") is None
    True
    """
    line = " ".join(text[:300].lower().split()).lstrip("*\"'«„“¿¡ ")
    for side, opening, against in (("yes", _FOREIGN_YES, _NOT), ("no", _FOREIGN_NO, _ALSO_YES)):
        if found := opening.match(line):
            rest = line[found.end() :]
            return None if against.search(rest) else "yes" if side == "yes" else "no"
    return None


@dataclass(frozen=True, slots=True)
class Stance:
    """The side that an answer takes."""

    side: Literal["yes", "no", "unclear"]
    """``unclear`` where it hedges or contradicts itself."""
    evidence: str
    """The words that state it."""
    about: tuple[str, ...] = ()
    """What a sentence without *yes* or *no* negates: it answers only a question about that."""
    subject: tuple[str, ...] = ()
    """The subject of the negated sentence."""


_YES = r"yes|yeah|yep|yup|correct|true"
_NO = (
    r"no(?: such (?:object|thing|item)(?=[.!]*$))?|nope|nah|negative|incorrect|false|not"
    r" (?:really|quite|exactly|at all)|"
    r"(?:absolutely|certainly|definitely|of course) not"
)
_OPENING = re.compile(
    r"^(?:(?:so|well|oh|ok|okay|hmm|sorry|assistant|therefore|thus)\b[,:!]? *)?"
    r"(?:.{0,80}?\banswer(?: to (?:the|your) question)? ?(?:is|would be|:|-):? *"
    r"|(?:i would|i'd|i will|i'll) (?:also )?(?:say|answer|go with)(?: that)?:? (?=(?:yes|no)\b)"
    r"|.{0,60}?\b(?:response|reply|verdict|conclusion|present|result)(?: is| would be| should be)?"
    r" ?[:-]? *(?=(?:yes|no)\b)|(?:to answer (?:the|your) question|here is what i found)[:,] *"
    r"|it is (?=(?:yes|no)\b[:,.])|[^|]{0,60}\| *(?=(?:yes|no) *\|)"
    r"|[^,]{1,60}, (?=(?:yes|no)\b))?"
)
_MARKS = " -–—>[('‘\"=:*#•|✅❌→_`…"
# "No" is an answer before a mark, an end or a subject; before a noun it belongs to the sentence.
_LEAD = re.compile(
    rf"(?:(?P<yes>{_YES})|(?P<no>{_NO}))"
    r"(?=$|\s?[,.!:;–—)\]'’|]|\s?-(?!\w)|\s[–—]|(?<=yes) (?!(?:or|would)\b)|(?<=no) (?:i|it|there"
    r"|th[ei]\w*|that"
    r"|he|she|we|you|but)\b)"
)
_AND_NO = re.compile(r"^\W*(?:yes\W+(?:and|but) no|no\W+(?:and|but) yes)\b")
_TURN = r"\b(?:but|actually|rather|wait|however|though)\b.*\b"
_OPPOSED = (
    r"(?:no(?! \w)|not(?! (?:easy|very|fully|completely|entirely|too|quite|the (?:main|only)"
    r"|large|big"
    r"|small|moving|close|in the (?:center|middle|foreground))\b))"
)
_AGREES = re.compile(
    r"(?:yes, )?(?:it|this|that|they|he|she|there|i|we|you) "
    r"(?:is|are|was|were|does|do|did|has|have|can|am)|i (?:think|believe) so"
)
_NEGATION = re.compile(
    r"\b(?:is|are|was|were|am|do|does|did|has|have|had|can|could|would|will|should)(?: \w+)? not\b"
    r"(?! only)|\b(?:is|are|was|were|be|has|have|had|shows?|contains?|see) no\b"
    r"|^(?:(?:in|from|based on|judging by) [^,]{1,40}, )?"
    r"(?:no(?!\.? ?(?:doubt|problem|worries|\d))|not(?! only)|nothing|none|nobody|neither|never)\b"
)
_NO_ONE = re.compile(r"\b(?:nobody|no one)\b")
_LEADING = re.compile(r"^(?:(?:no|yes|in|from|based on|judging by|according to)[^,]{0,60}, )+")
_SIDE_WORD = re.compile(rf"^(?:{_YES}|{_NO})\b[\s,.!:\-–—]*")
_OPEN = re.compile(r"(?:what|which|who|whom|whose|where|when|why|how)\b")
_CODES: dict[str, Literal["yes", "no"]] = {
    "1": "yes", "0": "no", "1.0": "yes", "0.0": "no",
}  # fmt: skip
_UNSEEN = re.compile(
    r"\bnot (?:be |clearly |fully |actually )*(?:visible|seen|shown|depicted|pictured|displayed"
    r"|in (?:the )?(?:view|frame|sight|picture|image|photo|shot))\b|\binvisible\b|\bout of"
    r" (?:view|frame|sight)\b"
    r"|\b(?:i|we|you|one) (?:can|could|do) not (?:clearly |really |actually |even )?see\b"
)
_BARE_NO = re.compile(
    r"^(?:it|they|he|she|there|this|that|i|we) \w+ not\b"
    r"|^not (?:in|on|that i|visible|here|present|at all)\b"
)
_LOCATIONS = word_set("under below behind above over beside inside outside near between")
_PREPOSITIONS = word_set("on in at of to with by for from")
_ASSENT = re.compile(r"absolutely|definitely|certainly|of course|indeed|affirmative|sure")
_ABOUT = re.compile(
    r"^(?:as for|as to|regarding|concerning) (?:(?:the|your) question )?(?:of )?(?:whether|if)"
    r" [^,:]{1,80}[,:] "
)
_ASKED = re.compile(
    r"(?:object|item|question|query|target|label|class|category)s?: |(?:you|i|we|the (?:question"
    r"|user)|let (?:me|us)|this question) (?:was |am |are |is |were "
    r"|will )*(?:being )?"
    r"(?:ask(?:s|ed|ing)?|want(?:s|ed)? to know|wonder|check|see|look)\b.{0,20}\b(?:if|whether)\b"
)
"""A sentence that only repeats what was asked."""

_WRAPPED = re.compile(r"\$?\\boxed\s*\{(?:\\\w+\s*\{)?\s*(\w+)[.!]?\s*\}?\}\$?")
_LETTERED = re.compile(r"^\W*a: ", re.IGNORECASE)
_SENTENCES = 40
_LONGEST = 1_000
_ELSEWHERE = "elsewhere"  # a denial of what was asked, but in another location or of another kind
_BRANCH = re.compile(
    r"\b(?:who|which|that|whose|where|when|because|if|whether|although|while|but|than)\b"
)


def read_stance(text: str) -> Stance | None:
    """Return the side that an answer takes, or None where it takes none.

    The first *yes* or *no* that is an answer decides; the opposite one, or a hedge in the
    clause that follows, makes it unclear. Without either, the first sentence is *no* if it is
    negated once, in its main clause. No sentence is *yes* only because it is not negated.

    >>> read_stance("No, the cup is red.").side, read_stance("Yes, but actually no.").side
    ('no', 'unclear')
    >>> read_stance("The image does not appear to be lit by a full moon.").about
    ('lit', 'full', 'moon')
    >>> read_stance("It is snowing now.") is None
    True
    """
    parts = [sentence[:_LONGEST] for sentence in sentences(text)[:_SENTENCES]]
    return _read_opened(parts) or (_read_unopened(parts[0]) if parts else None)


def _read_opened(parts: list[str]) -> Stance | None:
    """Read the sentences that start with *yes* or *no*."""
    leads = [lead for sentence in parts[:_SENTENCES] if (lead := _read_opening(sentence))]
    if not leads:
        return None
    sides = {lead.side for lead in leads}
    return leads[0] if len(sides) == 1 else Stance("unclear", "yes and no")


def _read_opening(sentence: str) -> Stance | None:
    """Read the *yes* or *no* that opens a sentence, if one does."""
    sentence = _ABOUT.sub("", sentence.lstrip(_MARKS))
    if found := _AND_NO.search(sentence):
        return Stance("unclear", found[0].strip())
    opening = _OPENING.match(sentence)
    start = opening.end() if opening else 0
    lead = _LEAD.match(sentence, start) or _LEAD.match(sentence)
    if lead is None or re.match(r"no\. ?\d", sentence[lead.start() :]):
        return None
    side: Literal["yes", "no"] = "yes" if lead["yes"] else "no"
    rest = clause(sentence[lead.end() :].lstrip(" ,.!:-–—)"))
    if hedge := HEDGE.search(f"{sentence[: lead.start()]} {rest}"):
        return Stance("unclear", f"{lead[0]} … {hedge[0]}")
    other = "no" if side == "yes" else "yes"
    reversal = re.search(_TURN + (_OPPOSED if side == "yes" else "yes") + r"\b", sentence)
    reversal = reversal or re.search(
        rf"[,;:.…–—-] ?{other}\b(?=\W*$|[,.!])", sentence[lead.end() :]
    )
    against = (
        NEGATIVE.search("" if rest.startswith(("though", "although")) else rest)
        if side == "yes"
        else re.search(r"\byes\b", rest)
    )
    if found := reversal or against:
        return Stance("unclear", f"{lead[0]} … {found[0]}")
    return Stance(side, lead[0])


def _read_unopened(sentence: str) -> Stance | None:
    """Read a sentence without *yes* or *no*."""
    if hedge := hedge_in(sentence):
        return Stance("unclear", hedge)
    if _AGREES.fullmatch(sentence.rstrip(" .!")):
        return Stance("yes", sentence.rstrip(" .!"))
    negation = _NEGATION.search(sentence)
    if negation is None or _BRANCH.search(sentence[: negation.start()]):
        return None
    if len(NEGATIVE.findall(sentence)) > 1:
        return Stance("unclear", "negated twice")
    about = content(clause(sentence[negation.end() :]))
    subject = content(_LEADING.sub("", sentence[: negation.start()]))
    if _NO_ONE.search(sentence):
        about = ("person", *about)
    return Stance("no", negation[0], about, subject)


class YesNo:
    """Score answers whose ground truth is yes or no.

    An answer is hallucinated if it takes the other side than the ground truth. The question is
    never searched for a verdict; a sentence without *yes* or *no* counts only if it is about what
    was asked.
    """

    name = "yesno"

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a verdict for every row."""
        for row in rows:
            yield score_side(row, yes_no_truth(row.target, row.question)).score(row, self.name)


def yes_no_truth(target: object, question: str = "") -> Literal["yes", "no"] | None:
    """Return the side that a ground truth takes, or None where it is neither yes nor no.

    Args:
        target: The ground truth.
        question: If it asks for yes or no, 1 is *yes* and 0 is *no*.

    >>> [yes_no_truth(truth) for truth in ("Yes", "no.", "y, e, s", "No; It isn't lit.", "1", "")]
    ['yes', 'no', 'yes', 'no', None, None]
    >>> yes_no_truth("Yes; No"), yes_no_truth("No kettle is there.")
    (None, None)
    >>> yes_no_truth("1", "Is there a cup?"), yes_no_truth("1", "How many cups are there?")
    ('yes', None)
    """
    accepted = accepted_answers(target)
    asked = read_question(question) if question else None
    if asked and accepted and accepted[0] in _CODES and len(accepted) == 1:
        return _CODES[accepted[0]] if asked.yes_no and not asked.either else None
    if asked and _OPEN.match(asked.asked):
        return None  # "No, cats are playing there" denies what is asked
    sides = {
        lead.side
        for answer in accepted
        for sentence in sentences(answer[:_LONGEST])[:1]
        if (lead := _read_opening(sentence))
    }
    if not sides and asked and accepted:
        sides = {_stated_side(answer, asked) for answer in accepted}
    side = sides.pop() if len(sides) == 1 else None
    return None if side == "unclear" else side


def _stated_side(truth: str, asked: Question) -> Literal["yes", "no", "unclear"]:
    """Return the side of a ground truth of one sentence on a question about existence."""
    parts = sentences(truth[:_LONGEST])
    found = presence(asked, parts[0]) if len(parts) == 1 and " " in truth.strip() else None
    return found or "unclear"


def score_side(row: Answered, truth: Literal["yes", "no"] | None) -> Finding:
    """Compare the side of an answer with the ground truth's."""
    if row.unreadable:
        return Finding(None, row.unreadable)
    known = read_truth(row.target)
    if not known.accepted and not known.doubtful:
        return Finding(None, "no ground truth")
    if truth is None:
        return Finding(None, f"truth is not yes or no: {excerpt(row.target)}")
    answer = _LETTERED.sub("", read_reply(row.answer or "", row.question))
    answer = strip_frame(_WRAPPED.sub(r"\1", answer))
    if not words(answer):
        return Finding(None, "no answer")
    question = read_question(row.question)
    if question.negated:
        return _score_negated(question, known.accepted, answer, truth)
    stance = answer_side(answer, question, truth)
    if stance is None:
        negates = any(_NEGATION.search(sentence) for sentence in sentences(answer)[:1])
        why = "negates what was not asked" if negates else "takes no side"
        return Finding(None, f"{why}: {excerpt(answer)}")
    if stance.side == "unclear":
        return Finding(None, f"hedges or contradicts itself: {excerpt(stance.evidence)}")
    side = f"{stance.side}, truth {truth}: {excerpt(stance.evidence)}"
    if stance.side != truth and stance.side in {plain(a).strip(" .") for a in known.doubtful}:
        return Finding(None, f"annotators disagree: says {side}")
    return Finding(stance.side != truth, f"says {side}")


def answer_side(answer: str, question: Question, truth: str = "") -> Stance | None:
    """Return the side that an answer takes to a question.

    Args:
        answer: The answer.
        question: The question, not negated.
        truth: The correct side: the absence of what the question presupposes contradicts *yes*, but
            does not state *no*.
    """
    parts = [sentence[:_LONGEST] for sentence in sentences(answer)[:_SENTENCES]]
    opened = _read_opened(parts)
    if not opened and (foreign := foreign_side(answer)):
        return Stance(foreign, answer[:40])
    if len(parts) == 1 and _ASSENT.fullmatch(parts[0].rstrip(" .!")):
        return Stance("yes", parts[0])
    if opened and opened.side == "unclear":
        return opened
    found, before = [], ""
    for part in _statements(parts):
        if stance := _sentence_side(part, question, truth, before):
            found.append(stance)
        before = f"{before} {part}"
    if opened:
        other = next(
            (stance for stance in found if stance.side not in (opened.side, "unclear")), None
        )
        return Stance("unclear", f"{opened.evidence} … {other.evidence}") if other else opened
    if not found or (
        len(found) == 1 and found[0].side == "unclear" and _ELSEWHERE in found[0].about
    ):
        return None
    sides = {stance.side for stance in found}
    return found[0] if len(sides) == 1 else Stance("unclear", found[-1].evidence)


def _statements(parts: list[str]) -> Iterator[str]:
    """Yield sentences without the *yes* or *no* that opens them."""
    for sentence in parts:
        part = _SIDE_WORD.sub("", sentence) if _read_opening(sentence) else sentence
        if (
            re.search(r"\w", part)
            and not part.endswith("?")
            and not _ASKED.match(part.lstrip(_MARKS))
        ):
            yield part


def _sentence_side(sentence: str, question: Question, truth: str, before: str) -> Stance | None:
    """Return the side that one sentence takes to a question."""
    if found := presence(question, sentence, before):
        return Stance(found, sentence)
    if side := relative_side(question, sentence) or side_of(question, sentence):
        return Stance(side, sentence)
    if (denial := deny(sentence)) and not denial.incapable:
        if denial.unanswerable and not denial.things:
            return Stance("unclear", sentence)
        about = (denial.head, *map(lemma, denial.things), *map(lemma, denial.owner))
        if not all(_is_asked(word, question) for word in about):
            return (
                Stance("unclear", sentence, (_ELSEWHERE,))
                if denial.head in question.thing
                else None
            )
        if question.thing:
            return Stance("no", sentence) if _is_asked(denial.head, question, head=True) else None
        if denial.unanswerable or _UNSEEN.search(sentence):
            return Stance("unclear", sentence)
        return _score_presupposed(denial.head, question, truth, sentence)
    if denial:
        return Stance("unclear", sentence)
    return _read_negated_about(sentence, question)


def _score_presupposed(head: str, question: Question, truth: str, sentence: str) -> Stance | None:
    """Score an answer stating that the object whose property is asked about is absent."""
    owner = r"\b(?:the|his|her|its|their|this|that|\w+'s) (?:[\w'-]+ )?"
    given = re.search(owner + re.escape(head), question.asked)
    if given and truth != "yes":
        return Stance("unclear", f"what is asked about is not there: {sentence}")
    return Stance("no", sentence)


def _read_negated_about(sentence: str, question: Question) -> Stance | None:
    """Read a negated sentence about what a question asks."""
    stance = _read_unopened(sentence)
    if stance is None or stance.side == "yes":
        return stance
    if stance.side == "unclear":
        stems = {lemma(word) for word in content(sentence)}
        asked = {word for word in stems if _is_asked(word, question)}
        return stance if asked or len(stems) < 3 else None
    about = tuple(w for w in (*stance.about, *stance.subject) if w not in ("anything", "any"))
    if not stance.about and _UNSEEN.search(sentence):
        return Stance("unclear", sentence)
    if not about and len(words(sentence)) > 3 and not _BARE_NO.search(sentence):
        return None
    if not all(_is_asked(lemma(word), question) for word in about):
        return None
    if any(word in _LOCATIONS and word not in question.words for word in words(sentence)):
        return None
    return stance


def yes_no_choice(answer: str, question: str, choices: Choices) -> Literal["yes", "no"] | None:
    """Return the side that an answer takes where *yes* and *no* are the choices, or None."""
    if sorted(choices.tokens) != [("no",), ("yes",)]:
        return None
    asked = read_question(choices.stem)
    if not asked.yes_no or asked.negated or asked.either:
        return None
    stance = answer_side(strip_frame(read_reply(answer, question)), asked)
    return stance.side if stance and stance.side != "unclear" else None


def _is_asked(word: str, question: Question, head: bool = False) -> bool:
    """Return whether a question asks about a word, or about a kind of it."""
    asked = question.thing or question.claim if head else question.words
    return (
        word in asked
        or word in _PREPOSITIONS
        or (word == "2" and "both" in question.words)
        or any(is_a(other, word) for other in asked if len(other) > 1)
    )


def _score_negated(
    question: Question, accepted: tuple[str, ...], answer: str, truth: str
) -> Finding:
    """Compare an answer to a negated question with the ground truth."""
    answered = _polarity(answer, question)
    if answered is None:
        if plain(answer).strip(" .!") in {plain(text).strip(" .!") for text in accepted}:
            return Finding(False, f"is the truth {excerpt(answer)}")
        stance = read_stance(answer)
        bare = all(plain(text).strip(" .!") in ("yes", "no") for text in accepted)
        if bare and stance is not None and stance.side in ("yes", "no"):
            # The table answers in one word, as the model does, so both are read in the same sense.
            # Leaving the answers that differ unscored would count correct ones only.
            return Finding(stance.side != truth, f"says {stance.side}, truth {truth}")
        return Finding(None, f"yes or no to a negated question: {excerpt(answer)}")
    truth_polarities = {polarity for text in accepted if (polarity := _polarity(text, question))}
    if len(truth_polarities) != 1 or answered == "unclear":
        return Finding(None, f"a negated question: {excerpt(answer)}, truth {truth}")
    return Finding(
        truth_polarities != {answered}, f"says {excerpt(answer)}, truth {excerpt(accepted[-1])}"
    )


def _polarity(text: str, question: Question) -> str | None:
    """Return whether the sentences of a text affirm or negate the claim of a negated question."""
    claim = {word for word in question.claim if word not in ("not", "no", "never")}
    positive = read_question(re.sub(r"\b(?:not|no|any)\b ?", "", question.asked) + "?")
    found: set[str] = set()
    for sentence in _statements(sentences(text)):
        if side := presence(positive, sentence):
            found.add({"yes": "positive", "no": "negative"}.get(side, "unclear"))
            continue
        if hedge_in(sentence):
            return "unclear"
        tokens = set(claim_words(sentence))
        negatives = NEGATIVE.findall(sentence)
        if len(tokens & claim) * 2 > len(claim) and tokens - claim <= {"not", "no", "never"}:
            found.add(
                "negative" if len(negatives) == 1 else "positive" if not negatives else "unclear"
            )
    return found.pop() if len(found) == 1 else "unclear" if found else None
