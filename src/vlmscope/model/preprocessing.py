"""``Preprocessing``: what preparing the inputs of a model needs to know of it, without its weights.

Preparation may run in other processes, so this is plain data that can be sent to them. A processor
is sent as its attributes and the names of its classes, which the other process imports. So only
classes of installed libraries are sent, never code that a checkpoint or a script defines: it might
be other code by the time it is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from vlmscope.errors import InputError
from vlmscope.model.families import Family
from vlmscope.model.lengths import LengthBands
from vlmscope.model.loading.processors import MADE_BY

_LIBRARIES = frozenset(
    {"PIL", "huggingface_hub", "mistral_common", "numpy", "sentencepiece", "tokenizers", "torch"}
    | {"transformers", "vlmscope"}
) | (sys.stdlib_module_names - {"__main__"})
"""Packages whose classes and functions another process imports as the same ones."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What the preparation of inputs needs to know of a model, as plain data."""

    processor: Any
    """The processor of the checkpoint."""
    family: Family
    """The description of its architecture."""
    lengths: LengthBands
    """Which rows may be in the same batch, by their lengths."""
    max_prompt_tokens: int
    """Longest prompt."""
    image_token_id: int
    """Id of the image token in the expanded prompt."""
    dtype: torch.dtype
    """Type of floating inputs."""
    one_at_a_time: str
    """Why questions are run one at a time; empty if they may be batched."""
    pin_memory: bool
    """Whether inputs are put into pinned memory, for a GPU."""
    shares_prefix: bool = False
    """Whether questions about one image may share the beginning of their prompts."""
    image_by_image: bool = False
    """Whether the images of a batch are prepared one at a time: less memory, and more steps of
    Python, which take the interpreter's lock from a model in the same process."""
    longest_shared: int | None = None
    """Longest prompt that may, with padding: where layers have a sliding window. None: any."""

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` in the dtypes of ``dtype_of``."""
        return {name: tensor.to(self.dtype_of(name, tensor)) for name, tensor in inputs.items()}

    def dtype_of(self, name: str, tensor: Tensor) -> torch.dtype:
        """Return the dtype in which the model is given an input.

        It is the model's dtype for floating tensors, bool for the family's ``pixel_masks``, which
        are an eighth of the size then, and the tensor's own for others.
        """
        if tensor.is_floating_point():
            return self.dtype
        return torch.bool if name in self.family.pixel_masks else tensor.dtype


def cast_inputs(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return ``inputs`` with floating tensors in a type, as a model's first layer casts them."""
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }


class _LibraryPickler(ForkingPickler):
    """Pickles objects whose classes and functions are those of installed libraries."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.modules: dict[str, None] = {}
        """Modules that define what is pickled by its name."""

    def reducer_override(self, obj: Any) -> Any:
        """Refuse a class or function that another process may not import as the same one."""
        if isinstance(obj, type) and MADE_BY in vars(obj):
            return vars(obj)[MADE_BY]
        if isinstance(obj, type) or (callable(obj) and hasattr(obj, "__qualname__")):
            module = (hasattr(obj, "__module__") and obj.__module__) or "builtins"
            if module.partition(".")[0] not in _LIBRARIES:
                raise InputError(f"{module}.{obj.__qualname__} is not of an installed library")
            self.modules[module] = None
        return NotImplemented


def packed(item: Any) -> tuple[list[str], memoryview]:
    """Return an object as bytes for another process, and the modules that it has to import.

    Raises:
        InputError: The class of a part is not of an installed library.
        Exception: A part cannot be pickled.
    """
    stream = BytesIO()
    pickler = _LibraryPickler(stream, None)
    pickler.dump(item)
    return list(pickler.modules), stream.getbuffer()
