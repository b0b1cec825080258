"""Training examples for the demo model: pictures as tiles, questions as token ids, in flat arrays.

Everything passes through the real image processor and chat template, so that the model is trained
on exactly what it will see. Processes draw in parallel and write into memory that they share.
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from vlmscope.demo.bundle import TRAINING, photograph, questions_about
from vlmscope.demo.questions import Question, ask
from vlmscope.demo.scenes import TILE, Scene, company, frequency, scenes
from vlmscope.demo.world import COLOURS, KINDS

MAX_TOKENS = {"questions": 38, "captions": 60}
"""The longest prompt with its answer, in tokens; a longer one is an error."""

CHUNK = 100
"""Pictures a process makes at a time."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures and questions, aligned along the first axis."""

    tiles: np.ndarray
    """[pictures, 4, 3, tile, tile] uint8, not yet normalised."""
    num_tiles: np.ndarray
    """[pictures] int64."""
    ratio_ids: np.ndarray
    """[pictures] int64: Mllama's aspect ratio id."""
    objects: np.ndarray
    """[pictures, kinds × (1 + colours)] uint8: which kinds are there, and in which colours."""
    questions: np.ndarray
    """[pictures, questions, tokens] int16: prompt and answer, right-padded with -1."""
    question_starts: np.ndarray
    """[pictures, questions] int64: where the answer starts."""
    captions: np.ndarray
    """[pictures, 1, tokens] int16: the same for a request to describe the picture."""
    caption_starts: np.ndarray
    """[pictures, 1] int64."""


def make_examples(
    processor: Any, *, seed: int, split: str, pictures: int, each: int, workers: int
) -> Examples:
    """Render ``pictures`` scenes with ``each`` questions about each, in parallel."""
    made = Examples(
        tiles=_shared((pictures, 4, 3, TILE, TILE), np.uint8),
        num_tiles=_shared((pictures,), np.int64),
        ratio_ids=_shared((pictures,), np.int64),
        objects=_shared((pictures, len(KINDS) * (1 + len(COLOURS))), np.uint8),
        questions=_shared((pictures, each, MAX_TOKENS["questions"]), np.int16),
        question_starts=_shared((pictures, each), np.int64),
        captions=_shared((pictures, 1, MAX_TOKENS["captions"]), np.int16),
        caption_starts=_shared((pictures, 1), np.int64),
    )
    frequency(), company()  # counted once, before the processes part
    context = multiprocessing.get_context("fork")
    start = partial(_start, made, processor)
    with ProcessPoolExecutor(workers, context, initializer=start) as pool:
        for _ in pool.map(partial(_draw, seed, split), range(0, pictures, CHUNK)):
            pass
    return made


def corpus(seed: int, pictures: int = 3000) -> list[str]:
    """Return text for the tokenizer to learn its words from."""
    rng = random.Random(f"corpus/{seed}")  # noqa: S311
    texts = ["user\n\nassistant\n\n"]
    for scene in scenes(seed, "corpus", pictures):
        caption = ask(scene, "describe", rng, TRAINING)
        for question in filter(
            None, [caption, *questions_about(scene, 4, rng, TRAINING.weights, TRAINING)]
        ):
            texts += [question.text, question.answer]
    return texts


def training_questions(
    scene: Scene, seed: int, split: str, index: int, each: int
) -> list[Question]:
    """Return the questions about one picture, and last the request to describe it."""
    rng = random.Random(f"ask/{seed}/{split}/{index}")  # noqa: S311
    asked = list(questions_about(scene, each, rng, TRAINING.weights, TRAINING))
    caption = ask(scene, "describe", rng, TRAINING)
    return [*asked, caption] if caption else asked


def encode(processor: Any, questions: list[Question]) -> list[tuple[list[int], list[int]]]:
    """Return, for each question, the token ids of the prompt and of the answer with its end."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}
    template = processor.apply_chat_template([turn], add_generation_prompt=True)
    texts = [template.replace("\0", question.text) for question in questions]
    texts += [f"{question.answer}<|eot_id|>" for question in questions]
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return list(zip(ids[: len(questions)], ids[len(questions) :], strict=True))


def _shared(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return an array in memory that child processes share."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


_made: Examples
_processor: Any


def _start(made: Examples, processor: Any) -> None:
    """Take over the arrays and the processor; one thread, since every core has its process."""
    global _made, _processor
    _made, _processor = made, processor
    torch.set_num_threads(1)


def _draw(seed: int, split: str, start: int) -> None:
    """Fill the rows of one chunk."""
    stop = min(start + CHUNK, len(_made.tiles))
    found = list(scenes(seed, split, stop - start, start))
    images = _processor.image_processor(
        [[photograph(scene)] for scene in found],
        do_rescale=False, do_normalize=False, return_tensors="np",
    )  # fmt: skip
    _made.tiles[start:stop] = images["pixel_values"][:, 0]
    _made.num_tiles[start:stop] = images["aspect_ratio_mask"][:, 0].sum(-1)
    _made.ratio_ids[start:stop] = images["aspect_ratio_ids"][:, 0]
    for row, scene in enumerate(found, start):
        _made.objects[row] = objects(scene)
        each = _made.questions.shape[1]
        pairs = encode(_processor, training_questions(scene, seed, split, row, each))
        for column, pair in enumerate(pairs[:each]):
            _put(_made.questions, _made.question_starts, (row, column), *pair)
        _put(_made.captions, _made.caption_starts, (row, 0), *pairs[each])


def _put(
    ids: np.ndarray, starts: np.ndarray, at: tuple[int, int], prompt: list[int], answer: list[int]
) -> None:
    """Write one prompt with its answer."""
    ids[at] = -1
    ids[at][: len(prompt) + len(answer)] = prompt + answer
    starts[at] = len(prompt)


def objects(scene: Scene) -> np.ndarray:
    """Return which kinds, and which kinds in which colour, are in the scene (0, 1)."""
    kinds, colours = list(KINDS), list(COLOURS)
    there = np.zeros((len(kinds), 1 + len(colours)), np.uint8)
    for thing in scene.things:
        there[kinds.index(thing.kind), 0] = 1
        if not scene.look.grey:
            there[kinds.index(thing.kind), 1 + colours.index(thing.colour)] = 1
    return there.reshape(-1)
