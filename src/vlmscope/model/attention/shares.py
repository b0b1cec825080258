"""Attention weights of the last query of a pass, beside the attention that computes its output.

Fast kernels return no weights, and the library's ``eager`` attention, which does, computes all of
them: length × length for each head and layer. Of a prefill only the last prompt token's weights are
needed, and of a decoding step there is one query per row. So they are computed from the same
queries, keys and mask, in float32, and reduced at once to what is recorded:

    sdpa     the registered attention calls an ``Observer`` with its arguments
    eager    a hook reads the weights that the attention module returns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmscope.model.attention.implementations import implementations
from vlmscope.model.attention.switch import effective_mask
from vlmscope.model.computing import HALF, removing_hooks
from vlmscope.signals import ATTENDED

Weights = Float[Tensor, "batch heads keys"]

Observer = Callable[
    [nn.Module, Tensor, Tensor, Tensor | None, float | None, Mapping[str, Any]], None
]
"""Called with the module, queries, keys, mask, scaling and further options of an attention."""


class LastQuery:
    """Passes on the weights of the last query of each attention module that is observed.

    Args:
        layers: Attention module → number of its decoder layer.
        record: Called with the number of a layer and the weights of the last query, ``[batch,
            heads, keys]``, float32.
    """

    def __init__(
        self, layers: Mapping[nn.Module, int], record: Callable[[int, Weights], None]
    ) -> None:
        self._layers = layers
        self._record = record

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        options: Mapping[str, Any],
    ) -> None:
        """Compute the weights from the arguments of the registered attention."""
        layer = self._layers.get(module)
        if layer is not None:
            mask = effective_mask(module, mask, len(query))
            self._record(layer, last_weights(query, key, mask, scaling, options))

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Read the weights that eager attentions return, within the context."""
        with removing_hooks() as handles:
            for module, layer in self._layers.items():
                if implementations(module) == "eager":
                    handles.append(module.register_forward_hook(partial(self._read, layer)))
            yield

    def _read(self, layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
        self._record(layer, output[1][:, :, -1].float())


def observed(observer: Observer, attention: Callable[..., tuple[Tensor, None]]) -> Any:
    """Return an attention for the library's registry that calls an observer first."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        observer(module, query, key, attention_mask, scaling, options)
        return attention(module, query, key, value, attention_mask, dropout, scaling, **options)

    return attend


def last_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    options: Mapping[str, Any],
) -> Weights:
    """Return the attention weights of the last query, float32.

    Args:
        query: ``[batch, heads, tokens, width]``.
        key: ``[batch, key heads, keys, width]``; several heads may share one.
        mask: Boolean or additive, ``[batch or 1, heads or 1, tokens, keys]``; None if the last
            query attends to all keys.
        scaling: Factor of the products; by default one over the square root of the width.
        options: Further options of the attention; ``softcap`` is applied.

    Returns:
        ``[batch, heads, keys]``.
    """
    batch, heads, _, width = query.shape
    groups = heads // key.shape[1]
    own = query[:, :, -1].reshape(batch * key.shape[1], groups, width)
    scores = _product(own, key.flatten(0, 1)) * (width**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, heads, -1)
    if cap := options.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        last = mask[:, :, -1, : scores.shape[2]]
        hidden = torch.finfo(torch.float32).min
        scores = (
            scores.masked_fill(~last, hidden) if last.dtype == torch.bool else scores + last.float()
        )
    return scores.softmax(dim=-1)


def _product(own: Tensor, keys: Tensor) -> Tensor:
    """Return ``own @ keys.T`` in float32, without a copy of half-precision keys on a GPU."""
    if _multiplies_into_float32(own):
        return torch.bmm(own, keys.transpose(1, 2), out_dtype=torch.float32)
    return own.float() @ keys.float().transpose(1, 2)


def _multiplies_into_float32(own: Tensor) -> bool:
    """Return whether products of half precision can be float32: on a GPU, since torch 2.8."""
    half = own.is_cuda and own.dtype in HALF
    return half and "dtype" in torch.ops.aten.bmm.overloads()  # type: ignore[no-untyped-call]


def members_of(groups: Int[Tensor, "batch keys"]) -> Float[Tensor, "batch keys four"]:
    """Return for each key 1 in the column of its group, see ``ATTENDED``, else 0.

    Args:
        groups: The index of each key's group; -1 for a key in none, such as padding.
    """
    number = torch.arange(len(ATTENDED), device=groups.device)
    return (groups.unsqueeze(2) == number).float()


def shares(
    weights: Weights, members: Float[Tensor, "batch keys four"]
) -> Float[Tensor, "batch heads four"]:
    """Return how each head divides its attention among the groups of tokens.

    Args:
        weights: The attention weights; of fewer keys than ``members`` has, if a sliding window
            keeps only the last ones.
        members: The group of each key, from ``members_of``.

    >>> weights = torch.tensor([[[0.5, 0.25, 0.25]]])
    >>> shares(weights, members_of(torch.tensor([[3, 0, 1]])))
    tensor([[[0.2500, 0.2500, 0.0000, 0.5000]]])
    """
    return weights @ members[:, members.shape[1] - weights.shape[2] :]


def weights_of_keys(
    weights: Weights, keys: Int[Tensor, " batch"], length: int
) -> Float[Tensor, "batch heads"]:
    """Return the attention weights of one key of each row.

    Args:
        weights: The attention weights.
        keys: The index of each row's key.
        length: Number of all keys, of which ``weights`` may be of the last ones only, if a sliding
            window keeps no others; a key that is not kept has no weight.

    >>> weights_of_keys(torch.tensor([[[0.5, 0.25, 0.25]]]), torch.tensor([3]), length=5)
    tensor([[0.2500]])
    """
    own = keys.to(weights.device) - (length - weights.shape[2])
    index = own.clamp_min(0).view(-1, 1, 1).expand(-1, weights.shape[1], 1)
    return weights.gather(2, index).squeeze(2) * (own >= 0).unsqueeze(1)
