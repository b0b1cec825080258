"""Which probe is meant: the folder of one, or a run, whose selected probe is taken."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

from vlmscope.errors import InputError, StoreError
from vlmscope.probe.storage import DESCRIPTION
from vlmscope.probing.saving import PROBES, RESULTS, probes_folder
from vlmscope.store import check_reachable, is_child_name, label_sets, place, read_document

_SUMMARY = Path(PROBES) / RESULTS


def find_probe(path: str | PathLike[str]) -> Path:
    """Return the folder of the probe that ``path`` names.

    Args:
        path: The folder of a saved probe; or a run that ``vlmscope probe`` was used on, or the
            folder that its ``--out`` named: then the probe of the layer that selection inside
            training chose most often.

    Raises:
        InputError: It is neither.
        StoreError: The run's summary of its probes is damaged.
    """
    folder = place(path)
    check_reachable(folder)
    if (folder / DESCRIPTION).is_file():
        return folder
    summary = next((f for f in (folder / _SUMMARY, folder / RESULTS) if f.is_file()), None)
    if summary is None:
        raise InputError(f"{folder}: is {_kind(folder)}")
    try:
        name = json.loads(read_document(summary).decode())["selected_probe"]
        if not is_child_name(name):
            raise ValueError(name)
        found = summary.parent / str(name)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise StoreError(f"{summary}: names no selected probe; run vlmscope probe again") from error
    if not (found / DESCRIPTION).is_file():
        raise StoreError(f"{found}: is gone or incomplete; run vlmscope probe again")
    return found


def _kind(folder: Path) -> str:
    """Return what a folder without probes is, and what to do."""
    if not (folder / "run.json").is_file():
        return "no probe; give a folder in RUN/probes, or a run that vlmscope probe was used on"
    for name in label_sets(folder):
        found = folder / probes_folder(name)
        if (found / RESULTS).is_file():
            return f"a run whose default label set has no probes; give {found}, or probe it too"
    return "a run without probes; run vlmscope probe on it"
