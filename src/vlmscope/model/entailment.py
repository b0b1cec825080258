"""A model of natural language inference: whether one text follows from another.

Loading has the rules of ``load_model``: safetensors only, no code from the checkpoint, no missing
weights, a local folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlmscope.errors import ModelError
from vlmscope.locking import model_lock
from vlmscope.model.chat import check_folder, load_tokenizer, local_device, safetensors_only
from vlmscope.model.computing import computing
from vlmscope.model.loading.load import load_config, load_weights

BATCH = 32
"""Pairs of texts per batch."""

LONGEST = 512
"""Most tokens of a pair; longer ones are cut."""


@dataclass(frozen=True, slots=True, eq=False)
class EntailmentModel:
    """A loaded classifier of pairs of texts."""

    model: Any
    tokenizer: Any
    label: int
    """Number of the class that means entailment."""

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether entailment is the likeliest class of each pair.

        Args:
            pairs: Premise and hypothesis.
        """
        found: list[bool] = []
        with computing():
            for start in range(0, len(pairs), BATCH):
                batch = pairs[start : start + BATCH]
                encoded = self.tokenizer(
                    [premise for premise, _ in batch],
                    [hypothesis for _, hypothesis in batch],
                    padding=True, truncation=True, max_length=self._longest,
                    return_tensors="pt",
                ).to(self.model.device)  # fmt: skip
                best = self.model(**encoded).logits.float().argmax(dim=-1)
                found += (best == self.label).tolist()
        return found

    @property
    def _longest(self) -> int:
        most = getattr(self.model.config, "max_position_embeddings", LONGEST) or LONGEST
        return int(min(most, LONGEST))


def load_entailment_model(folder: str | Path) -> EntailmentModel:
    """Load a classifier of pairs of texts from a folder.

    Args:
        folder: Folder of a checkpoint of sequence classification with a class ``entailment``.

    Raises:
        ModelError: It cannot be loaded, or has no such class.
    """
    from transformers import AutoModelForSequenceClassification

    name = str(folder)
    check_folder(name)
    with safetensors_only():
        config, _ = load_config(name, None)
        label = entailment_label(name, config)
        tokenizer = load_tokenizer(name)
        with model_lock():
            model = load_weights(
                name, config, local_device(), pickles=False,
                loader=AutoModelForSequenceClassification, dtype=torch.float32,
            )  # fmt: skip
    return EntailmentModel(model, tokenizer, label)


def entailment_label(name: str, config: Any) -> int:
    """Return the number of the class that means entailment.

    Raises:
        ModelError: No class has that name.
    """
    labels = {int(key): str(text) for key, text in dict(config.id2label or {}).items()}
    for number, text in labels.items():
        if text.casefold().startswith("entail"):
            return number
    shown = ", ".join(labels.values()) or "none"
    raise ModelError(
        f"{name}: a model of natural language inference needs a class 'entailment', there are "
        f"{shown}; give another model"
    )
