"""Folds that were drawn are not drawn again: scikit-learn takes a fifth of a sweep's time for them.

A sweep asks for the same split once for each layer, and most tests of a module sweep the same rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from vlmscope.probes import folds

Split = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=4096)
def _split(settings: tuple[int, int], truth: bytes, groups: bytes, kind: str) -> list[Split]:
    count, seed = settings
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    labels = np.frombuffer(truth, dtype=bool)
    found = list(splitter.split(labels, labels, np.frombuffer(groups, dtype=kind)))
    for rows in found:
        for one in rows:
            one.setflags(write=False)  # other tests get the same ones
    return found


class SplitOnce:
    """``StratifiedGroupKFold``, which keeps what it found for the same rows."""

    def __init__(self, n_splits: int, *, shuffle: bool, random_state: int) -> None:
        self._own = StratifiedGroupKFold(n_splits, shuffle=shuffle, random_state=random_state)
        self._settings = n_splits, random_state

    def split(self, rows: Any, truth: np.ndarray, groups: Any) -> Iterator[Split]:
        kept = np.asarray(groups)
        if kept.dtype == object or truth.dtype != bool:
            return iter(self._own.split(rows, truth, groups))
        return iter(_split(self._settings, truth.tobytes(), kept.tobytes(), kept.dtype.str))


def split_once() -> None:
    """Let ``vlmscope.probes.grouped_folds`` split the same rows once."""
    folds.StratifiedGroupKFold = SplitOnce
