"""Running a model: in one thread at a time, and always with the same settings.

**Changes during a pass are always undone.** A pass puts hooks on modules, replaces attentions and
sets global options of torch; each change is undone at the end of a ``with`` block. Python may be
interrupted in that block's exit, by Ctrl-C, or the process may be forked by another thread. So the
undo function is registered before the change is made, and the next pass first runs those that are
still registered. The list is guarded by the model lock.

**float32 without TensorFloat-32.** On NVIDIA GPUs torch by default rounds float32 in convolutions
to 10 bits of mantissa, and every vision encoder begins with a convolution: its vectors then differ
by up to 1e-4 from batch to batch. Users who choose float32 want its precision. The option is
process-wide, so it is set for one call and reset; ``computing`` does that, in one thread at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vlmscope.errors import InputError
from vlmscope.locking import model_lock
from vlmscope.shown_once import showing_once

HALF = (torch.bfloat16, torch.float16)
"""Types of half precision."""

HOPPER = (9, 0)
"""Compute capability of NVIDIA's Hopper, the oldest GPUs for which the fastest kernels are made."""

_undoings: list[Callable[[], None]] = []


@contextmanager
def undone_at_exit(undo: Callable[[], None]) -> Iterator[None]:
    """Undo a change at the end of the block that makes it, or else before the next pass.

    For blocks inside ``computing``, or while a model is loaded.

    Args:
        undo: Undoes the change. It may be called before the change is made, and more than once.
    """
    _undoings.append(undo)
    try:
        yield
    finally:
        if undo in _undoings:  # otherwise the next pass has called it already
            undo()
            _undoings.remove(undo)


def undo_interrupted() -> None:
    """Undo the changes of an interrupted pass; only for the thread that has the lock."""
    while _undoings:
        _undoings[-1]()
        _undoings.pop()


@contextmanager
def removing_hooks() -> Iterator[list[Any]]:
    """Remove the hooks whose handles were appended to the list, at the end of the block."""
    handles: list[Any] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()

    with undone_at_exit(remove):
        yield handles


@contextmanager
def replacing_forwards(
    replacements: Iterable[tuple[nn.Module, Callable[..., Any]]],
) -> Iterator[None]:
    """Replace the ``forward`` of modules within the context.

    A module whose ``forward`` was replaced already, as by accelerate or a user, keeps that one.

    Args:
        replacements: The modules, and for each one the function to call instead.
    """
    replaced: list[nn.Module] = []

    def restore() -> None:
        for module in replaced:
            vars(module).pop("forward", None)

    with undone_at_exit(restore):
        for module, forward in replacements:
            if "forward" not in vars(module):
                replaced.append(module)
                vars(module)["forward"] = forward
        yield


@contextmanager
def replacing_method(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object within the context.

    Args:
        owner: The object.
        name: The method.
        function: The function to call instead, without ``self``.
    """
    own = vars(owner)
    before = own.get(name)

    def restore() -> None:
        own.pop(name, None)
        if before is not None:
            own[name] = before

    with undone_at_exit(restore):
        own[name] = function
        yield


@contextmanager
def replacing_globals(
    replacements: Sequence[tuple[dict[str, Any], str, Callable[..., Any]]],
) -> Iterator[None]:
    """Replace functions of modules within the context.

    Args:
        replacements: The namespace of a module, the name of a function in it, and the function to
            call instead.
    """
    before = [(space, name, space[name]) for space, name, _ in replacements]

    def restore() -> None:
        for space, name, function in before:
            space[name] = function

    with undone_at_exit(restore):
        for space, name, function in replacements:
            space[name] = function
        yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 in full precision within the context."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32

    def restore() -> None:
        convolutions.allow_tf32, products.allow_tf32 = before

    with undone_at_exit(restore):
        convolutions.allow_tf32 = products.allow_tf32 = False
        yield


_thread: int | None = None
"""The thread that is running a model; guarded by the lock."""


@contextmanager
def computing() -> Iterator[None]:
    """Context for running a model: exclusively, without gradients, in full float32 precision.

    Raises:
        InputError: This thread is running a model already: the call comes from a hook on it, or
            from a signal handler.
    """
    global _thread
    with model_lock():
        start_clean()
        try:
            _thread = threading.get_ident()
            with torch.inference_mode(), full_float32(), showing_once():
                yield
        finally:
            _thread = None


def start_clean() -> None:
    """Undo changes left by an interrupted pass; for a thread that has just acquired the lock.

    Raises:
        InputError: This thread is running a model already: that pass is not interrupted.
    """
    if _thread == threading.get_ident():
        raise InputError(
            "a model was called while it runs in the same thread, by a hook or a signal "
            "handler; call vlmscope when the model has returned"
        )
    undo_interrupted()


def check_thread() -> None:
    """Raise an error if a model is called by another thread than the one that computes.

    It would use hooks and attentions that are not made for it, and both results would be wrong.

    Raises:
        InputError: It is another thread, which does not hold the lock.
    """
    if _thread is not None and _thread != threading.get_ident():
        raise InputError(
            "a model was called while vlmscope runs it in another thread; hold "
            "vlmscope.model.model_lock() around calls of vlm.model"
        )


def _after_fork() -> None:
    """Reset, in a forked child, a thread that does not exist there."""
    global _thread
    if _thread != threading.get_ident():
        _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
