"""Writing a run: batches become parts, parts are merged to packs, closing builds the index.

Each ``add`` is durable when it returns. Parts are merged so that a long run does not consist of a
million small files. The only state between sessions is the published shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from vlmscope.errors import RunBusyError, RunMismatchError, StoreError
from vlmscope.schema import Capture, Failure
from vlmscope.store.catalog import (
    KINDS,
    SHARDS,
    packs_of,
    read_shard,
    scan,
    shard_name,
    writer_of,
)
from vlmscope.store.failures import FailureLog
from vlmscope.store.format.batch import block_of, concatenate
from vlmscope.store.format.checksums import forget
from vlmscope.store.format.manifest import (
    MANIFEST,
    DataRecord,
    Manifest,
    check_same,
    read_manifest,
    write_manifest,
)
from vlmscope.store.format.naming import link_name
from vlmscope.store.format.shard import build_shard
from vlmscope.store.index import is_indexed, rebuild_index
from vlmscope.store.storage.atomic import cannot_write, publish, rename, sync
from vlmscope.store.storage.locks import (
    ALONE,
    GATE,
    enter,
    forget_locks,
    lock_of,
    waiting,
    writers_at_work,
)
from vlmscope.store.storage.paths import as_path, is_remote, make_folder
from vlmscope.store.storage.removal import remove_file

PACK_ROWS = 1_000
"""Parts are merged when together they reach this many rows …"""

PACK_BYTES = 256 * 2**20
"""… or this many bytes: packing needs about three times as much memory."""


FEWEST_ROWS = 100
"""Parts of fewer rows are merged at the end only."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part to be packed."""

    path: Path
    rows: int
    size: int
    just_written: bool = False
    """Whether this session wrote it."""


class OpenRun:
    """A run that is open for writing: leaving it closes it, or after an exception releases it."""

    def close(self) -> None:
        """Pack and index what was added, and release the run."""
        raise NotImplementedError

    def release(self) -> None:
        """Release the run only: every row added is already durable."""
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.release()


class RunWriter(OpenRun):
    """Adds results to a run. A context manager; see ``locks`` for which writers may run at once.

    Entering creates the folder and ``run.json``, or checks that the existing run has the same
    settings. Leaving with an exception only releases the lock: every row added is already durable.
    It may be opened in one thread and used in another, by one thread at a time.

    Args:
        run: The run folder; it is created if needed.
        manifest: The settings that its rows are made with.
        writer: The writer name.
        expected: Number of results that will be added, if known: the fewer are to come, the smaller
            the packs, so that packing ends soon after the last result.
        pack_rows: Rows at which parts are merged.
        pack_bytes: Bytes at which parts are merged.
    """

    def __init__(
        self,
        run: Path,
        manifest: Manifest,
        writer: str = ALONE,
        *,
        expected: int | None = None,
        pack_rows: int = PACK_ROWS,
        pack_bytes: int = PACK_BYTES,
    ) -> None:
        self.run = as_path(run)
        self.manifest = manifest
        self.writer = writer
        self.done_ids: set[str] = set()
        """The questions that have a published row, by any writer."""
        self._expected = expected
        self._pack_rows = pack_rows
        self._pack_bytes = pack_bytes
        self._parts: list[_Part] = []
        self._next = 0
        self._log: FailureLog | None = None
        self._read_from: DataRecord | None = None
        self._lock = lock_of(self.run, writer)

    def __enter__(self) -> RunWriter:
        _make_folders(self.run)
        self._lock = enter(self.run, self.writer)
        try:
            wanted, self.manifest = self.manifest, claim_run(self.run, self.manifest)
            if not _same_place(self.manifest.data, wanted.data):
                self._read_from = wanted.data
            _clear(self._unpublished(self.writer))
            self._find_rows()
        except BaseException:
            self._lock.release()
            raise
        return self

    def add(self, results: Sequence[Capture | Failure]) -> None:
        """Record a batch. When this returns, the batch survives a kill or a power cut.

        A batch with so many states of tokens that it is as large as a pack is published as one.

        Raises:
            StoreError: A file cannot be written, or a row does not match this run.
        """
        if self._expected is not None:
            self._expected = max(0, self._expected - len(results))
        if failures := [item for item in results if isinstance(item, Failure)]:
            self._log = self._log or FailureLog(self.run)
            self._log.add_all(failures)
        captures = [item for item in results if isinstance(item, Capture)]
        if not captures:
            return
        self._refuse_stored([capture.sample.id for capture in captures])
        if self._read_from is not None and any(capture.image_sha256 for capture in captures):
            self.manifest = record_place(self.run, self._read_from)
            self._read_from = None
        manifest = self.manifest
        tokens = manifest.token_widths()
        block = block_of(captures, manifest.widths(), manifest.signals(), tokens)
        pieces = build_shard(block, manifest, writer=self.writer)
        if block.tokens and sum(map(len, pieces)) >= self._pack_bytes:
            self._pack()  # first, so that the rows stay in their order
            self._publish_pieces("pack", pieces)
            self.done_ids.update(block.ids)
            return
        path = self._publish_pieces("part", pieces)
        self.done_ids.update(block.ids)
        self._parts.append(_part(path, len(block), just_written=True))
        self._pack(least=self._rows_of_a_pack(), least_bytes=self._pack_bytes)

    def _rows_of_a_pack(self) -> int:
        """Return the rows at which parts are merged: no more than are still to come.

        Packing so many rows takes less time than the model needs for those to come.
        """
        if self._expected is None:
            return self._pack_rows
        return min(self._pack_rows, max(FEWEST_ROWS, self._expected))

    def close(self) -> None:
        """Pack the remaining parts, rebuild ``index.h5`` if needed, and release the lock.

        Of several writers only the last one rebuilds the index, so that a hundred ranks do not do
        it a hundred times. Rows of killed writers are included. May be called twice.
        """
        if not self._lock.is_locked:
            return
        try:
            self._pack()
            indexed: frozenset[str] | None = None
            while (packs := self._leave(indexed)) is not None:
                if not is_indexed(self.run, packs):
                    rebuild_index(self.run)
                indexed = packs
        finally:
            self._lock.release()

    def release(self) -> None:
        """Release the lock only: every row added is already durable. May be called twice."""
        self._lock.release()

    def _leave(self, indexed: frozenset[str] | None) -> frozenset[str] | None:
        """Release the lock if other writers are active, or no pack was added since indexing.

        Otherwise keep the lock and return the packs to be indexed.
        """
        with waiting(self.run, GATE):
            packs = None
            if writers_at_work(self.run) == {self.writer}:
                self._take_over()
                packs = packs_of(self.run)
            if packs is None or packs == indexed:
                self._lock.release()
                return None
            return packs

    def _take_over(self) -> None:
        """Pack the parts of killed writers and remove their leftovers, as the last writer."""
        shards, superseded = scan(self.run)
        _clear([*superseded, *self._unpublished("*")])
        for shard in shards:
            if shard.kind == "part":
                self._parts.append(_part(shard.path, len(shard)))
                self._pack(least=self._pack_rows, least_bytes=self._pack_bytes)
        self._pack()
        forget_locks(self.run, besides=self.writer)

    def _publish_pieces(self, kind: str, pieces: tuple[bytes, bytes]) -> Path:
        """Publish the bytes of one shard under the next unused number."""
        path = self.run / SHARDS / shard_name(kind, self.writer, self._next)
        publish(path, *pieces, exclusive=True)
        self._next += 1
        return path

    def _pack(self, *, least: int = 1, least_bytes: int = 1) -> None:
        """Merge the parts into a pack and remove them, if they reach so many rows or bytes."""
        rows = sum(part.rows for part in self._parts)
        size = sum(part.size for part in self._parts)
        if rows < least and size < least_bytes:
            return
        if len(self._parts) == 1 and self._parts[0].just_written and not is_remote(self.run):
            self._rename_part()
            return
        paths = [part.path for part in self._parts]
        block = concatenate([read_shard(path) for path in paths])
        names = [path.name for path in paths]
        pieces = build_shard(block, self.manifest, writer=self.writer, supersedes=names)
        self._publish_pieces("pack", pieces)
        self._parts.clear()
        _clear(paths)
        forget(paths)

    def _rename_part(self) -> None:
        """Make the only part the pack: it has the rows already, and needs no second copy of them.

        Only of this session: an older one is read first, which shows damage.
        """
        [part] = self._parts
        rename(part.path, part.path.with_name(shard_name("pack", self.writer, self._next)))
        self._next += 1
        self._parts.clear()
        forget([part.path])

    def _find_rows(self) -> None:
        """Read the published shards: the ids that are done and the next number."""
        shards, superseded = scan(self.run)
        _clear([path for path in superseded if writer_of(path) == self.writer])
        self.done_ids.update(*(shard.ids for shard in shards))
        own = [shard for shard in shards if shard.writer == self.writer]
        self._parts = [_part(shard.path, len(shard)) for shard in own if shard.kind == "part"]
        self._next = 1 + max((shard.seq for shard in own), default=-1)

    def _unpublished(self, writer: str) -> list[Path]:
        """Return the unpublished files of killed sessions of a writer."""
        folder = self.run / SHARDS
        return [path for kind in KINDS for path in folder.glob(f".{kind}-{writer}-*.tmp")]

    def _refuse_stored(self, ids: Sequence[str]) -> None:
        """Refuse an id that already has a row, occurs twice, or is not a valid HDF5 name."""
        seen: set[str] = set()
        for id_ in ids:
            link_name(id_)
            if id_ in seen or id_ in self.done_ids:
                raise StoreError(
                    f"question {id_!r} already has a row in {self.run}; ids are unique in a run"
                )
            seen.add(id_)


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


def record_place(run: Path, wanted: DataRecord) -> Manifest:
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
        if same_table and not _same_place(now, wanted):
            data = replace(now, path=wanted.path, images=wanted.images)
            stored = replace(stored, data=data)
            write_manifest(run, stored)
    return stored


def _same_place(one: DataRecord, other: DataRecord) -> bool:
    return (one.path, one.images) == (other.path, other.images)


def _part(path: Path, rows: int, *, just_written: bool = False) -> _Part:
    return _Part(path, rows, path.stat().st_size, just_written)


def _make_folders(run: Path) -> None:
    """Create the run's folders, and flush them so that they survive a power cut."""
    try:
        make_folder(run / SHARDS, parents=True)
        sync(run)
        sync(run.parent)
    except OSError as error:
        raise cannot_write(run, error) from error


def _clear(paths: Sequence[Path]) -> None:
    """Remove superseded shards and leftovers, ignoring errors.

    A file that stays is not read as data, and the next session tries again.
    """
    for path in paths:
        with suppress(StoreError):
            remove_file(path.parent.parent, SHARDS, path.name)
