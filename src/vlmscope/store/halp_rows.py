"""One file in the HALP layout, row by row: strings, and vectors of any shape.

Besides the vectors, a row may have data on its prompt, its first token and its answer. Exports of
vlmscope contain these; files of the HALP research code do not. A file may be of any origin: data of
another type or shape than in ``docs/format.md`` counts as missing.

Files are read through h5py's low-level API: ten thousand small datasets otherwise take longer to
open than to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5g, h5s
from numpy.typing import NDArray

from vlmscope.errors import InputError, StoreError, one_line
from vlmscope.regular import PointerError
from vlmscope.store.format.batch import HALP_TEXTS, clean_text, metadata_of
from vlmscope.store.format.hdf5_links import index_target, member, open_link, walk_links
from vlmscope.store.format.manifest import check_version
from vlmscope.store.format.naming import is_vector, question_id, vector_path
from vlmscope.store.format.shard import hdf5_file
from vlmscope.store.format.validation import COLUMNS

STATISTIC_LISTS = ("first_token_ids", "first_token_logprobs", "answer_token_ids", "answer_logprobs")
"""Datasets of a row that its statistics are read from."""

METADATA = "metadata"
"""Attribute of a row in an export: the other columns of its table, as JSON."""

MOST_NUMBERS = 1_000_000
"""Length of the longest list that is read: an answer has thousands of tokens at most."""


@dataclass(frozen=True, slots=True, eq=False)
class HalpStatistics:
    """Data on a row's prompt, first token and answer. None for what the file does not have."""

    num_prompt_tokens: float | None = None
    first_token_entropy: float | None = None
    first_token_ids: NDArray[np.int64] | None = None
    """Ids of the likeliest first tokens, ``[K]``."""
    first_token_logprobs: NDArray[np.float64] | None = None
    """Their natural-log probabilities, ``[K]``."""
    num_answer_tokens: float | None = None
    mean_answer_logprob: float | None = None
    """NaN if the answer is empty."""


def read_statistics(group: Any, lists: Mapping[str, Any]) -> HalpStatistics:
    """Return the data on a row's prompt, first token and answer.

    Args:
        group: The row's low-level group.
        lists: Its low-level datasets of ``STATISTIC_LISTS``, by name.
    """
    logprobs = _floats(lists.get("answer_logprobs"))
    tokens = logprobs if logprobs is not None else _integers(lists.get("answer_token_ids"))
    ids = _integers(lists.get("first_token_ids"))
    likeliest = _floats(lists.get("first_token_logprobs"))
    paired = ids is not None and likeliest is not None and len(ids) == len(likeliest) > 0
    return HalpStatistics(
        num_prompt_tokens=_number(group, "num_prompt_tokens"),
        first_token_entropy=_number(group, "first_token_entropy"),
        first_token_ids=ids if paired else None,
        first_token_logprobs=likeliest if paired else None,
        num_answer_tokens=None if tokens is None else float(len(tokens)),
        mean_answer_logprob=None if logprobs is None else _mean(logprobs),
    )


def read_metadata(group: Any) -> dict[str, Any]:
    """Return the other columns of a row's table; empty if the file does not have them."""
    if not h5a.exists(group, METADATA.encode()):
        return {}
    try:
        text = h5py.Group(group).attrs[METADATA]
        return metadata_of(text) if isinstance(text, str) else {}
    except (StoreError, UnicodeDecodeError):
        return {}  # another program's attribute of the same name


def _number(group: Any, name: str) -> float | None:
    """Return an attribute that is one finite number."""
    if not h5a.exists(group, name.encode()):
        return None
    attribute = h5a.open(group, name.encode())
    if attribute.shape or attribute.dtype.kind not in "iuf":
        return None
    value = float(h5py.Group(group).attrs[name])
    return value if math.isfinite(value) else None


def _floats(dataset: Any) -> NDArray[np.float64] | None:
    """Return a list of log-probabilities; minus infinity is a token of probability zero."""
    values = _list(dataset, "f")
    if values is None or np.isnan(values).any() or np.isposinf(values).any():
        return None
    return values.astype(np.float64)


def _integers(dataset: Any) -> NDArray[np.int64] | None:
    values = _list(dataset, "iu")
    return None if values is None else values.astype(np.int64)


def _list(dataset: Any, kinds: str) -> NDArray[Any] | None:
    """Return the values of a one-dimensional dataset, if its dtype kind is one of ``kinds``."""
    if dataset is None:
        return None
    opened = h5py.Dataset(dataset)
    if opened.ndim != 1 or opened.dtype.kind not in kinds or opened.shape[0] > MOST_NUMBERS:
        return None
    return np.asarray(opened[()])


def _mean(logprobs: NDArray[np.float64]) -> float:
    return float(logprobs.astype(np.float32).mean()) if len(logprobs) else math.nan


VectorKey = tuple[str, int | None]
"""Representation and layer."""

IMAGE_HASHES = ("image_sha256", "image_dhash", "image_thumbnail")
"""Attributes of a row that identify its image."""

_VECTOR = re.compile(r"(?P<name>[^/]+)(?:/layer_(?P<layer>0|[1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class HalpRow:
    """One question: its location, and the data found there."""

    id: str
    """The question id."""
    file: Path
    """The file that contains it."""

    link: bytes
    """Name of its group in the file."""
    texts: Mapping[str, str]
    """The strings of the specification that it has."""

    widths: Mapping[VectorKey, int]
    """Width of each of its vectors; 0 for a dataset that is not a vector."""

    not_finite: frozenset[VectorKey]
    """Vectors that contain NaN or infinity."""
    hashes: Mapping[str, str]
    """The image's hashes, by name; only exports of vlmscope have them."""

    statistics: HalpStatistics
    """Data on the prompt, the first token and the answer; only in exports of vlmscope."""

    metadata: Mapping[str, Any]
    """The other columns of its table; only in exports of vlmscope."""


@contextmanager
def opened_halp(path: Path) -> Iterator[Any]:
    """Open a file for reading.

    Raises:
        InputError: It cannot be read, now or later; the message names the file and a remedy.
        StoreError: Its format is newer than this vlmscope.
    """
    try:
        with hdf5_file(path, "all") as file:
            check_version(path, int(file.attrs.get("format_version", 0)))
            yield file
    except InputError:  # raised by the caller; also a ValueError, which is caught below
        raise
    except PointerError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: truncated, damaged or not an HDF5 file ({one_line(error)}); restore it from "
            "a copy, or move it out of the folder to leave its questions out"
        ) from error


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the root attributes of a file as JSON values; there may be none."""
    with opened_halp(path) as file:
        return {name: _plain(value) for name, value in file.attrs.items()}


def read_rows(path: Path) -> Iterator[HalpRow]:
    """Yield every question of a file, after reading all its vectors once.

    For an ``index.h5`` of vlmscope, yield the questions in the shards that it links to.
    """
    shards: dict[Path, dict[bytes, bytes]] = {}
    with opened_halp(path) as file:
        seen: set[int] = set()
        for link in file.id:
            if (target := index_target(file.id, link)) is not None:
                shards.setdefault(target[0], {})[target[1]] = link
            elif link != COLUMNS.encode():
                yield from _read_link(path, file, link, seen)
    for shard, links in shards.items():
        with opened_halp(shard) as file:
            seen = set()
            for link in links:
                yield from _read_link(shard, file, link, seen)


def _read_link(path: Path, file: Any, link: bytes, seen: set[int]) -> Iterator[HalpRow]:
    """Yield the question that a link at the root refers to, if it is one."""
    group = open_link(file.id, link)
    if isinstance(group, h5g.GroupID):
        exported = "vlmscope_version" in file.attrs  # then ids are written as links, escaped
        name = clean_text(link.decode("utf-8", "replace"))
        yield _read_row(path, link, question_id(name) if exported else name, group, seen)


def read_vector(file: Any, row: HalpRow, key: VectorKey) -> NDArray[np.float32]:
    """Return a vector of a row, ``[D]``; the row's file must be open."""
    group = h5py.Group(open_link(file.id, row.link))
    return _values(member(group, vector_path(*key)).id)


def _read_row(path: Path, link: bytes, id_: str, group: Any, seen: set[int]) -> HalpRow:
    texts: dict[str, str] = {}
    widths: dict[VectorKey, int] = {}
    not_finite = set()
    lists: dict[str, Any] = {}
    for name, dataset in walk_links(group, seen):
        if name in STATISTIC_LISTS:
            lists[name] = dataset
        elif name in HALP_TEXTS:
            texts[name] = _text(path, id_, name, dataset)
        elif is_vector(name):
            key = _vector_key(path, id_, name)
            values = _values(dataset)
            widths[key] = len(values)
            if not np.isfinite(values).all():
                not_finite.add(key)
    hashes = {name: _text_attribute(group, name) for name in IMAGE_HASHES if _has(group, name)}
    statistics, metadata = read_statistics(group, lists), read_metadata(group)
    return HalpRow(
        id_, path, link, texts, widths, frozenset(not_finite), hashes, statistics, metadata
    )


def _has(group: Any, name: str) -> bool:
    return bool(h5a.exists(group, name.encode()))


def _text_attribute(group: Any, name: str) -> str:
    value = h5py.Group(group).attrs[name]
    return str(_plain(value))


def _vector_key(path: Path, id_: str, name: str) -> VectorKey:
    """Return representation and layer of a dataset."""
    found = _VECTOR.fullmatch(name)
    if found is None:
        raise InputError(
            f"{path}: question {id_!r} has {name}, expected layers named layer_0, layer_1 and so "
            "on; give files in that layout"
        )
    return found["name"], None if found["layer"] is None else int(found["layer"])


def _values(dataset: Any) -> NDArray[np.float32]:
    """Return a vector; empty if the dataset is not one. ``[1, D]`` is accepted."""
    shape = dataset.shape
    size = math.prod(shape or (0,))
    if not size or max(shape) != size:
        return np.empty(0, np.float32)
    values = np.empty(size, np.float32)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values


def _text(path: Path, id_: str, name: str, dataset: Any) -> str:
    """Return a string by its bytes: some files tag UTF-8 as ASCII."""
    value = h5py.Dataset(dataset)[()]
    if not isinstance(value, str | bytes | h5py.Empty):
        raise InputError(
            f"{path}: question {id_!r}: {name!r} is not text; the file is damaged or in another "
            "layout, get a complete copy"
        )
    if isinstance(value, h5py.Empty):
        return ""
    return clean_text(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _plain(value: Any) -> Any:
    """Return an attribute as a JSON value."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return clean_text(str(value))
