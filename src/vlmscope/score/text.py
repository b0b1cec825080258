"""Answers and truths as words: the normal form of the VQA evaluation.

The normal form follows the evaluation code of VQA v2 (Antol et al., 2015; Goyal et al., 2017;
github.com/GT-Vision-Lab/VQA, vqaEval.py): lower case, number words as digits, no articles, one
spelling of a contraction, no punctuation but decimal points. It differs where that code depends on
the rest of the text or loses a difference: punctuation is a break wherever it stands but in 10:30
and 1/2, only real thousands lose their comma, all number words are read (``numerals``), 3.0 is 3,
grey is gray, 50% and $50 are not 50, and the letter A stays where it names something: *A*,
*Vitamin A*, *A or B*.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vlmscope.score.numerals import digits, plain_numerals

_INITIALS = re.compile(
    r"(?<![\w.])(?!(?:e\. ?g|i\. ?e|a\. ?m|p\. ?m|u\. ?s|u\. ?k)\.)"
    r"([a-z])\. ?([a-z])\. (?=[a-z]{3})"
)


def join_initials(text: str) -> str:
    """Return a text in lower case with its initials as one word.

    >>> join_initials("j. k. rowling"), join_initials("j.k. rowling"), join_initials("at 5 p.m. it")
    ('jk rowling', 'jk rowling', 'at 5 p.m. it')
    """
    return _INITIALS.sub(r"\1\2 ", text) if "." in text else text


def word_set(text: str) -> frozenset[str]:
    """Return the words of a list written as text."""
    return frozenset(text.split())


_SPELLINGS = {"none": "0", "nil": "0", "grey": "gray", "colour": "color", "colours": "colors"}
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER = r"\d+(?:\.\d+)?"
_TOKEN = re.compile(
    rf"\d+(?:[:/]\d+)+(?!\w)|(?<![\w.])-?[$€£¥]?(?:{_NUMBER})?√{_NUMBER}(?![\w])"
    rf"|(?<!\w)-?[$€£¥]?{_NUMBER}(?!\w)[%°]?|\w+(?:'\w+)*[%°]?|(?<=\w)[.,;:!?)\n]+"
)
_CONTRACTION = re.compile(  # without the ones that are another word: its, were, well, shed
    r".*(?:n't|'ve)|(?:that|there|what|where|who|he)'s|(?:they|you)'(?:re|ll)|it'll|let's|o'clock"
)
_NAMED = word_set(
    "is are was were has have had and or than does do can will would of in on at to from with for "
    "by but not because"
)
_FIGURE = re.compile(r"-?[$€£¥]?[\d√][\d.:/√]*(?:%|°|st|nd|rd|th|am|pm)?")

_MEMORY = 1 << 14
_LONG = 2_000


def normalise(text: str) -> str:
    """Return an answer in its normal form.

    >>> normalise("There are Two  cups."), normalise("1,000.50"), normalise("dont"), normalise("A")
    ('there are 2 cups', '1000.5', 'dont', 'a')
    >>> normalise("don't") == normalise("Don’t!")
    True
    >>> normalise("twenty-nine percent"), normalise("−5"), normalise("Vitamin A is a vitamin.")
    ('29%', '-5', 'vitamin a is vitamin')
    """
    return " ".join(words(text))


def words(text: str) -> tuple[str, ...]:
    """Return the words of the normal form."""
    return _words(text) if len(text) > _LONG else _known_words(text)


def _words(text: str) -> tuple[str, ...]:
    plain = join_initials(text.lower().replace("’", "'").replace("_", " "))
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain_numerals(plain))
    plain = re.sub(r"\.(?![\d\s])(?=\w)", "", plain)  # u.s.
    tokens = digits([_one_spelling(token) for token in _TOKEN.findall(plain)])
    named = [token for at, token in enumerate(tokens) if _is_word(tokens, at)]
    return tuple(named or [token for token in tokens if token[0] not in ".,;:!?)\n"])


_known_words = lru_cache(_MEMORY)(_words)


def _is_word(tokens: list[str], at: int) -> bool:
    """Return whether a token is a word, and no article or mark."""
    word = tokens[at]
    if word[0] in ".,;:!?)\n":
        return False
    if word not in _ARTICLES:
        return True
    if word != "a":
        return False
    following = tokens[at + 1] if at + 1 < len(tokens) else "."
    return following in _NAMED or following[0] in ".,;:!?)\n"


def is_number(word: str) -> bool:
    """Return whether a word of the normal form is a number.

    >>> is_number("-2.5"), is_number("3rd")
    (True, False)
    """
    return re.fullmatch(r"-?\d+(?:\.\d+)?", word) is not None


def is_figure(word: str) -> bool:
    """Return whether a word of the normal form is a number, an amount, a time or a rank.

    >>> [is_figure(word) for word in ("-2.5", "3rd", "$5", "50%", "√2", "10:30", "mp3")]
    [True, True, True, True, True, True, False]
    """
    return _FIGURE.fullmatch(word) is not None


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


def _one_spelling(token: str) -> str:
    """Return a token as its shortest decimal, or its contraction without a mark."""
    if ("." in token and token[-1].isdigit()) or token[-2:-1].isdigit():
        return _short_decimal(token)
    if _CONTRACTION.fullmatch(token):
        return token.replace("'", "")
    return _SPELLINGS.get(token, token)


def _short_decimal(token: str) -> str:
    sign = token[-1] if token[-1] in "%°" else ""
    number = token.removesuffix(sign)
    if "." in number and number[-1].isdigit():
        number = number.rstrip("0").rstrip(".")
    return number + sign
