"""Each distinct image of a batch through the vision encoder once, where prompts share nothing else.

Decoders with cross-attention keep the encodings of images (``image_cache``), and causal ones share
the beginnings of prompts (``shared_prefix``). In the others, the states of image tokens depend on
the complete prompt, or on how long it is: image tokens that attend to the question, prompts beyond
a sliding window, linear attention. Their encoder sees no text either. So its ``forward`` is
replaced for the pass: it computes the distinct images of its input, and its output is repeated.

Images are the same if all their numbers are: those of the batch on the CPU, where the encoder is
given the same tensors, so that nothing waits for a GPU. The first result of a kind for each model
is compared with that of all images: of images of one size or of several, and by what its arguments
and outputs have an entry for. An encoder whose output cannot be repeated, or is another one, is
used as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vlmscope.engine.batch import Batch
from vlmscope.model import VisionLanguageModel
from vlmscope.model.computing import replacing_forwards
from vlmscope.model.host_positions import HostCopies

_SAMPLED = 256
"""Numbers of an image that are looked at to find others that may be the same."""

_PATCHES = 8
"""Patches of an image in a packed batch that are looked at."""

_AT_ONCE = 32
"""Images compared at once."""

_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest relative difference from the output for all images; in half precision 3e-2."""

PROJECTOR = "projector"
"""Name of the projector among the shapes; some encoders contain it."""

Shapes = MutableMapping[str, tuple[int, ...]]
"""Module → shape of its output."""

_Kind = tuple[Any, ...]
"""What a result has in common with others that are right if it is."""

_proven: WeakKeyDictionary[nn.Module, set[_Kind]] = WeakKeyDictionary()
_refused: WeakSet[nn.Module] = WeakSet()


@contextmanager
def encoding_each_once(
    vlm: VisionLanguageModel, batch: Batch, shapes: Shapes, known: HostCopies
) -> Iterator[None]:
    """Let the vision encoder compute each distinct image of a batch once, within the context.

    Args:
        vlm: The model.
        batch: The batch.
        shapes: Shapes of outputs, where that of a projector in the encoder is to be of all images.
        known: Tensors whose numbers the CPU has: it compares those, without waiting for a GPU.
    """
    if batch.prefix is not None or vlm.family.cross_attention or not _repeats_images(batch):
        yield
        return
    tower = vlm.vision_tower  # found by a walk through the model
    if tower is not vlm.vision_encoder or tower in _refused:  # what is recorded is the encoder's
        yield
        return
    with replacing_forwards([(tower, partial(_forward, tower, shapes, known))]):
        yield


def _repeats_images(batch: Batch) -> bool:
    """Return whether an image occurs in several rows, or several times in one."""
    names = [name for row in batch.shown_hashes if row for name in row.split("+")]
    return len(set(names)) < len(names)


class _NotRepeatableError(Exception):
    """An output is none of the known kinds."""


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The distinct images of an encoder's input."""

    lengths: tuple[int, ...]
    """Entries of each image in the input: 1, or its patches in a packed batch."""
    first: tuple[int, ...]
    """Indices of the distinct images."""
    entries: tuple[int, ...]
    """Index of each image in ``first``."""
    counts: tuple[int, ...]
    """Numbers that the entries of the images in an output are in proportion to."""
    kind: list[Any] = field(default_factory=list)
    """What each argument, and each tensor of the output, has an entry for."""

    def choose(self, tensor: Any) -> Any:
        """Return an argument for the distinct images only, if it has entries for each image."""
        if not isinstance(tensor, Tensor) or not tensor.dim():
            self.kind.append("one")
            return tensor
        if len(tensor) == sum(self.lengths):
            self.kind.append("patch")
            parts = _split(tensor, self.lengths)
            return torch.cat([parts[image] for image in self.first])
        if len(tensor) == len(self.lengths):
            self.kind.append("image")
            return torch.cat([tensor[image : image + 1] for image in self.first])  # without a wait
        self.kind.append("other")
        return tensor

    def kind_of_result(self) -> _Kind:
        """Return the kind, once the output is repeated."""
        return len(set(self.counts)) > 1, len(self.first) > 1, *self.kind

    def repeat(self, output: Any) -> Any:
        """Return an output for all images.

        Raises:
            _NotRepeatableError: It is unknown what of it belongs to which image.
        """
        if isinstance(output, Tensor):
            return self._repeat_tensor(output)
        if isinstance(output, Mapping):
            return type(output)(**{name: self.repeat(each) for name, each in output.items()})
        if isinstance(output, tuple | list):
            return type(output)(self.repeat(each) for each in output)
        if output is None or isinstance(output, bool | int | float | str):
            return output
        raise _NotRepeatableError

    def _repeat_tensor(self, output: Tensor) -> Tensor:
        counts = [self.counts[image] for image in self.first]
        total = len(output) if output.dim() else 0
        merged = sum(counts) // total if total else 0
        if not merged or sum(counts) != merged * total or any(n % merged for n in counts):
            raise _NotRepeatableError
        self.kind.append(merged)
        parts = _split(output, [count // merged for count in counts])
        return torch.cat([parts[entry] for entry in self.entries])


def _forward(tower: nn.Module, shapes: Shapes, known: HostCopies, *args: Any, **kwargs: Any) -> Any:
    """Compute the distinct images, and repeat the output."""
    plain = partial(type(tower).forward, tower)
    on_host = known.if_known
    distinct = None
    if tower not in _refused:
        named = {name: on_host(each) for name, each in kwargs.items()}
        distinct = _distinct_in([on_host(each) for each in args], named)
    if distinct is None:
        return plain(*args, **kwargs)
    noted = shapes.get(PROJECTOR)
    fewer = [_chosen(distinct, known, each) for each in args]
    named = {name: _chosen(distinct, known, each) for name, each in kwargs.items()}
    try:
        found = distinct.repeat(plain(*fewer, **named))
        kind = distinct.kind_of_result()
        if noted is None and (shape := shapes.pop(PROJECTOR, None)):
            shapes[PROJECTOR] = tuple(distinct.repeat(torch.empty(shape, device="meta")).shape)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        _refused.add(tower)
        if noted is None:
            shapes.pop(PROJECTOR, None)
        return plain(*args, **kwargs)  # raises if it is not due to fewer images
    if kind in _proven.get(tower, ()):
        return found
    whole = plain(*args, **kwargs)
    if not _agree(found, whole):
        _refused.add(tower)
        return whole
    _proven.setdefault(tower, set()).add(kind)
    return found


def _chosen(distinct: _Distinct, known: HostCopies, argument: Any) -> Any:
    """Return an argument for the distinct images only; if the CPU has it, also what is chosen."""
    chosen = distinct.choose(argument)
    own = known.if_known(argument)
    if own is not argument and not own.is_floating_point():  # not pixels, which nothing reads
        known.add(chosen, replace(distinct, kind=[]).choose(own))
    return chosen


def _distinct_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Distinct | None:
    """Return the distinct images of an encoder's arguments, if any image is repeated."""
    named = [kwargs.get(name) for name in ("pixel_values", "hidden_states")]
    pixels = next((each for each in (*args[:1], *named) if isinstance(each, Tensor)), None)
    if pixels is None or pixels.dim() < 2 or not len(pixels):
        return None
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
    others = [each for each in tensors if each.dim() and each is not pixels]
    lengths = _patches_of(pixels, others)
    counts = lengths
    if isinstance(positions := kwargs.get("pixel_position_ids"), Tensor):
        counts = (positions != -1).all(dim=-1).sum(dim=-1).tolist()  # the others are padding
    if any(_is_of_images(each, len(lengths)) for each in (*args, *kwargs.values())):
        return None
    return _grouped(pixels, others, lengths, counts)


def _is_of_images(argument: Any, count: int) -> bool:
    """Return whether an argument that is no tensor may have an entry for each image."""
    if isinstance(argument, Mapping):
        argument = tuple(argument.values())
    if not isinstance(argument, tuple | list):
        return False
    return len(argument) == count or any(isinstance(each, Tensor) for each in argument)


def _patches_of(pixels: Tensor, others: Sequence[Tensor]) -> list[int]:
    """Return the entries of each image: its patches if there are their grids, else one."""
    for grid in others:
        is_grid = grid.dim() == 2 and grid.shape[1] in {2, 3} and not grid.is_floating_point()
        if is_grid and int(grid.prod(dim=1).sum()) == len(pixels):
            return [int(patches) for patches in grid.prod(dim=1)]
    return [1] * len(pixels)


def _grouped(
    pixels: Tensor, others: Sequence[Tensor], lengths: Sequence[int], counts: Sequence[int]
) -> _Distinct | None:
    """Group images whose numbers, and entries in the other arguments, are all equal."""
    count = len(lengths)
    own: list[tuple[Tensor, Sequence[int]]]
    own = [(each, [1] * count) for each in others if len(each) == count]
    own += [(each, lengths) for each in others if len(each) == len(pixels) != count]
    keys = _sampled(pixels, lengths)
    pending = list(range(count))
    same: dict[int, int] = {}
    while pending:
        candidates: dict[tuple[int, bytes], int] = {}
        first_of = {image: candidates.setdefault(keys[image], image) for image in pending}
        pairs = [(image, first) for image, first in first_of.items() if image != first]
        if not pairs:
            break
        equal = _are_equal(pixels, lengths, pairs)
        for each, entries_of in own:
            equal &= _are_equal(each, entries_of, pairs)
        same |= dict(pair for pair, agrees in zip(pairs, equal, strict=True) if agrees)
        pending = [image for image, _ in pairs if image not in same]
    if not same:
        return None
    first = tuple(image for image in range(count) if image not in same)
    index = {image: position for position, image in enumerate(first)}
    entries = tuple(index[same.get(image, image)] for image in range(count))
    return _Distinct(tuple(lengths), first, entries, tuple(counts))


def _sampled(pixels: Tensor, lengths: Sequence[int]) -> list[tuple[int, bytes]]:
    """Return a few numbers of each image, and its length: equal for equal images."""
    if max(lengths) == 1:
        flat = pixels.flatten(1)
        chosen = flat[:, :: max(1, flat.shape[1] // _SAMPLED)]
    else:
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        steps = torch.arange(_PATCHES) * torch.tensor(lengths)[:, None] // _PATCHES
        chosen = pixels[(starts[:, None] + steps).to(pixels.device)].flatten(1)
    numbers = chosen.float().cpu().numpy()
    return [(length, row.tobytes()) for length, row in zip(lengths, numbers, strict=True)]


def _are_equal(
    tensor: Tensor, lengths: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " pairs"]:
    """Return for each pair of images of equal length whether all their numbers are equal."""
    found: list[Tensor] = []
    if tensor.device.type == "cpu":  # without copies
        parts = _split(tensor, lengths)
        return np.array([torch.equal(parts[one], parts[other]) for one, other in pairs])
    if max(lengths) > 1:
        parts = _split(tensor, lengths)
        found = [torch.stack([(parts[one] == parts[other]).all() for one, other in pairs])]
    else:
        flat = tensor.reshape(len(tensor), -1)
        for start in range(0, len(pairs), _AT_ONCE):
            ones, others = map(list, zip(*pairs[start : start + _AT_ONCE], strict=True))
            found.append((flat[ones] == flat[others]).all(dim=1))
    return torch.cat(found).cpu().numpy()


def _split(tensor: Tensor, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    return torch.split(tensor, list(lengths))


def _agree(found: Any, whole: Any) -> bool:
    """Return whether two outputs are the same up to rounding."""
    if isinstance(whole, Tensor):
        if found.shape != whole.shape:
            return False
        if not whole.is_floating_point():
            return torch.equal(found, whole)
        error = (found - whole).float().norm() / whole.float().norm()
        return bool(error <= _TOLERANCES.get(whole.dtype, 3e-2))
    if isinstance(whole, Mapping):
        return all(_agree(found[name], each) for name, each in whole.items())
    if isinstance(whole, tuple | list):
        return all(map(_agree, found, whole))
    return True
