"""The name of a model: a folder or a hub id, and why it cannot be loaded."""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path

from vlmscope.errors import ModelError, shortened, suggest_names, typed_line

MOST_LISTED = 10_000
"""Maximum number of entries of a folder that are read to suggest a name."""

_HUB_ERRORS = {
    "couldn't connect to": "the hub cannot be reached, and its cache has no such model",
    "is not a valid model identifier": "the hub has no such repository, or you have no access",
    "gated repo": "the hub's repository is gated; log in with hf auth login",
}
"""Error text of transformers, in lower case → a short explanation."""


def check_name(name: str) -> None:
    """Refuse a name that is neither a folder nor can be a hub id, before the hub is asked.

    Raises:
        ModelError: It is empty, too long, a file, or a path at which nothing is.
    """
    if not name:
        raise ModelError("--model '': give the folder of a checkpoint, or a hub id")
    try:
        kind = Path(name).stat().st_mode
    except PermissionError as error:
        raise ModelError(f"{name}: {error.strerror}; give a folder that can be read") from error
    except (OSError, ValueError) as error:
        if looks_local(name):
            raise ModelError(_no_such_folder(name)) from error
        return
    if not stat.S_ISDIR(kind):
        raise ModelError(f"{name}: is a file; give the folder that contains it")


def looks_local(name: str) -> bool:
    """Return whether a name is a path: the hub is not asked then, which takes minutes offline.

    >>> looks_local("./llava"), looks_local("models/llava/7b"), looks_local("owner/name")
    (True, True, False)
    """
    return _is_path(name) or os.path.isdir(os.path.dirname(name))  # noqa: PTH112, PTH120 - any name


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") != 1


def _no_such_folder(name: str) -> str:
    """Return why a path is refused, with the nearest folder that exists and what is in it."""
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # the home of an unknown user
        path = Path(name)
    parent = next((each for each in path.parents if os.path.isdir(each)), Path())  # noqa: PTH112
    where = "the current folder" if parent == Path() else str(parent)
    folders = _folders_in(parent)
    near = suggest_names(path.relative_to(parent).parts[0], folders)
    inside = f"in {where} {near}" if folders else f"{where} contains no folders"
    shown = shortened(name, 200)
    if _is_path(name):
        return (
            f"{shown}: no such folder, and not a hub id of the form owner/name; {inside}; give the "
            "folder of a checkpoint, or a hub id"
        )
    return (
        f"{shown}: no such folder; {inside}; give the folder of a checkpoint (it is not taken as a "
        f"hub id, because {where} is a folder here)"
    )


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in islice(entries, MOST_LISTED)
                if not entry.name.startswith(".") and entry.is_dir()
            )
    except OSError:
        return []


def why_not_loaded(name: str, error: Exception) -> str:
    """Return why a configuration cannot be loaded, as text, for a folder or a hub id."""
    if "trust_remote_code" in str(error):
        return (
            f"{name}: the checkpoint contains code of its own, which is never run; give the "
            "version of it that transformers supports, often named with -hf at the end"
        )
    if Path(name).exists():
        return f"{name}: cannot load the configuration: {typed_line(error)}"
    text = " ".join(str(error).lower().split())
    why = next((why for text_of, why in _HUB_ERRORS.items() if text_of in text), typed_line(error))
    return (
        f"{name}: no such folder; taken as a hub id: {why}; give the folder of a checkpoint, or a "
        "hub id"
    )
