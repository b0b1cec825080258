"""The weight files of a checkpoint: which of them are read, and which are refused.

``transformers`` looks for weights under fixed names, and an index names further files. Those names
are in files that may be of unknown origin, so they are checked before anything is loaded:

- A pickle may run code when it is read. ``transformers`` reads one by itself, with PyTorch's
  restricted reader, if there are no safetensors; if the index of the safetensors or the
  configuration names one; and if there is an adapter in the checkpoint's folder. It is refused
  unless pickles are allowed.
- A name in an index or a configuration must be inside the checkpoint: no absolute path, no ``..``.
  There is no option to allow it; link such a file into the folder instead.
- A symbolic link in the folder may point anywhere, as long as its target is a regular file. Links
  are created by the owner of the folder, not by the author of the checkpoint (a download creates
  only the hub's own, into its cache); shared stores of weights consist of links; and a checkpoint
  is identified by the bytes that are read, wherever they are.
- Only regular files are opened: reading a pipe would never end.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import torch

from vlmscope.errors import ModelError, one_line
from vlmscope.model.computing import undone_at_exit
from vlmscope.regular import PointerError, check_folder


def check_files(folder: Path) -> None:
    """Raise an error for a folder that the libraries would block on or could not open.

    Raises:
        ModelError: It contains a pipe, a socket, a device, a Git LFS pointer or a huge JSON file,
            or its path is not UTF-8.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{folder}: the path is not UTF-8, which safetensors cannot open; rename the folder"
        ) from error
    try:
        check_folder(folder)
    except PointerError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; get the folder again") from error


PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weight files that are pickles."""
SAFE = ("model.safetensors", "model.safetensors.index.json")
"""File names that ``from_pretrained`` looks for, in this order."""
UNSAFE = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""File names that it looks for after those."""
INDEX = ".index.json"
"""Suffix of an index file."""

_LFS = b"version https://git-lfs.github.com/spec/"
_LARGEST_INDEX = 1 << 28
_DISTRIBUTED = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
"""Files for which ``from_pretrained`` ignores all others."""


def find_weights(folder: Path, config: Any, *, pickles: bool) -> tuple[str, ...]:
    """Return the names of the files from which ``from_pretrained`` takes the weights.

    Args:
        folder: The checkpoint.
        config: Its configuration, loaded.
        pickles: Whether weights may be pickles.

    Returns:
        Paths relative to the folder, with ``/`` as separator, sorted. An index is not among them:
        it only locates the weights.

    Raises:
        ModelError: There are none, or a file is missing, not a weight file, outside the folder or a
            pickle.
    """
    first = _first_file(folder, config, pickles=pickles)
    names = {first}
    if first.endswith(INDEX):
        check_file(folder, first)
        names = {_checked_name(folder, name, first) for name in _read_index(folder / first)}
    names |= {n for n in getattr(type(config), "extra_files", ()) if os.path.lexists(folder / n)}
    for name in sorted(names):
        _check_suffix(folder, name, pickles=pickles)
        check_file(folder, name, first if name != first else "")
    return tuple(sorted(names))


def find_adapter_weights(folder: Path, *, pickles: bool) -> str:
    """Return the name of the weights of an adapter in a checkpoint's folder.

    Args:
        folder: The checkpoint.
        pickles: Whether weights may be pickles.

    Raises:
        ModelError: There are none, or none in a supported format.
    """
    names = ("adapter_model.safetensors", "adapter_model.bin")
    name = next((name for name in names if os.path.lexists(folder / name)), names[0])
    _check_suffix(folder, name, pickles=pickles)
    check_file(folder, name, "adapter_config.json" if name == names[0] else "")
    return name


def check_file(folder: Path, name: str, index: str = "") -> None:
    """Raise an error for an unusable file of weights or settings, without opening special files.

    Args:
        folder: The folder of the file.
        name: The file's path relative to the folder.
        index: The file that names it.

    Raises:
        ModelError: It is missing, empty, not a regular file, or a Git LFS pointer.
    """
    path = folder / name
    try:
        found = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise ModelError(f"{path}: is a symbolic link to a missing file") from error
        named = f", and {index} names it" if index else ""
        raise ModelError(f"{path}: not found{named}; get the complete checkpoint") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {one_line(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{path}: is not a regular file; get the checkpoint again")
    if not found.st_size:
        raise ModelError(f"{path}: is empty; get the checkpoint again")
    if found.st_size < len(_LFS) + 1000 and _begins_with(path, _LFS):
        raise ModelError(
            f"{path}: is a Git LFS pointer, not the file itself: run 'git lfs pull' in {folder}"
        )


def pickled_only(name: str, found: str) -> ModelError:
    """Return the error for a checkpoint whose weights are pickles."""
    return ModelError(
        f"{name}: {found}; a pickle may run code when it is read: take the checkpoint's version "
        "with safetensors, or pass --allow-pickle-weights if you trust who made it"
    )


@contextmanager
def without_pickles(name: str) -> Iterator[None]:
    """Raise an error for every pickle that PyTorch is asked to read within the context.

    Args:
        name: The checkpoint, for the message.

    Raises:
        ModelError: A pickle was about to be read.
    """

    def refuse(file: Any, *_: Any, **__: Any) -> NoReturn:
        raise pickled_only(name, f"{Path(str(file)).name} is a pickle")

    original = torch.load

    def restore() -> None:
        torch.load = original

    with undone_at_exit(restore):  # the patch is process-wide; ``load_model`` holds the lock
        torch.load = refuse  # type: ignore[assignment]
        yield


def _first_file(folder: Path, config: Any, *, pickles: bool) -> str:
    """Return the file that ``from_pretrained`` opens first: weights, or an index of them."""
    try:
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {one_line(error)}") from error
    if distributed := next(filter(_DISTRIBUTED.fullmatch, found), ""):
        raise ModelError(
            f"{folder / distributed}: belongs to a distributed checkpoint, which cannot be read "
            "here; load it with transformers, save it undistributed, and give that folder"
        )
    if explicit := getattr(config, "transformers_weights", None):
        return _checked_name(folder, explicit, "config.json")
    looked_for: tuple[str, ...] = (*SAFE, *UNSAFE) if pickles else SAFE
    for name in looked_for:
        if name in found:
            return name
    if not pickles and (
        pickled := [name for name in found if name.endswith((*PICKLED, UNSAFE[1]))]
    ):
        raise pickled_only(str(folder), f"{pickled[0]} is a pickle")
    raise ModelError(
        f"{folder}: has no weights, neither {SAFE[0]} nor {SAFE[1]}; get the complete checkpoint"
    )


def _checked_name(folder: Path, name: Any, source: str) -> str:
    """Return a file name from an index or configuration, normalised, if it is inside the folder."""
    text = name if isinstance(name, str) and name.isprintable() else ""
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or text.endswith("/"):
        raise ModelError(
            f"{folder / source}: names {name!r} as weights, which is not a file in the folder; "
            "weights are read from the checkpoint itself only"
        )
    return str(path)


def _read_index(index: Path) -> Iterable[Any]:
    """Return the files that an index names."""
    try:
        with index.open("rb") as file:
            content = json.loads(file.read(_LARGEST_INDEX))
        files = content["weight_map"].values()
        if not isinstance(content["metadata"], dict):
            raise TypeError("metadata is not an object")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index}: damaged index of weights: {one_line(error)}; get it again"
        ) from error
    if not files:
        raise ModelError(f"{index}: names no weight files; get it again")
    return {name if isinstance(name, str) else repr(name): name for name in files}.values()


def _check_suffix(folder: Path, name: str, *, pickles: bool) -> None:
    if name.endswith(".safetensors") or (pickles and name.endswith(PICKLED)):
        return
    if name.endswith(PICKLED):
        raise pickled_only(str(folder), f"{name} is a pickle")
    raise ModelError(f"{folder / name}: is named as weights but is not a .safetensors file")


def _begins_with(path: Path, beginning: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(beginning)) == beginning
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {one_line(error)}") from error
