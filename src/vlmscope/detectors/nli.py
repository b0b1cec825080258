"""Meaning by natural language inference: a model in a folder of the user decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmscope.detectors.meaning import Asked
from vlmscope.score import normalise

if TYPE_CHECKING:
    from vlmscope.model.entailment import EntailmentModel

MOST_KNOWN = 1 << 17
"""Pairs of texts whose answer is kept."""


class Entailment:
    """Bidirectional entailment by a model (Kuhn et al. 2023), as a ``SameMeaning``.

    Two answers mean the same if each, after the question, entails the other. Those that are equal
    in normal form are not compared. What is announced by ``prepare`` is decided in batches, each
    pair of texts once.

    Args:
        model: The model.
    """

    def __init__(self, model: EntailmentModel) -> None:
        self._model = model
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, question: str, one: str, other: str) -> bool:
        """Return whether two answers to a question mean the same."""
        pairs = list(_pairs([(question, one, other)]))
        if not all(pair in self._known for pair in pairs):
            self._decide(pairs)
        return all(self._known[pair] for pair in pairs)

    def prepare(self, asked: Sequence[Asked]) -> None:
        """Decide many comparisons together."""
        self._decide(list(_pairs(asked)))

    def _decide(self, pairs: Sequence[tuple[str, str]]) -> None:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if len(self._known) + len(new) > MOST_KNOWN:
            self._known.clear()
            new = list(dict.fromkeys(pairs))
        self._known.update(zip(new, self._model.entails(new), strict=True))


def _pairs(asked: Sequence[Asked]) -> Iterator[tuple[str, str]]:
    """Yield premise and hypothesis, both ways, of the answers that are not equal anyway."""
    for question, one, other in asked:
        if normalise(one) != normalise(other):
            first, second = f"{question} {one}", f"{question} {other}"
            yield first, second
            yield second, first


def meaning_by_model(folder: str | Path) -> Entailment:
    """Return a comparison of answers by a model of natural language inference.

    Args:
        folder: Folder of the model.

    Raises:
        ModelError: It cannot be loaded.
    """
    from vlmscope.model.entailment import load_entailment_model

    return Entailment(load_entailment_model(folder))
