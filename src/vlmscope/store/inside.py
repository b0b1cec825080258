"""A run folder that a stranger packed: none of its names may lead out of it.

A symbolic link in the place of a shard would have another file read as part of the run; in the
place of a lock, a log or a hidden file it would have another file overwritten. A reader would wait
for a pipe for ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vlmscope.errors import StoreError
from vlmscope.regular import NotRegularError, check_regular
from vlmscope.store.place import is_remote

OURS = frozenset(
    {
        "run.json", "index.h5", "failures.jsonl", "labels.parquet", "truths.parquet", "judge.jsonl",
        "report.html",
    }
)  # fmt: skip
"""Files that vlmscope reads or writes in a run folder, beside hidden ones."""

IN_PROGRESS = ".in-progress-"
"""How the names of the files begin that say which rows a session has in work."""

FOLDERS = frozenset({"shards", "probes", "plots", "damaged"})
"""Folders of which everything is ours. None may be a link, not even one within the run: what is
removed or replaced in one of them would be something else of the run."""

LABEL_SET = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
"""Pattern of a label set's name; its files are ``labels-<name>.parquet``, ``probes-<name>``."""

_OF_SET = re.compile(rf"labels-{LABEL_SET}\.parquet", re.ASCII)
_FOLDER_OF_SET = re.compile(rf"probes-{LABEL_SET}", re.ASCII)


def check_inside(run: Path) -> None:
    """Refuse a run folder in which a name of ours is no file, or leads out of it by a link.

    The folder itself may be reached by one. Other files in it are nobody's concern. A folder of
    ours must be a folder itself.

    Raises:
        StoreError: There is such a link, or a pipe, a socket or a device.
    """
    if is_remote(run):
        return  # an object store has no links
    root = os.path.realpath(run)
    for path in _names(Path(run)):
        target = os.path.realpath(path)
        ours = _is_folder_of_ours(path.name) and os.path.realpath(path.parent) == root
        if ours and path.is_symlink():
            raise StoreError(
                f"{path}: is a symbolic link, to {target}, where a folder is expected; remove the "
                "link, or put the folder itself there"
            )
        if os.path.commonpath([root, target]) != root:
            raise StoreError(
                f"{path}: is a symbolic link that leads out of the run, to {target}; nothing "
                "outside a run is read or written as its own: put the file itself there"
            )
        _check_kind(path)


def _check_kind(path: Path) -> None:
    """Refuse what a reader would wait for, or never come to the end of."""
    try:
        check_regular(path)
    except NotRegularError as error:
        raise StoreError(f"{path}: {error.strerror}; get a whole copy of the run") from error
    except OSError:  # a link to a folder, or to nothing: whoever opens it says so
        return


def _names(folder: Path, *, all_ours: bool = False) -> Iterator[Path]:
    """Yield what is no file or folder among our names, in the folder and in folders of ours."""
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
    hidden = name.startswith((".lock-", ".marker-", IN_PROGRESS)) or (
        name.startswith(".") and name.endswith(".tmp")
    )
    return hidden or name in OURS or bool(_OF_SET.fullmatch(name)) or _is_folder_of_ours(name)


def _is_folder_of_ours(name: str) -> bool:
    return name in FOLDERS or bool(_FOLDER_OF_SET.fullmatch(name))
