"""What hidden states cannot be compared with, because the source does not hold it.

Hidden states that beat everything known may only know what the source did not keep. So what is not
known is named beside the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlmscope.probes.baselines import Facts


def unknown_facts(facts: Facts) -> tuple[str, ...]:
    """Return what is not known before the answer, in words.

    >>> unknown_facts(Facts(["Is it red?"], None, None, None, None, None, None))
    ("the first token's probabilities", "the question's category")
    """
    return (*_of_first_token(facts), *_of_question(facts))


def unknown_sentence(facts: Facts) -> Iterator[str]:
    """Yield what is not known, and what cannot be told for that; nothing where all is known."""
    if unknown := unknown_facts(facts):
        yield (
            f"Not known here: {', '.join(unknown)}: whether hidden states know more than "
            f"{'this' if len(unknown) == 1 else 'these'} cannot be told."
        )


def qualified(lines: Iterable[str], facts: Facts) -> Iterator[str]:
    """Yield what is said of hidden states with what it is held against, where not all is known.

    Args:
        lines: Sentences, some of which may say ``SOMETHING_MORE``.
        facts: What is known.
    """
    more = SOMETHING_MORE
    if unknown_facts(facts):
        more += " than what is known here"
    return (line.replace(SOMETHING_MORE, more) for line in lines)


SOMETHING_MORE = "hidden states know something more"
"""What a verdict says where the probe adds to everything known."""


def _of_first_token(facts: Facts) -> Iterator[str]:
    if facts.first_token_logprob is None and facts.first_token_logprobs is None:
        yield "the first token's probabilities"
    elif facts.first_token is None and facts.first_token_ids is None:
        yield "the first token"
    if facts.first_token_entropy is None and facts.first_token_logprob is not None:
        yield "the entropy of the first token"


def _of_question(facts: Facts) -> Iterator[str]:
    if facts.category is None or not any(facts.category):
        yield "the question's category"
