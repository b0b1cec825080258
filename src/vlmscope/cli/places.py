"""Where a command is to write, checked before the work is done."""

from __future__ import annotations

import os
from pathlib import Path

from vlmscope.errors import InputError


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made.

    Raises:
        InputError: It is a file, or the system says no.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"{folder}: cannot be written; give another folder with --out")


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        InputError: It is a folder, or its own folder is not there or not ours to write.
    """
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: the folder {path.parent} does not exist; make it first")
    check_writable(path.parent)
