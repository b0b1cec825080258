"""Claiming a run for writing: its folders, and ``run.json`` with the settings of its rows.

Several ranks may start one run at once, and a run continues only with the settings and the table
that it was made with.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vlmscope.errors import RunBusyError, RunMismatchError, StoreError
from vlmscope.store.catalog import SHARDS
from vlmscope.store.format.manifest import (
    MANIFEST,
    DataRecord,
    Manifest,
    check_same,
    read_manifest,
    write_manifest,
)
from vlmscope.store.storage.atomic import cannot_write, sync
from vlmscope.store.storage.locks import waiting
from vlmscope.store.storage.paths import make_folder


def make_folders(run: Path) -> None:
    """Create the run's folders, and flush them so that they survive a power cut."""
    try:
        make_folder(run / SHARDS, parents=True)
        sync(run)
        sync(run.parent)
    except OSError as error:
        raise cannot_write(run, error) from error


def claim_run(run: Path, wanted: Manifest) -> Manifest:
    """Return the manifest of the run in this folder; write ``wanted`` if there is none.

    If the run continues with ``--text-only``, or with another version of its table, the manifest is
    updated, so that reading the table again finds all rows. The caller must have checked that the
    rows of the run are still those of the table (``vlmscope.row_identity``), and states it by
    ``data.several_tables``.

    Raises ``RunMismatchError`` if the existing run was made with other settings, or from another
    version of the table that has not been compared with this one.
    """
    with waiting(run, "manifest"):
        if not (run / MANIFEST).exists():
            if any((run / SHARDS).glob("*.h5")):
                raise StoreError(
                    f"{run}: has rows but no {MANIFEST} with the settings they were made with; "
                    "restore it from a copy, or give another --out"
                )
            with suppress(RunBusyError):  # another rank was faster
                write_manifest(run, wanted, new=True)
                return wanted
        stored = read_manifest(run)
        try:
            check_same(stored, wanted)
        except RunMismatchError as error:
            raise RunMismatchError(f"{run}: {error}") from None
        if stored.data.fingerprint != wanted.data.fingerprint and not wanted.data.several_tables:
            raise RunMismatchError(
                f"{run}: another process has just started this run with another version of the "
                f"table, {stored.data.shown_path}; give all ranks the same table, or run the same "
                "command again, which compares the rows by id"
            )
        data = _data_of_both(stored.data, wanted.data)
        if data != stored.data:
            stored = replace(stored, data=data)
            write_manifest(run, stored)
    return stored


def _data_of_both(stored: DataRecord, wanted: DataRecord) -> DataRecord:
    """Return the merged record of the table: ``wanted`` if the table or its fields changed."""
    changed = stored.fingerprint != wanted.fingerprint
    fields_changed = dict(stored.fields) != dict(wanted.fields)
    return replace(
        wanted if changed or fields_changed else stored,
        text_only=stored.text_only or wanted.text_only,
        several_tables=stored.several_tables or wanted.several_tables or changed,
    )


def record_paths(run: Path, wanted: DataRecord) -> Manifest:
    """Record where the table and its images are now, and return the manifest of the run.

    Called before the first row of a session that has an image is published. So a session in which
    every image is missing, as after a wrong ``--images``, changes nothing. Of several writers the
    last one is recorded. Nothing is written if the run has meanwhile continued with another version
    of the table, or with other columns.
    """
    with waiting(run, "manifest"):
        stored = read_manifest(run)
        now = stored.data
        same_table = (
            now.fingerprint == wanted.fingerprint
            and dict(now.fields) == dict(wanted.fields)
            and now.in_memory == wanted.in_memory
        )
        if same_table and not same_paths(now, wanted):
            data = replace(now, path=wanted.path, images=wanted.images)
            stored = replace(stored, data=data)
            write_manifest(run, stored)
    return stored


def same_paths(one: DataRecord, other: DataRecord) -> bool:
    """Return whether the table and its images are where they were."""
    return (one.path, one.images) == (other.path, other.images)
