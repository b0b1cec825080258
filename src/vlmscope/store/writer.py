"""Writing a run: batches become parts, parts are merged to packs, closing builds the index.

Each ``add`` is durable when it returns; ``begin`` and ``finish`` are its halves, so that several
batches are built at once. Parts are merged so that a long run does not consist of a million small
files. The only state between sessions is the published shards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from vlmscope.errors import StoreError
from vlmscope.schema import Capture, Failure
from vlmscope.store.builders import Pieces, ShardTask, build_here
from vlmscope.store.catalog import KINDS, SHARDS, packs_of, scan, shard_name, writer_of
from vlmscope.store.claim import claim_run, make_folders, record_paths, same_paths
from vlmscope.store.failures import FailureLog
from vlmscope.store.format.batch import block_of
from vlmscope.store.format.checksums import forget
from vlmscope.store.format.manifest import DataRecord, Manifest
from vlmscope.store.format.naming import link_name
from vlmscope.store.index import is_indexed, rebuild_index
from vlmscope.store.storage.atomic import is_published_here, publish, rename
from vlmscope.store.storage.locks import (
    ALONE,
    GATE,
    enter,
    forget_locks,
    lock_of,
    waiting,
    writers_at_work,
)
from vlmscope.store.storage.object_store import Identity, identity_of
from vlmscope.store.storage.paths import as_path, is_remote
from vlmscope.store.storage.removal import remove_file

PACK_ROWS = 1_000
"""Parts are merged when together they reach this many rows …"""

PACK_BYTES = 256 * 2**20
"""… or this many bytes: packing needs about three times as much memory."""

FEWEST_ROWS = 100
"""Parts of fewer rows are merged at the end only."""

MOST_PACKS = 2
"""Packs that are built at once while parts are, because of their memory."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part to be packed."""

    path: Path
    rows: int
    size: int
    just_written: bool = False
    """Whether this session wrote it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows whose part is being built."""

    ids: tuple[str, ...]
    has_tokens: bool
    """Whether they have vectors of several tokens."""
    pieces: Future[Pieces]


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack that is being built; it has its number, so that its rows stay in their order."""

    parts: Sequence[_Part]
    number: int
    pieces: Future[Pieces]

    @property
    def paths(self) -> list[Path]:
        return [part.path for part in self.parts]


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
        self._build: Callable[[ShardTask], Future[Pieces]] = build_here
        self._at_once = 1  # shards that are built at once
        self._parts: list[_Part] = []
        self._packs: deque[_Pack] = deque()
        self._underway: set[str] = set()
        self._next = 0
        self._log: FailureLog | None = None
        self._read_from: DataRecord | None = None
        self._lock = lock_of(self.run, writer)

    def __enter__(self) -> RunWriter:
        make_folders(self.run)
        self._lock = enter(self.run, self.writer)
        try:
            wanted, self.manifest = self.manifest, claim_run(self.run, self.manifest)
            if not same_paths(self.manifest.data, wanted.data):
                self._read_from = wanted.data
            _clear(self._unpublished(self.writer))
            self._find_rows()
        except BaseException:
            self._lock.release()
            raise
        return self

    def build_with(self, build: Callable[[ShardTask], Future[Pieces]], at_once: int) -> None:
        """Let another function build shards from now on, while this thread goes on.

        Args:
            build: Starts to build a shard.
            at_once: Number of shards that it builds at once.
        """
        self._build, self._at_once = build, at_once

    def add(self, results: Sequence[Capture | Failure]) -> None:
        """Record a batch. When this returns, the batch survives a kill or a power cut.

        A batch with so many states of tokens that it is as large as a pack is published as one.

        Raises:
            StoreError: A file cannot be written, or a row does not match this run.
        """
        self.finish(self.begin(results))

    def begin(self, results: Sequence[Capture | Failure]) -> Batch | None:
        """Check a batch, record its failures, and start to build its part.

        Returns:
            The batch for ``finish``, which is called for one after the other, in their order.

        Raises:
            StoreError: As ``add``.
        """
        if self._expected is not None:
            self._expected = max(0, self._expected - len(results))
        if failures := [item for item in results if isinstance(item, Failure)]:
            self._log = self._log or FailureLog(self.run)
            self._log.add_all(failures)
        captures = [item for item in results if isinstance(item, Capture)]
        if not captures:
            return None
        self._refuse_stored([capture.sample.id for capture in captures])
        if self._read_from is not None and any(capture.image_sha256 for capture in captures):
            self.manifest = record_paths(self.run, self._read_from)
            self._read_from = None
        manifest = self.manifest
        tokens = manifest.token_widths()
        block = block_of(captures, manifest.widths(), manifest.signals(), tokens)
        pieces = self._build(ShardTask(manifest, self.writer, block))
        self._underway.update(block.ids)
        return Batch(tuple(block.ids), bool(block.tokens), pieces)

    def finish(self, batch: Batch | None) -> None:
        """Publish a batch, waiting for its part. When this returns, the batch is recorded.

        Raises:
            StoreError: As ``add``.
        """
        if batch is None:
            return
        try:
            pieces = batch.pieces.result()
            if batch.has_tokens and sum(map(len, pieces)) >= self._pack_bytes:
                self._pack()  # first, so that the rows stay in their order
                self._publish_pieces("pack", pieces)
            else:
                path = self._publish_pieces("part", pieces)
                self._parts.append(_part(path, len(batch.ids), just_written=True))
            self.done_ids.update(batch.ids)
        finally:
            self._underway.difference_update(batch.ids)
        self._publish_packs()
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
            self._pack_rest()
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
        self._pack_rest()
        forget_locks(self.run, besides=self.writer)

    def _publish_pieces(self, kind: str, pieces: Pieces, number: int | None = None) -> Path:
        """Publish the bytes of one shard, by default under the next unused number."""
        used = self._next if number is None else number
        path = self.run / SHARDS / shard_name(kind, self.writer, used)
        publish(path, *pieces, exclusive=True)
        self._next = max(self._next, used + 1)
        return path

    def _pack(self, *, least: int = 1, least_bytes: int = 1) -> None:
        """Start to merge the parts into a pack, if they reach so many rows or bytes.

        While enough packs are being built, parts may become twice as many.
        """
        rows = sum(part.rows for part in self._parts)
        size = sum(part.size for part in self._parts)
        if rows < least and size < least_bytes:
            return
        if len(self._packs) >= max(1, min(MOST_PACKS, self._at_once // 2)):
            if rows < 2 * least and size < 2 * least_bytes:
                return
            self._publish_pack()
        self._pack_all()

    def _pack_rest(self) -> None:
        """Pack the remaining parts, as several packs if several can be built at once."""
        rows = sum(part.rows for part in self._parts)
        count = min(self._at_once, rows // FEWEST_ROWS, len(self._parts))
        for left in range(count, 1, -1):
            self._start_pack(len(self._parts) // left)
        if self._parts:
            self._pack_all()
        self._publish_packs(wait=True)

    def _pack_all(self) -> None:
        """Make one pack of all parts; a single one is renamed, in a folder."""
        if len(self._parts) == 1 and self._parts[0].just_written and not is_remote(self.run):
            self._rename_part()
        else:
            self._start_pack(len(self._parts))

    def _start_pack(self, count: int) -> None:
        """Start to build a pack of the first parts; it has its number now."""
        parts = self._parts[:count]
        paths = tuple(part.path for part in parts)
        task = ShardTask(self.manifest, self.writer, parts=paths, published=_published_of(paths))
        self._packs.append(_Pack(parts, self._next, self._build(task)))
        self._next += 1
        self._parts = self._parts[count:]
        self._publish_packs()

    def _publish_packs(self, *, wait: bool = False) -> None:
        """Publish the packs that are built, in their order; all of them if ``wait``."""
        while self._packs and (wait or self._packs[0].pieces.done()):
            self._publish_pack()

    def _publish_pack(self) -> None:
        """Publish the first pack, waiting for it, and remove its parts.

        If that fails, its parts are to be packed again.
        """
        pack = self._packs.popleft()
        try:
            self._publish_pieces("pack", pack.pieces.result(), pack.number)
        except BaseException:
            self._parts = [*pack.parts, *self._parts]
            raise
        _clear(pack.paths)
        forget(pack.paths)

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
            if id_ in seen or id_ in self.done_ids or id_ in self._underway:
                raise StoreError(
                    f"question {id_!r} already has a row in {self.run}; ids are unique in a run"
                )
            seen.add(id_)


def _part(path: Path, rows: int, *, just_written: bool = False) -> _Part:
    return _Part(path, rows, path.stat().st_size, just_written)


def _published_of(paths: Sequence[Path]) -> tuple[Identity, ...]:
    """Return the identities of those local files that this process published."""
    found = []
    for path in paths:
        with suppress(OSError):
            if not is_remote(path) and is_published_here(identity := identity_of(path)):
                found.append(identity)
    return tuple(found)


def _clear(paths: Sequence[Path]) -> None:
    """Remove superseded shards and leftovers, ignoring errors.

    A file that stays is not read as data, and the next session tries again.
    """
    for path in paths:
        with suppress(StoreError):
            remove_file(path.parent.parent, SHARDS, path.name)
