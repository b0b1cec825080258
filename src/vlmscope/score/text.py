"""Answers and truths as words: the normal form of the VQA evaluation, and irregular truths.

The normal form follows the evaluation code of VQA v2 (Antol et al., 2015; Goyal et al., 2017;
github.com/GT-Vision-Lab/VQA, vqaEval.py): lower case, number words as digits, no articles, one
spelling of a contraction, no punctuation but decimal points. It differs where that code depends on
the rest of the text or loses a difference: punctuation is a break wherever it stands but in 10:30
and 1/2, only real thousands lose their comma, number words go on to twenty, 3.0 is 3, grey is gray,
and an answer that is nothing but an article, as option *A* is, stays.
"""

from __future__ import annotations

import re
from typing import Any

from vlmscope.jsontext import load_json

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_SPELLINGS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}
_SPELLINGS |= {"none": "0", "grey": "gray"}
_ARTICLES = frozenset(("a", "an", "the"))
_TOKEN = re.compile(r"\d+(?:[:/]\d+)+(?!\w)|(?<!\w)-?\d+(?:\.\d+)?(?!\w)|\w+(?:'\w+)*")
_CONTRACTION = re.compile(  # without the ones that are another word: its, were, well, shed
    r".*(?:n't|'ve)|(?:that|there|what|where|who|he)'s|(?:they|you)'(?:re|ll)|it'll|let's|o'clock"
)
_NO_TRUTH = frozenset(("", "nan", "null", "<na>"))
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|([^,\[\]'"]+)""")


def normalise(text: str) -> str:
    """Return an answer in its normal form.

    >>> normalise("There are Two  cups."), normalise("1,000.50"), normalise("dont"), normalise("A")
    ('there are 2 cups', '1000.5', 'dont', 'a')
    >>> normalise("don't") == normalise("Don’t!")
    True
    """
    plain = text.lower().replace("’", "'").replace("_", " ")
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"\.(?!\d)", "", plain)
    tokens = [_one_spelling(token) for token in _TOKEN.findall(plain)]
    return " ".join([token for token in tokens if token not in _ARTICLES] or tokens)


def words(text: str) -> tuple[str, ...]:
    """Return the words of the normal form."""
    return tuple(normalise(text).split())


def is_number(word: str) -> bool:
    """Return whether a word of the normal form is a number.

    >>> is_number("-2.5"), is_number("3rd")
    (True, False)
    """
    return re.fullmatch(r"-?\d+(?:\.\d+)?", word) is not None


def stem(word: str) -> str:
    """Return a word without the endings that its plural may have: rough, for comparison only.

    >>> [stem(word) for word in ("butterflies", "benches", "cups", "glass", "bus")]
    ['butterfly', 'bench', 'cup', 'glass', 'bus']
    >>> [stem(word) == stem(word + "s") for word in ("house", "tree", "tie")]
    [True, True, True]
    """
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and re.search(r"[^su]s$", word):
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 2 else word


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
    text = "" if target is None else str(target).strip()
    if text.lower() in _NO_TRUTH:
        return ()
    joined = "".join(text.lower().split(", "))
    if ", " in text and joined in ("yes", "no"):
        return (joined,)
    parts = _listed(text) if text[0] == "[" and text[-1] == "]" else text.split(";")
    kept = (part.strip() for part in parts)
    return tuple(dict.fromkeys(part for part in kept if part.lower() not in _NO_TRUTH))


def _one_spelling(token: str) -> str:
    """Return a token as its number, its shortest decimal, or its contraction without a mark."""
    if is_number(token) and "." in token:
        return token.rstrip("0").rstrip(".")
    if _CONTRACTION.fullmatch(token):
        return token.replace("'", "")
    return _SPELLINGS.get(token, token)


def _listed(text: str) -> list[str]:
    """Return the items of a printed list."""
    try:
        items = load_json(text)
    except ValueError:
        return ["".join(groups) for groups in _QUOTED.findall(text[1:-1])]
    return [_item(item) for item in items]


def _item(item: Any) -> str:
    """Return an item of a list as text; of a record, its answer."""
    found = item.get("answer") if isinstance(item, dict) else item
    return "" if found is None else str(found)
