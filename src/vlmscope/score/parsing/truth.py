"""What a ground truth accepts: one answer, alternatives, the votes of annotators, a code.

Truths come from tables, as text that a program printed: ``A; B`` (HaloQuest), a list as JSON,
Python or NumPy print it, records with an ``answer`` (VQA v2, VizWiz), ``y, e, s`` (AMBER). Lists
and records are parsed as literals within limits of size and depth; no pattern picks words from
them.

Annotators' votes are weighed as in the VQA evaluation (Antol et al., 2015): an answer that n
annotators gave has the accuracy min(n/3, 1). Here an answer is accepted where its accuracy is 1,
and hallucinated where at most one of ten gave it and another answer has at least half of the votes;
what lies between is unscorable.

A truth may be a code: 0 or 1, or an option's number. The question of a row may decide: to *Is there
a cup?* 1 is *yes*, to *How many cups?* it is one. Where every truth of a table is 0 or 1, the whole
column decides for statements too (*There is a cup.*), and whether options are counted from 0 or 1.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from vlmscope.jsontext import load_json, nests_deeper
from vlmscope.schema import Answered
from vlmscope.score.language.text import normalise
from vlmscope.score.parsing.question import Question, read_question

_LARGEST = 100_000
"""Characters of a printed list that is parsed; a longer one is taken as text."""

_NO_TRUTH = frozenset(("", "nan", "null", "<na>"))
_RECORD_ANSWER = ("answer", "raw_answer", "label", "text")
_RECORD_MARKS = ("answer_id", "answer_confidence", "confidence")
_VOTES = 10
_UNANSWERABLE = frozenset(
    ("unanswerable", "unsuitable", "unsuitable image", "cannot be answered", "not answerable")
)
_SCALAR = re.compile(r"""\bnp\.\w+\(('[^'\\]*'|"[^"\\]*"|[\d.+-]+|True|False)\)""")


@dataclass(frozen=True)
class Truth:
    """A ground truth."""

    accepted: tuple[str, ...] = ()
    """Answers that are faithful; none where there is no truth."""

    doubtful: tuple[str, ...] = ()
    """Answers that some annotators gave, too few to accept and too many to reject."""

    rejected: tuple[str, ...] = ()
    """Answers that one annotator gave against a consensus."""

    listed: bool = False
    """Whether the accepted answers are the items of a list, which may be one answer together."""

    voted: bool = False
    """Whether annotators voted."""

    unanswerable: bool = False
    """Whether the truth is that the question has no answer."""


def read_truth(target: object) -> Truth:
    """Return what a ground truth accepts.

    >>> read_truth("3; three").accepted, read_truth("y, e, s").accepted, read_truth("").accepted
    (('3', 'three'), ('yes',), ())
    >>> read_truth('["no", "no", "no", "no", "yes"]').accepted
    ('no',)
    >>> read_truth("[2014, 2016]").listed
    True
    """
    text = "" if target is None else str(target).strip()[: _LARGEST + 1]
    return _read(text) if len(text) > 4_000 else _remembered(text)


def accepted_answers(target: object) -> tuple[str, ...]:
    """Return every answer that a ground truth accepts; none for an empty one.

    Reads ``A; B; C`` (HaloQuest), lists as JSON, Python or NumPy print them, lists of records with
    an ``answer`` (VQA), and AMBER's ``y, e, s``, a word that a join took apart.

    >>> accepted_answers("3; three; There are three cups.")
    ('3', 'three', 'There are three cups.')
    >>> accepted_answers("['red', 'dark red']"), accepted_answers("y, e, s")
    (('red', 'dark red'), ('yes',))
    >>> accepted_answers(float("nan")), accepted_answers("")
    ((), ())
    """
    return read_truth(target).accepted


def _read(text: str) -> Truth:
    if text.lower() in _NO_TRUTH:
        return Truth()
    joined = "".join(text.lower().split(", "))
    if ", " in text and joined in ("yes", "no"):
        return Truth((joined,))
    if len(text) <= _LARGEST and (items := _items(text)) is not None:
        return _of_items(items)
    accepted = _distinct(text.split(";"))
    return Truth(accepted, unanswerable=_all_unanswerable(accepted))


_remembered = lru_cache(1 << 14)(_read)


def _distinct(parts: Iterable[str]) -> tuple[str, ...]:
    kept = (part.strip() for part in parts)
    return tuple(dict.fromkeys(part for part in kept if part.lower() not in _NO_TRUTH))


def _all_unanswerable(answers: Iterable[str]) -> bool:
    said = [normalise(answer) for answer in answers]
    return bool(said) and all(answer in _UNANSWERABLE for answer in said)


def _items(text: str) -> list[Any] | None:
    """Return the items of a printed list or record, or None where the text is neither."""
    body = text
    if body.startswith(("array(", "np.array(")) and body.endswith(")"):
        body = re.sub(r"^(?:np\.)?array\(|(?:,\s*dtype=[\w.'\"<>]+)?\s*\)$", "", body)
    if not (body[0] in "[({" and body[-1] in "])}") or nests_deeper(body):
        return None
    parsed = _literal(body)
    if parsed is None and body[0] == "[" and not re.search(r"[\[\]{}\"]", body[1:-1]):
        parsed = [part.strip().strip("'") for part in body[1:-1].split(",")]  # [red, blue]
    if isinstance(parsed, dict):
        parsed = _columns(parsed)
    return list(parsed) if isinstance(parsed, (list, tuple)) else None


def _literal(text: str) -> Any:
    """Return what a text prints as JSON or as Python, or None."""
    try:
        return load_json(text)
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in a text that is not ours
            return ast.literal_eval(_as_python(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _as_python(text: str) -> str:
    """Return a text that NumPy or JSON with Python's quotes printed as a Python literal.

    Items have no commas between them (``['a' 'b']``, ``[1 2]``), arrays in arrays have a name and
    a type.
    Texts in quotation marks are left as they are.
    """
    text = _SCALAR.sub(r"\1", text)
    parts = re.split(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", text)
    for at in range(0, len(parts), 2):
        part = re.sub(r"\b(?:np\.)?array\s*\(", "(", parts[at])
        part = re.sub(r",\s*dtype=\w+", "", part)
        part = re.sub(r"\bnull\b|\bnan\b", "None", part)
        part = re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", part))
        part = re.sub(r"(?<=[}\])\w])\s+(?=[{\[(\d-])", ", ", part)
        if not part.strip() and 0 < at < len(parts) - 1:
            part = ", "
        parts[at] = part
    return "".join(parts)


def _columns(record: dict[Any, Any]) -> list[Any]:
    """Return the records of columns (``{"answer": [...], "answer_id": [...]}``), or the record."""
    answers = record.get("answer")
    if isinstance(answers, (list, tuple)):
        marks = {name: 0 for name in _RECORD_MARKS if name in record}
        return [{"answer": answer, **marks} for answer in answers]
    return [record]


def _of_items(items: list[Any]) -> Truth:
    said = [(_answer_of(item), _is_vote(item)) for item in items]
    said = [(answer, vote) for answer, vote in said if answer.strip().lower() not in _NO_TRUTH]
    counts = Counter(normalise(answer) for answer, _ in said)
    votes = sum(vote for _, vote in said)
    if votes >= 3 or len(said) >= _VOTES or len(counts) < len(said) > 2:
        return _of_votes([answer for answer, _ in said], counts)
    accepted = _distinct(answer for answer, _ in said)
    return Truth(
        accepted, listed=len(accepted) > 1 and not votes, unanswerable=_all_unanswerable(accepted)
    )


def _answer_of(item: Any) -> str:
    """Return an item of a list as text; of a record, its answer."""
    if isinstance(item, dict):
        item = next((item[name] for name in _RECORD_ANSWER if item.get(name) is not None), None)
    if isinstance(item, (list, tuple, dict)) or item is None:
        return ""
    return str(item)


def _is_vote(item: Any) -> bool:
    return isinstance(item, dict) and any(name in item for name in _RECORD_MARKS)


def _of_votes(answers: list[str], counts: Counter[str]) -> Truth:
    """Score the votes of annotators."""
    total = counts.total()
    refused = sum(number for answer, number in counts.items() if answer in _UNANSWERABLE)
    enough = 3 if total >= _VOTES - 1 else max(2, -(-total // 3)) if total > 1 else 1
    first = {normalise(answer): answer for answer in reversed(answers)}
    said = [(first[key], number) for key, number in counts.most_common() if key and key in first
            and key not in _UNANSWERABLE]  # fmt: skip
    top = max((number for _, number in said), default=0)
    accepted = [answer for answer, number in said if number >= enough]
    lone = [answer for answer, number in said if number == 1 < enough and total >= 8]
    rejected = lone if 2 * max(top, refused) >= total else []
    doubtful = [answer for answer, _ in said if answer not in accepted and answer not in rejected]
    if {"yes", "no"} <= {normalise(answer) for answer in accepted}:  # both cannot be right
        sides = [answer for answer in accepted if normalise(answer) in ("yes", "no")]
        tied = counts[normalise(sides[0])] == counts[normalise(sides[1])]
        doubtful += sides if tied else sides[1:]
        accepted = [answer for answer in accepted if answer not in doubtful]
    if 2 * refused >= total:
        accepted = [*accepted, "unanswerable"]
    return Truth(
        tuple(accepted), tuple(doubtful), tuple(rejected),
        voted=True, unanswerable=2 * refused >= total,
    )  # fmt: skip


FEWEST = 10
"""Rows of a column from which its code is read."""

_NUMBER = re.compile(r"\s*(\d{1,2})(?:\.0)?\s*", re.ASCII)


@dataclass(frozen=True)
class Code:
    """How the coded truths of a column are read."""

    yes_no: bool = False
    """Whether 1 is yes and 0 is no, whatever the form of the question."""

    first_option: int | None = None
    """The number of the first option; None where truths are no numbers of options."""

    rows: int = 0
    """Rows whose truth is read so."""

    @property
    def summary(self) -> str:
        """How the column was read, as one line; empty where truths are not coded.

        >>> Code(yes_no=True, rows=240).summary
        'truth 1 = yes, 0 = no in 240 rows'
        """
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.rows and self.first_option is not None:
            return f"truth {self.first_option} = the first option in {rows}"
        return f"truth 1 = yes, 0 = no in {rows}" if self.rows else ""

    def decode(self, row: Answered) -> Answered:
        """Return a row with its truth in words.

        >>> code = Code(first_option=0)
        >>> code.decode(Answered("q", "Which? (A) red (B) blue", "B", "1")).target
        '(b)'
        """
        found = _NUMBER.fullmatch(row.target) if isinstance(row.target, str) else None
        if found is None:
            return row
        number = int(found[1])
        question = read_question(row.question)
        if self.first_option is not None and question.choices:
            at = number - self.first_option
            letters = question.choices.letters
            return replace(row, target=f"({letters[at]})") if 0 <= at < len(letters) else row
        if self.yes_no and number < 2 and not _says_otherwise(question):
            return replace(row, target="yes" if number else "no")
        return row


def read_code(rows: Iterable[Answered]) -> Code:
    """Return how a table's truths are coded, read from all of its rows.

    >>> rows = [Answered(str(n), "Is it red?", "Yes", str(n % 2)) for n in range(12)]
    >>> read_code(rows).summary
    'truth 1 = yes, 0 = no in 12 rows'
    """
    numbers: Counter[int] = Counter()
    sides = options = total = coded = last = 0
    for row in rows:
        found = _NUMBER.fullmatch(row.target) if isinstance(row.target, str) else None
        total += bool(str(row.target).strip())
        if found is None:
            continue
        number = int(found[1])
        question = read_question(row.question)
        if question.choices and _NUMBERED.isdisjoint(question.choices.said):
            options += 1
            numbers[number] += 1
            last += number == len(question.choices.texts)
        elif number < 2 and not _says_otherwise(question):
            sides += 1
            coded += question.yes_no and not question.either
    if options >= FEWEST and options == total and not (numbers[0] and last):
        first = 0 if numbers[0] else 1 if last else None
        return Code(first_option=first, rows=options if first is not None else 0)
    whole = sides == total >= FEWEST
    return Code(yes_no=whole, rows=sides if whole else coded)


_NUMBERED = frozenset((str(number),) for number in range(100))


def _says_otherwise(question: Question) -> bool:
    """Return whether a question asks for something else than yes or no."""
    return question.counts or question.either or _OPEN.match(question.asked) is not None


_OPEN = re.compile(r"(?:what|which|who|whom|whose|where|when|why|how)\b")
