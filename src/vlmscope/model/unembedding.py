"""From hidden states to logits, as the model computes them: final norm, head, and what follows.

Most models return what their head returns. Some scale it or cap it softly, and that is written in
the ``forward`` of the module that contains the head: a checkpoint's configuration may name a factor
that its model does not apply. ``model.loading.checks`` compares the result with the model's logits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmscope.model.sublayers import source_of
from vlmscope.model.vlm import VisionLanguageModel

PIECE = 2**27
"""Bytes of the float32 logits that are computed at once; with temporary copies half a GB."""

_SCALED = re.compile(
    r"logits\s*=\s*(?:logits|self\.lm_head\([^\n]*\))(?:\.float\(\))?\s*([*/])\s*self\.([\w.]+)"
)
"""A line of ``forward`` that scales the logits: Cohere's, Granite's, HyperCLOVA's."""

_CAP = "final_logit_softcapping"


@dataclass(frozen=True, slots=True)
class Unembedding:
    """How a model turns hidden states into logits. Made by ``unembedding_of``."""

    norm: nn.Module
    """The norm after the last block."""
    head: nn.Module
    """The projection to the vocabulary."""
    dtype: torch.dtype
    """The type that the model computes in."""
    last_layer: int
    """The layer whose recorded state is already after the norm."""
    scales: tuple[tuple[str, float], ...] = ()
    """Operators, ``*`` or ``/``, and the factors that logits are scaled by."""
    cap: float | None = None
    """The soft cap of the logits; None for none."""

    def logits(
        self, states: Float[Tensor, "tokens hidden"], layer: int
    ) -> Float[Tensor, "tokens vocabulary"]:
        """Return the logits of hidden states of a layer, float32.

        The hooks of the two modules are not called: they are those of the pass that is running.
        """
        states = states.to(_device(self.norm), self.dtype).unsqueeze(0)
        if layer != self.last_layer:
            states = self.norm.forward(states)
        return self.finished(self.head.forward(states.to(_device(self.head))))[0].float()

    def logits_of(
        self, states: Float[Tensor, "tokens hidden"], layer: int, chosen: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "tokens chosen"]:
        """Return some of the logits of hidden states of a layer, computed in float32.

        Args:
            states: The states.
            layer: Their layer.
            chosen: The tokens whose logits are returned; one that has no logit is undefined.
        """
        head: Any = self.head
        if type(head) is not nn.Linear or not head.weight.is_floating_point():
            return self._some_of_all(states, layer, chosen)
        states = states.to(_device(self.norm), self.dtype).unsqueeze(0)
        if layer != self.last_layer:
            states = self.norm.forward(states)
        rows = chosen.to(head.weight.device).clamp_max(len(head.weight) - 1)
        bias = None if head.bias is None else head.bias[rows].float()
        states = states.to(head.weight.device).float()
        return self.finished(nn.functional.linear(states, head.weight[rows].float(), bias))[0]

    def _some_of_all(self, states: Tensor, layer: int, chosen: Tensor) -> Tensor:
        """Return some of the logits of a head that is not a plain matrix, piece by piece."""
        words = self.logits(states[:1], layer).shape[1]
        columns = chosen.clamp_max(words - 1)
        step = self.tokens_at_once(words)
        pieces = (states[start : start + step] for start in range(0, len(states), step))
        found = (self.logits(piece, layer) for piece in pieces)
        return torch.cat([each[:, columns.to(each.device)] for each in found])

    def finished(self, logits: Tensor) -> Tensor:
        """Return the head's output as the model returns it."""
        for operator, factor in self.scales:
            logits = logits * factor if operator == "*" else logits / factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits

    def tokens_at_once(self, vocabulary: int) -> int:
        """Return the number of tokens whose logits are computed at once."""
        return max(1, PIECE // (4 * vocabulary))


def unembedding_of(vlm: VisionLanguageModel) -> Unembedding:
    """Return how a model turns hidden states into logits."""
    head = vlm.lm_head
    owner = next((m for m in vlm.model.modules() if any(c is head for c in m.children())), None)
    scales: list[tuple[str, float]] = []
    cap = None
    if owner is not None:
        source = source_of(type(owner).forward)
        for operator, path in _SCALED.findall(source):
            if not path.endswith("softcapping"):
                scales.append((operator, float(attrgetter(path)(owner))))
        if _CAP in source:
            config: Any = owner.config
            cap = getattr(config.get_text_config(decoder=True), _CAP, None)
    return Unembedding(vlm.final_norm, head, vlm.dtype, vlm.num_layers - 1, tuple(scales), cap)


def _device(module: nn.Module) -> torch.device:
    """Return the device of a module's input: that of its weights."""
    return next(module.parameters()).device
