"""A run folder that a stranger packed: none of its names may lead out of it.

A symbolic link in the place of a shard would have another file read as part of the run; in the
place of a lock, a log or a hidden file it would have another file overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlmscope.errors import StoreError
from vlmscope.store.place import is_remote

OURS = frozenset(
    {"run.json", "index.h5", "failures.jsonl", "labels.parquet", "judge.jsonl", "report.html"}
)
"""Files that vlmscope reads or writes in a run folder, beside hidden ones."""

IN_PROGRESS = ".in-progress-"
"""How the names of the files begin that say which rows a session has in work."""

FOLDERS = frozenset({"shards", "probes", "plots"})
"""Folders of which everything is ours."""


def check_inside(run: Path) -> None:
    """Refuse a run folder in which a name of ours is a symbolic link that leads out of it.

    The folder itself may be reached by one. Other files in it are nobody's concern.

    Raises:
        StoreError: There is such a link.
    """
    if is_remote(run):
        return  # an object store has no links
    root = os.path.realpath(run)
    for path in _names(Path(run)):
        target = os.path.realpath(path)
        if os.path.commonpath([root, target]) != root:
            raise StoreError(
                f"{path}: is a symbolic link that leads out of the run, to {target}; nothing "
                "outside a run is read or written as its own: put the file itself there"
            )


def _names(folder: Path, *, all_ours: bool = False) -> Iterator[Path]:
    """Yield the symbolic links among our names, in the folder and in folders of ours."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if all_ours or _is_ours(entry.name)]
    except OSError:  # not there, or not to be read: whoever opens it says so
        return
    for entry in found:
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _names(Path(entry.path), all_ours=True)


def _is_ours(name: str) -> bool:
    hidden = name.startswith((".lock-", IN_PROGRESS)) or (name[0] == "." and name.endswith(".tmp"))
    return hidden or name in OURS or name in FOLDERS
