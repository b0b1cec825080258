"""Images of a batch, prepared one at a time: the arrays of one are in memory, not those of all.

For worker processes. In the process of the model its steps of Python would take the interpreter's
lock: the demo was 15% slower.

An image processor applies each of its steps to all images before the next. For SmolVLM2 this takes
88 MB per row, of which 13 remain. Memory that is used for the first time costs more than the
arithmetic: the kernel clears its pages. Here a processor is called for each image, and its outputs
are copied into those of the batch, in the model's dtype:

    image 0  ──►  processor  ──►  13 tiles, float32  ──►  rows 0 … of ``pixel_values``, bfloat16
    image 1  ──►  processor  ──►  17 tiles           ──►  more rows; the 13 are padded with zeros

Not every processor's outputs can be joined so: MiniCPM-V puts the images of a batch side by side.
Therefore a processor is also called for the first image and another one together: once for any,
once for each dimension that is padded, and once for each list whose entries have other sizes. If
that does not give the same bits, it is called for complete batches from then on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

FEWEST = 3
"""Images from which they are prepared one at a time."""

Way = tuple[str, int]
"""How outputs are joined: name and dimension of one that is padded, 0 for a list whose entries have
other sizes. ``ROWS``: row after row."""

ROWS: Way = ("", 0)

DtypeOf = Callable[[str, Tensor], torch.dtype]
"""Name and tensor → the dtype that the model takes."""

_proven: weakref.WeakKeyDictionary[Any, frozenset[Way]] = weakref.WeakKeyDictionary()
"""Image processor → how its outputs can be joined; empty if they cannot."""

_reading: weakref.WeakSet[Any] = weakref.WeakSet()
"""Processors that read the values of prepared images."""


class NotJoinedError(Exception):
    """The outputs of single images do not make up those of a batch."""


def with_image_rows(
    processor: Any, dtype_of: DtypeOf, encode: Callable[[Callable[[Any], Any]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return a batch's inputs, with images that are prepared one at a time.

    Args:
        processor: The processor.
        dtype_of: The dtype of each output of the image processor. LLaVA's processor makes an array
            of each image, for its size, and NumPy has no bfloat16: they keep their own dtype then.
        encode: Makes the inputs with what it is given, called with the image processor, in its
            place.
    """
    if processor not in _reading:
        try:
            return encode(lambda own: ImageRows(own, dtype_of))
        except TypeError as error:
            if "BFloat16" not in str(error):
                raise
            _reading.add(processor)
    return encode(lambda own: ImageRows(own, lambda _, tensor: tensor.dtype))


class ImageRows:
    """An image processor that is called for a batch, and processes its images one at a time.

    Args:
        own: The image processor.
        dtype_of: The dtype of each output.
    """

    def __init__(self, own: Any, dtype_of: DtypeOf) -> None:
        self._own = own
        self._dtype_of = dtype_of

    def __getattr__(self, name: str) -> Any:
        if name == "_own":  # not set yet: this object is being copied
            raise AttributeError(name)
        return getattr(self._own, name)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for a batch, as the image processor does."""

        def process(some: Any) -> Any:
            return self._own(some, *args, **kwargs)

        can_be_joined = _proven.get(self._own, True)
        if isinstance(images, list | tuple) and len(images) >= FEWEST and can_be_joined:
            try:
                return self._joined(images, process)
            except NotJoinedError:
                _proven[self._own] = frozenset()
        return process(images)

    def _joined(self, images: Any, process: Callable[[Any], Any]) -> Any:
        """Return the outputs of a batch.

        Raises:
            NotJoinedError: They cannot be joined.
        """
        first = process(images[:1])
        if not isinstance(first, MutableMapping):  # Idefics' returns a tensor
            raise NotJoinedError
        joined = Joined(first, len(images), self._dtype_of)
        for i in range(1, len(images)):
            made = process(images[i : i + 1])
            ways = joined.add(made)
            if not ways <= _proven.get(self._own, frozenset()):
                two = Joined(first, 2, self._dtype_of)
                two.add(made)
                if not two.equals(process([images[0], images[i]])):
                    raise NotJoinedError
                _proven[self._own] = _proven.get(self._own, frozenset()) | ways
        first.update(joined.outputs())
        return first


class Joined:
    """Outputs of an image processor for some images, to which those of others are added.

    Args:
        first: The outputs of the first image.
        images: The expected number of images.
        dtype_of: The dtype of each output.
    """

    def __init__(self, first: Mapping[str, Any], images: int, dtype_of: DtypeOf) -> None:
        self._dtype_of = dtype_of
        self._tensors = {
            name: _Rows(value, images, dtype_of(name, value))
            for name, value in first.items()
            if isinstance(value, Tensor) and value.dim()
        }
        self._others = {
            name: list(value) if isinstance(value, list) else self._cast(name, value)
            for name, value in first.items()
            if name not in self._tensors
        }
        self._sizes = {
            name: set(map(_size, value))
            for name, value in self._others.items()
            if isinstance(value, list)
        }

    def add(self, made: Mapping[str, Any]) -> frozenset[Way]:
        """Add the outputs of another image; return how they are joined to the first's.

        Raises:
            NotJoinedError: They cannot be joined to those before.
        """
        if made.keys() != self._tensors.keys() | self._others.keys():
            raise NotJoinedError
        ways = {ROWS}
        for name, value in made.items():
            if name in self._tensors:
                ways |= {(name, each) for each in self._tensors[name].add(value)}
            elif isinstance(value, list) and name in self._sizes:
                if not self._sizes[name].issuperset(map(_size, value)):
                    ways.add((name, 0))
                self._others[name] += value
            elif not _same(self._cast(name, value), self._others[name]):
                raise NotJoinedError
        return frozenset(ways)

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of all images."""
        return self._others | {name: rows.used() for name, rows in self._tensors.items()}

    def equals(self, together: Mapping[str, Any]) -> bool:
        """Return whether they are, in the same dtype, those of one call for the same images."""
        cast = {name: self._cast(name, value) for name, value in together.items()}
        return _same(self.outputs(), cast)

    def _cast(self, name: str, value: Any) -> Any:
        return value.to(self._dtype_of(name, value)) if isinstance(value, Tensor) else value


class _Rows:
    """A tensor of the outputs, with room for those of other images."""

    def __init__(self, first: Tensor, images: int, dtype: torch.dtype) -> None:
        self._first, self._images = first.shape, images
        self._added, self._end = 0, 0
        self._all = first.new_empty((images * len(first), *first.shape[1:]), dtype=dtype)
        self.add(first)

    def add(self, piece: Any) -> list[int]:
        """Add the tensor of another image; return in which dimensions its size is not the first's.

        Raises:
            NotJoinedError: It has other dimensions.
        """
        if not isinstance(piece, Tensor) or piece.dim() != self._all.dim():
            raise NotJoinedError
        end = self._end + len(piece)
        self._added += 1
        self._make_room(end, piece.shape[1:])
        into = self._all[self._end : end]
        if piece.shape != into.shape:
            into.zero_()
        into[_corner(piece)] = piece.to(self._all.dtype)
        self._end = end
        return [i for i in range(1, piece.dim()) if piece.shape[i] != self._first[i]]

    def _make_room(self, end: int, shape: torch.Size) -> None:
        """Enlarge the tensor for an image of another shape, or if images have more rows."""
        before = self.used()
        largest = [max(sizes) for sizes in zip(before.shape[1:], shape, strict=True)]
        rows = len(self._all)
        if end > rows:
            rows = max(end, end * self._images // self._added)
        if [rows, *largest] != list(self._all.shape):
            self._all = before.new_empty((rows, *largest))
            if largest != list(before.shape[1:]):
                self.used().zero_()
            self._all[_corner(before)] = before

    def used(self) -> Tensor:
        """Return the tensor of all images so far."""
        return self._all[: self._end]


def _corner(tensor: Tensor) -> tuple[slice, ...]:
    """Return where a tensor is in one that is padded at the end of each dimension."""
    return tuple(slice(size) for size in tensor.shape)


def _size(entry: Any) -> tuple[Any, ...]:
    """Return the size of an entry of a list, and of its own entries."""
    if isinstance(entry, list | tuple):
        return len(entry), *map(_size, entry)
    return tuple(getattr(entry, "shape", ()))


def _same(one: Any, other: Any) -> bool:
    """Return whether two outputs have the same types and values."""
    if type(one) is not type(other) and not (
        isinstance(one, Mapping) and isinstance(other, Mapping)
    ):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
