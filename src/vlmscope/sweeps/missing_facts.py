"""Facts that hidden states cannot be compared with, because the source lacks them.

Hidden states that beat everything known may only reflect facts that the source did not store. So
missing facts are listed with the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vlmscope.probes.baselines import Facts


def missing_facts(facts: Facts) -> tuple[str, ...]:
    """Return the facts missing before the answer, as text.

    >>> missing_facts(Facts(["Is it red?"], None, None, None, None, None, None))
    ("the first token's probabilities", "the question's category")
    """
    return (*_of_first_token(facts), *_of_question(facts))


def unknown_sentence(facts: Facts) -> Iterator[str]:
    """Yield a sentence on missing facts; nothing if all are known."""
    if unknown := missing_facts(facts):
        yield (
            f"Not known here: {', '.join(unknown)}; whether hidden states contain more information "
            f"than {'this' if len(unknown) == 1 else 'these'} is unknown."
        )


def qualified(lines: Iterable[str], facts: Facts) -> Iterator[str]:
    """Yield sentences about hidden states, with what they are compared with if facts are missing.

    Args:
        lines: Sentences, some of which may contain ``SOMETHING_MORE``.
        facts: The known facts.
    """
    more = SOMETHING_MORE
    if missing_facts(facts):
        more += " than what is known here"
    return (line.replace(SOMETHING_MORE, more) for line in lines)


SOMETHING_MORE = "hidden states know something more"
"""Part of a verdict if the probe adds to everything known."""


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
