"""How often the demo model answers rightly, during training, on images it is not trained on.

A greedy answer equals the expected one if and only if each of its tokens is the likeliest after
those before it. So one pass over question and answer tells, without generating. Of a question
answered by *Yes* or *No*, only that word counts.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from tools.demo_world.batches import Batches
from tools.demo_world.sources import NAMES
from tools.demo_world.steps import Trainer, run_model


def accuracy(
    trainer: Trainer, batches: Batches, tokenizer: Any, *, size: int, asked: int
) -> dict[str, float]:
    """Return category → share of right answers, and ``all``; ``{}`` for fewer than ``size`` images.

    Categories of yes/no questions are told apart by the truth: ``count``, ``relation Yes``.

    Args:
        trainer: Its model answers.
        batches: The images, and the questions about them.
        tokenizer: Knows the words.
        size: Images in a batch: as in training, so that nothing is compiled anew.
        asked: Questions about each image, likewise.
    """
    words = {tokenizer.convert_tokens_to_ids(word): word for word in ("Yes", "No")}
    found: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(batches) - size + 1, size):
        rows = torch.arange(start, start + size, device=batches.device)
        text = batches.text(rows, asked, shuffled=False)
        with trainer.precision():
            _, logits = run_model(trainer.model, batches.pixels(rows), text)
        labels = text["labels"][:, 1:]
        same = logits[:, :-1].argmax(-1) == labels
        spoken = labels >= 0
        first = spoken.long().argmax(1)
        whole = (same | ~spoken).all(1).tolist()
        word = same.gather(1, first[:, None])[:, 0].tolist()
        said = labels.gather(1, first[:, None])[:, 0].tolist()
        categories = batches.categories[rows, :asked].flatten().tolist()
        for category, token, by_word, by_all in zip(categories, said, word, whole, strict=True):
            truth = words.get(token, "")
            right = by_word if truth else by_all
            found[f"{NAMES[category]} {truth}".strip()].append(right)
            found["all"].append(right)
    return {name: round(sum(hits) / len(hits), 3) for name, hits in sorted(found.items())}
