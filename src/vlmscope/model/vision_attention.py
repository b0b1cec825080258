"""A vision encoder looks in all directions: a switch that one architecture has the wrong way.

Phi-4-multimodal's vision attention says ``is_causal`` (transformers 5.0 to 5.23 at least). With
``sdpa`` it matters: where all patches of a batch are real, the mask is dropped, and each patch sees
only those before it; where one picture of the batch has padding, every picture is seen whole. A
question's vectors would depend on its neighbours, and differ from ``eager`` attention.
"""

from __future__ import annotations

from torch import nn


def see_both_ways(encoder: nn.Module) -> int:
    """Turn causal attention off in every part of a vision encoder; return in how many it was on."""
    causal = [module for module in encoder.modules() if getattr(module, "is_causal", False)]
    for module in causal:
        module.is_causal = False  # type: ignore[assignment]
    return len(causal)
