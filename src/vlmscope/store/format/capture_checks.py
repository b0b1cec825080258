"""Checks of a capture before it is written: it matches the manifest and the other rows."""

from __future__ import annotations

from collections.abc import (
    Mapping,
)

import numpy as np

from vlmscope.errors import (
    StoreError,
)
from vlmscope.positions import (
    IMAGE_POSITIONS,
)
from vlmscope.sampling import (
    LENGTHS,
    SAMPLE_TEXTS,
    SAMPLE_TYPES,
    is_of_samples,
)
from vlmscope.schema import (
    Capture,
)
from vlmscope.signals import (
    ANSWER_TOKENS,
    INTEGERS,
    PREVIOUS,
    PREVIOUS_HEAD,
    is_token_states,
    needs_image,
)
from vlmscope.store.format.naming import (
    is_of_image,
    may_be_absent,
)

Shapes = Mapping[str, tuple[int, ...] | None]
"""Array of a signal → its shape; None for a list of a length of its own."""


Widths = Mapping[str, int]
"""Path of a vector, or array of a signal with a vector for each of several tokens → its width."""


def check_capture(
    capture: Capture, widths: Widths, signals: Shapes, tokens: Widths, *, like: Capture
) -> None:
    """Refuse a capture that does not match the other rows of the run. Nothing is written.

    Args:
        capture: The capture.
        widths: Path of each vector of the run → its width.
        signals: The arrays of signals of the run.
        tokens: Those with a vector for each of several tokens.
        like: Another capture of the same batch, with an image if any of them has one.

    Raises:
        StoreError: A vector is missing, unexpected, of another width or not finite; some of what
            is read from an image is there and some is not; or the answers, signals or boundaries
            differ from those of the manifest or of the other capture.
    """
    _check_vectors(capture, widths)
    _check_signals(capture, signals, tokens)
    parts = (capture.answer, capture.answer_token_ids, capture.answer_logprobs)
    answered = like.answer is not None
    if any((part is not None) != answered for part in parts):
        raise StoreError(
            f"question {capture.sample.id!r}: answer, tokens and log-probabilities are expected "
            "on every row of a run, or on none"
        )
    found, wanted = set(capture.boundaries), set(like.boundaries)
    if bool(capture.image_sha256) != bool(like.image_sha256):  # one of the two has no image
        found, wanted = found.difference(IMAGE_POSITIONS), wanted.difference(IMAGE_POSITIONS)
    if found != wanted:
        raise StoreError(
            f"question {capture.sample.id!r}: boundaries of {sorted(capture.boundaries)}, but "
            f"question {like.sample.id!r} has {sorted(like.boundaries)}"
        )


def _check_vectors(capture: Capture, widths: Mapping[str, int]) -> None:
    has_image = bool(capture.image_sha256)
    found = {path: vector.shape for path, vector in capture.vectors.items()}
    wanted = {p: (w,) for p, w in widths.items() if has_image or not is_of_image(p)}
    needed = {p for p in wanted if has_image or not may_be_absent(p)}
    if wrong := sorted(p for p in needed | found.keys() if found.get(p) != wanted.get(p)):
        kind = "" if has_image else " of a question without an image"
        raise StoreError(
            f"question {capture.sample.id!r}: vectors{kind} do not match the manifest: "
            + ", ".join(f"{p} is {found.get(p)}, expected {wanted.get(p)}" for p in wrong)
        )
    left = set(capture.boundaries).intersection(IMAGE_POSITIONS)
    kept = {name for name in ("image_dhash", "image_thumbnail") if getattr(capture, name)}
    if not has_image and (left or kept):
        what = f"boundaries of {sorted(left)}" if left else f"an {min(kept)}"
        raise StoreError(f"question {capture.sample.id!r}: has no image_sha256, but {what}")
    for path, vector in capture.vectors.items():
        if vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise StoreError(
                f"question {capture.sample.id!r}: {path} must be finite float32, found "
                f"{vector.dtype} with {np.count_nonzero(~np.isfinite(vector))} non-finite values"
            )


def _check_signals(capture: Capture, signals: Shapes, tokens: Widths) -> None:
    """Refuse arrays of signals that differ in name, shape or type from those of the manifest."""
    wanted: dict[str, tuple[int, ...]] = {
        name: _list_shape(capture, name) if shape is None else shape
        for name, shape in signals.items()
        if capture.image_sha256 or not needs_image(name)
    }
    wanted |= {
        name: (_token_count(capture, name), width)
        for name, width in tokens.items()
        if capture.image_sha256 or not needs_image(name)
    }
    if PREVIOUS in wanted:
        wanted[PREVIOUS] = (_content_count(capture), *(signals.get(PREVIOUS_HEAD) or ()))
    found = {name: array.shape for name, array in capture.signals.items()}
    if found != wanted:
        wrong = sorted(n for n in found.keys() | wanted if found.get(n) != wanted.get(n))
        raise StoreError(
            f"question {capture.sample.id!r}: signals do not match the manifest: "
            + ", ".join(f"{n} is {found.get(n)}, expected {wanted.get(n)}" for n in wrong)
        )
    for name in filter(is_token_states, capture.signals):
        if not np.isfinite(capture.signals[name]).all():
            raise StoreError(f"question {capture.sample.id!r}: signal {name} must be finite")
    for name, array in capture.signals.items():
        kind = np.dtype(SAMPLE_TYPES.get(name, np.int32 if name in INTEGERS else np.float32))
        if array.dtype != kind:
            raise StoreError(
                f"question {capture.sample.id!r}: signal {name} must be {kind}, found {array.dtype}"
            )


def _token_count(capture: Capture, name: str) -> int:
    """Return the expected number of tokens of an array: those of the answer, or of the images.

    The number of image tokens is that of the row's first array of them.
    """
    if name.partition("/")[0] == ANSWER_TOKENS:
        return answer_length(capture)
    group = name.partition("/")[0]
    arrays = (a for n, a in capture.signals.items() if n.partition("/")[0] == group)
    return max(1, len(next(arrays, ())))


def _list_shape(capture: Capture, name: str) -> tuple[int]:
    """Return the expected shape of a list: one value per token of the answer, or of the samples."""
    if not is_of_samples(name):
        return (answer_length(capture),)
    lengths = capture.signals.get(LENGTHS, np.zeros(0, np.int64))
    return (len(lengths) if name in {*SAMPLE_TEXTS, LENGTHS} else int(lengths.sum()),)


def answer_length(capture: Capture) -> int:
    """Return the number of tokens of the answer."""
    return 0 if capture.answer_token_ids is None else len(capture.answer_token_ids)


def _content_count(capture: Capture) -> int:
    """Return the number of tokens of the answer without the end of turn."""
    return max(0, answer_length(capture) - (capture.finish_reason == "stop"))
