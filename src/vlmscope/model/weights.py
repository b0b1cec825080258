"""Folders of files only; weights only from safetensors, unless pickles are asked for.

A pickle may run code when it is read. ``transformers`` reads one by itself, with PyTorch's
restricted reader, where safetensors are missing; where the index of the safetensors or the
configuration names one; and where an adapter lies beside the checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from vlmscope.errors import ModelError
from vlmscope.regular import check_folder

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weight files that are pickles."""

_LOADING = threading.Lock()
"""One model at a time: PyTorch's reader belongs to the whole process."""


def check_files(folder: Path) -> None:
    """Refuse a folder that the libraries would wait for, read for ever, or could not open.

    Raises:
        ModelError: It holds a pipe, a socket, a device or a huge JSON file, or its path is not
            UTF-8.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{folder}: the path is not UTF-8, and safetensors opens no other; rename the folder"
        ) from error
    try:
        check_folder(folder)
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; get the folder again") from error


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

    with _LOADING:
        before = torch.load
        torch.load = refuse  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.load = before
