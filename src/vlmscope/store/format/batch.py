"""A batch of captures as columns, checked before it is written.

A capture that does not match its run is refused before any of it is written. Every row has the
vectors that the manifest lists. The only exception is a question without an image: it lacks
everything that is read from an image, and nothing else.

A ``Block`` contains rows as columns. Every shard is written from one and read into one; parts,
packs, exports and reads share it. Columns have no gaps: for a question without an image, which is
identified by its empty ``image_sha256``, the image's vectors are NaN and its boundaries −1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import StoreError, one_line
from vlmscope.jsontext import DEEPEST, load_json, nests_deeper
from vlmscope.sampling import (
    SAMPLE_TEXTS,
    sample_arrays_match,
)
from vlmscope.schema import Capture, FinishReason, Sample
from vlmscope.signals import (
    PREVIOUS,
    PREVIOUS_HEAD,
    needs_image,
)
from vlmscope.store.format.capture_checks import Shapes, Widths, answer_length, check_capture
from vlmscope.store.format.naming import (
    boundary_name,
    boundary_position,
    image_positions,
    is_signal,
    may_be_absent,
    signal_path,
)
from vlmscope.store.format.token_rows import TokenRows, concatenated, token_rows

QUESTION_ID = "question_id"
"""The column of ids, in the order of the rows."""

NO_BOUNDARY = -1
"""Value in the column of a boundary for a row that does not have this boundary."""

_METADATA_LEVELS = DEEPEST + 1  # the object that contains the values is one

_REMEDY = "restore the run from a copy"

HALP_TEXTS = ("image_id", "question", "ground_truth_answer", "answer")
"""The specification's strings, in its order. ``answer`` is absent after a prefill-only run."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Columns of equal length, by name. All rows of a block have the same columns."""

    texts: Mapping[str, list[str]]
    """Strings: ids, question, answer, metadata as JSON … Several texts of a row are a JSON list."""
    numbers: Mapping[str, NDArray[Any]]
    """One number, or one array of fixed shape, per row: ``[n]`` or ``[n, 20]``. −1 for the boundary
    of an image that a row does not have. Arrays of signals begin with ``signals/``."""
    ragged: Mapping[str, list[NDArray[Any]]]
    """Lists whose length differs from row to row: the tokens of the answer and of the samples, and
    signals of each token, flat; NaN for a signal of image tokens that a row does not have."""
    vectors: Mapping[str, NDArray[np.float32]]
    """Representations ``[n, D]``, by path; NaN for those of an image that a row does not have."""
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    """Arrays of signals with a vector for each of several tokens, by path; without a token in a row
    that lacks them."""

    @property
    def columns(self) -> frozenset[str]:
        """The names of all columns, and of the arrays of several tokens."""
        columns = (self.texts, self.numbers, self.ragged, self.vectors, self.tokens)
        return frozenset(chain.from_iterable(columns))

    @property
    def has_image(self) -> list[bool]:
        """Whether each question is about an image."""
        return [bool(sha256) for sha256 in self.texts["image_sha256"]]

    @property
    def ids(self) -> list[str]:
        """The question ids."""
        return self.texts[QUESTION_ID]

    def __len__(self) -> int:
        return len(self.ids)


def block_of(
    captures: Sequence[Capture],
    widths: Widths,
    signals: Shapes | None = None,
    tokens: Widths | None = None,
) -> Block:
    """Return captures as columns. A capture without an image has no vectors of an image.

    Args:
        captures: The rows.
        widths: Path of each expected vector → its width.
        signals: The expected arrays of signals; by default none.
        tokens: Those with a vector for each of several tokens; by default none.
    """
    like = next((capture for capture in captures if capture.image_sha256), captures[0])
    for capture in captures:
        check_capture(capture, widths, signals or {}, tokens or {}, like=like)
    samples = [capture.sample for capture in captures]
    texts = {
        QUESTION_ID: [sample.id for sample in samples],
        "image_id": [clean_text(_image_id(sample)) for sample in samples],
        "question": [clean_text(sample.question) for sample in samples],
        "ground_truth_answer": [clean_text(sample.target) for sample in samples],
        "finish_reason": [str(capture.finish_reason) for capture in captures],
        "image_sha256": [capture.image_sha256 for capture in captures],
        "image_dhash": [capture.image_dhash for capture in captures],
        "image_thumbnail": [capture.image_thumbnail for capture in captures],
        "metadata": [_metadata_text(sample) for sample in samples],
    }
    if captures[0].answer is not None:
        texts["answer"] = [clean_text(capture.answer or "") for capture in captures]
    ragged = _lists(captures, signals or {})
    texts |= _several_of(captures, signals or {})
    vectors = {
        path: np.stack([c.vectors.get(path, _no_vector(width)) for c in captures])
        for path, width in widths.items()
    }
    numbers = _numbers(captures, image_positions(widths)) | {
        signal_path(name): np.stack([capture.signals[name] for capture in captures])
        for name, shape in (signals or {}).items()
        if shape is not None
    }
    states = {
        signal_path(name): token_rows(
            [c.signals.get(name, np.zeros((0, width), np.float32)) for c in captures], width
        )
        for name, width in (tokens or {}).items()
    }
    return Block(texts, numbers, ragged, vectors, states)


def _lists(captures: Sequence[Capture], signals: Shapes) -> dict[str, list[NDArray[Any]]]:
    """Return the columns of lists."""
    found: dict[str, list[NDArray[Any]]] = {}
    if captures[0].answer is not None:
        found["answer_token_ids"] = [np.asarray(c.answer_token_ids, np.int64) for c in captures]
        found["answer_logprobs"] = [np.asarray(c.answer_logprobs, np.float32) for c in captures]
    lists = [n for n, shape in signals.items() if shape is None and n not in SAMPLE_TEXTS]
    return found | {signal_path(n): [_per_token(c, n) for c in captures] for n in lists}


def captures_of(block: Block) -> Iterator[Capture]:
    """Yield the rows as captures; ``Sample.image`` contains the names of the images only."""
    positions = {name: boundary_position(name) for name in block.numbers}
    for i, has_image in enumerate(block.has_image):
        text = {name: column[i] for name, column in block.texts.items()}
        number = {name: column[i] for name, column in block.numbers.items()}
        ragged = {name: column[i] for name, column in block.ragged.items()}
        tokens = {name: found.row(i).astype(np.float32) for name, found in block.tokens.items()}
        yield Capture(
            sample=Sample(
                id=text[QUESTION_ID],
                image=_names(text["image_id"], text["image_sha256"]) if has_image else None,
                question=text["question"],
                target=text["ground_truth_answer"],
                metadata=metadata_of(text["metadata"]),
                image_id=text["image_id"],
            ),
            vectors={
                path: matrix[i]
                for path, matrix in block.vectors.items()
                if has_image or not (may_be_absent(path) and np.isnan(matrix[i][0]))
            },
            boundaries={
                position: int(number[name])
                for name, position in positions.items()
                if position is not None and number[name] != NO_BOUNDARY
            },
            num_prompt_tokens=int(number["num_prompt_tokens"]),
            image_sha256=text["image_sha256"],
            image_dhash=text["image_dhash"],
            image_thumbnail=text["image_thumbnail"],
            first_token_entropy=float(number["first_token_entropy"]),
            first_token_ids=number["first_token_ids"],
            first_token_logprobs=number["first_token_logprobs"],
            finish_reason=cast("FinishReason", text["finish_reason"]),
            answer=text.get("answer"),
            answer_token_ids=ragged.get("answer_token_ids"),
            answer_logprobs=ragged.get("answer_logprobs"),
            signals=_signals_of(
                number | ragged | tokens | _several_texts(text), has_image=has_image
            ),
        )


def _signals_of(values: Mapping[str, Any], *, has_image: bool) -> dict[str, NDArray[Any]]:
    """Return the arrays of signals among the values of a row.

    Raises:
        StoreError: Those of the samples do not match each other.
    """
    found = {
        path.partition("/")[2]: np.asarray(array)
        for path, array in values.items()
        if is_signal(path)
    }
    if not sample_arrays_match(found):
        raise StoreError(f"a row's samples are damaged: their numbers differ; {_REMEDY}")
    if PREVIOUS in found and PREVIOUS_HEAD in found:
        found[PREVIOUS] = by_layer(found[PREVIOUS], len(found[PREVIOUS_HEAD]))
    else:  # arrays of a fixed shape were not read
        found.pop(PREVIOUS, None)
    return {name: array for name, array in found.items() if has_image or not needs_image(name)}


def by_layer(values: NDArray[Any], layers: int) -> NDArray[Any]:
    """Return the list of a row as ``[tokens, layers]``: its column has it flat.

    Raises:
        StoreError: It is of another number of layers.

    >>> by_layer(np.arange(6), 3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    if not layers or len(values) % layers:
        raise StoreError(
            f"a row's {PREVIOUS} is damaged: {len(values)} values of {layers} layers; {_REMEDY}"
        )
    return values.reshape(-1, layers)


def _names(image_id: str, image_sha256: str) -> str | tuple[str, ...]:
    """Return the names of a question's images: several where there are several hashes.

    >>> _names("a, b.png", "1f"), _names("a.png, b.png", "1f+2e")
    ('a, b.png', ('a.png', 'b.png'))
    """
    count = 1 + image_sha256.count("+")
    names = tuple(image_id.split(", "))
    if count == 1:
        return image_id
    # Names that contain commas cannot be separated: then each name is the complete text.
    return names if len(names) == count else (image_id,) * count


def concatenate(blocks: Sequence[Block]) -> Block:
    """Return the rows of all blocks, in order.

    Raises:
        StoreError: One has a column that another one lacks.
    """
    first = blocks[0]
    for block in blocks[1:]:
        check_columns(block, first.columns)
    return Block(
        {name: [text for block in blocks for text in block.texts[name]] for name in first.texts},
        {name: np.concatenate([block.numbers[name] for block in blocks]) for name in first.numbers},
        {name: [a for block in blocks for a in block.ragged[name]] for name in first.ragged},
        {path: np.concatenate([block.vectors[path] for block in blocks]) for path in first.vectors},
        {path: concatenated([block.tokens[path] for block in blocks]) for path in first.tokens},
    )


def check_columns(block: Block, columns: Set[str]) -> None:
    """Refuse a block that does not have the columns of another one of its run.

    Args:
        block: The block.
        columns: Those of the other one.

    Raises:
        StoreError: One of the two lacks a column.
    """
    if differing := block.columns ^ columns:
        raise StoreError(
            f"the shards of this run differ, {min(differing)} is not in all of them: one is "
            "damaged ('vlmscope verify RUN --files' names it, the same extract command with "
            "--redo-damaged captures its rows again), or an earlier version of vlmscope wrote some "
            "of them (extract into another --out)"
        )


def take(block: Block, rows: Sequence[int]) -> Block:
    """Return some rows of a block, in the given order."""
    return Block(
        {name: [column[i] for i in rows] for name, column in block.texts.items()},
        {name: column[list(rows)] for name, column in block.numbers.items()},
        {name: [column[i] for i in rows] for name, column in block.ragged.items()},
        {path: matrix[list(rows)] for path, matrix in block.vectors.items()},
        {path: found.take(rows) for path, found in block.tokens.items()},
    )


def clean_text(text: str) -> str:
    """Return text that HDF5 can store, with U+FFFD for NUL and for lone surrogates.

    >>> clean_text("a" + chr(0) + "b") == "a" + chr(0xFFFD) + "b"
    True
    """
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid.replace("\0", "\N{REPLACEMENT CHARACTER}")


def metadata_text(metadata: Mapping[str, Any]) -> str:
    r"""Return metadata as one line of strict ASCII JSON: NaN becomes null, dates become text.

    Raises:
        ValueError: JSON cannot represent it, or a value nests deeper than ``DEEPEST`` levels.

    >>> metadata_text({"category": "été", "score": float("nan")})
    '{"category": "\\u00e9t\\u00e9", "score": null}'
    """
    try:
        text = json.dumps(dict(metadata), default=str)
    except RecursionError:
        text = ""
    except TypeError as error:  # a key that is not text
        raise ValueError(one_line(error)) from error
    if not text or nests_deeper(text, _METADATA_LEVELS):
        raise ValueError(f"a value nests deeper than {DEEPEST} levels")
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text


def metadata_of(text: str) -> dict[str, Any]:
    """Return the metadata in a line of JSON: the inverse of ``metadata_text``.

    Raises:
        StoreError: The line is not a JSON object.
    """
    try:
        found = load_json(text, levels=_METADATA_LEVELS)
    except ValueError as error:
        raise StoreError(f"a row's metadata is damaged: {one_line(error)}; {_REMEDY}") from error
    if not isinstance(found, dict):
        raise StoreError(f"a row's metadata is damaged: not a JSON object; {_REMEDY}")
    return found


def _several_of(captures: Sequence[Capture], signals: Iterable[str]) -> dict[str, list[str]]:
    """Return the columns of several texts of each row."""
    names = [name for name in signals if name in SAMPLE_TEXTS]
    return {signal_path(n): [_joined_texts(c.signals[n]) for c in captures] for n in names}


def _joined_texts(texts: Iterable[str]) -> str:
    """Return several texts as a JSON list, without what HDF5 cannot store."""
    return json.dumps([clean_text(text) for text in texts])


def texts_in(text: str) -> list[str]:
    """Return the texts in a JSON list, which is what a column of several texts has of a row.

    Raises:
        StoreError: It is not a list of texts.
    """
    try:
        found = load_json(text)
    except ValueError as error:
        raise StoreError(f"a row's samples are damaged: {one_line(error)}; {_REMEDY}") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise StoreError(f"a row's samples are damaged: not a JSON list of texts; {_REMEDY}")
    return found


def _several_texts(texts: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the columns of several texts among those of a row."""
    return {n: np.array(texts_in(text), object) for n, text in texts.items() if is_signal(n)}


def _numbers(captures: Sequence[Capture], of_image: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the columns of numbers: boundaries first, as in the row's attributes.

    Boundaries of the image are included even if no row of this block has an image: all blocks of a
    run have the same columns.
    """
    own = (position for capture in captures for position in capture.boundaries)
    boundaries = {
        boundary_name(position): np.array(
            [c.boundaries.get(position, NO_BOUNDARY) for c in captures], np.int64
        )
        for position in dict.fromkeys([*own, *of_image])
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


def _per_token(capture: Capture, name: str) -> NDArray[Any]:
    """Return an array with one value per token of the answer; NaN if the row has none."""
    found = capture.signals.get(name)
    return _no_vector(answer_length(capture)) if found is None else found.ravel()


def _metadata_text(sample: Sample) -> str:
    """Return a sample's metadata as text; an error names the sample."""
    try:
        return metadata_text(sample.metadata)
    except ValueError as error:
        raise StoreError(
            f"question {sample.id!r}: its metadata cannot be stored: {one_line(error)}; give plain "
            "values that JSON can represent"
        ) from error


def _no_vector(width: int) -> NDArray[np.float32]:
    return np.full(width, np.nan, np.float32)


def _image_id(sample: Sample) -> str:
    """Return the names of the images: from the table, or else the paths of the files."""
    if sample.image_id:
        return sample.image_id
    paths = [os.fspath(image) for image in sample.images if isinstance(image, str | os.PathLike)]
    return ", ".join(paths)
