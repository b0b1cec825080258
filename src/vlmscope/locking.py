"""The locks of this process: what its threads must not do at the same time.

A model is not thread-safe. A capture registers hooks on its modules and replaces its attention
while it runs, and float32 precision, the default dtype, the registry of attentions and
``torch.load`` are process-wide: two *different* models share them. So there is one lock for all
models.

    lock             guards                                               is held during
    model_lock       modules, configurations, settings of torch           one batch or one loading
    image_lock       a PIL image that is decoded when it is first used    one decoding
    tokenizer_lock   padding and truncation: a tokenizer's state, not     one call of a tokenizer
                     an argument of the call
    warnings_lock    Python's warning filters                             one library call

A thread that needs several acquires them in this order. While holding a lock, a thread neither
yields to a consumer nor waits for another thread; but the thread of a model waits for those that
prepare its rows for ``p_true`` (``engine/p_true``), which never take its lock. All are reentrant:
a finalizer may run in a thread that holds one.

A forked child has only the thread that called ``fork``, so locks that other threads held are free
in it. Changes by an interrupted pass are undone before the next pass (``model/computing.py``). A
tokenizer that was in use by another thread raises an error: its own internal lock stays locked.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

from vlmscope.errors import InputError


class ProcessLock:
    """A reentrant lock that is free in a forked child if a thread that is missing there held it.

    Args:
        what: What it guards, if that cannot be used after a fork in the middle of its use.
    """

    def __init__(self, what: str = "") -> None:
        self._what = what
        self._lock = threading.RLock()
        self._interrupted = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def held(self) -> AbstractContextManager[bool]:
        """Return a context manager that holds the lock.

        It is the standard library's lock itself, so that no signal can come between acquiring it
        and the block that releases it.

        Raises:
            InputError: This process was forked while another thread held the lock.
        """
        if self._interrupted and self._what:
            raise InputError(
                f"this process was forked while another thread used {self._what}; fork before, or "
                'start processes with multiprocessing.get_context("spawn")'
            )
        return self._lock

    def _renew(self) -> None:
        """Replace the lock in a forked child if a thread that is missing there held it."""
        if self._lock.acquire(blocking=False):  # free, or held by the thread that forked
            self._lock.release()
        else:
            self._lock = threading.RLock()
            self._interrupted = True


_MODEL = ProcessLock()
_TOKENIZER = ProcessLock("a tokenizer")
_WARNINGS = ProcessLock()
_IMAGES = tuple(ProcessLock() for _ in range(31))  # prime, as addresses are multiples of the size


def model_lock() -> AbstractContextManager[bool]:
    """Return the lock of all models, for a ``with`` statement.

    vlmscope holds it whenever it runs or loads a model. If you call ``vlm.model`` directly while
    other threads use vlmscope, hold it too:

        with model_lock():
            vlm.model.generate(**inputs)
    """
    return _MODEL.held()


def tokenizer_lock() -> AbstractContextManager[bool]:
    """Return the lock of all tokenizers, for a ``with`` statement around one call.

    Raises:
        InputError: This process was forked while another thread used a tokenizer.
    """
    return _TOKENIZER.held()


def warnings_lock() -> AbstractContextManager[bool]:
    """Return the lock of Python's warning filters, for ``warnings.catch_warnings``."""
    return _WARNINGS.held()


def image_lock(image: object) -> AbstractContextManager[bool]:
    """Return the lock of one image in memory; others may share it."""
    return _IMAGES[id(image) // 16 % len(_IMAGES)].held()
