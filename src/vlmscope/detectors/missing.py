"""What a run lacks for detectors, and the options of ``vlmscope extract`` that record it."""

from __future__ import annotations

from collections.abc import Iterable

from vlmscope.detectors.results import Unavailable
from vlmscope.detectors.rows import AN_IMAGE, ANSWER_LOGPROBS
from vlmscope.positions import (
    IMAGE_POSITIONS,
    IMAGE_REPRESENTATIONS,
    REPRESENTATIONS,
    SUBLAYER_REPRESENTATIONS,
)
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
    needs_image,
)

ANSWERS = "answers (--max-new-tokens above 0)"

STATISTICS = "the tokens' entropy (--max-new-tokens above 0; earlier versions did not record it)"
"""For a run that has answers, as far as is known."""

COLUMN = "column "

OF_ANSWERS = ("answer", "num_answer_tokens", "finish_reason")
"""Columns that every run with answers has."""

OF_PROMPTS = (
    "question", "num_prompt_tokens", "first_token_entropy", "first_token_logprob",
    "image_thumbnail",
)  # fmt: skip
"""Columns that no option adds to a run."""

ALL_SIGNALS = "--signals detectors,p_true --samples 5"
"""Options of a run that has every signal that a detector reads."""

ALL_POSITIONS = "last_image_token", "last_prompt_token", "last_answer_token"
"""Positions that they are read at; some detectors read states of others."""

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
    """Return what gives a run something that a detector requires; empty if that is not known.

    >>> remedy("signals/attention_answer"), remedy("signals/samples/texts")
    ('--signals attention', '--samples 5')
    >>> remedy("last_answer_token_representation"), remedy("column category")
    ('--positions last_answer_token', 'a column category in the table')
    >>> remedy("query_token_representation/layer_9")
    '--positions last_prompt_token --layers 9'
    """
    how, layer = _option(name), name.rpartition("/layer_")[2]
    return f"{how} --layers {layer}" if how.startswith("--") and layer != name else how


def _option(name: str) -> str:
    """Return ``remedy`` for any layer."""
    group = name.partition("/")[0]
    if name.startswith(COLUMN):
        column = name.removeprefix(COLUMN)
        if column in OF_ANSWERS:
            return ANSWERS
        return "" if column in OF_PROMPTS else f"a column {column} in the table"
    if name == AN_IMAGE:
        return "questions about an image"
    if name == ANSWER_LOGPROBS:
        return ANSWERS
    if group == "signals":
        return _of_signal(name.removeprefix("signals/"))
    positions = {each: position for position, each in REPRESENTATIONS.items()}
    if group in positions:
        return f"--positions {positions[group]}"
    if group in SUBLAYER_REPRESENTATIONS:
        position, part = SUBLAYER_REPRESENTATIONS[group]
        return f"--signals {part} --positions {position}"
    return ""


def _of_signal(name: str) -> str:
    """Return how a run gets an array of a signal."""
    group, _, kind = name.partition("/")
    if _is_statistic(f"signals/{name}"):
        return ANSWERS
    signal = SIGNAL_OF.get(group, "")
    if signal == SAMPLES:
        return "--samples 5"
    if signal == SIMILARITY and kind.startswith(IMAGE_LENS):
        return f"--signals {SIMILARITY},{LENS}"
    return f"--signals {signal}" if signal else ""


def _is_statistic(name: str) -> bool:
    """Return whether it is a statistic of the answer's tokens."""
    return name.startswith("signals/") and name.split("/")[1] in TOKEN_STATISTICS


def is_of_images(name: str) -> bool:
    """Return whether a run whose questions have no image cannot have what a detector requires.

    >>> is_of_images("image_mean_representation/layer_9"), is_of_images("signals/samples/texts")
    (True, False)
    >>> is_of_images("signals/similarity/image_max")
    True
    """
    group, _, rest = name.partition("/")
    if group == "signals":
        return needs_image(rest)
    return name == AN_IMAGE or group in IMAGE_REPRESENTATIONS


def missing_by_remedy(unavailable: Iterable[Unavailable]) -> dict[str, list[str]]:
    """Return the titles of detectors that were not evaluated, by what they need.

    What the same option records is one thing. A detector that lacks two is listed for both. What no
    option records is named itself, and a detector that lacks nothing is listed by its reason.

    >>> missing_by_remedy([Unavailable("p", "P(True)", "the run has no signals/p_true")])
    {'--signals p_true': ['P(True)']}
    """
    found: dict[str, dict[str, None]] = {}
    unavailable = list(unavailable)
    names = {name for each in unavailable for name in each.missing}
    answered = not any(remedy(name) == ANSWERS and not _is_statistic(name) for name in names)
    for each in unavailable:
        for name in each.missing:
            how = STATISTICS if answered and _is_statistic(name) else remedy(name)
            found.setdefault(how or f"the run has no {name}", {})[each.title] = None
        if not each.missing:
            found.setdefault(each.reason, {})[each.title] = None
    return {thing: list(titles) for thing, titles in found.items()}


def options_of_all(things: Iterable[str], *, images: bool = True) -> str:
    """Return the options of one run that records all these; empty for fewer than two options.

    Args:
        things: What is missing, from ``missing_by_remedy``.
        images: Whether any question of the run has an image; if not, no position is of one.

    >>> options_of_all(["--signals lens", "--positions image_mean", "a column x"]).split()[-1]
    'last_image_token,last_prompt_token,image_mean,last_answer_token'
    """
    options = [thing.split() for thing in things if thing.startswith("--")]
    if len(options) < 2:
        return ""
    named = {word for words in options for word in words if word in REPRESENTATIONS}
    left_out = () if images else IMAGE_POSITIONS
    wanted = {*ALL_POSITIONS, *named}.difference(left_out)
    positions = [each for each in REPRESENTATIONS if each in wanted]
    return f"{ALL_SIGNALS} --positions {','.join(positions)}"
