"""Opening a run whose every checksum is right, before it is verified or handed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlmscope.cli.output import count
from vlmscope.errors import StoreError

if TYPE_CHECKING:
    from vlmscope.store import Run


def open_sound_run(path: Path) -> Run:
    """Open a run and check every checksum.

    Raises:
        StoreError: A column is damaged.
    """
    from vlmscope.store import open_run

    run = open_run(path)
    if damage := run.check():
        raise StoreError(f"{path}: {count(len(damage), 'damaged column')}: {damage[0]}")
    return run
