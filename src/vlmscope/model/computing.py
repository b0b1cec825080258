"""How a model is run, wherever that is: by one thread at a time, and with the same settings.

What a pass changes for its own time, undone whatever happens. A pass puts hooks on modules,
replaces attentions and sets switches of torch; each change is undone at the end of a ``with``
block. Python may be interrupted right there, by Ctrl-C, or a process be forked by another thread.
So the undoing is written down before the change is made, and the next pass begins with what is
still on the list. It is guarded by the lock of the models.

float32 that is float32: no TensorFloat-32 while a model computes in it. On NVIDIA GPUs torch lets
convolutions round float32 to 10 bits of mantissa by default, and every vision encoder begins with a
convolution: its vectors then differ by up to 1e-4 from batch to batch. Who asks for float32 wants
the digits. The switch belongs to the whole process, so it is set for the time of one call and put
back; ``computing`` does that, for one thread at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vlmscope.errors import InputError
from vlmscope.locking import model_lock
from vlmscope.said_once import saying_once

_undoings: list[Callable[[], None]] = []


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """Undo a change at the end of the block that makes it, or else before the next pass.

    For blocks in ``computing``, or where a model is loaded.

    Args:
        undo: Undoes it. It may be called before the change is made, and again.
    """
    _undoings.append(undo)
    try:
        yield
    finally:
        if undo in _undoings:  # else the next pass has done it, and is on its way
            undo()
            _undoings.remove(undo)


def undo_interrupted() -> None:
    """Undo the changes of a pass that was interrupted; for the thread that has the lock."""
    while _undoings:
        _undoings[-1]()
        _undoings.pop()


@contextmanager
def removing_hooks() -> Iterator[list[Any]]:
    """Remove at the end of the block the hooks whose handles were appended to the list."""
    handles: list[Any] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()

    with undoing(remove):
        yield handles


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 convolutions and products in float32 while the ``with`` block runs."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32

    def put_back() -> None:
        convolutions.allow_tf32, products.allow_tf32 = before

    with undoing(put_back):
        convolutions.allow_tf32 = products.allow_tf32 = False
        yield


_thread: int | None = None
"""The thread that computes; guarded by the lock."""


@contextmanager
def computing() -> Iterator[None]:
    """Run a model in the ``with`` block: alone, without gradients, in full float32 precision.

    Raises:
        InputError: This thread runs a model already: the call comes from a hook on it, or from a
            signal handler.
    """
    global _thread
    with model_lock():
        start_clean()
        try:
            _thread = threading.get_ident()
            with torch.inference_mode(), full_float32(), saying_once():
                yield
        finally:
            _thread = None


def start_clean() -> None:
    """Undo what an interrupted pass left changed; for the thread that has just taken the lock.

    Raises:
        InputError: This thread runs a model already: that pass is not interrupted.
    """
    if _thread == threading.get_ident():
        raise InputError(
            "a model was asked to run while it runs in this same thread, by a hook or a signal "
            "handler; call vlmscope when the model has returned"
        )
    undo_interrupted()


def check_thread() -> None:
    """Refuse a call of a model by another thread than the one that computes.

    It would meet hooks and attentions that are not made for it, and both results would be wrong.

    Raises:
        InputError: It is another thread, which does not hold the lock.
    """
    if _thread is not None and _thread != threading.get_ident():
        raise InputError(
            "a model was called while vlmscope runs it in another thread; hold "
            "vlmscope.model.model_lock() around calls of vlm.model"
        )


def _after_fork() -> None:
    """Forget, in a forked child, a thread that it does not have."""
    global _thread
    if _thread != threading.get_ident():
        _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
