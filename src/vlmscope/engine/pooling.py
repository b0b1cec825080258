"""Pool many numbers into one in float32: cast *before* the mean, as bfloat16 sums lose digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlmscope.model.device_copies import to_device
from vlmscope.model.vision_rows import VisionRows
from vlmscope.schema import VisionPooling


@dataclass(frozen=True, slots=True, eq=False)
class TokenChoice:
    """The tokens that one position refers to in each row of a batch, as indices on a device."""

    rows: Int[Tensor, " chosen"]
    """Row of each chosen token, ascending."""
    columns: Int[Tensor, " chosen"]
    """Its index in the padded prompt."""
    counts: Int[Tensor, " batch"]
    """Number of chosen tokens of each row."""

    @classmethod
    def from_mask(
        cls, tokens: Bool[np.ndarray, "batch length"], device: torch.device
    ) -> TokenChoice:
        """Create one from the mask that ``selection.locate`` returns."""
        rows, columns = np.nonzero(tokens)
        arrays = (rows, columns, tokens.sum(axis=1))
        return cls(*(to_device(torch.from_numpy(array), device) for array in arrays))

    def to(self, device: torch.device) -> TokenChoice:
        """Return the same choice on ``device``."""
        return TokenChoice(self.rows.to(device), self.columns.to(device), self.counts.to(device))


def pool_vision(
    rows: Sequence[VisionRows], pooling: VisionPooling
) -> Float[Tensor, "samples vision"]:
    """Return each sample's mean over the positions of the vision encoder, float32.

    Args:
        rows: One ``([positions, width], [positions])`` pair per sample.
        pooling: ``all`` positions, as in the specification, or the ``valid`` ones.
    """
    kept = (features if pooling == "all" else features[valid] for features, valid in rows)
    return torch.stack([features.mean(dim=0, dtype=torch.float32) for features in kept])


def pool_tokens(
    hidden: Float[Tensor, "batch length hidden"], choice: TokenChoice
) -> Float[Tensor, "batch hidden"]:
    """Return each row's mean over its chosen tokens, float32; for one token this is a copy.

    >>> hidden = torch.arange(6.0).reshape(1, 3, 2)
    >>> choice = TokenChoice.from_mask(np.array([[False, True, True]]), torch.device("cpu"))
    >>> pool_tokens(hidden, choice)
    tensor([[3., 4.]])
    """
    chosen = hidden[choice.rows, choice.columns].float()
    if len(choice.rows) == len(hidden):
        return chosen
    total = torch.zeros(len(hidden), hidden.shape[2], device=hidden.device)
    return total.index_add_(0, choice.rows, chosen) / choice.counts.unsqueeze(1)


def log_probabilities(
    logits: Float[Tensor, "rows vocabulary"],
) -> Float[Tensor, "rows vocabulary"]:
    """Return the log-probability of each token, exact for large vocabularies and near 0.

    ``log_softmax`` on a CPU adds up the tokens one after the other: for 150,000 that are about
    equally likely it is off by 2.6e-4. And less ``logsumexp``, which is rounded like the largest
    logit, all probabilities above 0.999999 would be equal.

    >>> log_probabilities(torch.zeros(1, 2))
    tensor([[-0.6931, -0.6931]])
    """
    shifted = logits - logits.amax(dim=1, keepdim=True)
    return shifted - shifted.exp().sum(dim=1, keepdim=True).log()


def entropy_of(logprobs: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, " rows"]:
    """Return the entropy of each distribution in nats, given its log-probabilities.

    >>> entropy_of(torch.tensor([[0.0, -torch.inf]]))
    tensor([-0.])
    """
    # A token of probability 0 has log-probability -inf and contributes nothing, not NaN.
    return -(logprobs.exp() * logprobs.clamp_min(torch.finfo(torch.float32).min)).sum(dim=1)
