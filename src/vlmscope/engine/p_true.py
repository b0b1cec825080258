"""P(True) of answers: one more prefill for each, batched like any other (``model.p_true``).

Rows are prepared again, with another question about the same images, by threads while the model
runs other rows: preparing 16 images takes as long as their prefill. Where a family's images are
encoded separately, their encodings are still cached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from vlmscope.engine.answers import greedy_config
from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.device import Fetch, is_dead_device, is_out_of_memory
from vlmscope.engine.image_cache import ImageEncoder
from vlmscope.engine.prefill import make_device_batch, run
from vlmscope.engine.row_errors import row_error
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.p_true import log_odds, question_about, reply_tokens
from vlmscope.schema import Capture, Failure, failure_of
from vlmscope.signals import P_TRUE, P_TRUE_MASS, RecordedSignals

AHEAD = 1
"""Batches of questions that are prepared while a model on a CPU runs others."""

AHEAD_OF_A_GPU = 4
"""The same for a model on a GPU, each by a thread."""


@dataclass(frozen=True, slots=True)
class _Questions:
    """Rows that are asked about together, as they enter the model."""

    batches: list[Batch]
    """Samples are named by the numbers of their rows: without a table, ids may be equal."""
    failed: dict[str, Failure]
    """Number → failure of a row that could not be prepared."""


class Asker:
    """Asks a model whether its answers are true.

    Args:
        vlm: The model.
        spec: What is recorded of the rows.
    """

    def __init__(self, vlm: VisionLanguageModel, spec: ResolvedSpec) -> None:
        self._vlm = vlm
        # Nothing is recorded of this prefill but the distribution of its first token.
        self._spec = replace(
            spec, layers=(), positions=(), max_new_tokens=0, signals=RecordedSignals()
        )
        self._tokens = reply_tokens(vlm.processor.tokenizer)
        self._waiting: list[Capture] = []
        self._ahead = AHEAD_OF_A_GPU if vlm.cuda_devices else AHEAD
        self._preparing = ThreadPoolExecutor(self._ahead, "vlmscope-ask")
        self._begun: deque[tuple[list[Capture], Future[_Questions]]] = deque()
        self._asked: list[Capture | Failure] = []
        self._at_once = 1

    def asked(
        self, rows: Sequence[Capture | Failure], images: ImageEncoder | None, at_once: int
    ) -> list[Capture | Failure]:
        """Return rows of this and of earlier calls, with P(True) of their answers.

        Args:
            rows: Rows that are finished otherwise.
            images: Encodes the images, if that is done separately.
            at_once: Number of rows that are asked about together; rows wait until there are as
                many. 0 for all that wait.
        """
        self._asked += [row for row in rows if isinstance(row, Failure)]
        self._waiting += [row for row in rows if isinstance(row, Capture)]
        self._at_once = at_once or self._at_once
        while self._waiting and (len(self._waiting) >= self._at_once or not at_once):
            together = self._waiting[: self._at_once]
            self._begun.append((together, self._preparing.submit(self._prepared, together)))
            del self._waiting[: len(together)]
        while len(self._begun) > (self._ahead if at_once else 0):
            rows, questions = self._begun.popleft()
            self._asked += self._ask(rows, images, questions)
        found, self._asked = self._asked, []
        return found

    def _ask(
        self,
        rows: Sequence[Capture],
        images: ImageEncoder | None,
        questions: Future[_Questions] | None = None,
    ) -> list[Capture | Failure]:
        """Return rows with P(True) of their answers, in order.

        A row whose question cannot be asked has NaN. A row that fails alone is a ``Failure``.

        Args:
            rows: The rows, with answers.
            images: Encodes the images, if that is done separately.
            questions: What a thread prepares of the rows; by default they are prepared here.
        """
        try:
            return self._ask_together(rows, images, questions)
        except Exception as error:
            if is_dead_device(error):
                raise
            if len(rows) == 1:
                sample = rows[0].sample
                return [failure_of(sample, "capture", str(row_error(sample, error)))]
            if images is not None and is_out_of_memory(error):
                images.forget()
        half = len(rows) // 2  # outside of the handler, whose error keeps tensors alive
        return [*self._ask(rows[:half], images), *self._ask(rows[half:], images)]

    def _ask_together(
        self,
        rows: Sequence[Capture],
        images: ImageEncoder | None,
        questions: Future[_Questions] | None,
    ) -> list[Capture | Failure]:
        prepared = self._prepared(rows) if questions is None else questions.result()
        values: dict[str, np.ndarray] = {}
        hashes: dict[str, str] = {}
        for batch in prepared.batches:
            ids = [sample.id for sample in batch.samples]
            values |= zip(ids, self._values(batch, images), strict=True)
            hashes |= zip(ids, batch.image_hashes, strict=True)
        return [
            self._finished(row, values.get(name), prepared.failed.get(name), hashes.get(name))
            for row, name in zip(rows, map(str, range(len(rows))), strict=True)
        ]

    def _prepared(self, rows: Sequence[Capture]) -> _Questions:
        """Return the questions about the answers of some rows; those that can be asked."""
        processor, asked = self._vlm.processor, []
        for number, row in enumerate(rows):
            sample = row.sample
            text = question_about(processor, sample.question, row.answer or "", len(sample.images))
            if text is not None:
                asked.append(replace(sample, id=str(number), question=text))
        batches, failures = (
            prepare(asked, self._vlm.preprocessing, self._spec) if asked else ([], [])
        )
        return _Questions(batches, {failure.id: failure for failure in failures})

    def _values(self, batch: Batch, images: ImageEncoder | None) -> np.ndarray:
        """Return log-odds and mass of each row of a batch."""
        device_batch, hooks = make_device_batch(batch, self._vlm, self._spec, images)
        run(device_batch, hooks, self._vlm, greedy_config(self._vlm, 1))
        found = log_odds(hooks.tensors().first_logits, self._tokens)
        return Fetch({P_TRUE: found})[P_TRUE]

    def _finished(
        self,
        row: Capture,
        values: np.ndarray | None,
        failure: Failure | None,
        image_sha256: str | None,
    ) -> Capture | Failure:
        """Return a row with its values; NaN without, unless its images cannot be read any more."""
        if failure is not None and failure.stage != "prompt":
            return replace(failure, id=row.sample.id)
        if image_sha256 not in (None, row.image_sha256):
            return failure_of(row.sample, "image", "the image changed while the row was processed")
        nothing = np.full(2, np.nan, np.float32)
        odds, mass = np.asarray(nothing if values is None else values, np.float32)
        arrays = {P_TRUE: np.array(odds), P_TRUE_MASS: np.array(mass)}
        return replace(row, signals={**row.signals, **arrays})
