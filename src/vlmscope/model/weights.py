"""Weights only from safetensors, unless pickles are asked for.

A pickle may run code when it is read. ``transformers`` reads one by itself, with PyTorch's
restricted reader, where safetensors are missing; where the index of the safetensors or the
configuration names one; and where an adapter lies beside the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from vlmscope.errors import ModelError
from vlmscope.model.changes import undoing

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weight files that are pickles."""


def check_weights(name: str) -> None:
    """Refuse a folder whose weights are pickles only.

    Raises:
        ModelError: They are.
    """
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    found = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
    if found:
        raise pickled_only(name, f"{found[0]} is a pickle")


def pickled_only(name: str, found: str) -> ModelError:
    """Return the error for a checkpoint whose weights are pickles."""
    return ModelError(
        f"{name}: {found}; a pickle may run code when it is read: take the checkpoint's version "
        "with safetensors, or pass --allow-pickle-weights if you trust who made it"
    )


@contextmanager
def without_pickles(name: str) -> Iterator[None]:
    """Refuse every pickle that PyTorch is asked to read meanwhile, in whatever way it was named.

    Args:
        name: The checkpoint, for the message.

    Raises:
        ModelError: A pickle was about to be read.
    """

    def refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
        raise pickled_only(name, f"{Path(str(file)).name} is a pickle")

    before = torch.load

    def put_back() -> None:
        torch.load = before

    with undoing(put_back):  # it is the whole process's, and ``load_model`` holds the lock
        torch.load = refuse  # type: ignore[assignment]
        yield
