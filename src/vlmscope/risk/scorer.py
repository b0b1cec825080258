"""Calibrated risks of questions: one prefill, one vector, one probe; no token is generated.

The vector is captured by the engine that captured the probe's training data, so the risk of a
question is the same whether its row is in a run or it is scored now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vlmscope.arguments import check_batch_size
from vlmscope.engine import CaptureSession, Rows, rows_of, until_error
from vlmscope.errors import InputError, RowError, naming_arguments
from vlmscope.executors.batching import rows_at_once, sizer_for
from vlmscope.executors.prefetching import batches_ahead, batches_to_prepare
from vlmscope.executors.runner import ResilientRunner
from vlmscope.metrics import Platt
from vlmscope.model import VisionLanguageModel, given_model, load_with, loaded, resolve_spec
from vlmscope.model.halp import positions_of
from vlmscope.model_options import ModelOptions
from vlmscope.positions import (
    ANSWER_POSITIONS,
    DEFAULT_POSITIONS,
    REPRESENTATIONS,
    VISION_ONLY,
)
from vlmscope.probes import ProbeInfo, load_probe
from vlmscope.prompt import at_time, reads_clock
from vlmscope.risk.probe_of import check_match, find_probe, reason_without_risk, trained_at
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample, failure_of
from vlmscope.store import AnyRun, vector_path

if TYPE_CHECKING:
    from vlmscope.probes.base import BinaryProbe
    from vlmscope.schema import GivenImage

UNDATED_NOTE = (
    "the chat template contains the date, and the probe does not record the date of its training: "
    "today's is used, and risks may differ a little; train the probe again with vlmscope probe"
)
"""Note for a probe that was saved without the time of its run."""

_Rows = Sequence[tuple[str, Sample | Failure]]


@dataclass(frozen=True, slots=True)
class Risk:
    """The probability that the answer to one question is a hallucination."""

    id: str
    """The question id."""
    risk: float
    """Calibrated probability, 0 to 1."""
    flagged: bool
    """Whether the risk is above the scorer's threshold."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedProbe:
    """A probe on disk, loaded and checked."""

    folder: Path
    """Its folder."""
    estimator: BinaryProbe
    """The fitted probe."""
    info: ProbeInfo
    """What it was trained on, and its test results."""
    spec: CaptureSpec
    """What must be captured for it."""


def read_saved_probe(probe: AnyRun) -> SavedProbe:
    """Load a probe that can be used before the answer is generated.

    Args:
        probe: Its folder, or a run that ``vlmscope probe`` was run on.

    Raises:
        InputError: There is no such probe, or it needs the answer.
    """
    folder = find_probe(probe)
    estimator, info = load_probe(folder)
    return SavedProbe(folder, estimator, info, spec_of(folder, info))


class RiskScorer:
    """Scores questions before the model generates a token. Made by ``RiskScorer.load``.

    A scorer may be called from several threads: one at a time runs the model, and each gets the
    risks of its own questions. Your own calls of ``vlm.model`` must then hold
    ``vlmscope.model.model_lock()``.

    Args:
        vlm: The model that the probe was trained on; its folder or hub id is loaded as by ``load``.
        probe: Folder of a saved probe, or a run that ``vlmscope probe`` was run on, or its folder.
        threshold: Risk above which an answer is flagged (default: the probe's own, which flags 5%
            of the faithful answers that it was tested on).
        batch_size: Questions that are run together; ``auto`` finds what fits.

    Attributes:
        probe: The fitted probe.
        info: What the probe was trained on, and its test results.
        threshold: Risk above which an answer is flagged.
        dtype: Data type of the model.
        note: A note on the risks for the user; may be empty.

    Raises:
        InputError: The probe was trained on another model or prompt, or needs the answer.
    """

    @naming_arguments(model="vlm")
    def __init__(
        self,
        vlm: str | PathLike[str] | VisionLanguageModel,
        probe: AnyRun | SavedProbe,
        *,
        threshold: float | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        saved = probe if isinstance(probe, SavedProbe) else read_saved_probe(probe)
        self.probe, self.info = saved.estimator, saved.info
        self.threshold = _threshold(self.info, threshold)
        check_batch_size(batch_size)
        vlm = _loaded_for(saved, vlm, ModelOptions())
        check_match(saved.folder, self.info, vlm)
        time = trained_at(saved.folder, self.info)
        vlm = replace(vlm, processor=at_time(vlm.processor, time))
        self.note = UNDATED_NOTE if time is None and reads_clock(vlm.processor) else ""
        self.dtype = str(vlm.dtype).removeprefix("torch.")
        self._vlm = vlm
        self._spec = resolve_spec(saved.spec, vlm)
        self._slots = rows_at_once(vlm, batch_size)
        self._sizer = sizer_for(vlm, batch_size)
        self._went_well = False  # once a row succeeded, errors are caused by rows

    def __repr__(self) -> str:
        layer = "" if self.info.layer is None else f" at layer {self.info.layer}"
        return (
            f"RiskScorer({self._vlm.name!r} in {self.dtype}, {self.info.estimator} of "
            f"{self.info.representation}{layer}, trained on {self.info.rows:,} rows, threshold "
            f"{self.threshold:.3g})"
        )

    @classmethod
    @naming_arguments(model="model")
    def load(
        cls,
        model: str | PathLike[str] | VisionLanguageModel,
        probe: AnyRun,
        *,
        dtype: str = "auto",
        device: str = "auto",
        attention: str = "auto",
        revision: str | None = None,
        adapter: str | PathLike[str] | None = None,
        threshold: float | None = None,
        batch_size: int | Literal["auto"] = "auto",
        allow_pickle_weights: bool = False,
    ) -> RiskScorer:
        """Load the model and the probe.

        Args:
            model: Folder of a checkpoint, or a hub id; or the loaded model, as it is.
            probe: Folder of a saved probe, or a run that ``vlmscope probe`` was run on, or its
                folder.
            dtype: As in ``load_model``; ``auto`` is the one that the probe was trained with.
            device: As in ``load_model``.
            attention: As in ``load_model``.
            revision: Branch, tag or commit of a hub checkpoint.
            adapter: Folder of a LoRA adapter (default: the one that the probe was trained with).
            threshold: Risk above which an answer is flagged (default: the probe's own).
            batch_size: Questions that are run together.
            allow_pickle_weights: As in ``load_model``.

        Raises:
            InputError: There is no such probe, or it belongs to another model or prompt.
            ModelError: The checkpoint cannot be used.
        """
        saved = read_saved_probe(probe)  # fast checks before the model is loaded
        _threshold(saved.info, threshold)
        check_batch_size(batch_size)
        options = ModelOptions(
            dtype=dtype, device=device, attention=attention, revision=revision, adapter=adapter,
            allow_pickle_weights=allow_pickle_weights,
        )  # fmt: skip
        vlm = _loaded_for(saved, model, options)
        return cls(vlm, saved, threshold=threshold, batch_size=batch_size)

    def score(
        self,
        rows: Rows,
        *,
        images: str | PathLike[str] | None = None,
        text_only: bool = False,
    ) -> Iterator[Risk | Failure]:
        """Yield the risk of each row, in order, or a ``Failure``.

        Args:
            rows: Questions about images, or without: samples, or a table as ``extract`` takes it.
                The failures among the rows of a table are passed on. The next batches are prepared
                while the model runs, so rows are consumed ahead. If a model encodes images
                separately, equal images are encoded once. A question without an image is a failure
                if all training rows of the probe had one, and the other way round.
            images: Of a table: the folder that relative paths of images start from.
            text_only: Of a table: take rows without an image as questions about none.

        Raises:
            InputError: The table cannot be opened.
        """
        return self._scored(rows_of(rows, images=images, text_only=text_only))

    def _scored(self, rows: Iterable[Sample | Failure]) -> Iterator[Risk | Failure]:
        """Yield the risk of each row, in order."""
        session = CaptureSession(self._vlm, self._spec, self._slots)
        runner = ResilientRunner(
            self._vlm, self._spec, self._sizer, session, went_well=self._went_well
        )
        ahead = batches_to_prepare(self._vlm)
        preparing = ThreadPoolExecutor(ahead, "vlmscope-prepare")
        waiting: deque[tuple[str, str]] = deque()  # key of a row, its id
        results: dict[str, Capture | Failure] = {}  # by the key
        errors: list[Exception] = []  # of reading the rows: raised after the risks of those before
        read = until_error(rows, errors, Exception)
        keys: set[str] = set()  # of the rows that are waiting, or are read ahead
        keyed = ((key, self._of_trained_kind(row)) for key, row in _keyed(read, keys))
        try:
            for chunk, prepared in batches_ahead(
                keyed, self._sizer, lambda rows: runner.prepare(_samples(rows)), preparing,
                ahead=ahead,
            ):  # fmt: skip
                waiting += [(key, row.id) for key, row in chunk]
                results |= {key: row for key, row in chunk if isinstance(row, Failure)}
                pieces = runner.run(_samples(chunk), prepared)
                del prepared  # the runner can then free it if memory runs out
                results |= _by_key(pieces)
                self._vlm.check_files()
                yield from self._in_order(waiting, results, keys)
            results |= _by_key(runner.drain())
            yield from self._in_order(waiting, results, keys)
            if errors:
                raise errors[0]
        finally:
            # Without waiting: the garbage collector may run this in a thread that has a lock which
            # the preparing threads wait for.
            preparing.shutdown(wait=False, cancel_futures=True)

    def risk(
        self, image: GivenImage | list[GivenImage] | tuple[GivenImage, ...] | None, question: str
    ) -> float:
        """Return the risk of one question about an image, several images, or none.

        Args:
            image: Path of a file, the bytes of one, a PIL image, or a NumPy array of uint8,
                ``[height, width, 3]`` in the order red, green, blue, or ``[height, width]`` in
                grey; a list or tuple of these; or None.
            question: The question.

        Raises:
            RowError: The question cannot be run through the model, or has an image or none where
                the probe needs the other.
        """
        given: Any = image
        [found] = self.score([Sample("question", given, question)])
        if isinstance(found, Failure):
            raise RowError(found.stage, found.error)
        return found.risk

    def _of_trained_kind(self, row: Sample | Failure) -> Sample | Failure:
        """Return a row, or a ``Failure`` if this probe learned from none like it."""
        if isinstance(row, Failure):
            return row
        why = reason_without_risk(self.info, has_image=bool(row.images))
        return failure_of(row, "input", why) if why else row

    def _in_order(
        self,
        waiting: deque[tuple[str, str]],
        results: dict[str, Capture | Failure],
        keys: set[str],
    ) -> Iterator[Risk | Failure]:
        """Yield the results of the first waiting rows, up to one that is not finished.

        Their keys are removed from ``keys``: later rows may have them.
        """
        found: list[tuple[str, Capture | Failure]] = []
        while waiting and waiting[0][0] in results:
            key, id_ = waiting.popleft()
            found.append((id_, results.pop(key)))
            keys.remove(key)
        path = vector_path(self.info.representation, self.info.layer)
        vectors = [item.vectors[path] for _, item in found if isinstance(item, Capture)]
        self._went_well = self._went_well or bool(vectors)
        risks = iter(self._risks(vectors))
        for id_, item in found:
            if isinstance(item, Failure):
                yield item if item.id == id_ else replace(item, id=id_)
            else:
                risk = next(risks)
                yield Risk(id_, risk, risk > self.threshold)

    def _risks(self, vectors: Sequence[np.ndarray]) -> list[float]:
        """Return the calibrated risk of each vector."""
        if not vectors:
            return []
        a, b = self.info.calibration or (1.0, 0.0)
        logits = self.probe.decision_function(np.stack(vectors))
        return [float(risk) for risk in Platt(a, b).apply(logits)]


def _loaded_for(
    saved: SavedProbe, model: str | PathLike[str] | VisionLanguageModel, options: ModelOptions
) -> VisionLanguageModel:
    """Return the model of a probe: loaded as it was for the training rows, or as it is.

    Raises:
        InputError: It is no model, or is loaded already and options are given, or the adapter that
            the probe was trained with is gone.
        ModelError: The checkpoint cannot be used.
    """
    given, trained = given_model(model), saved.info.model
    if isinstance(given, VisionLanguageModel):
        return loaded(given, options)
    adapter = trained.get("adapter")
    if options.adapter is None and adapter is not None and not Path(adapter).is_dir():
        raise InputError(
            f"{saved.folder}: trained with the adapter {adapter}, which does not exist; "
            "give its current path as --adapter"
        )
    dtype = str(trained.get("dtype", "auto")) if options.dtype == "auto" else options.dtype
    return load_with(
        given,
        replace(
            options,
            dtype=dtype,
            family=trained.get("description"),
            adapter=options.adapter or adapter,
            quantize=trained.get("quantization") or None,
        ),
    )


def spec_of(folder: Path, info: ProbeInfo) -> CaptureSpec:
    """Return what must be captured for a probe: its one vector, and no answer.

    Raises:
        InputError: The probe needs a vector that exists only after the answer is generated, or one
            that this version of vlmscope does not know, or what it records of its model is not
            text.
    """
    pooling = info.model.get("vision_pooling", "all")
    compat = info.model.get("compat", "")
    for name in ("type", "dtype", "adapter", "quantization"):
        if not isinstance(info.model.get(name), str | None):
            raise InputError(
                f"{folder}: model.{name} is {info.model[name]!r}, expected text; train the probe "
                "again"
            )
    if info.representation == VISION_ONLY:
        if info.layer is not None:
            raise InputError(
                f"{folder}: layer is {info.layer}, but {VISION_ONLY} has no layers; train the "
                "probe again"
            )
        return CaptureSpec(
            layers="0",
            positions=positions_of(info.model.get("type", "")) if compat else DEFAULT_POSITIONS,
            vision_pooling=pooling,
            max_new_tokens=0,
            compat=compat,
        )
    position = {name: p for p, name in REPRESENTATIONS.items()}.get(info.representation)
    if position is None or info.layer is None:
        raise InputError(
            f"{folder}: trained on {info.representation}, which this vlmscope cannot capture; "
            f"choose one of {VISION_ONLY}, {', '.join(REPRESENTATIONS.values())}"
        )
    if position in ANSWER_POSITIONS:
        raise InputError(
            f"{folder}: trained on {info.representation}, which exists only after the answer is "
            "generated; choose a probe of the prompt"
        )
    return CaptureSpec(
        layers=str(info.layer),
        positions=(position,),
        vision_pooling=pooling,
        max_new_tokens=0,
        compat=compat,
    )


def _threshold(info: ProbeInfo, wanted: float | None) -> float:
    """Return the threshold to use."""
    threshold = info.threshold if wanted is None else wanted
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g}: give a risk from 0 to 1")
    return threshold


def _samples(rows: _Rows) -> list[Sample]:
    """Return the questions among some rows, each with its key as its id."""
    return [replace(row, id=key) for key, row in rows if isinstance(row, Sample)]


def _keyed(
    rows: Iterable[Sample | Failure], keys: set[str]
) -> Iterator[tuple[str, Sample | Failure]]:
    """Yield rows, each with a key that none of ``keys`` is, and add the key to them.

    The key is the row's id, with a suffix if another row in work has that id. A stream may have no
    end, so the keys of all rows are not kept.
    """
    for number, row in enumerate(rows, 1):
        key = row.id
        while key in keys:
            key = f"{key} (row {number})"
        keys.add(key)
        yield key, row


def _by_key(pieces: Iterable[Sequence[Capture | Failure]]) -> dict[str, Capture | Failure]:
    """Return results by the key of their row."""
    return {
        item.id if isinstance(item, Failure) else item.sample.id: item
        for piece in pieces
        for item in piece
    }
