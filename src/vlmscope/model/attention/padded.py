"""The decoder's attention in a prefill of rows padded on the left: no mask, one call per layer.

The library masks padding with a dense mask of length × length per row. With a mask, attention is
computed for every pair of tokens, although half of them are in the future, and heads that share
keys need a copy of them each: 17 of 97 ms per row for LLaVA-NeXT's 2,384 tokens on an H200. But the
padded row is two sequences, the padding and the prompt, each with plain causal attention:

    GPU, half precision     ``torch.nn.attention.varlen``, one kernel for all rows of a layer
    otherwise               one causal ``sdpa`` per row, without its padding

Only a mask that is exactly causal and hides the padding is replaced; a sliding window, chunks, or
image tokens that attend to each other have another mask, and keep it. What padding tokens attend to
is undefined; nothing is recorded of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from vlmscope.model.attention.packed import is_supported, varlen
from vlmscope.model.attention.shares import Observer
from vlmscope.model.attention.switch import attending_with, grouped_attention
from vlmscope.model.computing import undone_at_exit

PADDED = "vlmscope_padded"
"""Name of a ``PaddedAttention`` in the library's registry."""


@contextmanager
def attending_without_padding(
    decoder: nn.Module,
    real: Bool[np.ndarray, "batch length"],
    observer: Observer | None = None,
) -> Iterator[None]:
    """Let a decoder attend to the tokens of each row without a mask, within the context.

    Args:
        decoder: The decoder.
        real: Whether a token is not padding; padding is on the left.
        observer: Called with the arguments of every attention.
    """
    attention = PaddedAttention(real, observer)
    with (
        undone_at_exit(attention.forget),  # the registry keeps the object
        attending_with(PADDED, attention, decoder),
    ):
        yield


class PaddedAttention:
    """Attention for one batch, to be registered in the library.

    Args:
        real: Whether a token is not padding; padding is on the left.
        observer: Called with the arguments of every attention.
    """

    def __init__(
        self, real: Bool[np.ndarray, "batch length"], observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self._shape = real.shape
        self._padding: list[int] = (real.shape[1] - real.sum(axis=1)).tolist()
        self._real = torch.from_numpy(real)
        self._bounds = torch.tensor(_bounds(self._padding, real.shape[1]), dtype=torch.int32)
        self._left = bool((real[:, 1:] >= real[:, :-1]).all())
        self._known: dict[int, tuple[Tensor, bool]] = {}

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attend like ``grouped_attention``, whose arguments and result these are."""
        if self._observer is not None:
            self._observer(module, query, key, attention_mask, scaling, options)
        if not self._replaces(query, key, attention_mask, dropout, options):
            return grouped_attention(
                module, query, key, value, attention_mask, dropout, scaling, **options
            )
        if is_supported(query, value, scaling, causal=True):
            found = self._in_one_call(query, key, value, scaling)
            if found is not None:
                return found, None
        return self._row_by_row(query, key, value, scaling), None

    def forget(self) -> None:
        """Release the masks and the observer."""
        self._known.clear()
        self._observer = None

    def _replaces(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        dropout: float,
        options: dict[str, Any],
    ) -> bool:
        """Return whether this call is causal attention of the complete prompt."""
        batch, length = self._shape
        return (
            mask is not None
            and self._left
            and not dropout
            and options.get("position_bias") is None
            and query.shape[0] == batch
            and query.shape[2] == key.shape[2] == length
            and self._is_causal(mask)
        )

    def _is_causal(self, mask: Tensor) -> bool:
        """Return whether a mask is causal and hides the padding, and nothing else."""
        if id(mask) not in self._known:  # one per type of layer
            self._known[id(mask)] = mask, self._compare(mask)  # the reference keeps the id unique
        return self._known[id(mask)][1]

    def _compare(self, mask: Tensor) -> bool:
        batch, length = self._shape
        if mask.dtype != torch.bool or tuple(mask.shape) != (batch, 1, length, length):
            return False
        real = self._real.to(mask.device)
        causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        # One row after the other: the comparison must not take more memory than the mask.
        same = [
            ((own[0] == (causal & seen)) | ~seen[:, None]).all()
            for own, seen in zip(mask, real, strict=True)
        ]
        return bool(torch.stack(same).all())

    def _in_one_call(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
    ) -> Tensor | None:
        """Return ``[batch, tokens, heads, width]`` from one kernel; None if it fails."""
        batch, length = self._shape
        if self._bounds.device != query.device:
            self._bounds = self._bounds.to(query.device)
        states = [part.transpose(1, 2).flatten(0, 1) for part in (query, key, value)]
        found = varlen(states, self._bounds, length, causal=True, scaling=scaling)
        return None if found is None else found.view(batch, length, *found.shape[1:])

    def _row_by_row(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
    ) -> Tensor:
        """Return ``[batch, tokens, heads, width]``; 0 for padding."""
        batch, heads, length, _ = query.shape
        found = query.new_zeros(batch, length, heads, value.shape[3])
        for row, start in enumerate(self._padding):
            own, keys, values = (part[row : row + 1, :, start:] for part in (query, key, value))
            attended = F.scaled_dot_product_attention(
                own,
                keys,
                values,
                is_causal=True,
                scale=scaling,
                enable_gqa=heads != key.shape[1],
            )
            found[row, start:] = attended[0].transpose(0, 1)
        return found


def _bounds(padding: list[int], length: int) -> list[int]:
    """Return the bounds of the sequences in the concatenated rows: padding, prompt, padding, ...

    >>> _bounds([1, 0], 4)
    [0, 1, 4, 4, 8]
    """
    found = [0]
    for row, count in enumerate(padding):
        found += [row * length + count, (row + 1) * length]
    return found
