"""A run folder that a stranger packed: none of its names may lead out of it.

A symbolic link in the place of a shard would have another file read as part of the run; in the
place of a lock, a log or a hidden file it would have another file overwritten. A pipe or a device
in the place of any of them would be read for ever.
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

FOLDERS = frozenset({"shards", "probes", "plots"})
"""Folders of which everything is ours."""


def check_inside(run: Path) -> None:
    """Refuse a run folder in which a name of ours leads out of it, or is a pipe or a device.

    The folder itself may be reached by a symbolic link. Other files in it are nobody's concern.

    Raises:
        StoreError: There is such a name.
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
        end = Path(target)
        if end.exists() and not (end.is_file() or end.is_dir()):
            raise StoreError(f"{path}: is a pipe, a socket or a device, and no file; remove it")


def _names(folder: Path, *, all_ours: bool = False) -> Iterator[Path]:
    """Yield what is neither file nor folder among our names, in the folder and in ours."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if all_ours or _is_ours(entry.name)]
    except OSError:  # not there, or not to be read: whoever opens it says so
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _names(Path(entry.path), all_ours=True)
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _is_ours(name: str) -> bool:
    hidden = name.startswith(".lock-") or (name.startswith(".") and name.endswith(".tmp"))
    return hidden or name in OURS or name in FOLDERS
