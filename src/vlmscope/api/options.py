"""Arguments that ``extract``, ``capture`` and ``inspect`` share, as the data they stand for."""

from __future__ import annotations

from vlmscope.arguments import Layers
from vlmscope.errors import InputError, shortened
from vlmscope.positions import Positions
from vlmscope.schema import DEFAULT_LAYERS, CaptureSpec, Compat, VisionPooling
from vlmscope.signals import Signals


def spec_of(
    spec: CaptureSpec | None,
    layers: Layers,
    positions: Positions,
    vision_pooling: VisionPooling,
    max_new_tokens: int,
    compat: Compat,
    signals: Signals,
    samples: int,
    temperature: float,
    seed: int,
    *,
    all_layers: bool = False,
) -> CaptureSpec:
    """Return what to record; a specification is given whole, or not at all.

    Args:
        spec: The specification, instead of the other arguments.
        layers: Decoder layers.
        positions: Token positions.
        vision_pooling: How the vision encoder's output becomes one vector.
        max_new_tokens: Longest answer in tokens.
        compat: The method whose layers and positions are used.
        signals: What else to record.
        samples: Sampled answers of each question.
        temperature: Temperature of the samples.
        seed: Seed of the samples.
        all_layers: Whether all layers are the default.

    Raises:
        InputError: An argument is invalid, or is given beside ``spec``.
    """
    made = CaptureSpec(
        layers, positions, vision_pooling, max_new_tokens, compat, signals,
        samples, temperature, seed,
    )  # fmt: skip
    if spec is None:
        return made
    if not isinstance(spec, CaptureSpec):
        raise InputError(f"spec {shortened(repr(spec))}: expected a CaptureSpec")
    if made != CaptureSpec(layers="all" if all_layers else DEFAULT_LAYERS):
        raise InputError("spec: give it, or layers, positions and the like, and not both")
    return spec
