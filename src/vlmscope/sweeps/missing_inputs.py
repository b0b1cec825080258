"""Inputs of the baselines that the source lacks, so that hidden states are not compared with them.

Hidden states that beat everything known may only reflect a property that the source did not store.
So missing inputs are listed with the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlmscope.probes.baselines import BaselineInputs


def missing_inputs(inputs: BaselineInputs) -> tuple[str, ...]:
    """Return the missing inputs that are known before an answer, as text.

    >>> missing_inputs(BaselineInputs(["Is it red?"], None, None, None, None, None, None))
    ("the first token's probabilities", "the question's category")
    """
    return (*_of_first_token(inputs), *_of_question(inputs))


def unknown_sentence(inputs: BaselineInputs) -> Iterator[str]:
    """Yield a sentence on missing inputs; nothing if all are known.

    The category is read from the column of that name. No command renames a column of a finished
    run, but any column may be a further input of the baselines.
    """
    if unknown := missing_inputs(inputs):
        yield (
            f"Not known here: {', '.join(unknown)}; whether hidden states contain more information "
            f"than {'this' if len(unknown) == 1 else 'these'} is unknown."
            f"{ANOTHER_COLUMN if _CATEGORY in unknown and not inputs.columns else ''}"
        )


def qualified(lines: Iterable[str], inputs: BaselineInputs) -> Iterator[str]:
    """Yield sentences about hidden states, with what they are compared with if inputs are missing.

    Args:
        lines: Sentences, some of which may contain ``SOMETHING_MORE``.
        inputs: The inputs of the baselines.
    """
    more = SOMETHING_MORE
    if missing_inputs(inputs):
        more += " than what is known here"
    return (line.replace(SOMETHING_MORE, more) for line in lines)


ANOTHER_COLUMN = (
    " If the table has the category in a column of another name, "
    "--by COLUMN adds it to what is known."
)
"""What to do where the category is not known."""

_CATEGORY = "the question's category"

SOMETHING_MORE = "hidden states know something more"
"""Part of a verdict if the probe adds to everything known."""


def _of_first_token(inputs: BaselineInputs) -> Iterator[str]:
    if inputs.first_token_logprob is None and inputs.first_token_logprobs is None:
        yield "the first token's probabilities"
    elif inputs.first_token is None and inputs.first_token_ids is None:
        yield "the first token"
    if inputs.first_token_entropy is None and inputs.first_token_logprob is not None:
        yield "the entropy of the first token"


def _of_question(inputs: BaselineInputs) -> Iterator[str]:
    if inputs.category is None or not any(inputs.category):
        yield _CATEGORY
