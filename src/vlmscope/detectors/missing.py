"""What a run lacks for detectors, and the option of ``vlmscope extract`` that records it."""

from __future__ import annotations

from collections.abc import Iterable

from vlmscope.detectors.results import Unavailable
from vlmscope.detectors.rows import ANSWER_LOGPROBS
from vlmscope.detectors.verdict import named
from vlmscope.positions import REPRESENTATIONS, SUBLAYER_REPRESENTATIONS
from vlmscope.sampling import SAMPLES
from vlmscope.signals import (
    ATTENTION,
    ATTENTION_MAP,
    IMAGE_LENS,
    INTERNAL_CONFIDENCE,
    LENS,
    LENS_ARRAYS,
    OF_WEIGHTS,
    P_TRUE_MASS,
    PREVIOUS_HEAD,
    SIGNALS,
    SIMILARITY,
    TOKEN_STATISTICS,
)

ANSWERS = "extract with answers, --max-new-tokens above 0"

COLUMN = "column "

OF_ANSWERS = ("answer", "num_answer_tokens", "finish_reason")
"""Columns that every run with answers has."""

OF_PROMPTS = (
    "question", "num_prompt_tokens", "first_token_entropy", "first_token_logprob",
    "image_thumbnail",
)  # fmt: skip
"""Columns that no option adds to a run."""

ALMOST_ALL = (
    "--signals detectors,p_true --samples 5 "
    "--positions last_image_token,last_prompt_token,last_answer_token"
)
"""Options of a run that has every signal that a detector reads."""

ENDS = ("", "_prompt", "_answer")
"""Ends of the names of arrays of attention."""

SIGNAL_OF = {
    **{name: name for name in SIGNALS},
    **{f"{name}{end}": ATTENTION for name in (*OF_WEIGHTS, PREVIOUS_HEAD) for end in ENDS},
    ATTENTION_MAP: ATTENTION_MAP,
    **dict.fromkeys((*LENS_ARRAYS, INTERNAL_CONFIDENCE), LENS),
    P_TRUE_MASS: "p_true",
}
"""First part of the name of an array → the signal that it is of."""


def remedy(name: str) -> str:
    """Return how a run gets something that a detector requires; empty if that is not known.

    >>> remedy("signals/attention_answer"), remedy("signals/samples/texts")
    ('add attention to --signals', 'extract with --samples 5')
    >>> remedy("last_answer_token_representation"), remedy("column category")
    ('add last_answer_token to --positions', 'add the column category to the table')
    >>> remedy("query_token_representation/layer_9")
    'add last_prompt_token to --positions and 9 to --layers'
    """
    how, layer = _option(name), name.rpartition("/layer_")[2]
    return f"{how} and {layer} to --layers" if how.startswith("add") and layer != name else how


def _option(name: str) -> str:
    """Return ``remedy`` for any layer."""
    group = name.partition("/")[0]
    if name.startswith(COLUMN):
        column = name.removeprefix(COLUMN)
        if column in OF_ANSWERS:
            return ANSWERS
        return "" if column in OF_PROMPTS else f"add the column {column} to the table"
    if name == ANSWER_LOGPROBS:
        return ANSWERS
    if group == "signals":
        return _of_signal(name.removeprefix("signals/"))
    positions = {each: position for position, each in REPRESENTATIONS.items()}
    if group in positions:
        return f"add {positions[group]} to --positions"
    if group in SUBLAYER_REPRESENTATIONS:
        position, part = SUBLAYER_REPRESENTATIONS[group]
        return f"add {part} to --signals and {position} to --positions"
    return ""


def _of_signal(name: str) -> str:
    """Return how a run gets an array of a signal."""
    group, _, kind = name.partition("/")
    if group in TOKEN_STATISTICS:
        return ANSWERS
    signal = SIGNAL_OF.get(group, "")
    if signal == SAMPLES:
        return "extract with --samples 5"
    if signal == SIMILARITY and kind.startswith(IMAGE_LENS):
        return f"add {SIMILARITY},{LENS} to --signals"
    return f"add {signal} to --signals" if signal else ""


def missing_lines(unavailable: Iterable[Unavailable]) -> list[str]:
    """Return why detectors were not evaluated: a line for each thing that is missing.

    What the same option records is one thing. A detector that lacks two is in both lines.

    >>> missing_lines([Unavailable("p", "P(True)", "the run has no signals/p_true")])
    ['the run has no signals/p_true (add p_true to --signals): P(True)']
    """
    things: dict[str, dict[str, None]] = {}
    titles: dict[str, dict[str, None]] = {}
    for each in unavailable:
        for name in each.missing or ("",):
            shared = (remedy(name) or name) if name else each.reason
            things.setdefault(shared, {})[name] = None
            titles.setdefault(shared, {})[each.title] = None
    return [_line(key, list(names), list(titles[key])) for key, names in things.items()]


def recording_line(lines: Iterable[str]) -> str:
    """Return how one run records all the signals that lines of ``missing_lines`` name.

    Empty if that is fewer than two lines: each names its own option.

    >>> recording_line(["the run has no signals/p_true (add p_true to --signals): P(True)"])
    ''
    """
    named_options = [line for line in lines if "--signals" in line or "--samples" in line]
    if len(named_options) < 2:
        return ""
    return f"one new run has all of these signals: extract with {ALMOST_ALL}"


def _line(shared: str, names: list[str], titles: list[str]) -> str:
    """Return a line from the remedy, or the reason if nothing is missing."""
    if names == [""]:
        return f"{shared}: {named(titles)}"
    how = "" if shared in names else f" ({shared})"
    return f"the run has no {', '.join(names)}{how}: {named(titles)}"
