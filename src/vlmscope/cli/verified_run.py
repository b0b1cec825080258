"""Opening a run after all checksums were verified, before it is recomputed or exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlmscope.cli.output import count, show_error
from vlmscope.errors import StoreError

if TYPE_CHECKING:
    from vlmscope.store import Run


def open_verified_run(path: Path) -> Run:
    """Open a run and verify every checksum.

    Raises:
        StoreError: A file is damaged; other damaged files were printed.
    """
    from vlmscope.store import find_damage, open_run

    if damage := find_damage(path):
        for one in damage[1:]:
            show_error(one.text)
        raise StoreError(f"{count(len(damage), 'damaged file')}: {damage[0].text}")
    return open_run(path)
