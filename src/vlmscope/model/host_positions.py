"""Position ids of prompts with images, computed by the CPU.

Qwen-VL, GLM-V and others number image tokens by rows and columns, in a loop over the questions of a
batch, ten small operations and several values read back for each. On a GPU that was 18 ms for a
batch of 32, in which it computed nothing else; the CPU needs a fraction. The ids are integers, so
they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from vlmscope.model.computing import undone_at_exit

NAME = "get_rope_index"
"""The method of the library's models that numbers the tokens."""


@contextmanager
def numbering_on_host(model: nn.Module) -> Iterator[None]:
    """Compute the position ids of prompts by the CPU within the context, if a model has its own.

    Args:
        model: The model, which ``generate`` is called on.
    """
    inner: Any = getattr(model, "model", model)
    own: Callable[..., Any] | None = getattr(inner, NAME, None)
    if own is None:
        yield
        return
    before = vars(inner).get(NAME)

    def restore() -> None:
        vars(inner).pop(NAME, None)
        if before is not None:
            vars(inner)[NAME] = before

    with undone_at_exit(restore):
        vars(inner)[NAME] = partial(_on_host, own)
        yield


def _on_host(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with its tensors on the CPU; return its results where they were."""
    devices = {each.device for each in (*args, *kwargs.values()) if isinstance(each, Tensor)}
    if len(devices) != 1:
        return function(*args, **kwargs)
    [device] = devices
    moved = {name: _moved(each, "cpu") for name, each in kwargs.items()}
    found = function(*(_moved(each, "cpu") for each in args), **moved)
    return tuple(_moved(each, device) for each in found)


def _moved(value: Any, device: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
