"""P(True): the model is shown its question and its answer, and asked whether the answer is true.

See Kadavath et al. 2022 (arXiv 2207.05221). The question is one user turn with the same images; the
first token of the reply is read, as the log-odds of "yes" over "no" and the probability of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlmscope.errors import InputError, RowError
from vlmscope.placeholders import split_at_images
from vlmscope.prompt import render
from vlmscope.signals import P_TRUE

TEMPLATE = """{question}
Proposed answer: {answer}
Is the proposed answer true? Answer yes or no."""
"""What the model is asked, in a user turn of its chat template."""

WORDS = ("yes", "no")
"""The replies whose probabilities are compared."""

_SPACES = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}\N{LOWER ONE EIGHTH BLOCK} "
"""Characters that stand for a space at the beginning of a token."""


def question_about(
    processor: Any,
    question: str,
    answer: str,
    images: int,
    control: Sequence[str] | None = None,
) -> str | None:
    """Return the question whether an answer is true; None if it cannot be asked.

    An answer may contain the text of a control token or of a placeholder for an image, which would
    change the structure of the prompt.

    Args:
        processor: The checkpoint's processor.
        question: The question.
        answer: The model's answer.
        images: Number of images of the question.
        control: ``prompt.control_tokens`` of the tokenizer, if they are known.
    """
    if any(isinstance(part, int) for part in split_at_images(answer)):
        return None
    text = TEMPLATE.format(question=question, answer=answer.strip())
    try:
        render(processor, text, images, control=control)
    except RowError:
        return None
    return text


def reply_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that are "yes", and those that are "no".

    A token counts if its text is the word in any case, with or without a space before it.

    Raises:
        InputError: The tokenizer has no such token for one of the words.
    """
    words = {number: _word(token) for token, number in tokenizer.get_vocab().items()}
    found = tuple(sorted(n for n, text in words.items() if text == word) for word in WORDS)
    for word, numbers in zip(WORDS, found, strict=True):
        if not numbers:
            raise InputError(
                f"--signals {P_TRUE}: no token of this model's tokenizer is the word {word!r}, so "
                "its reply cannot be read from one token; omit this signal"
            )
    return found[0], found[1]


def _word(token: str | bytes) -> str:
    """Return the text of a token without a space before it, in lower case.

    >>> _word("\u2581Yes"), _word(b" NO")
    ('yes', 'no')
    """
    text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
    return text.lstrip(_SPACES).lower()


def log_odds(
    logits: Float[Tensor, "rows vocabulary"], tokens: tuple[list[int], list[int]]
) -> Float[Tensor, "rows two"]:
    """Return the log-odds of "yes" over "no" in each row, and the probability of both together.

    Args:
        logits: Logits of the first token of the reply.
        tokens: From ``reply_tokens``; the vocabulary of the logits may be smaller.

    >>> log_odds(torch.tensor([[1.0, 3.0, 0.0, 1.0]]), ([1], [0, 3])).round(decimals=4)
    tensor([[1.3069, 0.9623]])
    """
    logits = logits.float()
    known = ([n for n in ids if n < logits.shape[1]] for ids in tokens)
    yes, no = (logits[:, ids].logsumexp(dim=1) for ids in known)
    mass = (torch.logaddexp(yes, no) - logits.logsumexp(dim=1)).exp()
    return torch.stack([yes - no, mass], dim=1)
