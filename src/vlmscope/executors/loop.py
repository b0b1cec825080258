"""The loop around one model: rows in from wherever they come, results out to the writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from vlmscope.engine import CaptureSession
from vlmscope.executors.ahead import batches_ahead, batches_to_prepare
from vlmscope.executors.outbox import Outbox
from vlmscope.executors.patience import Patience, end_process
from vlmscope.executors.request import Request
from vlmscope.executors.resilient import ResilientRunner
from vlmscope.executors.sizing import BatchSizer, rows_at_once
from vlmscope.executors.writing import StrictStop, Writing
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import Capture, Failure, Sample
from vlmscope.store import InProgress


class Loop:
    """Captures rows. What one call learnt of batch sizes the next one knows.

    Args:
        vlm: The model.
        request: What to record of each row, and how.
        results: Where the results go.
        sizer: The batch size.
        went_well: Whether rows of this run went well before, so that errors are the rows' own.
        journal: Told which rows are in work, and closed before the process ends because of a row.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        results: Writing,
        sizer: BatchSizer,
        *,
        went_well: bool,
        journal: InProgress | None = None,
    ) -> None:
        self._vlm = vlm
        self._request = request
        self._journal = journal
        self._sizer = sizer
        self._runner = ResilientRunner(
            vlm,
            request.spec,
            sizer,
            went_well=went_well,
            session=CaptureSession(vlm, request.spec, rows_at_once(vlm, request.batch_size)),
            patience=Patience(request.time_limit, self._give_up),
            journal=journal,
        )
        self._strict = request.strict
        self._outbox = Outbox(results.put, lambda: sizer.size)

    def run(self, rows: Iterator[Sample], stop: threading.Event) -> None:
        """Capture until the rows or the patience end."""
        ahead = batches_to_prepare(self._vlm)
        ended: list[StrictStop] = []
        with ThreadPoolExecutor(ahead, "vlmscope-prepare") as preparing:
            try:
                for samples, prepared in batches_ahead(
                    _until_strict(rows, ended),
                    self._sizer,
                    self._runner.prepare,
                    preparing,
                    stop.is_set,
                    ahead,
                ):
                    pieces = self._runner.run(samples, prepared)
                    del prepared  # if memory runs out, nobody else may hold the batch
                    self._put(pieces)
                self._finish()
                if ended:
                    raise ended[0]
            except StrictStop:
                preparing.shutdown(wait=False, cancel_futures=True)
                with suppress(StrictStop):
                    self._finish()  # what is being answered is as good as done
                raise
            except BaseException:
                preparing.shutdown(wait=False, cancel_futures=True)
                with suppress(Exception):
                    self._outbox.flush()
                raise

    def run_apart(self, groups: Iterator[list[Sample]], stop: threading.Event) -> None:
        """Capture one group of rows after the other, their images one by one.

        A row that hangs again, or with which the process dies again, must not keep the others; and
        the fewer are in work then, the more is known of it.
        """
        for group in groups:
            if stop.is_set():
                return
            prepared = [(sample, self._runner.prepare([sample])) for sample in group]
            while prepared:
                sample, own = prepared.pop(0)
                self._put(self._runner.run([sample], own))
            self._finish()

    def _give_up(self) -> None:
        """End the process: the model hangs, and it is known on which rows."""
        if self._journal is not None:
            self._journal.close()
        end_process(self._request.out, self._runner.in_model)

    def _put(self, pieces: Iterator[list[Capture | Failure]]) -> None:
        """Hand results over as they come."""
        for results in pieces:
            self._outbox.put(results)
            if self._strict and any(isinstance(item, Failure) for item in results):
                self._outbox.flush()

    def _finish(self) -> None:
        """Answer what is being answered, and hand everything over."""
        for results in self._runner.drain():
            self._outbox.put(results)
        self._outbox.flush()


def _until_strict(rows: Iterator[Sample], ended: list[StrictStop]) -> Iterator[Sample]:
    """Yield rows up to one that could not be read and ends the run; keep what is to be raised.

    Rows are read ahead: those before it are captured first.
    """
    try:
        yield from rows
    except StrictStop as stop:
        ended.append(stop)
