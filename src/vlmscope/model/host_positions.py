"""Position ids of prompts, and positions and windows of patches, computed by the CPU.

Qwen-VL, GLM-V and others number image tokens by rows and columns, and divide patches into windows,
in loops over the images of a batch: many small operations, and values that are read back for each.
On a GPU that was 26 ms for a batch of 32, in which it computed nothing else, and each value that is
read back waits for the batch before. The CPU needs a fraction and has the arguments already. The
results are integers, and so the same, or in Qwen3-VL also weights of an interpolation, in float32.

The library's functions are replaced while a batch is run: a method of the model, and the functions
of ``transformers.vision_utils`` in the module of the vision encoder. Where they are not there,
nothing is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from vlmscope.model.computing import replacing_globals, replacing_method
from vlmscope.model.device_copies import to_device

NAME = "get_rope_index"
"""The method of the library's models that numbers the tokens."""

VISION_UTILS = "transformers.vision_utils"
"""The library's module whose functions compute positions and windows of patches."""

MAXIMUM = "get_max_seqlen"
"""The library's function for the longest window."""


class HostCopies:
    """Tensors of a device whose numbers the CPU has too.

    Args:
        copied: Names and tensors on the device.
        own: The same names, and the same tensors on the CPU.
    """

    def __init__(
        self, copied: Mapping[str, Tensor] | None = None, own: Mapping[str, Tensor] | None = None
    ) -> None:
        self._known: dict[int, tuple[Tensor, Tensor]] = {}
        for name, tensor in (copied or {}).items():
            self.add(tensor, (own or {})[name])

    def add(self, copied: Tensor, own: Tensor) -> None:
        """Note that a tensor on the device has the numbers of one on the CPU."""
        self._known[id(copied)] = copied, own  # kept: an id is used again after a tensor is freed

    def of(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the CPU; one that is not known is copied, which waits for it."""
        known = self._known.get(id(tensor))
        return tensor.cpu() if known is None else known[1]

    def if_known(self, value: Any) -> Any:
        """Return a tensor on the CPU if it is known, and any other value unchanged."""
        known = self._known.get(id(value))
        return value if known is None else known[1]

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a tensor on the device, copied without waiting, and note both."""
        copied = to_device(tensor, device)
        self.add(copied, tensor)
        return copied


@contextmanager
def numbering_on_host(
    model: nn.Module, tower: nn.Module | None, known: HostCopies
) -> Iterator[None]:
    """Compute positions and windows by the CPU within the context, if a model has its own.

    Args:
        model: The model, which ``generate`` is called on.
        tower: Its vision encoder.
        known: Tensors whose numbers the CPU has.
    """
    with ExitStack() as stack:
        inner: Any = getattr(model, "model", model)
        if (own := getattr(inner, NAME, None)) is not None:
            stack.enter_context(replacing_method(inner, NAME, partial(_on_host, known, own)))
        stack.enter_context(replacing_globals(list(_of_encoder(tower, known))))
        yield


def _of_encoder(
    tower: nn.Module | None, known: HostCopies
) -> Iterator[tuple[dict[str, Any], str, Callable[..., Any]]]:
    """Yield what to replace in the module of a vision encoder, for ``replacing_globals``."""
    module = None if tower is None else inspect.getmodule(type(tower))
    space = {} if module is None else vars(module)
    for name, function in list(space.items()):
        if inspect.isfunction(function) and (
            function.__module__ == VISION_UTILS or name == MAXIMUM
        ):
            yield space, name, wraps(function)(partial(_on_host, known, function))


def _on_host(known: HostCopies, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with its tensors on the CPU; return its results where they were."""
    devices = {each.device for each in (*args, *kwargs.values()) if isinstance(each, Tensor)}
    if len(devices) != 1:
        return function(*args, **kwargs)
    [device] = devices
    if device.type == "cpu":
        return function(*args, **kwargs)
    named = {name: _taken(each, known) for name, each in kwargs.items()}
    found = function(*(_taken(each, known) for each in args), **named)
    return _returned(found, known, device)


def _taken(value: Any, known: HostCopies) -> Any:
    return known.of(value) if isinstance(value, Tensor) else value


def _returned(value: Any, known: HostCopies, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_returned(each, known, device) for each in value)
    return known.moved(value, device) if isinstance(value, Tensor) else value
