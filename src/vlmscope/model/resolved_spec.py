"""``ResolvedSpec``: what to record of one model, with every option resolved against that model.

``CaptureSpec`` is what a user asks for: layers relative to the depth of a model, positions by name,
optionally another method's way of reading them. It is resolved once, when the model is known; all
later stages take the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vlmscope.model.halp import (
    HalpModel,
    halp_model_for,
    halp_notes,
    position_in_prompt,
    states_of,
    with_encoder_of,
)
from vlmscope.model.p_true import reply_tokens
from vlmscope.model.sublayers import check_ends, notes_on, resolve_signals
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.positions import ANSWER_POSITIONS
from vlmscope.sampling import SAMPLES
from vlmscope.schema import CaptureSpec, Compat, LayerStates, VisionPooling
from vlmscope.selection import resolve_layers
from vlmscope.signals import SIMILARITY, TOKEN_STATES, RecordedSignals, token_states_name


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """What to record of one model. Made by ``resolve_spec``."""

    layers: tuple[int, ...]
    """Decoder layers, ascending, each once."""
    positions: tuple[str, ...]
    """Token positions, each once, in the order asked for."""
    vision_pooling: VisionPooling
    """How the vision encoder's output becomes one vector."""
    max_new_tokens: int
    """Longest answer in tokens; 0 stops after the prefill."""
    compat: Compat
    """The method whose way of reading is used; empty for vlmscope's own."""
    original: HalpModel | None
    """How that method reads this family; None for vlmscope's own method."""
    signals: RecordedSignals = field(default_factory=RecordedSignals)
    """What else is recorded, and of which layers."""
    signal_notes: tuple[str, ...] = ()
    """Notes for the user on layers that lack a signal."""

    @property
    def prompt_positions(self) -> tuple[str, ...]:
        """The positions in the prompt."""
        return tuple(name for name in self.positions if name not in ANSWER_POSITIONS)

    @property
    def answer_positions(self) -> tuple[str, ...]:
        """The positions in the answer."""
        return tuple(name for name in self.positions if name in ANSWER_POSITIONS)

    @property
    def decoded_tokens(self) -> int:
        """Maximum number of decoded tokens.

        The hidden states of an answer's last token exist one step after it was chosen.
        """
        return self.max_new_tokens + self.reads_answer

    @property
    def reads_answer(self) -> bool:
        """Whether something is recorded of the answer's tokens when they are processed."""
        return bool(self.max_new_tokens and (self.answer_positions or self.signals.of_answer))

    def states(self, *, imaged: bool, vlm: VisionLanguageModel) -> tuple[tuple[str, int], ...]:
        """Return the vectors that are read at every position: part of a layer, and the layer.

        The part is empty for the hidden state, or a sub-layer.

        Args:
            imaged: Whether the questions are about images; others skip some blocks.
            vlm: The model.
        """
        skipped = frozenset() if imaged else vlm.skipped_without_image
        parts = [
            (part, layer)
            for part in self.signals.sublayers
            for layer in self.signals.layers(part)
            if layer not in skipped
        ]
        return (*(("", layer) for layer in self.layers), *parts)

    @property
    def layer_states(self) -> LayerStates:
        """The hidden state that ``layer_k`` refers to."""
        return states_of(self.original)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the vectors were computed."""
        return halp_notes(self.original) + self.signal_notes

    def read_at(self, position: str) -> str:
        """Return the position in the prompt at which the vector of ``position`` is read."""
        return position_in_prompt(self.original, position)

    def with_encoder(self, vlm: VisionLanguageModel) -> VisionLanguageModel:
        """Return the model with the vision encoder whose output is pooled."""
        return with_encoder_of(self.original, vlm)


def resolve_spec(spec: CaptureSpec, vlm: VisionLanguageModel) -> ResolvedSpec:
    """Resolve a ``CaptureSpec`` against a loaded model.

    Raises:
        InputError: The model has no such layer, or ``spec.compat`` does not support it.
    """
    layers = resolve_layers(spec.layers, vlm.num_layers)
    signals = resolve_signals(spec, layers, vlm)
    check_ends(spec.signals, vlm)
    if SIMILARITY in spec.signals:
        signals = replace(signals, similarity_layers=layers)
    if kept := [name for name in TOKEN_STATES if name in spec.signals]:
        paths = (token_states_name(name, layer) for name in kept for layer in layers)
        widths = {**signals.widths, **dict.fromkeys(paths, vlm.hidden_size)}
        signals = replace(signals, widths=widths)
    if spec.samples:
        states = {f"{SAMPLES}/layer_{layer}": vlm.hidden_size for layer in layers}
        signals = replace(signals, widths={**signals.widths, **states}, sampling=spec.sampling)
    if signals.asks:
        reply_tokens(vlm.processor.tokenizer)  # or an error
    resolved = resolve_spec_for(spec, vlm.family.model_type, vlm.num_layers)
    return replace(resolved, signals=signals, signal_notes=notes_on(signals, layers, vlm))


def resolve_spec_for(spec: CaptureSpec, model_type: str, num_layers: int) -> ResolvedSpec:
    """Resolve a ``CaptureSpec`` against the model description that a run stores.

    Args:
        spec: What to record.
        model_type: ``Family.model_type`` of the model.
        num_layers: Its decoder layers.

    Returns:
        The specification, without the layers and widths of its signals: those need the model.

    Raises:
        InputError: As in ``resolve_spec``.
    """
    return ResolvedSpec(
        layers=resolve_layers(spec.layers, num_layers),
        positions=tuple(dict.fromkeys(spec.positions)),
        vision_pooling=spec.vision_pooling,
        max_new_tokens=spec.max_new_tokens,
        compat=spec.compat,
        original=halp_model_for(model_type, spec),
        signals=RecordedSignals(spec.signals, sampling=spec.sampling),
    )
