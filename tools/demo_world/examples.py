"""Training examples for the demo model: images as tiles, questions as token ids, in flat arrays.

Everything passes through the real image processor and chat template, so that the model is trained
on exactly what it will see. Processes draw in parallel and write into memory that they share.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scripts.easy_vqa_table import read_items
from tools.demo_world.bundle import TRAINING, questions_about
from tools.demo_world.questions import Question, ask
from tools.demo_world.scenes import TILE, company, frequency, scenes
from tools.demo_world.sources import NAMES, Row, Source, as_question
from tools.demo_world.targets import OBJECTS, PATCHES, TILES, UNKNOWN, objects, places

MAX_TOKENS = {"questions": 38, "captions": 60}
"""The longest prompt with its answer, in tokens; a longer one is an error."""

CHUNK = 100
"""Images a process makes at a time."""

EASY_VQA_TEXTS = 1000
"""Questions of easy-VQA from which the tokenizer learns its words, which are 28."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and questions, aligned along the first axis."""

    tiles: np.ndarray
    """[images, 4, 3, tile, tile] uint8, not yet normalised."""
    num_tiles: np.ndarray
    """[images] int64."""
    ratio_ids: np.ndarray
    """[images] int64: Mllama's aspect ratio id."""
    objects: np.ndarray
    """[images, kinds × (1 + colours)] int8, as ``targets.objects`` returns it."""
    places: np.ndarray
    """[images, 4, patches, 2] float16, as ``targets.places`` returns it."""
    questions: np.ndarray
    """[images, questions, tokens] int16: prompt and answer, right-padded with -1."""
    question_starts: np.ndarray
    """[images, questions] int64: where the answer starts."""
    categories: np.ndarray
    """[images, questions] int8: number of the question's category in ``NAMES``."""
    captions: np.ndarray
    """[images, 1, tokens] int16: the same for a request to describe the image, if there is one."""
    caption_starts: np.ndarray
    """[images, 1] int64."""


def empty_examples(images: int, each: int) -> Examples:
    """Return arrays for so many images, in memory that child processes share."""
    return Examples(
        tiles=_shared((images, TILES, 3, TILE, TILE), np.uint8),
        num_tiles=_shared((images,), np.int64),
        ratio_ids=_shared((images,), np.int64),
        objects=_shared((images, OBJECTS), np.int8),
        places=_shared((images, TILES, PATCHES, 2), np.float16),
        questions=_shared((images, each, MAX_TOKENS["questions"]), np.int16),
        question_starts=_shared((images, each), np.int64),
        categories=_shared((images, each), np.int8),
        captions=_shared((images, 1, MAX_TOKENS["captions"]), np.int16),
        caption_starts=_shared((images, 1), np.int64),
    )


def filling(made: Examples, processor: Any, source: Source, workers: int) -> Iterator[int]:
    """Fill the arrays in parallel; yield how many images are ready, from the front, as it goes on.

    The first number is 0: the processes have started. What is still to do when the iteration is
    closed is given up. With no workers this process does it.
    """
    frequency(), company()  # counted once, before the processes part
    drawing, starts = Drawing(made, processor, source), range(0, len(source), CHUNK)
    if not workers:
        yield 0
        yield from map(drawing.chunk, starts)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(drawing,))
    try:
        chunks = pool.map(_draw, starts)
        yield 0
        yield from chunks
    finally:
        pool.shutdown(cancel_futures=True)


def make_examples(processor: Any, source: Source, workers: int) -> Examples:
    """Return all examples of a source."""
    made = empty_examples(len(source), source.each)
    for _ in filling(made, processor, source, workers):
        pass
    return made


def corpus(seed: int, *, easy_vqa: bool, images: int = 3000) -> list[str]:
    """Return text for the tokenizer to learn its words from."""
    rng = random.Random(f"corpus/{seed}")  # noqa: S311
    texts = ["user\n\nassistant\n\n"]
    for scene in scenes(seed, "corpus", images):
        caption = ask(scene, "describe", rng, TRAINING)
        for question in filter(
            None, [caption, *questions_about(scene, 4, rng, TRAINING.weights, TRAINING)]
        ):
            texts += [question.text, question.answer]
    if easy_vqa:
        for question in map(as_question, read_items("train")[0][:EASY_VQA_TEXTS]):
            texts += [question.text, question.answer]
    return texts


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


@dataclass(frozen=True, slots=True)
class Drawing:
    """What drawing a source's images needs."""

    made: Examples
    """The arrays to fill."""
    processor: Any
    """The real one."""
    source: Source
    """What to draw."""

    def chunk(self, start: int) -> int:
        """Fill the rows of one chunk; return where it ends."""
        stop = min(start + CHUNK, len(self.source))
        rows = self.source.rows(start, stop)
        images = self.processor.image_processor(
            [[row.image] for row in rows],
            do_rescale=False, do_normalize=False, return_tensors="np",
        )  # fmt: skip
        self.made.tiles[start:stop] = images["pixel_values"][:, 0]
        self.made.num_tiles[start:stop] = images["aspect_ratio_mask"][:, 0].sum(-1)
        self.made.ratio_ids[start:stop] = images["aspect_ratio_ids"][:, 0]
        for number, row in enumerate(rows, start):
            self._fill(number, row)
        return stop

    def _fill(self, number: int, row: Row) -> None:
        """Write the targets and the questions of one image."""
        made = self.made
        made.objects[number] = objects(row.scene)
        made.places[number] = places(*row.image.size)
        for column, pair in enumerate(encode(self.processor, list(row.questions))):
            _put(made.questions, made.question_starts, (number, column), *pair)
            made.categories[number, column] = NAMES.index(row.questions[column].category)
        made.captions[number] = UNKNOWN
        if row.caption:
            (pair,) = encode(self.processor, [row.caption])
            _put(made.captions, made.caption_starts, (number, 0), *pair)


_drawing: Drawing
"""A worker's own."""


def _start(drawing: Drawing) -> None:
    """Begin a worker: one thread, and behind the process that trains."""
    global _drawing
    _drawing = drawing
    torch.set_num_threads(1)
    os.nice(5)


def _draw(start: int) -> int:
    """Fill one chunk in a worker."""
    return _drawing.chunk(start)


def _put(
    ids: np.ndarray, starts: np.ndarray, at: tuple[int, int], prompt: list[int], answer: list[int]
) -> None:
    """Write one prompt with its answer."""
    ids[at] = UNKNOWN
    ids[at][: len(prompt) + len(answer)] = prompt + answer
    starts[at] = len(prompt)
