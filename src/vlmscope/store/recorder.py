"""What a session does with its results: rows go into shards, failures into their log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from vlmscope.schema import Capture, Failure
from vlmscope.store.failures import FailureLog
from vlmscope.store.manifest import Manifest
from vlmscope.store.sharing import ALONE
from vlmscope.store.writer import RunWriter


class Recorder:
    """Adds results to a run that is open for writing: see ``recording``."""

    def __init__(self, writer: RunWriter, log: FailureLog) -> None:
        self._writer = writer
        self._log = log

    @property
    def done_ids(self) -> Set[str]:
        """The questions that have a published row."""
        return self._writer.done_ids

    def add(self, results: Sequence[Capture | Failure]) -> None:
        """Record a batch. When this returns, a kill or a power cut cannot take it.

        Raises:
            StoreError: The disk refuses, or a row does not belong into this run.
        """
        if failures := [item for item in results if isinstance(item, Failure)]:
            self._log.add_all(failures)
        self._writer.add([item for item in results if isinstance(item, Capture)])


@contextmanager
def recording(run: Path, manifest: Manifest, writer: str = ALONE) -> Iterator[Recorder]:
    """Open a run for writing, in this process; on leaving, pack its rows and rebuild its index.

    Leaving by an exception only lets go of the lock.

    Args:
        run: The run folder; it is made if it is not there.
        manifest: What its rows are made with.
        writer: The name to write as.

    Raises:
        RunBusyError: Another process is writing the run.
        RunMismatchError: The run was made with other settings.
        StoreError: The disk refuses.
    """
    with RunWriter(run, manifest, writer) as rows:
        yield Recorder(rows, FailureLog(run))
