"""Faults inside a model: a real hook on a real model that acts on one row, or on a moment.

The row is known by a skull in its question, so whatever batch it comes in, the batch is hit.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import torch

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
    libc = ctypes.CDLL(None)
    while True:  # sleep returns early when a signal comes; the loop of a kernel would not
        _sleep_masked(libc)


def _sleep_masked(libc: ctypes.CDLL) -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    libc.sleep(int(FOREVER))


def _hang_with_the_lock(_model: Any) -> None:
    ctypes.PyDLL(None).sleep(int(FOREVER))


HARMS: dict[str, Callable[[Any], None]] = {
    "raise": _raise,
    "gpu-memory": _run_out,
    "host-memory": _allocate,
    "hang": _hang,
    "hang-in-c": _hang_in_c,
    "hang-with-the-lock": _hang_with_the_lock,
}
"""What can befall the poisoned row before the model sees it."""


def poison(vlm: Any, harm: str) -> Any:
    """Let ``harm`` befall every batch with the poisoned row in it; return a handle to end it.

    Args:
        vlm: A loaded model.
        harm: A name of ``HARMS``, or ``nan``: its hidden states become NaN.
    """
    tokenizer = vlm.processor.tokenizer
    token = tokenizer(SKULL, add_special_tokens=False)["input_ids"][-1]

    def before(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if rows_of(args, kwargs, token) is not None:
            HARMS[harm](model)

    if harm != "nan":
        return vlm.model.register_forward_pre_hook(before, with_kwargs=True)
    return _make_nan(vlm.model, token)


def rows_of(args: Any, kwargs: dict[str, Any], token: int) -> Any:
    """Return which rows of a call hold the token, or None if none does."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    if ids is None or not (found := (ids == token).any(dim=1)).any():
        return None
    return found


def _make_nan(model: Any, token: int) -> Any:
    """Turn the embeddings of the poisoned row's tokens into NaN, and with them all that follows."""

    def after(_layer: Any, args: Any, output: Any) -> Any:
        hit = (args[0] == token).any(dim=-1)
        return torch.where(hit[..., None, None], torch.nan, output) if hit.any() else output

    return model.get_input_embeddings().register_forward_hook(after)
