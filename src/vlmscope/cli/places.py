"""Where a command is to write, checked before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from vlmscope.errors import InputError
from vlmscope.store import check_output_file, is_remote


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made.

    Raises:
        InputError: It is a file, or the system says no.
    """
    if is_remote(folder):
        return
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{folder}: cannot be written; give another folder with --out")


def check_file(path: Path, *, source: str | None = None) -> None:
    """Refuse a file that cannot be written, or that holds what the command is to read.

    Args:
        path: The file.
        source: The table that is read.

    Raises:
        InputError: It is a folder, the table, or a part of a run; or its folder is not there or not
            ours to write.
    """
    if source is not None and Path(source).exists() and path.resolve() == Path(source).resolve():
        raise InputError(f"--out {path}: is the table itself; give another name")
    if path.exists() and ((path.parent / "run.json").exists() or path.parent.name == "shards"):
        raise InputError(f"--out {path}: is a part of a run; give another name")
    check_output_file(path, "--out")
    check_writable(path.parent)
