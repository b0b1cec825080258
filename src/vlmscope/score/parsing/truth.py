"""Answers accepted by a ground truth: one answer, alternatives, annotators' votes, a code.

Ground truths come from tables, as text printed by a program: ``A; B`` (HaloQuest), a list as
JSON, Python or NumPy print it, records with an ``answer`` (VQA v2, VizWiz), ``y, e, s`` (AMBER).
Lists and records are parsed as literals with limits on size and depth, not with patterns.

Annotators' votes are weighed as in the VQA evaluation (Antol et al., 2015): an answer that n
annotators gave has the accuracy min(n/3, 1). Here an answer is accepted where its accuracy is 1,
and hallucinated where at most one of ten gave it and another answer has at least half of the votes;
anything in between is unscorable.

A ground truth may be a code: 0 or 1, or an option's number. The row's question may determine its
meaning: for *Is there a cup?* 1 is *yes*, for *How many cups?* it is a count. If every ground truth
of a table is 0 or 1, the whole column determines the meaning for statements as well (*There is a
cup.*), and whether options are counted from 0 or 1.
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
"""Most characters of a printed list that is parsed; a longer one is read as text."""

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
    """Answers that are faithful; none if there is no ground truth."""

    doubtful: tuple[str, ...] = ()
    """Answers that some annotators gave, too few to accept and too many to reject."""

    rejected: tuple[str, ...] = ()
    """Answers that a single annotator gave against a consensus."""

    listed: bool = False
    """Whether the accepted answers are the items of a list, which may be one answer together."""

    voted: bool = False
    """Whether annotators voted."""

    unanswerable: bool = False
    """Whether the ground truth is that the question has no answer."""


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
    return _read(text) if len(text) > 4_000 else _cached(text)


def accepted_answers(target: object) -> tuple[str, ...]:
    """Return every answer that a ground truth accepts; none for an empty one.

    Reads ``A; B; C`` (HaloQuest), lists as JSON, Python or NumPy print them, lists of records with
    an ``answer`` (VQA), and AMBER's ``y, e, s``, a word split into letters by a join.

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
    if len(text) <= _LARGEST and (items := printed_items(text)) is not None:
        return _read_items(items)
    accepted = _distinct(text.split(";"))
    return Truth(accepted, unanswerable=_all_unanswerable(accepted))


_cached = lru_cache(1 << 14)(_read)


def _distinct(parts: Iterable[str]) -> tuple[str, ...]:
    kept = (part.strip() for part in parts)
    return tuple(dict.fromkeys(part for part in kept if part.lower() not in _NO_TRUTH))


def _all_unanswerable(answers: Iterable[str]) -> bool:
    normalised = [normalise(answer) for answer in answers]
    return bool(normalised) and all(answer in _UNANSWERABLE for answer in normalised)


def printed_items(text: str) -> list[Any] | None:
    """Return the items of a printed list or record, or None if the text is neither."""
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
    """Return the value of a JSON text or Python literal, or None."""
    try:
        return load_json(text)
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes in the user's text
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


def _read_items(items: list[Any]) -> Truth:
    given = [(_answer_of(item), _is_vote(item)) for item in items]
    given = [(answer, vote) for answer, vote in given if answer.strip().lower() not in _NO_TRUTH]
    counts = Counter(normalise(answer) for answer, _ in given)
    votes = sum(vote for _, vote in given)
    if votes >= 3 or len(given) >= _VOTES or len(counts) < len(given) > 2:
        return _read_votes([answer for answer, _ in given], counts)
    accepted = _distinct(answer for answer, _ in given)
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


def _read_votes(answers: list[str], counts: Counter[str]) -> Truth:
    """Return the ground truth from annotators' votes."""
    total = counts.total()
    refused = sum(number for answer, number in counts.items() if answer in _UNANSWERABLE)
    enough = 3 if total >= _VOTES - 1 else max(2, -(-total // 3)) if total > 1 else 1
    first = {normalise(answer): answer for answer in reversed(answers)}
    counted = [(first[key], number) for key, number in counts.most_common() if key and key in first
            and key not in _UNANSWERABLE]  # fmt: skip
    top = max((number for _, number in counted), default=0)
    accepted = [answer for answer, number in counted if number >= enough]
    single = [answer for answer, number in counted if number == 1 < enough and total >= 8]
    rejected = single if 2 * max(top, refused) >= total else []
    doubtful = [
        answer for answer, _ in counted if answer not in accepted and answer not in rejected
    ]
    if {"yes", "no"} <= {normalise(answer) for answer in accepted}:  # both cannot be correct
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
"""Minimum number of rows to determine a column's coding."""

_NUMBER = re.compile(r"\s*(\d{1,2})(?:\.0)?\s*", re.ASCII)


@dataclass(frozen=True)
class Code:
    """How the coded ground truths of a column are read."""

    yes_no: bool = False
    """Whether 1 is yes and 0 is no, whatever the form of the question."""

    first_option: int | None = None
    """The number of the first option; None if ground truths are not numbers of options."""

    rows: int = 0
    """Number of rows whose ground truth is read as a code."""

    @property
    def summary(self) -> str:
        """How the column was read, as one line; empty if ground truths are not coded.

        >>> Code(yes_no=True, rows=240).summary
        'truth 1 = yes, 0 = no in 240 rows'
        """
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        if self.rows and self.first_option is not None:
            return f"truth {self.first_option} = the first option in {rows}"
        return f"truth 1 = yes, 0 = no in {rows}" if self.rows else ""

    def decode(self, row: Answered) -> Answered:
        """Return a row with its ground truth in words.

        >>> code = Code(first_option=0)
        >>> code.decode(Answered("q", "Which? (A) red (B) blue", "B", "1")).target
        '(b)'
        """
        found = _NUMBER.fullmatch(row.target) if isinstance(row.target, str) else None
        if found is None or row.options:
            return row
        number = int(found[1])
        question = read_question(row.question)
        if self.first_option is not None and question.choices:
            at = number - self.first_option
            letters = question.choices.letters
            return replace(row, target=f"({letters[at]})") if 0 <= at < len(letters) else row
        if self.yes_no and number < 2 and not _asks_other(question):
            return replace(row, target="yes" if number else "no")
        return row


def read_code(rows: Iterable[Answered]) -> Code:
    """Return how a table's ground truths are coded, determined from all of its rows.

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
        if row.options:
            continue  # the truth is an option's text
        if question.choices and number <= len(question.choices.texts):
            options += 1
            if (str(number),) not in question.choices.tokens:
                numbers[number] += 1
                last += number == len(question.choices.texts)
        elif number < 2 and not _asks_other(question):
            sides += 1
            coded += question.yes_no and not question.either
    clear = 2 * numbers.total() >= options  # else most numbers may be the text of an option
    if options >= FEWEST and options == total and clear and not (numbers[0] and last):
        first = 0 if numbers[0] else 1 if last else None
        return Code(first_option=first, rows=options if first is not None else 0)
    all_coded = sides == total >= FEWEST
    return Code(yes_no=all_coded, rows=sides if all_coded else coded)


def _asks_other(question: Question) -> bool:
    """Return whether a question asks for something other than yes or no."""
    return question.counts or question.either or _OPEN.match(question.asked) is not None


_OPEN = re.compile(r"(?:what|which|who|whom|whose|where|when|why|how)\b")
