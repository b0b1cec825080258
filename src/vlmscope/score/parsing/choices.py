"""Multiple choice: the choices that a question lists, and which of them a text chooses.

Choices are listed as ``(A) x``, ``A. x``, ``A) x`` or ``A: x``, each on its line or all in one, or
by ``Choices: x, y``. A text chooses by letter, by the words of a choice, or by both; where the two
disagree or several are named, it chooses none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vlmscope.score.language.denial import HEDGE, NEGATIVE, plain
from vlmscope.score.language.lexicon import lemma
from vlmscope.score.language.text import words
from vlmscope.score.parsing.reply import final_answer, strip_contrast, strip_reason

_MARK = re.compile(
    r"(?:(?<=\s)|^|(?<=[?:;,.]))(?:\((?P<a>[A-Ja-j])\)|\[(?P<b>[A-Ja-j])\]|(?P<c>[A-J])[.):](?=\s)"
    r"|(?P<d>[a-j])\)(?=\s)|(?:(?<=\n)|^)[ \t]*(?P<e>[a-j])[.:](?=\s))",
)
_NAMED_LIST = re.compile(r"(?:^|\n|\s)(?:choices|options)\s*:\s*(?P<items>.+)", re.I | re.S)
_INSTRUCTION = re.compile(
    r"\n[ \t]*(?:please |answer |respond |select |choose |hint|give )[^\n]*$|\s(?:please"
    r" )?(?:answer|select|choose|respond)"
    r" (?:with|directly|the|from|by|using)\b[^\n]*$",
    re.IGNORECASE,
)
_BARE = re.compile(r"[\s*\"'`({\[]*(?P<letter>[A-Ja-j])[\s*\"'`)}\].:,]*")
_OPENS = re.compile(
    r"[\s*\"'`]*(?:\((?P<a>[A-Ja-j])\)|\[(?P<b>[A-Ja-j])\]|(?P<c>[A-Ja-j])\*{0,2}[.):](?=\s|\*|$)"
    r"|(?P<d>[B-J])(?=\s*[,–—-]\s|\s|$)|(?P<e>A)(?=\s*[,–—]\s|\s*$|\s+(?:is|because|since)\b))"
)
_NAMES = re.compile(
    r"\b(?i:answer|option|choice|letter)s?(?: (?:is|would be|must be|should be|=))?:?"
    r" *(?:(?i:option|choice) )?"
    r"[\s*\"'`]*(?:\((?P<a>[A-Ja-j])\)|(?P<b>[A-J])(?![\w'])(?! (?!is\b|because\b|since\b|as\b"
    r"|and\b|"
    r"or\b|but\b)[a-z]))|\((?P<c>[A-Ja-j])\)|\b(?P<d>[B-J])\b(?=[.,)]|\s*$|\s(?:is|because|but)\b)"
    r"|(?<=\bis )(?P<e>A)(?=\W*(?:$|[.,]))|(?<=actually )(?P<f>[A-J])\b|(?<=not )(?P<g>[A-J])\b"
    r"|\b(?P<j>[A-J])(?= (?:rather than|instead of|(?:and|but) not)\b|, not\b)"
    r"|(?<=[,:.] )(?P<i>A)(?=\W*$)"
    r"|\b(?P<h>[A-J])(?= (?:or|and|&) \(?[A-J]\b)"
)
_SEVERAL = re.compile(
    r"(?P<before>\b[A-Z]\w+ )?\b(?P<one>[A-J])\b[)*.,]{0,3}(?: ?/ ?| or | and |, )"
    r"(?:(?:maybe|possibly|perhaps) )?(?:(?:option|choice) )?[(*]{0,3}(?P<other>[A-J])\b(?! is"
    r" (?:not|wrong|incorrect))"
)
"""Two letters next to each other: an answer that does not choose."""

_TURN = re.compile(r"\b(?:no|wait|actually|rather|sorry|correction|instead|hmm)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Choices:
    """The choices of a question."""

    stem: str
    """The question before the choices."""

    letters: tuple[str, ...]
    """Their letters in lower case."""

    texts: tuple[str, ...]

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The words of each choice."""
        return tuple(map(words, self.texts))


@dataclass(frozen=True)
class Chosen:
    """The choice that a text makes."""

    index: int | None
    """Index of the choice; None if it is unclear."""

    why: str


@lru_cache(1 << 14)
def read_choices(text: str) -> Choices | None:
    """Return the choices that a question lists, or None.

    >>> read_choices("Which? (A) the first (B) the second").texts
    ('the first', 'the second')
    >>> read_choices("Is it open?") is None
    True
    """
    marks = list(_MARK.finditer(text))
    letters = [_letter(mark) for mark in marks]
    for start in (at for at, letter in enumerate(letters) if letter == "a"):
        run = 1
        while start + run < len(letters) and letters[start + run] == chr(ord("a") + run):
            run += 1
        if run > 1:
            return _listed(text, marks[start : start + run])
    return _named(text)


def _letter(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group).lower()


def _listed(text: str, marks: list[re.Match[str]]) -> Choices:
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    texts = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    texts[-1] = _INSTRUCTION.sub("", texts[-1].strip().split("\n\n")[0])
    if "\n" in text[marks[0].start() : marks[-1].start()]:  # one per line
        texts[-1] = texts[-1].strip().split("\n")[0]
    stem = re.sub(
        r"(?:choices|options|select from the following choices)\W*$", "",
        text[: marks[0].start()].strip(), flags=re.IGNORECASE,
    )  # fmt: skip
    return Choices(stem, tuple(map(_letter, marks)), tuple(t.strip(" \n\t,;") for t in texts))


def _named(text: str) -> Choices | None:
    """Read ``Choices: x, y`` or choices on one line each."""
    found = _NAMED_LIST.search(text)
    if found is None:
        return None
    items = _INSTRUCTION.sub("", found["items"].strip())
    items = items.strip("[]")
    parts = items.split("\n") if "\n" in items else re.split(r"[,;/|]", items)
    parts = [part.strip(" -*•'\".") for part in parts]
    parts = [part for part in parts if part]
    if not 2 <= len(parts) <= 10:
        return None
    stem = text[: found.start()].strip()
    return Choices(stem, tuple("abcdefghij"[: len(parts)]), tuple(parts))


def choose(text: str, choices: Choices) -> Chosen:
    """Return which of the choices a text chooses.

    >>> kettle = read_choices("Which? (a) Open (b) Closed")
    >>> [choose(text, kettle).index for text in ("(a)", "B. Closed", "It is open.", "(a) Closed")]
    [0, 1, 0, None]
    """
    final = final_answer(text)
    if final:
        chosen = _choose(final, choices)
        if chosen.index is not None:
            return chosen
    return _choose(text, choices)


def _choose(text: str, choices: Choices) -> Chosen:
    if (index := _choose_by_text(text, choices)) is not None:
        return Chosen(index, f"option {choices.texts[index]}")
    by_letter = chosen_letter(text, choices.letters)
    for several in _SEVERAL.finditer(text[:2_000]):
        name = (several["before"] or "Both").strip()  # "Team A and B" are two teams
        if several["one"] != several["other"] and name in ("Both", "Either", "Options", "Choices"):
            return Chosen(None, "names several options")
    if by_letter == "":
        return Chosen(None, "names several options")
    named = _named_texts(text, choices)
    if by_letter is not None:
        return _choose_by_letter(text, choices, by_letter, named)
    text = strip_reason(strip_contrast(text))
    named = _named_texts(text, choices) or _inflected_texts(text, choices)
    if len(named) != 1:
        return Chosen(None, "names several options" if named else "chooses no option")
    line = plain(text)
    words_of = choices.texts[next(iter(named))]
    if (HEDGE.search(line) or NEGATIVE.search(line)) and not NEGATIVE.search(plain(words_of)):
        return Chosen(None, "negates or hedges an option")
    return Chosen(next(iter(named)), f"option {words_of}")


def _choose_by_letter(text: str, choices: Choices, letter: str, named: set[int]) -> Chosen:
    """Return the choice for the letter in a text, whose words name the choices ``named``."""
    if re.search(r"\b(?:maybe|perhaps|possibly|torn)\b", plain(text)):
        return Chosen(None, "hedges an option")
    if _is_lettered(choices) and " than " in text:
        return Chosen(None, "compares options that are called by letters")
    index = choices.letters.index(letter)
    if named and index not in named and choices.texts[index]:
        return Chosen(None, "its letter and its words name different options")
    return Chosen(index, f"option {letter}")


_FRAMED = re.compile(
    r"\W*(?:(?:the )?(?:correct |best |right |final )?(?:answer|option|choice)(?: is|:)?|it is"
    r"|it's)?\W*"
    r"(?P<text>.*?)\W*",
    re.IGNORECASE | re.DOTALL,
)


def _choose_by_text(text: str, choices: Choices) -> int | None:
    """Return the choice whose words make up the whole text, except for the choice's letter.

    Where choices are themselves called by letters (*Solution A*, *A is closer*), a sentence that
    contains the words of exactly one of them chooses it, whatever letters these words have.
    """
    body = _FRAMED.fullmatch(text[:500])
    tokens = words(body["text"]) if body else ()
    if tokens in choices.tokens and choices.tokens.count(tokens) == 1:
        return choices.tokens.index(tokens)
    if not _is_lettered(choices):
        return None
    first = re.split(r"\n|(?<=\w{2})[.!]\s", text.strip(), maxsplit=1)[0]
    opening = _OPENS.match(first)
    letter = _letter(opening) if opening and not first[:2].endswith(" ") else ""
    if opening and letter in choices.letters:
        index = choices.letters.index(letter)
        if words(first[opening.end() :]) == choices.tokens[index]:
            return index
    named = _named_texts(text, choices)
    plainly = not (opening and first[0] in "([") and not NEGATIVE.search(plain(text))
    return named.pop() if len(named) == 1 and plainly and not HEDGE.search(plain(text)) else None


def _is_lettered(choices: Choices) -> bool:
    """Return whether choices are themselves called by letters."""
    return any(
        len(word) == 1 and word in "abcdefghij" for option in choices.tokens for word in option
    )


def chosen_letter(text: str, letters: tuple[str, ...]) -> str | None:
    """Return the letter that a text chooses, "" if it names several, None if it names none.

    >>> [chosen_letter(text, ("a", "b")) for text in ("(A)", "A dog", "The answer is B.", "C")]
    ['a', None, 'b', None]
    >>> chosen_letter("A, no, actually B", ("a", "b"))
    'b'
    """
    head = text[:2_000]
    if bare := _BARE.fullmatch(head):
        letter = bare["letter"].lower()
        return letter if letter in letters else None
    found = [(0, _letter(opening))] if (opening := _OPENS.match(head)) else []
    found += [(name.start(), _letter(name)) for name in _NAMES.finditer(head)]
    found = [(at, letter) for at, letter in found if letter in letters]
    names = list(dict.fromkeys(letter for _, letter in found))
    denied = {
        name[-1].lower()
        for name in re.findall(
            r"\b(?:[Nn]ot|rather than|instead of|rule out|over) (?:(?:option|choice)"
            r" )?\(?[A-J]\b",
            head,
        )
    }
    kept = [name for name in names if name not in denied]
    if len(kept) == 1 and (len(names) == 1 or denied):
        return kept[0]
    if not names:
        return None
    last = found[-1]
    before = max(at for at, letter in found if letter != last[1]) if len(names) > 1 else 0
    if len(names) == 2 and not denied and _TURN.search(head[before : last[0]]):
        return last[1]
    return ""


def _named_texts(text: str, choices: Choices) -> set[int]:
    """Return the choices whose words occur in a text, except those within longer ones."""
    tokens = words(text[:2_000])
    taken: list[tuple[int, int, int]] = []
    for index in sorted(range(len(choices.texts)), key=lambda i: -len(choices.tokens[i])):
        part = choices.tokens[index]
        for start in range(len(tokens) - len(part) + 1) if part else ():
            end = start + len(part)
            if tokens[start:end] == part and not any(
                start < e and s < end and choices.tokens[i] != part for s, e, i in taken
            ):
                taken.append((start, end, index))
    return {index for _, _, index in taken}


def _inflected_texts(text: str, choices: Choices) -> set[int]:
    """Return the choice whose words occur in a text in other forms (*the grass would decrease*)."""
    tokens = _bases(words(text[:500]))
    bases = [_bases(part) for part in choices.tokens]
    found = {
        index
        for index, part in enumerate(bases)
        if len(part) > 1
        and any(tokens[at : at + len(part)] == part for at in range(len(tokens) - len(part) + 1))
    }
    return found if len(tokens) <= 30 else set()


def _bases(tokens: tuple[str, ...]) -> tuple[str, ...]:
    light = ("the", "a", "an", "would", "will", "be", "is", "are", "to", "and")
    return tuple(lemma(word) for word in tokens if word not in light)


def true_choice(answer: str, choices: Choices) -> int | None:
    """Return which choice a ground truth names, by letter, by text, or by both; else None.

    A number is an index only if no choice is that number, and if it is unambiguous: 0 implies
    counting from 0, the number of choices implies counting from 1.
    """
    tokens = words(answer)
    for index, part in enumerate(choices.tokens):
        if tokens == part:
            return index
    if bare := _BARE.fullmatch(answer):
        letter = bare["letter"].lower()
        return choices.letters.index(letter) if letter in choices.letters else None
    if re.fullmatch(r"\s*\d{1,2}(?:\.0)?\s*", answer, re.ASCII):
        number, last = int(float(answer)), len(choices.texts)
        return 0 if number == 0 else last - 1 if number == last else None
    if opening := _OPENS.match(answer):
        letter = _letter(opening)
        if letter in choices.letters:
            index = choices.letters.index(letter)
            rest = words(answer[opening.end() :])
            return index if rest in ((), choices.tokens[index]) else None
    return None
