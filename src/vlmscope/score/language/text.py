"""Texts as words: one normal form for answers and ground truths, including numbers.

The normal form follows the evaluation code of VQA v2 (Antol et al., 2015; Goyal et al., 2017;
github.com/GT-Vision-Lab/VQA, vqaEval.py): lower case, number words as digits, no articles, one
spelling of a contraction, no punctuation but decimal points. It differs where that code depends on
the rest of the text or loses a distinction: punctuation is a break everywhere but in 10:30 and 1/2,
only real thousands lose their comma, all number words are read, 3.0 is 3, grey is gray, 50% and $50
are not 50, and the letter A is kept where it names something: *A*, *Vitamin A*, *A or B*.

Numbers are read as people write them: in words, Unicode and LaTeX, as clock times and amounts.
"""

from __future__ import annotations

import re
from functools import lru_cache

_UNIT_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: number for number, word in enumerate(_UNIT_WORDS.split())}
_VALUES |= {word: 10 * number for number, word in enumerate(_TEN_WORDS.split(), 2)}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_RANKS = {
    "first": "1st", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th",
    "seventh": "7th", "eighth": "8th", "ninth": "9th", "tenth": "10th", "eleventh": "11th",
    "twelfth": "12th",
}  # fmt: skip
_SHARES = {"a": 1, "one": 1, "1": 1, "two": 2, "2": 2, "three": 3, "3": 3, "four": 4, "4": 4}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8}
_CURRENCIES = {
    "dollar": "$", "dollars": "$", "usd": "$", "euro": "€", "euros": "€", "eur": "€",
    "pound": "", "pounds": "", "yen": "¥",
}  # fmt: skip
_FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅛": "1/8"}

_LATEX = (
    (re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\d?frac\s*\{(\d+)\}\s*\{(\d+)\}"), r" \1/\2 "),
    (re.compile(r"\\sqrt\s*\{?(\d+(?:\.\d+)?)\}?|\bsqrt\s*\(?(\d+(?:\.\d+)?)\)?"), r"√\1\2"),
    (re.compile(r"√\s*[{(](\d+(?:\.\d+)?)[})]|√\s+(\d)"), r"√\1\2"),
    (re.compile(r"(?<=\d)\s*\^?\s*\\circ|\s*(?<=\d)\^\{\\circ\}"), "°"),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\\[()\[\],;! ]"), " "),
    (re.compile(r"\$(\S{1,40}?)\$"), r" \1 "),
)
_HOURS = _UNIT_WORDS.split()[1:13]
_HOUR = rf"(?P<hour>{'|'.join(_HOURS)}|1[0-2]|[1-9])\b"
_CLOCK = re.compile(
    rf"\b(?P<part>half|(?:a )?quarter|(?P<minutes>five|ten|twenty|twenty[- ]five|25|20|10|5)"
    rf"(?: minutes)?) (?P<side>past|to|after|before|till) {_HOUR}"
)
_OCLOCK = re.compile(rf"\b{_HOUR} ?o'?clock\b")
_SPOKEN = re.compile(
    rf"\b(?P<hour>{'|'.join(_HOURS)}) (?P<tens>ten|fifteen|twenty|thirty|forty|fifty)(?:[-"
    rf" ]five)?\b"
)
_SPOKEN_MINUTES = {
    "ten": 10, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
}  # fmt: skip
_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_UNIT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?=(?:mm|cm|km|m|mg|kg|g|ml|l|ft|in|mph)\b)")
_PART = re.compile(
    r"(?<!\d)(?P<number>\d{1,9}(?:[:/]\d{1,9})?)[ .]*(?P<half>a\.? ?m\b\.?|p\.? ?m\b\.?)"
)
_MINUTES = {"five": 5, "ten": 10, "twenty": 20, "twenty five": 25, "twenty-five": 25}


def plain_numerals(text: str) -> str:
    """Return a text in lower case with one way to write roots, fractions, times and signs.

    >>> plain_numerals("half past ten"), plain_numerals("√{2}"), plain_numerals("−5")
    ('10:30', '√2', '-5')
    """
    if not text.isascii():
        text = re.sub(r"−(?=\s?\d)|(?:(?<=\s)|^)–(?=\d)", "-", text)
        text = re.sub("[½⅓⅔¼¾⅛]", lambda found: _FRACTIONS[found[0]], text)
    if "\\" in text or "√" in text or "sqrt" in text or text.count("$") > 1:
        for pattern, form in _LATEX:
            text = pattern.sub(form, text)
    text = re.sub(r"\bsquare root of (?=\d)", "√", text)
    if re.search(r"past|to|after|before|till|clock", text):
        text = _CLOCK.sub(_clock_time, text)
        text = _OCLOCK.sub(lambda found: f"{_hour(found['hour'])}:00", text)
    text = _POINT.sub("0.", _SPOKEN.sub(_spoken_time, text))
    text = _UNIT.sub(r"\1 ", text)
    text = _PART.sub(lambda found: f"{found['number']} {found['half'][0]}m", text)
    return re.sub(
        r"(?<=\d) ?(?:percent|per cent)\b|(?<=\d) %", "%", re.sub(r"(?<=\d) degrees?\b", "°", text)
    )


def _hour(word: str) -> int:
    return _HOURS.index(word) + 1 if word in _HOURS else int(word)


def _clock_time(found: re.Match[str]) -> str:
    """Return *half past ten* as 10:30."""
    hour = _hour(found["hour"])
    part, minutes = found["part"], found["minutes"]
    number = 30 if part == "half" else 15
    if minutes:
        number = _MINUTES.get(minutes) or int(minutes)
    if found["side"] in ("to", "before", "till"):
        if part == "half":
            return found[0]
        hour, number = (hour - 2) % 12 + 1, 60 - number
    return f"{hour}:{number:02}"


def _spoken_time(found: re.Match[str]) -> str:
    """Return *ten thirty* as 10:30."""
    minutes = _SPOKEN_MINUTES[found["tens"]] + 5 * found[0].endswith("five")
    return f"{_hour(found['hour'])}:{minutes}"


def digits(tokens: list[str]) -> list[str]:
    """Return tokens with runs of number words as one number, and amounts with their sign.

    >>> digits(["twenty", "nine", "cups"]), digits(["one", "hundred", "and", "five"])
    (['29', 'cups'], ['105'])
    >>> digits(["the", "third", "of", "two"]), digits(["50", "dollars"]), digits(["1", "thousand"])
    (['the', '3rd', 'of', '2'], ['$50'], ['1000'])
    """
    if _WORDS.isdisjoint(tokens):
        return tokens
    found: list[str] = []
    at = 0
    while at < len(tokens):
        number, end = _run(tokens, at)
        if number is None:
            _add(found, tokens[at])
        else:
            found.append(number)
        at = end
    return _signed(found)


def _add(found: list[str], word: str) -> None:
    """Add a word that is not a number to tokens, or its sign to the number before it."""
    last = found[-1] if found else ""
    if word == "second" and not last[-1:].isdigit():
        found.append("2nd")
    elif word == "percent" and last[-1:].isdigit():
        found[-1] += "%"
    elif _CURRENCIES.get(word) and last.replace(".", "").isdigit():
        found[-1] = _CURRENCIES[word] + last
    else:
        found.append(_RANKS.get(word, word))


_WORDS = frozenset(
    (
        *_VALUES,
        *_SCALES,
        *_RANKS,
        *_CURRENCIES,
        *_PARTS,
        "thirds",
        "quarters",
        "second",
        "dozen",
        "percent",
        "minus",
        "negative",
    )
)


def _signed(tokens: list[str]) -> list[str]:
    """Return tokens with *minus 5* as -5, unless it takes 5 from a number."""
    found: list[str] = []
    for word in tokens:
        signed = bool(found) and found[-1] in ("minus", "negative") and word[0].isdigit()
        if signed and (len(found) < 2 or not found[-2][-1].isdigit()):
            found[-1] = f"-{word}"
        else:
            found.append(word)
    return found


def _run(tokens: list[str], at: int) -> tuple[str | None, int]:
    """Read the run of number words that starts at a token; return its number and its end."""
    word = tokens[at]
    follows = tokens[at + 1] if at + 1 < len(tokens) else ""
    if word in _SHARES and follows.removesuffix("s") in _PARTS and tokens[at - 1 : at] != ["and"]:
        behind = "".join(tokens[at + 2 : at + 3])
        if behind in ("", "of", "is", "are") or behind[0] in ".,;:!?)\n":
            return f"{_SHARES[word]}/{_PARTS[follows.removesuffix('s')]}", at + 2
    if word == "dozen":
        return "12", at + 1
    if word == "a" and follows == "dozen":
        return "12", at + 2
    if word == "a" and follows in _SCALES:
        number, end = _sum(["one", *tokens[at + 1 : at + 8]], 0)
        return number, at + end
    if word.isascii() and word.isdigit() and len(word) < 10 and follows in _SCALES:
        return str(int(word) * _SCALES[follows]), at + 2
    return _sum(tokens, at) if word in _VALUES else (None, at + 1)


def _sum(tokens: list[str], at: int) -> tuple[str, int]:
    """Add up a run of number words: each must be smaller than the one before, or scale it."""
    total = part = 0
    last = 10**12
    while at < len(tokens):
        word = tokens[at]
        value = _VALUES.get(word, -1)
        if 0 <= value < last and (last >= 100 or last >= 20 > 10 > value > 0):
            part, last = part + value, value
        elif value >= 10 and 15 <= last < 21 > part and not total:  # nineteen eighty four
            part, last = part * 100 + value, value if value > 19 else 0
        elif word == "hundred" and 0 < part < 100:
            part, last = part * 100, 100
        elif word in _SCALES and word != "hundred" and part:
            total, part, last = total + part * _SCALES[word], 0, 1_000
        elif word != "and" or last < 100 or "".join(tokens[at + 1 : at + 2]) not in _VALUES:
            break
        at += 1
    return str(total + part), at


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
_CONTRACTION = re.compile(  # without those that are also other words: its, were, well, shed
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
    return _words(text) if len(text) > _LONG else _cached_words(text)


def _words(text: str) -> tuple[str, ...]:
    plain = join_initials(text.lower().replace("’", "'").replace("_", " "))
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain_numerals(plain))
    plain = re.sub(r"\.(?![\d\s])(?=\w)", "", plain)  # u.s.
    tokens = digits([_one_spelling(token) for token in _TOKEN.findall(plain)])
    named = [token for at, token in enumerate(tokens) if _is_word(tokens, at)]
    return tuple(named or [token for token in tokens if token[0] not in ".,;:!?)\n"])


_cached_words = lru_cache(_MEMORY)(_words)


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
