"""Meaning by natural language inference: a model in a folder of the user decides."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from vlmscope.detectors.meaning import SameMeaning
from vlmscope.score import normalise


def meaning_by_model(folder: str | Path) -> SameMeaning:
    """Return a comparison of answers by bidirectional entailment (Kuhn et al. 2023).

    Two answers mean the same if each, after the question, entails the other. Those that are equal
    in normal form are not compared.

    Args:
        folder: Folder of a model of natural language inference.

    Raises:
        ModelError: It cannot be loaded.
    """
    from vlmscope.model.entailment import load_entailment_model

    model = load_entailment_model(folder)

    @lru_cache(maxsize=1 << 16)
    def same(question: str, one: str, other: str) -> bool:
        if normalise(one) == normalise(other):
            return True
        first, second = f"{question} {one}", f"{question} {other}"
        return all(model.entails([(first, second), (second, first)]))

    return same
