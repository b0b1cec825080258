"""Hooks that copy the recorded tensors out of the prefill, and nothing else.

A complete ``output_hidden_states`` is (layers + 1) × length × width values per row; only a few
tokens at a few layers are recorded. So each hook selects its tokens on the device, casts them to
float32 and drops the rest at once. The hooks belong to the *prefill*: each reads the first call of
its module and checks that it covers the complete batch. The decoding steps that follow are ignored,
or passed to ``AnswerStates``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vlmscope.engine.answer_states import AnswerStates, State
from vlmscope.engine.attention import AttentionRecorder
from vlmscope.engine.image_cache import Encodings
from vlmscope.engine.lens import ImageLens
from vlmscope.engine.pooling import TokenChoice, pool_tokens, pool_vision
from vlmscope.engine.token_states import AnswerTokenSteps, ImageTokenRecorder, ImageTokenStates
from vlmscope.model import ResolvedSpec, VisionLanguageModel
from vlmscope.model.attention.shares import Observer
from vlmscope.model.computing import check_thread, removing_hooks
from vlmscope.model.sublayers import sublayers_of
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.positions import position_group
from vlmscope.schema import LayerStates


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTensors:
    """The recorded tensors of a prefill, on the device."""

    vision: Float[Tensor, "batch vision"] | None
    """Pooled output of the vision encoder, float32; None if there are no images."""
    states: dict[str, Float[Tensor, "batch width"]]
    """HDF5 path → vectors, float32."""
    first_logits: Float[Tensor, "batch vocabulary"]
    """Logits of the first answer token, float32."""
    positions: Tensor | None
    """Position ids passed to the decoder, ``[..., batch or 1, length]``; None if it computes them
    itself."""
    arrays: dict[str, Float[Tensor, "batch ..."]] = field(default_factory=dict)
    """Array of a signal → its values."""
    members: Float[Tensor, "batch length four"] | None = None
    """The group of each token of the prompts, if attention is recorded: see ``members_of``."""
    patches: Float[Tensor, "batch keys groups"] | None = None
    """The group of each patch of the images, if attention to them alone is: ``patch_members``."""
    image_lens: Float[Tensor, "batch layers vocabulary"] | None = None
    """The lens of the image tokens, if it is recorded: see ``ImageLens``."""
    image_tokens: ImageTokenStates = field(default_factory=ImageTokenStates)
    """The states of the image tokens, if they are recorded."""
    last_states: dict[int, Float[Tensor, "batch hidden"]] = field(default_factory=dict)
    """Decoder layer → states of the last tokens, if the answer's tokens are compared with them."""
    maps: dict[int, Float[Tensor, "batch keys"]] = field(default_factory=dict)
    """Decoder layer → attention of the last token to each token of the prompt, or each patch."""


class PrefillHooks:
    """Hooks for one batch.

    Args:
        vlm: The model.
        spec: What to record.
        choices: Position name → the tokens it refers to.
        inputs: The batch on the device, which is needed to split the encoder's output.
        images: Number of images of each row, the same for all rows.
        answer: Collects the states of the decoding steps, if the answer's tokens are recorded.
        encodings: The images' encodings, if they were computed beforehand.
        attention: Records the division of attention, if the last prompt token is in this pass.
        lens: Records the lens of the image tokens, if they are in this pass.
        image_tokens: Records their states, likewise.
        answer_tokens: Collects the states of all tokens of the answers in the decoding steps.
        own: The batch on the CPU.

    Attributes:
        logits_: ``[batch, vocabulary]`` float32 logits of the latest step's last token.
        shapes_: Module → shape of its output in the prefill.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        spec: ResolvedSpec,
        choices: Mapping[str, TokenChoice],
        inputs: Mapping[str, Tensor],
        images: Sequence[int],
        answer: AnswerStates | None = None,
        encodings: Encodings | None = None,
        attention: AttentionRecorder | None = None,
        lens: ImageLens | None = None,
        image_tokens: ImageTokenRecorder | None = None,
        answer_tokens: AnswerTokenSteps | None = None,
        own: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._vlm = vlm
        self._own = own or {}
        self._spec = spec
        self._choices = choices
        self._inputs = inputs
        self._answer = answer
        self._attention = attention
        self._lens = lens
        self._image_tokens = image_tokens
        self._answer_tokens = answer_tokens
        self._shape = tuple(inputs["input_ids"].shape)
        self._images = images
        self._vision = None if encodings is None else encodings.pooled
        self._recorded: set[State] = set()
        self._last: dict[int, Tensor] = {}
        self._states: dict[str, Float[Tensor, "batch width"]] = {}
        self._first_logits: Float[Tensor, "batch vocabulary"] | None = None
        self._positions: Tensor | None = None
        self.logits_: Float[Tensor, "batch vocabulary"] | None = None
        self.shapes_: dict[str, tuple[int, ...]] = {}
        if encodings is not None:
            self.shapes_ |= encodings.shapes

    @property
    def observer(self) -> Observer | None:
        """What the attention of the decoder is to call."""
        return None if self._attention is None else self._attention.observer

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Add the hooks to the model within the context."""
        vlm, imaged = self._vlm, any(self._images)
        with ExitStack() as stack:
            if self._attention is not None:
                stack.enter_context(self._attention.observer.hooked())
            handles = stack.enter_context(removing_hooks())
            handles.append(vlm.model.register_forward_hook(self._record_logits))
            handles.append(
                vlm.decoder.register_forward_pre_hook(self._record_positions, with_kwargs=True)
            )
            if imaged and self._vision is None:
                handles.append(vlm.vision_encoder.register_forward_hook(self._record_vision))
                if vlm.projector is not None:
                    handles.append(vlm.projector.register_forward_hook(self._note_projection))
            for state in self._spec.states(imaged=imaged, vlm=vlm):
                record = partial(self._record_state, state)
                handles.append(
                    hook_state(vlm, state, record, self._spec.layer_states, imaged=imaged)
                )
            yield

    def tensors(self) -> RecordedTensors:
        """Return the recorded tensors of the prefill.

        Raises:
            RuntimeError: A hook was not called: the model took an unknown path.
        """
        not_encoded = self._vision is None and any(self._images)
        missing = ["the vision encoder"] if not_encoded else []
        states = self._spec.states(imaged=any(self._images), vlm=self._vlm)
        missing += [
            f"{part or 'the states'} of layer {k}"
            for part, k in states
            if (part, k) not in self._recorded
        ]
        if missing or self._first_logits is None:
            raise RuntimeError(f"the prefill did not run {', '.join(missing) or 'the lm_head'}")
        attention = self._attention
        return RecordedTensors(
            self._vision,
            self._states,
            self._first_logits,
            self._positions,
            {} if attention is None else attention.arrays(),
            None if attention is None else attention.members,
            None if attention is None else attention.patches,
            None if self._lens is None else self._lens.table(),
            self._image_states(),
            self._last,
            {} if attention is None else attention.maps(),
        )

    def _image_states(self) -> ImageTokenStates:
        """Return the states of the image tokens, if they were recorded."""
        if self._image_tokens is None:
            return ImageTokenStates()
        totals = {} if self._lens is None else self._lens.totals_
        return replace(self._image_tokens.states(), totals=totals)

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
            own=self._own,
        )
        self._vision = pool_vision(
            RULES[self._vlm.family.vision_rows](encoded), self._spec.vision_pooling
        )

    def _note_projection(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.shapes_.setdefault("projector", tuple(output.shape))

    def _record_state(self, state: State, tensor: Tensor) -> None:
        part, layer = state
        if state in self._recorded:
            if self._answer is not None and self._spec.answer_positions:
                self._answer.add(state, last_token(tensor))
            if self._answer_tokens is not None and not part:
                self._answer_tokens.add(layer, last_token(tensor))
            return
        rows, length = self._shape
        if tensor.numel() != rows * length * tensor.shape[-1]:
            raise RuntimeError(
                f"layer {layer} had {tuple(tensor.shape[:-1])} tokens in the prefill, "
                f"not the batch's {self._shape}"
            )
        self._recorded.add(state)
        tensor = tensor.view(rows, length, -1)
        if not part:
            self.shapes_[f"layer_{layer}"] = tuple(tensor.shape)
            if self._lens is not None:
                self._lens.add(layer, tensor)
            if self._image_tokens is not None:
                self._image_tokens.add(layer, tensor)
            if layer in self._spec.signals.similarity_layers:
                self._last[layer] = tensor[:, -1].clone()
        for position, choice in self._choices.items():
            path = f"{position_group(position, part)}/layer_{layer}"
            self._states[path] = pool_tokens(tensor, choice.to(tensor.device))

    def _record_logits(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.shapes_.setdefault("logits", tuple(output.logits.shape))
        self.logits_ = output.logits[:, -1].float()
        if self._first_logits is None:
            self._first_logits = self.logits_


def last_token(tensor: Tensor) -> Float[Tensor, "rows width"]:
    """Return the last token of each row; a mixture of experts may return tokens without rows."""
    return tensor if tensor.dim() == 2 else tensor[:, -1]


def hook_state(
    vlm: VisionLanguageModel,
    state: State,
    record: Callable[[Tensor], None],
    layer_states: LayerStates,
    *,
    imaged: bool,
) -> Any:
    """Register a hook on a hidden state or sub-layer of a layer; return the hook's handle.

    Args:
        vlm: The model.
        state: The hidden state or sub-layer.
        record: Called with ``[batch, tokens, width]`` in every forward pass.
        layer_states: Which hidden state of the layer is used.
        imaged: Whether the questions are about images.
    """
    part, layer = state
    if part:
        module = sublayers_of(vlm.layers[layer]).module(part)
        if module is None:
            raise RuntimeError(f"layer {layer} has no {part}")
        reads_input = part == "heads"
    else:
        reads_input = layer_states == "hidden_states[k]"
        module = (
            vlm.layers[layer]
            if reads_input
            else _module_after(vlm, layer, layer_states, imaged=imaged)
        )
    if reads_input:
        return module.register_forward_pre_hook(
            lambda _module, args, kwargs: record(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    return module.register_forward_hook(
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
