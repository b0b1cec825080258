"""What a row of one file knows of its prompt, its first token and its answer, beside the vectors.

Exports of vlmscope hold these; files of the original research do not. A file may be anybody's: what
has another type or shape than ``docs/format.md`` says counts as not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5a
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.store.block import metadata_of

FACT_LISTS = ("first_token_ids", "first_token_logprobs", "answer_token_ids", "answer_logprobs")
"""Datasets of a row that facts are read from."""

METADATA = "metadata"
"""Attribute of a row in an export: the other columns of its table, as in a run's columns."""

MOST_NUMBERS = 1_000_000
"""Most numbers of a list that is read: an answer has thousands of tokens at the most."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedFacts:
    """What is known of a row. None is what the file does not say."""

    num_prompt_tokens: float | None = None
    first_token_entropy: float | None = None
    first_token_ids: NDArray[np.int64] | None = None
    """Ids of the likeliest first tokens, ``[K]``."""
    first_token_logprobs: NDArray[np.float64] | None = None
    """Their natural-log probabilities, ``[K]``."""
    num_answer_tokens: float | None = None
    mean_answer_logprob: float | None = None
    """NaN where the answer is empty."""


def read_facts(group: Any, lists: Mapping[str, Any]) -> SeedFacts:
    """Return what is known of a row.

    Args:
        group: The row's low-level group.
        lists: Its low-level datasets of ``FACT_LISTS``, by name.
    """
    logprobs = _floats(lists.get("answer_logprobs"))
    tokens = logprobs if logprobs is not None else _integers(lists.get("answer_token_ids"))
    ids = _integers(lists.get("first_token_ids"))
    likeliest = _floats(lists.get("first_token_logprobs"))
    paired = ids is not None and likeliest is not None and len(ids) == len(likeliest) > 0
    return SeedFacts(
        num_prompt_tokens=_number(group, "num_prompt_tokens"),
        first_token_entropy=_number(group, "first_token_entropy"),
        first_token_ids=ids if paired else None,
        first_token_logprobs=likeliest if paired else None,
        num_answer_tokens=None if tokens is None else float(len(tokens)),
        mean_answer_logprob=None if logprobs is None else _mean(logprobs),
    )


def read_metadata(group: Any) -> dict[str, Any]:
    """Return the other columns of a row's table; nothing where the file does not have them."""
    if not h5a.exists(group, METADATA.encode()):
        return {}
    try:
        text = h5py.Group(group).attrs[METADATA]
        return metadata_of(text) if isinstance(text, str) else {}
    except (StoreError, UnicodeDecodeError):
        return {}  # an attribute of somebody else, who means something else by the name


def _number(group: Any, name: str) -> float | None:
    """Return an attribute that is one finite number."""
    if not h5a.exists(group, name.encode()):
        return None
    attribute = h5a.open(group, name.encode())
    if attribute.shape or attribute.dtype.kind not in "iuf":
        return None
    value = float(h5py.Group(group).attrs[name])
    return value if math.isfinite(value) else None


def _floats(dataset: Any) -> NDArray[np.float64] | None:
    """Return a list of log-probabilities; minus infinity is a token that cannot come."""
    values = _list(dataset, "f")
    if values is None or np.isnan(values).any() or np.isposinf(values).any():
        return None
    return values.astype(np.float64)


def _integers(dataset: Any) -> NDArray[np.int64] | None:
    values = _list(dataset, "iu")
    return None if values is None else values.astype(np.int64)


def _list(dataset: Any, kinds: str) -> NDArray[Any] | None:
    """Return the values of a one-dimensional dataset of a kind of number."""
    if dataset is None:
        return None
    opened = h5py.Dataset(dataset)
    if opened.ndim != 1 or opened.dtype.kind not in kinds or opened.shape[0] > MOST_NUMBERS:
        return None
    return np.asarray(opened[()])


def _mean(logprobs: NDArray[np.float64]) -> float:
    return float(logprobs.astype(np.float32).mean()) if len(logprobs) else math.nan
