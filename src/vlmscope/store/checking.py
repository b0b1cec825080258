"""What a capture must be for its run: refused here, before anything of it is written.

Every row has the vectors that the manifest promises. The one exception is a question without a
picture: it lacks all that is read off a picture, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlmscope.errors import StoreError
from vlmscope.schema import IMAGE_POSITIONS, Capture
from vlmscope.store.naming import is_of_image


def check_capture(capture: Capture, widths: Mapping[str, int], *, like: Capture) -> None:
    """Refuse a capture that the run's other rows would not match. Nothing is written.

    Args:
        capture: The capture.
        widths: Path of each vector of the run, and its width.
        like: Another capture of the same batch, with a picture if any of them has one.

    Raises:
        StoreError: A vector is missing, too many, of another width or not finite; some of what is
            read off a picture is there and some is not; or answers or boundaries are not as in the
            other capture.
    """
    _check_vectors(capture, widths)
    tokens = (capture.answer, capture.answer_token_ids, capture.answer_logprobs)
    answered = like.answer is not None
    if any((part is not None) != answered for part in tokens):
        raise StoreError(
            f"question {capture.sample.id!r}: a run has answers with tokens and log-probabilities "
            "on every row, or on none"
        )
    found, wanted = set(capture.boundaries), set(like.boundaries)
    if bool(capture.image_sha256) != bool(like.image_sha256):  # one of the two has no picture
        found, wanted = found.difference(IMAGE_POSITIONS), wanted.difference(IMAGE_POSITIONS)
    if found != wanted:
        raise StoreError(
            f"question {capture.sample.id!r}: boundaries of {sorted(capture.boundaries)}, but "
            f"question {like.sample.id!r} has {sorted(like.boundaries)}"
        )


def _check_vectors(capture: Capture, widths: Mapping[str, int]) -> None:
    has_picture = bool(capture.image_sha256)
    found = {path: vector.shape for path, vector in capture.vectors.items()}
    wanted = {p: (w,) for p, w in widths.items() if has_picture or not is_of_image(p)}
    if found != wanted:
        odd = sorted(path for path in found.keys() | wanted if found.get(path) != wanted.get(path))
        kind = "" if has_picture else " of a question without a picture"
        raise StoreError(
            f"question {capture.sample.id!r}: vectors{kind} do not match the manifest: "
            + ", ".join(f"{p} is {found.get(p)}, expected {wanted.get(p)}" for p in odd)
        )
    left = set(capture.boundaries).intersection(IMAGE_POSITIONS)
    kept = {name for name in ("image_dhash", "image_thumbnail") if getattr(capture, name)}
    if not has_picture and (left or kept):
        what = f"boundaries of {sorted(left)}" if left else f"an {min(kept)}"
        raise StoreError(f"question {capture.sample.id!r}: has no image_sha256, but {what}")
    for path, vector in capture.vectors.items():
        if vector.dtype != np.float32 or not np.isfinite(vector).all():
            raise StoreError(
                f"question {capture.sample.id!r}: {path} must be finite float32, found "
                f"{vector.dtype} with {np.count_nonzero(~np.isfinite(vector))} non-finite values"
            )
