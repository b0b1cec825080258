"""Rows as columns: what every shard is written from and read into.

A ``Block`` is a handful of captures turned on its side. Parts, packs, exports and reads all pass
through it, so each exists once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.schema import Capture, FinishReason, Sample
from vlmscope.store.naming import boundary_name, boundary_position

QUESTION_ID = "question_id"
"""The column of ids, in the order of the rows."""

SEED_TEXTS = ("image_id", "question", "ground_truth_answer", "answer")
"""The seed's strings, in the seed's order. ``answer`` is absent after a prefill-only run."""


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of equal length, by name. All rows of a block have the same columns."""

    texts: Mapping[str, list[str]]
    """Strings: ids, question, answer, metadata as JSON …"""
    numbers: Mapping[str, NDArray[Any]]
    """One number, or one list of fixed length, a row: ``[n]`` or ``[n, 20]``."""
    ragged: Mapping[str, list[NDArray[Any]]]
    """Lists whose length differs from row to row: the answer's tokens."""
    vectors: Mapping[str, NDArray[np.float32]]
    """Representations ``[n, D]``, by path."""

    @property
    def ids(self) -> list[str]:
        """The question ids."""
        return self.texts[QUESTION_ID]

    def __len__(self) -> int:
        return len(self.ids)


def block_of(captures: Sequence[Capture], widths: Mapping[str, int]) -> Block:
    """Turn captures into columns. ``widths`` says which vectors each must have, and how wide."""
    for capture in captures:
        _check(capture, widths, like=captures[0])
    samples = [capture.sample for capture in captures]
    texts = {
        QUESTION_ID: [sample.id for sample in samples],
        "image_id": [clean_text(_image_id(sample)) for sample in samples],
        "question": [clean_text(sample.question) for sample in samples],
        "ground_truth_answer": [clean_text(sample.target) for sample in samples],
        "finish_reason": [str(capture.finish_reason) for capture in captures],
        "image_sha256": [capture.image_sha256 for capture in captures],
        "image_dhash": [capture.image_dhash for capture in captures],
        "metadata": [metadata_text(sample.metadata) for sample in samples],
    }
    ragged: dict[str, list[NDArray[Any]]] = {}
    if captures[0].answer is not None:
        texts["answer"] = [clean_text(capture.answer or "") for capture in captures]
        ragged["answer_token_ids"] = [
            np.asarray(capture.answer_token_ids, np.int64) for capture in captures
        ]
        ragged["answer_logprobs"] = [
            np.asarray(capture.answer_logprobs, np.float32) for capture in captures
        ]
    vectors = {path: np.stack([capture.vectors[path] for capture in captures]) for path in widths}
    return Block(texts, _numbers(captures), ragged, vectors)


def captures_of(block: Block) -> Iterator[Capture]:
    """Turn columns back into captures; ``Sample.image`` is the image's name only."""
    positions = {name: boundary_position(name) for name in block.numbers}
    for i in range(len(block)):
        text = {name: column[i] for name, column in block.texts.items()}
        number = {name: column[i] for name, column in block.numbers.items()}
        ragged = {name: column[i] for name, column in block.ragged.items()}
        yield Capture(
            sample=Sample(
                id=text[QUESTION_ID],
                image=text["image_id"],
                question=text["question"],
                target=text["ground_truth_answer"],
                metadata=json.loads(text["metadata"]),
                image_id=text["image_id"],
            ),
            vectors={path: matrix[i] for path, matrix in block.vectors.items()},
            boundaries={p: int(number[name]) for name, p in positions.items() if p is not None},
            num_prompt_tokens=int(number["num_prompt_tokens"]),
            image_sha256=text["image_sha256"],
            image_dhash=text.get("image_dhash", ""),
            first_token_entropy=float(number["first_token_entropy"]),
            first_token_ids=number["first_token_ids"],
            first_token_logprobs=number["first_token_logprobs"],
            finish_reason=cast("FinishReason", text["finish_reason"]),
            answer=text.get("answer"),
            answer_token_ids=ragged.get("answer_token_ids"),
            answer_logprobs=ragged.get("answer_logprobs"),
        )


def concatenate(blocks: Sequence[Block]) -> Block:
    """Return the rows of all blocks, in order."""
    first = blocks[0]
    return Block(
        {name: [text for block in blocks for text in block.texts[name]] for name in first.texts},
        {name: np.concatenate([block.numbers[name] for block in blocks]) for name in first.numbers},
        {name: [a for block in blocks for a in block.ragged[name]] for name in first.ragged},
        {path: np.concatenate([block.vectors[path] for block in blocks]) for path in first.vectors},
    )


def take(block: Block, rows: Sequence[int]) -> Block:
    """Return some rows of a block, in the order asked for."""
    return Block(
        {name: [column[i] for i in rows] for name, column in block.texts.items()},
        {name: column[list(rows)] for name, column in block.numbers.items()},
        {name: [column[i] for i in rows] for name, column in block.ragged.items()},
        {path: matrix[list(rows)] for path, matrix in block.vectors.items()},
    )


def clean_text(text: str) -> str:
    """Return text that HDF5 can hold: U+FFFD for NUL and for lone surrogates.

    >>> clean_text("a" + chr(0) + "b") == "a" + chr(0xFFFD) + "b"
    True
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")


def metadata_text(metadata: Mapping[str, Any]) -> str:
    r"""Return metadata as one line of strict ASCII JSON: NaN becomes null, dates become text.

    >>> metadata_text({"category": "été", "score": float("nan")})
    '{"category": "\\u00e9t\\u00e9", "score": null}'
    """
    text = json.dumps(dict(metadata), default=str)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text


def _numbers(captures: Sequence[Capture]) -> dict[str, NDArray[Any]]:
    """Return the columns of numbers: boundaries first, as in the row's attributes."""
    boundaries = {
        boundary_name(position): np.array([c.boundaries[position] for c in captures], np.int64)
        for position in captures[0].boundaries
    }
    return {
        **boundaries,
        "num_prompt_tokens": np.array([c.num_prompt_tokens for c in captures], np.int64),
        "first_token_entropy": np.array([c.first_token_entropy for c in captures], np.float64),
        "first_token_ids": np.stack([np.asarray(c.first_token_ids, np.int64) for c in captures]),
        "first_token_logprobs": np.stack(
            [np.asarray(c.first_token_logprobs, np.float32) for c in captures]
        ),
    }


def _image_id(sample: Sample) -> str:
    """Return the image's name: the table's, or else the file's path."""
    if sample.image_id or not isinstance(sample.image, str | os.PathLike):
        return sample.image_id
    return os.fspath(sample.image)


def _check(capture: Capture, widths: Mapping[str, int], *, like: Capture) -> None:
    """Refuse a capture that the run's other rows would not match. Nothing is written."""
    found = {path: vector.shape for path, vector in capture.vectors.items()}
    wanted = {path: (width,) for path, width in widths.items()}
    if found != wanted:
        odd = sorted(path for path in found.keys() | wanted if found.get(path) != wanted.get(path))
        raise StoreError(
            f"question {capture.sample.id!r}: vectors do not match the manifest: "
            + ", ".join(f"{p} is {found.get(p)}, expected {wanted.get(p)}" for p in odd)
        )
    for path, vector in capture.vectors.items():
        if vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise StoreError(
                f"question {capture.sample.id!r}: {path} must be finite float32, found "
                f"{vector.dtype} with {np.count_nonzero(~np.isfinite(vector))} non-finite values"
            )
    tokens = (capture.answer, capture.answer_token_ids, capture.answer_logprobs)
    answered = like.answer is not None
    if any((part is not None) != answered for part in tokens):
        raise StoreError(
            f"question {capture.sample.id!r}: a run has answers with tokens and log-probabilities "
            "on every row, or on none"
        )
    if capture.boundaries.keys() != like.boundaries.keys():
        raise StoreError(
            f"question {capture.sample.id!r}: boundaries of {sorted(capture.boundaries)}, but "
            f"question {like.sample.id!r} has {sorted(like.boundaries)}"
        )
