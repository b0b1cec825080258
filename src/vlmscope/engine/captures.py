"""Captures of samples, batch by batch, without a run on disk."""

from __future__ import annotations

from collections.abc import (
    Iterable,
    Iterator,
    Sequence,
)
from itertools import (
    chain,
    islice,
)

from vlmscope.engine.batch import (
    Batch,
    prepare,
)
from vlmscope.engine.device import (
    is_dead_device,
)
from vlmscope.engine.inputs import (
    until_error,
)
from vlmscope.engine.row_errors import (
    row_errors,
)
from vlmscope.engine.session import CaptureSession
from vlmscope.errors import (
    InputError,
    RowError,
    VlmscopeError,
)
from vlmscope.model import (
    ResolvedSpec,
    VisionLanguageModel,
    resolve_spec,
)
from vlmscope.schema import (
    Capture,
    CaptureSpec,
    Failure,
    Sample,
)


def capture(
    samples: Iterable[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec | None = None,
    *,
    batch_size: int = 8,
) -> Iterator[Capture]:
    """Yield the capture of each sample from one run through the model, in order.

    Several calls may be active, in threads or interleaved: the model lock is held while a batch is
    run, never while a result is yielded.

    Args:
        samples: Questions about images.
        vlm: The model, from ``load_model``.
        spec: What to record (default: that of the specification).
        batch_size: Samples that are run together. The result does not depend on it, except for
            rounding.

    Raises:
        InputError: ``batch_size`` is below 1, the model has no such layer, or ``compat`` does not
            support it.
        RowError: A sample failed: its image, its prompt, or an exception of the processor or the
            model. Those before it are yielded first. ``extract`` records such rows instead, and
            continues.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: give 1 or more")
    resolved = resolve_spec(spec or CaptureSpec(), vlm)  # before any image is read
    session = CaptureSession(vlm, resolved, batch_size)
    iterator, errors = iter(samples), list[Exception]()
    while not errors and (
        chunk := tuple(until_error(islice(iterator, batch_size), errors, Exception))
    ):
        found = _captures_together(chunk, session, resolved)
        if found is not None:
            yield from found
            continue
        session = CaptureSession(vlm, resolved, batch_size)  # without the rows of the failed batch
        yield from _captures_alone(chunk, session, resolved)
    if errors:
        raise errors[0]


def _captures_alone(
    chunk: Sequence[Sample], session: CaptureSession, spec: ResolvedSpec
) -> Iterator[Capture]:
    """Yield the capture of each sample, run alone.

    Raises:
        RowError: One failed; those before it were yielded.
    """
    for sample in chunk:
        with row_errors(sample):
            (alone,) = _captures((sample,), session, spec)
        yield alone


def _captures_together(
    chunk: Sequence[Sample], session: CaptureSession, spec: ResolvedSpec
) -> list[Capture] | None:
    """Return the captures of some samples, or None if one of several failed.

    Each is then to be run alone, so that those before it are captured.

    Raises:
        RowError: The only one failed.
    """
    try:
        return _captures(chunk, session, spec)
    except RowError:
        if len(chunk) == 1:
            raise
    except VlmscopeError:
        raise
    except Exception as error:
        if len(chunk) == 1 or is_dead_device(error):
            with row_errors(chunk[0]):
                raise
    return None


def _captures(
    chunk: Sequence[Sample], session: CaptureSession, spec: ResolvedSpec
) -> list[Capture]:
    """Return the captures of some samples, in order.

    Raises:
        RowError: One of them failed.
    """
    batches, failures = prepare(chunk, session.prepares_with, spec)
    found: dict[int, Capture] = {}
    for result in chain(failures, _all_of(batches, session, spec)):
        if isinstance(result, Failure):
            raise RowError(result.stage, f"{result.id}: {result.error}")
        found[id(result.sample)] = result
    return [found[id(sample)] for sample in chunk]


def capture_batch(
    batch: Batch,
    vlm: VisionLanguageModel,
    spec: ResolvedSpec,
    session: CaptureSession | None = None,
) -> list[Capture | Failure]:
    """Run one batch through the model once.

    Args:
        batch: The rows, from ``prepare``.
        vlm: The model.
        spec: What to record.
        session: If batches are run one after the other: rows of this one may then be returned
            later, and those of earlier ones now.

    Returns:
        Without a session one entry per row, in order: a ``Failure`` if the model returned NaN or
        infinity. With a session, the rows that are finished.

    Raises:
        torch.OutOfMemoryError: The batch does not fit; nothing of it is recorded.
    """
    if session is not None:
        return session.submit(batch)
    session = CaptureSession(vlm, spec, len(batch.samples))
    results = _all_of([batch], session, spec)
    order = {sample.id: row for row, sample in enumerate(batch.samples)}
    return sorted(results, key=lambda item: order[_id_of(item)])


def _all_of(
    batches: Sequence[Batch], session: CaptureSession, spec: ResolvedSpec
) -> list[Capture | Failure]:
    """Return the results of some batches; rows dropped by a failed step are run again."""
    results: list[Capture | Failure] = []
    while batches:
        for batch in batches:
            results += session.submit(batch)
        results += session.drain()
        batches, _ = prepare(session.pop_failed(), session.prepares_with, spec)
    return results


def _id_of(item: Capture | Failure) -> str:
    return item.sample.id if isinstance(item, Capture) else item.id
