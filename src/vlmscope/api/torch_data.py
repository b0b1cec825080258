"""The labelled vectors of a run as a dataset of PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from vlmscope.shown import count


class VectorDataset(TensorDataset):
    """Items are ``x``, float32 ``[D]``, and ``y``, int64: 1 where the answer is hallucinated.

    Args:
        X: The vectors, ``[n, D]``.
        y: The labels, ``[n]``.
        groups: Number of each row's image, ``[n]``.
        ids: The question ids.
    """

    def __init__(
        self,
        X: NDArray[np.float32],  # noqa: N803 - as scikit-learn calls it
        y: NDArray[np.int64],
        groups: NDArray[np.int64],
        ids: tuple[str, ...],
    ) -> None:
        super().__init__(torch.from_numpy(X), torch.from_numpy(y))
        self.groups: NDArray[np.int64] = groups
        """Number of each row's image, ``[n]``: keep rows of one group on one side of a split."""
        self.ids = ids
        """The question ids."""

    @property
    def X(self) -> Tensor:  # noqa: N802
        """All vectors, ``[n, D]``."""
        return self.tensors[0]

    @property
    def y(self) -> Tensor:
        """All labels, ``[n]``."""
        return self.tensors[1]

    def __repr__(self) -> str:
        rows = f"{count(len(self), 'row')} of {self.X.shape[1]:,} numbers"
        return f"VectorDataset({rows}, {int(self.y.sum()):,} hallucinated)"
