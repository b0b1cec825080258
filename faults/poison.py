"""Faults inside a model: a real hook on a real model that acts on one row, or on a moment.

The row is known by a skull in its question, so whatever batch it comes in, the batch is hit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from vlmscope.engine import batch

SKULL = "☠"
"""In the question of the row that is to be hit."""

FOREVER = 3600.0


def _raise(_model: Any) -> None:
    raise ValueError("a row that this model does not like")


def _run_out(_model: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 11.70 GiB")


def _allocate(_model: Any) -> None:
    torch.empty(2**62 // 1024, dtype=torch.float32)  # the host's allocator refuses, in its words


def _hang(_model: Any) -> None:
    end = time.monotonic() + FOREVER
    while time.monotonic() < end:
        time.sleep(0.01)


def _hang_in_c(_model: Any) -> None:
    ctypes.CDLL(None).sleep(int(FOREVER))


def _hang_with_the_lock(_model: Any) -> None:
    ctypes.PyDLL(None).sleep(int(FOREVER))


def _die(_model: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out


HARMS: dict[str, Callable[[Any], None]] = {
    "raise": _raise,
    "gpu-memory": _run_out,
    "host-memory": _allocate,
    "hang": _hang,
    "hang-in-c": _hang_in_c,
    "hang-with-the-lock": _hang_with_the_lock,
    "kill-in-model": _die,
}
"""What can befall the poisoned row before the model sees it."""


def poison(vlm: Any, harm: str) -> Any:
    """Let ``harm`` befall every batch with the poisoned row in it; return a handle to end it.

    Args:
        vlm: A loaded model.
        harm: A name of ``HARMS``; or ``nan``: its hidden states become NaN; or ``kill-in-prepare``:
            the process dies when the row's images are loaded.
    """
    if harm == "kill-in-prepare":
        return _die_when_prepared()
    skull = vlm.processor.tokenizer(SKULL, add_special_tokens=False)["input_ids"]

    def before(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is not None and _rows_with(ids, skull).any():
            HARMS[harm](model)

    def after(_layer: Any, args: Any, output: Any) -> Any:
        rows = _rows_with(args[0], skull)
        return torch.where(rows[:, None, None], torch.nan, output) if rows.any() else output

    if harm == "nan":
        return vlm.model.get_input_embeddings().register_forward_hook(after)
    return vlm.model.register_forward_pre_hook(before, with_kwargs=True)


def _die_when_prepared() -> Any:
    """Let the process die when the poisoned row is prepared."""
    original = batch.render

    def render(processor: Any, question: str, *rest: Any, **options: Any) -> Any:
        if SKULL in question:
            _die(None)
        return original(processor, question, *rest, **options)

    batch.render = render
    return None


def _rows_with(ids: torch.Tensor, wanted: list[int]) -> torch.Tensor:
    """Return which rows ``[batch]`` of ``ids [batch, tokens]`` hold some tokens in a row."""
    if ids.shape[1] <= len(wanted):  # a decoding step: the question was before
        return torch.zeros(len(ids), dtype=torch.bool)
    windows = ids.unfold(1, len(wanted), 1)
    return (windows == torch.tensor(wanted)).all(dim=2).any(dim=1)
