"""Taps: hooks that copy what is wanted out of the first forward pass, and nothing else.

A whole ``output_hidden_states`` is (layers + 1) × length × width values a row; wanted are a handful
of tokens at a handful of layers. So each tap selects its tokens on the device, casts them to
float32 and drops the rest at once. The taps belong to the *prefill*: each reads the first call of
its module and checks that it saw the whole batch. The decoding steps that follow are ignored, or
given to ``AnswerStates``.

The tap on the vision encoder also lets questions that share a picture share its encoding: it hands
the encoder each distinct picture once, and deals the output out to the rows again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmscope.engine.answer_states import AnswerStates
from vlmscope.engine.pooling import TokenChoice, pool_tokens, pool_vision
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import VisionPooling


@dataclass(frozen=True, slots=True)
class Seen:
    """What a prefill left behind, on the device."""

    vision: Float[Tensor, "batch vision"]
    """Pooled output of the vision encoder, float32."""
    states: dict[tuple[str, int], Float[Tensor, "batch hidden"]]
    """``(position, layer)`` → hidden states, float32."""
    first_logits: Float[Tensor, "batch vocabulary"]
    """Logits of the first answer token, float32."""


class Taps:
    """Hooks for one batch, in place while the ``with`` block runs.

    Args:
        vlm: The model.
        layers: Decoder layers to tap.
        choices: Position name → the tokens it means.
        inputs: The batch on the device; the vision tap needs it to split the encoder's output.
        image_hashes: One for each row; equal ones share a pass of the encoder.
        pooling: How the encoder's output becomes one vector.
        answer: Takes in the states of the decoding steps, if the answer's tokens are wanted.

    Attributes:
        logits_: ``[batch, vocabulary]`` float32 logits of the latest step's last token.
        shapes_: Module → shape of what it returned in the prefill.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        layers: Sequence[int],
        choices: Mapping[str, TokenChoice],
        inputs: Mapping[str, Tensor],
        image_hashes: Sequence[str],
        pooling: VisionPooling,
        answer: AnswerStates | None = None,
    ) -> None:
        self._vlm = vlm
        self._layers = layers
        self._choices = choices
        self._inputs = inputs
        self._pooling = pooling
        self._answer = answer
        self._shape = tuple(inputs["input_ids"].shape)
        order = {image: i for i, image in enumerate(dict.fromkeys(image_hashes))}
        self._row_to_image = torch.tensor([order[image] for image in image_hashes])
        self._image_to_row = torch.tensor([image_hashes.index(image) for image in order])
        self._handles: list[Any] = []
        self._vision: Float[Tensor, "batch vision"] | None = None
        self._states: dict[tuple[str, int], Float[Tensor, "batch hidden"]] = {}
        self._first_logits: Float[Tensor, "batch vocabulary"] | None = None
        self.logits_: Float[Tensor, "batch vocabulary"] | None = None
        self.shapes_: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> Taps:
        encoder, last = self._vlm.vision_encoder, self._vlm.num_layers - 1
        self._handles = [
            encoder.register_forward_pre_hook(self._share_images, with_kwargs=True),
            encoder.register_forward_hook(self._tap_vision),
            self._vlm.projector.register_forward_hook(self._note_projection),
            self._vlm.model.register_forward_hook(self._tap_logits),
        ]
        for layer in self._layers:
            # As in ``hidden_states``, the last layer's vector is the one after the final norm.
            module = self._vlm.final_norm if layer == last else self._vlm.layers[layer]
            self._handles.append(module.register_forward_hook(self._tap_layer(layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def seen(self) -> Seen:
        """Return what the prefill left behind.

        Raises:
            RuntimeError: A tap saw nothing: the model took a path we do not know.
        """
        missing = [] if self._vision is not None else ["the vision encoder"]
        missing += [
            f"layer {layer}" for layer in self._layers if f"layer_{layer}" not in self.shapes_
        ]
        if missing or self._vision is None or self._first_logits is None:
            raise RuntimeError(f"the prefill did not pass {', '.join(missing) or 'the logits'}")
        return Seen(self._vision, self._states, self._first_logits)

    def _share_images(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._vision is not None or len(self._image_to_row) == len(self._row_to_image):
            return None
        for name in self._vlm.family.encoder_inputs:
            kwargs[name] = kwargs[name][self._image_to_row.to(kwargs[name].device)]
        return args, kwargs

    def _tap_vision(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._vision is not None:
            raise RuntimeError("the vision encoder ran twice for one batch")
        features = output.last_hidden_state
        inputs = {
            name: self._inputs[name][self._image_to_row.to(self._inputs[name].device)]
            for name in self._vlm.family.encoder_inputs
        }
        pooled = pool_vision(self._vlm.family.split_vision(features, inputs), self._pooling)
        self.shapes_["vision_encoder"] = tuple(features.shape)
        self._vision = pooled[self._row_to_image.to(pooled.device)]
        if len(pooled) != self._shape[0]:
            output.last_hidden_state = features[self._row_to_image.to(features.device)]

    def _note_projection(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.shapes_.setdefault("projector", tuple(output.shape))

    def _tap_layer(self, layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            name = f"layer_{layer}"
            hidden = output[0] if isinstance(output, tuple) else output
            if name in self.shapes_:
                if self._answer is not None:
                    self._answer.add(layer, hidden[:, -1])
                return
            if tuple(hidden.shape[:2]) != self._shape:
                raise RuntimeError(
                    f"layer {layer} saw {tuple(hidden.shape[:2])} tokens in the prefill, "
                    f"not the batch's {self._shape}"
                )
            self.shapes_[name] = tuple(hidden.shape)
            for position, choice in self._choices.items():
                self._states[position, layer] = pool_tokens(hidden, choice.to(hidden.device))

        return hook

    def _tap_logits(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.shapes_.setdefault("logits", tuple(output.logits.shape))
        self.logits_ = output.logits[:, -1].float()
        if self._first_logits is None:
            self._first_logits = self.logits_
