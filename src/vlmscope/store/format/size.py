"""The approximate size of a run on disk, which a plan shows before the first row."""

from __future__ import annotations

from math import prod

from vlmscope.sampling import is_of_samples
from vlmscope.signals import BOXES, PREVIOUS, is_token_states, needs_image
from vlmscope.store.format.manifest import Manifest

_PER_ROW = 10_400
"""Bytes of a row without its vectors: strings, token lists, attributes, index. Measured."""

_PER_VECTOR = 475
"""Bytes of one vector's virtual dataset in the row group. Measured."""


_PER_LIST = 850
"""Bytes of one list of values per token of the answer, in the row group and in its column."""

_PER_TOKEN_ROWS = 500
"""Bytes of the virtual dataset of an array with a vector for each of several tokens. Measured."""

_PER_SAMPLES = 1_700
"""Bytes of the texts and lists of the samples of a row, without their content. Measured."""

_PER_SAMPLE = 170
"""Bytes of a sample without its tokens."""

_PER_SAMPLED_TOKEN = 34
"""Bytes of a token of a sample: its text, number and log-probability, in the row group and in the
columns."""

_SAMPLED_TOKENS = 60
"""Tokens of an answer that are expected, if not fewer are allowed."""


def bytes_per_row(manifest: Manifest, image_tokens: float = 0, attended: float = 0) -> int:
    """Return the approximate size in bytes of a packed row.

    Args:
        manifest: The manifest of the run.
        image_tokens: The mean number of image tokens, if their states are recorded.
        attended: That of image tokens or patches, if the attention to them is recorded.
    """
    widths, arrays = manifest.widths().values(), manifest.signals()
    width = 2 if manifest.store_dtype == "float16" else 4
    fixed = {name: prod(shape) for name, shape in arrays.items() if shape is not None}
    lists = [name for name in arrays if name not in fixed and not is_of_samples(name)]
    return (
        sum(widths) * width
        + sum(size * (width if is_of_samples(name) else 4) for name, size in fixed.items())
        + (len(widths) + len(fixed)) * _PER_VECTOR
        + len(lists) * _PER_LIST
        + _of_previous(manifest)
        + _of_samples(manifest)
        + round(_of_tokens(manifest, image_tokens, attended))
        + _PER_ROW
    )


def _of_tokens(manifest: Manifest, image_tokens: float, attended: float) -> float:
    """Return the bytes of the arrays of a row with a vector for each of several tokens."""
    size = 2 if manifest.states_dtype == "float16" else 4
    answer_tokens = min(_SAMPLED_TOKENS, manifest.capture.max_new_tokens)
    total = 0.0
    for name, width in manifest.token_widths().items():
        if is_token_states(name):
            total += size * width * (image_tokens if needs_image(name) else answer_tokens)
        else:
            total += (4 if name == BOXES else 2) * width * attended
        total += _PER_TOKEN_ROWS
    return total


def _of_previous(manifest: Manifest) -> int:
    """Return the bytes of the attention to the previous token: in the column and in the row."""
    if PREVIOUS not in manifest.signals():
        return 0
    tokens = min(_SAMPLED_TOKENS, manifest.capture.max_new_tokens)
    return 2 * 4 * tokens * len(manifest.capture.attention_layers)


def _of_samples(manifest: Manifest) -> int:
    """Return the bytes of the texts and tokens of a row's samples."""
    record = manifest.capture
    if not record.samples:
        return 0
    tokens = min(_SAMPLED_TOKENS, record.max_new_tokens)
    return _PER_SAMPLES + record.samples * (_PER_SAMPLE + tokens * _PER_SAMPLED_TOKEN)
