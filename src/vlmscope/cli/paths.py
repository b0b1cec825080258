"""Checks of the paths that a command writes to, before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from vlmscope.errors import InputError
from vlmscope.store import check_output_file, is_remote


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written or created.

    Raises:
        InputError: It is a file, or permission is denied.
    """
    if is_remote(folder):
        return
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{folder}: cannot be written; give another folder with --out")


def check_file(path: Path, *, source: str | None = None) -> None:
    """Refuse a file that cannot be written, or that is an input of the command.

    Args:
        path: The file.
        source: The table that is read.

    Raises:
        InputError: It is a folder, the table, or a part of a run; or its folder does not exist or
            is not writable.
    """
    if source is not None and Path(source).exists() and path.resolve() == Path(source).resolve():
        raise InputError(f"--out {path}: is the table itself; give another name")
    if path.exists() and ((path.parent / "run.json").exists() or path.parent.name == "shards"):
        raise InputError(f"--out {path}: is a part of a run; give another name")
    check_output_file(path, "--out")
    check_writable(path.parent)
