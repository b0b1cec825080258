"""One run through the model for each batch: four representations from one prefill.

``reference.py`` is the slow method that this must equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.memory import is_dead_device
from vlmscope.engine.row_errors import row_errors
from vlmscope.engine.session import CaptureSession
from vlmscope.errors import InputError, RowError, VlmscopeError
from vlmscope.model import VisionLanguageModel
from vlmscope.model.halp import original_of
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample


def capture(
    samples: Iterable[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    batch_size: int = 8,
) -> Iterator[Capture]:
    """Yield what each sample leaves behind in one run through the model, in order.

    Several may run at once, in threads or in turn: the lock of the model is held while a batch goes
    through it, never while a result is yielded.

    Args:
        samples: Questions about images.
        vlm: The model, from ``load_model``.
        spec: What to record (default: the seed's choice).
        batch_size: Samples that go through the model together. The result does not depend on it,
            beyond rounding.

    Raises:
        InputError: ``batch_size`` is below 1, or the spec's ``compat`` is not for this model.
        RowError: A sample failed: its image, its prompt, or the processor or the model raised on
            it. ``extract`` records such rows instead, and goes on.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: give 1 or more")
    spec = spec or CaptureSpec()
    original_of(vlm.family.model_type, spec)  # before any picture is read
    session = CaptureSession(vlm, spec, batch_size)
    iterator = iter(samples)
    while chunk := tuple(islice(iterator, batch_size)):
        try:
            found = _captures(chunk, session, vlm, spec)
        except VlmscopeError:
            raise
        except Exception as error:
            if len(chunk) == 1 or is_dead_device(error):
                with row_errors(chunk[0]):
                    raise
            found = None
        if found is not None:
            yield from found
            continue
        session = CaptureSession(vlm, spec, batch_size)  # what the failed batch left is gone
        for sample in chunk:
            with row_errors(sample):
                (alone,) = _captures((sample,), session, vlm, spec)
            yield alone


def _captures(
    chunk: Sequence[Sample], session: CaptureSession, vlm: VisionLanguageModel, spec: CaptureSpec
) -> list[Capture]:
    """Return the captures of some samples, in order.

    Raises:
        RowError: One of them failed.
    """
    batches, failures = prepare(chunk, vlm, spec)
    found: dict[int, Capture] = {}
    for result in chain(failures, _all_of(batches, session, vlm, spec)):
        if isinstance(result, Failure):
            raise RowError(result.stage, f"{result.id}: {result.error}")
        found[id(result.sample)] = result
    return [found[id(sample)] for sample in chunk]


def capture_batch(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    session: CaptureSession | None = None,
    *,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> list[Capture | Failure]:
    """Run one batch through the model once.

    Args:
        batch: The rows, from ``prepare``.
        vlm: The model.
        spec: What to record.
        session: Where batches follow each other: the rows of this one may then come later, and
            those of earlier ones now.
        shapes: Filled, if given, with module → shape of what it returned in the prefill.

    Returns:
        Without a session one entry for each row, in order: a ``Failure`` where the model returned
        NaN or infinity. With one, the rows that are finished.

    Raises:
        InputError: The spec's ``compat`` is not for this model.
        torch.OutOfMemoryError: The batch does not fit; nothing of it is kept.
    """
    if session is not None:
        return session.submit(batch, shapes=shapes)
    session = CaptureSession(vlm, spec, len(batch.samples))
    results = _all_of([batch], session, vlm, spec, shapes)
    order = {sample.id: row for row, sample in enumerate(batch.samples)}
    return sorted(results, key=lambda item: order[_id_of(item)])


def _all_of(
    batches: Sequence[Batch],
    session: CaptureSession,
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> list[Capture | Failure]:
    """Return the results of some batches; rows that a failed step gave up come again."""
    results: list[Capture | Failure] = []
    while batches:
        for batch in batches:
            results += session.submit(batch, shapes=shapes)
        results += session.drain()
        batches, _ = prepare(session.take_lost(), vlm, spec)
    return results


def _id_of(item: Capture | Failure) -> str:
    return item.sample.id if isinstance(item, Capture) else item.id
