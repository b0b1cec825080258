"""P(True) of answers: one more prefill for each, batched like any other (``model.p_true``).

For rows that were not asked about from their slots (``decoding.asking``). They are prepared again,
with another question about the same images, by threads while the model runs other rows: preparing
16 images takes as long as their prefill. Where a family's images are encoded separately, their
encodings are still cached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from vlmscope.engine.answers import greedy_config
from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.device import Fetch, is_dead_device, is_out_of_memory
from vlmscope.engine.image_cache import ImageEncoder
from vlmscope.engine.prefill import make_device_batch, run
from vlmscope.engine.row_errors import row_error
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.p_true import log_odds, question_about
from vlmscope.prompt import control_tokens
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows whose questions are in the model, or have failed."""

    rows: Sequence[Capture]
    failed: Mapping[str, Failure]
    """As in ``_Questions``."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Number of a row → hash of its images as they were read for the question."""
    values: list[tuple[list[str], Fetch]] = field(default_factory=list)
    """Numbers of the rows of a batch, and their log-odds and mass."""


def spec_of_questions(spec: ResolvedSpec) -> ResolvedSpec:
    """Return what is recorded of questions about answers: the distribution of the first token."""
    return replace(spec, layers=(), positions=(), max_new_tokens=0, signals=RecordedSignals())


class Asker:
    """Asks a model whether its answers are true.

    Args:
        vlm: The model.
        spec: What is recorded of the rows.
        words: The tokens of the replies, from ``reply_tokens``.
    """

    def __init__(
        self, vlm: VisionLanguageModel, spec: ResolvedSpec, words: tuple[list[int], list[int]]
    ) -> None:
        self._vlm = vlm
        self._spec = spec_of_questions(spec)
        self._words = words
        self._waiting: list[Capture] = []
        self._ahead = AHEAD_OF_A_GPU if vlm.cuda_devices else AHEAD
        self._preparing = ThreadPoolExecutor(self._ahead, "vlmscope-ask")
        self._begun: deque[tuple[list[Capture], Future[_Questions]]] = deque()
        self._in_model: deque[_Asked] = deque()
        self._asked: list[Capture | Failure] = []
        self._at_once = 1

    def asked(
        self, rows: Sequence[Capture | Failure], images: ImageEncoder | None, at_once: int
    ) -> list[Capture | Failure]:
        """Return rows of this and of earlier calls, with P(True) of their answers.

        Args:
            rows: Rows that are finished otherwise; those that have P(True) are not asked about.
            images: Encodes the images, if that is done separately.
            at_once: Number of rows that are asked about together; rows wait until there are as
                many. 0 for all that wait.
        """
        for row in rows:
            if isinstance(row, Failure) or P_TRUE in row.signals:
                self._asked.append(row)
            else:
                self._waiting.append(row)
        self._at_once = at_once or self._at_once
        while self._waiting and (len(self._waiting) >= self._at_once or not at_once):
            together = self._waiting[: self._at_once]
            self._begun.append((together, self._preparing.submit(self._prepared, together)))
            del self._waiting[: len(together)]
        while len(self._begun) > (self._ahead if at_once else 0):
            self._in_model += self._ask(*self._begun[0], images)
            self._begun.popleft()  # only now: after Ctrl-C its rows are asked about again
        while len(self._in_model) > (1 if at_once else 0):  # one is read while others are launched
            self._asked += _read(self._in_model[0])
            self._in_model.popleft()
        found, self._asked = self._asked, []
        return found

    def _ask(
        self,
        rows: Sequence[Capture],
        questions: Future[_Questions] | None,
        images: ImageEncoder | None,
    ) -> list[_Asked]:
        """Start to ask about some rows, in halves if that fails; a row may fail alone.

        Args:
            rows: The rows, with answers.
            questions: What a thread prepares of the rows; if None they are prepared here.
            images: Encodes the images, if that is done separately.
        """
        try:
            return [self._ask_together(rows, questions, images)]
        except Exception as error:
            if is_dead_device(error):
                raise
            if len(rows) == 1:
                sample = rows[0].sample
                failure = failure_of(sample, "capture", str(row_error(sample, error)))
                return [_Asked(rows, {"0": failure})]
            if images is not None and is_out_of_memory(error):
                images.forget()
        half = len(rows) // 2  # outside of the handler, whose error keeps tensors alive
        return [*self._ask(rows[:half], None, images), *self._ask(rows[half:], None, images)]

    def _ask_together(
        self,
        rows: Sequence[Capture],
        questions: Future[_Questions] | None,
        images: ImageEncoder | None,
    ) -> _Asked:
        """Start the prefill of the questions about some rows."""
        prepared = self._prepared(rows) if questions is None else questions.result()
        asked = _Asked(rows, prepared.failed)
        for batch in prepared.batches:
            ids = [sample.id for sample in batch.samples]
            asked.hashes.update(zip(ids, batch.image_hashes, strict=True))
            asked.values.append((ids, self._values(batch, images)))
        return asked

    def _prepared(self, rows: Sequence[Capture]) -> _Questions:
        """Return the questions about the answers of some rows; those that can be asked."""
        processor, asked = self._vlm.processor, []
        control = control_tokens(processor.tokenizer)
        for number, row in enumerate(rows):
            sample = row.sample
            images = len(sample.images)
            text = question_about(processor, sample.question, row.answer or "", images, control)
            if text is not None:
                asked.append(replace(sample, id=str(number), question=text))
        batches, failures = (
            prepare(asked, self._vlm.preprocessing, self._spec) if asked else ([], [])
        )
        return _Questions(batches, {failure.id: failure for failure in failures})

    def _values(self, batch: Batch, images: ImageEncoder | None) -> Fetch:
        """Return log-odds and mass of each row of a batch, as they arrive."""
        device_batch, hooks = make_device_batch(batch, self._vlm, self._spec, images)
        run(device_batch, hooks, self._vlm, greedy_config(self._vlm, 1))
        return Fetch({P_TRUE: log_odds(hooks.tensors().first_logits, self._words)})


def _read(asked: _Asked) -> list[Capture | Failure]:
    """Return rows with P(True) of their answers; NaN where the question could not be asked."""
    values: dict[str, np.ndarray] = {}
    for ids, found in asked.values:
        values |= zip(ids, found[P_TRUE], strict=True)
    names = map(str, range(len(asked.rows)))
    return [
        _finished(row, values.get(name), asked.failed.get(name), asked.hashes.get(name))
        for row, name in zip(asked.rows, names, strict=True)
    ]


def _finished(
    row: Capture, values: np.ndarray | None, failure: Failure | None, image_sha256: str | None
) -> Capture | Failure:
    """Return a row with its values; NaN without, unless its images cannot be read any more."""
    if failure is not None and failure.stage != "prompt":
        return replace(failure, id=row.sample.id)
    if image_sha256 not in (None, row.image_sha256):
        return failure_of(row.sample, "image", "the image changed while the row was processed")
    nothing = np.full(2, np.nan, np.float32)
    return with_p_true(row, nothing if values is None else values)


def with_p_true(row: Capture, values: np.ndarray) -> Capture:
    """Return a row with P(True) of its answer.

    Args:
        row: The row.
        values: Log-odds and mass.
    """
    odds, mass = np.asarray(values, np.float32)
    arrays = {P_TRUE: np.array(odds), P_TRUE_MASS: np.array(mass)}
    return replace(row, signals={**row.signals, **arrays})
