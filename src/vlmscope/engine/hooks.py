"""Hooks that copy the recorded tensors out of the prefill, and nothing else.

A complete ``output_hidden_states`` is (layers + 1) × length × width values per row; only a few
tokens at a few layers are recorded. So each hook selects its tokens on the device, casts them to
float32 and drops the rest at once. The hooks belong to the *prefill*: each reads the first call of
its module and checks that it covers the complete batch. The decoding steps that follow are ignored,
or passed to ``AnswerStates``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.image_cache import Encodings
from vlmscope.engine.pooling import TokenChoice, pool_tokens, pool_vision
from vlmscope.model import VisionLanguageModel
from vlmscope.model.computing import check_thread, removing_hooks
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.schema import LayerStates, VisionPooling


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTensors:
    """The recorded tensors of a prefill, on the device."""

    vision: Float[Tensor, "batch vision"] | None
    """Pooled output of the vision encoder, float32; None if there are no images."""
    states: dict[tuple[str, int], Float[Tensor, "batch hidden"]]
    """``(position, layer)`` → hidden states, float32."""
    first_logits: Float[Tensor, "batch vocabulary"]
    """Logits of the first answer token, float32."""
    positions: Tensor | None
    """Position ids passed to the decoder, ``[..., batch or 1, length]``; None if it computes them
    itself."""


class PrefillHooks:
    """Hooks for one batch.

    Args:
        vlm: The model.
        layers: Decoder layers to record.
        choices: Position name → the tokens it refers to.
        inputs: The batch on the device, which is needed to split the encoder's output.
        images: Number of images of each row, the same for all rows.
        pooling: How the encoder's output becomes one vector.
        answer: Collects the states of the decoding steps, if the answer's tokens are recorded.
        states: Which hidden state of a layer is recorded.
        encodings: The images' encodings, if they were computed beforehand.

    Attributes:
        logits_: ``[batch, vocabulary]`` float32 logits of the latest step's last token.
        shapes_: Module → shape of its output in the prefill.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        layers: Sequence[int],
        choices: Mapping[str, TokenChoice],
        inputs: Mapping[str, Tensor],
        images: Sequence[int],
        pooling: VisionPooling,
        answer: AnswerStates | None = None,
        states: LayerStates = "hidden_states[k+1]",
        encodings: Encodings | None = None,
    ) -> None:
        self._vlm = vlm
        self._layers = layers
        self._choices = choices
        self._inputs = inputs
        self._pooling = pooling
        self._answer = answer
        self._layer_states = states
        self._shape = tuple(inputs["input_ids"].shape)
        self._images = images
        self._vision = None if encodings is None else encodings.pooled
        self._states: dict[tuple[str, int], Float[Tensor, "batch hidden"]] = {}
        self._first_logits: Float[Tensor, "batch vocabulary"] | None = None
        self._positions: Tensor | None = None
        self.logits_: Float[Tensor, "batch vocabulary"] | None = None
        self.shapes_: dict[str, tuple[int, ...]] = {}
        if encodings is not None:
            self.shapes_ |= encodings.shapes

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Add the hooks to the model within the context."""
        vlm, imaged = self._vlm, any(self._images)
        with removing_hooks() as handles:
            handles.append(vlm.model.register_forward_hook(self._record_logits))
            handles.append(
                vlm.decoder.register_forward_pre_hook(self._record_positions, with_kwargs=True)
            )
            if imaged and self._vision is None:
                handles.append(vlm.vision_encoder.register_forward_hook(self._record_vision))
                if vlm.projector is not None:
                    handles.append(vlm.projector.register_forward_hook(self._note_projection))
            for layer in self._layers:
                record = partial(self._record_layer, layer)
                handles.append(hook_layer(vlm, layer, record, self._layer_states, imaged=imaged))
            yield

    def tensors(self) -> RecordedTensors:
        """Return the recorded tensors of the prefill.

        Raises:
            RuntimeError: A hook was not called: the model took an unknown path.
        """
        not_encoded = self._vision is None and any(self._images)
        missing = ["the vision encoder"] if not_encoded else []
        missing += [
            f"layer {layer}" for layer in self._layers if f"layer_{layer}" not in self.shapes_
        ]
        if missing or self._first_logits is None:
            raise RuntimeError(f"the prefill did not run {', '.join(missing) or 'the lm_head'}")
        return RecordedTensors(self._vision, self._states, self._first_logits, self._positions)

    def _record_positions(self, _module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        check_thread()
        if self._first_logits is None:
            self._positions = inputs.get("position_ids")

    def _record_vision(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._first_logits is not None:
            return  # a model without a cache encodes the images again at every step
        if self._vision is not None:
            raise RuntimeError("the vision encoder ran twice for one batch")
        # Keep the tensor, not the object around it: the library overwrites its fields later.
        features = output if isinstance(output, Tensor) else output.last_hidden_state
        self.shapes_["vision_encoder"] = tuple(features.shape)
        encoded = Encoded(
            features=features,
            inputs=self._inputs,
            images=self._images,
            config=self._vlm.model.config,
            image_token_id=self._vlm.image_token_id,
        )
        self._vision = pool_vision(RULES[self._vlm.family.vision_rows](encoded), self._pooling)

    def _note_projection(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.shapes_.setdefault("projector", tuple(output.shape))

    def _record_layer(self, layer: int, hidden: Tensor) -> None:
        name = f"layer_{layer}"
        if name in self.shapes_:
            if self._answer is not None:
                self._answer.add(layer, hidden[:, -1])
            return
        if tuple(hidden.shape[:2]) != self._shape:
            raise RuntimeError(
                f"layer {layer} had {tuple(hidden.shape[:2])} tokens in the prefill, "
                f"not the batch's {self._shape}"
            )
        self.shapes_[name] = tuple(hidden.shape)
        for position, choice in self._choices.items():
            self._states[position, layer] = pool_tokens(hidden, choice.to(hidden.device))

    def _record_logits(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.shapes_.setdefault("logits", tuple(output.logits.shape))
        self.logits_ = output.logits[:, -1].float()
        if self._first_logits is None:
            self._first_logits = self.logits_


def hook_layer(
    vlm: VisionLanguageModel,
    layer: int,
    record: Callable[[Tensor], None],
    layer_states: LayerStates,
    *,
    imaged: bool,
) -> Any:
    """Register a hook on the hidden state of a layer; return the hook's handle.

    Args:
        vlm: The model.
        layer: The layer.
        record: Called with ``[batch, tokens, hidden]`` in every forward pass.
        layer_states: Which hidden state of the layer is used.
        imaged: Whether the questions are about images.
    """
    if layer_states == "hidden_states[k]":
        return vlm.layers[layer].register_forward_pre_hook(
            lambda _module, args, kwargs: record(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return _module_after(vlm, layer, layer_states, imaged=imaged).register_forward_hook(
        lambda _module, _args, output: record(output[0] if isinstance(output, tuple) else output)
    )


def _module_after(
    vlm: VisionLanguageModel, layer: int, layer_states: LayerStates, *, imaged: bool
) -> nn.Module:
    """Return the module whose output is the hidden state after a decoder block."""
    if layer == vlm.num_layers - 1 and layer_states != "block output":
        # As in ``hidden_states``, the last layer's vector is the one after the final norm.
        return vlm.final_norm
    if not imaged:
        while layer in vlm.skipped_without_image:
            layer -= 1
    return vlm.layers[layer] if layer >= 0 else vlm.model.get_input_embeddings()
