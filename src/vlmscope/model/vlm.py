"""``VisionLanguageModel``: a loaded checkpoint under standard names.

vlm.vision_encoder   the encoder, before any projection      output [..., vision_size]
vlm.projector        maps it to the decoder's width          output [..., hidden_size]
vlm.layers[k]        decoder block k                         output [batch, length, hidden_size]
vlm.final_norm       the norm after the last block           output [batch, length, hidden_size]
vlm.lm_head          hidden states to logits                 output [batch, length, vocabulary]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from vlmscope.errors import ModelChangedError
from vlmscope.model.attention.implementations import implementations
from vlmscope.model.families import Family
from vlmscope.model.fingerprint import Identity
from vlmscope.model.lengths import ONE_BAND, LengthBands
from vlmscope.model.preprocessing import Preprocessing, cast_inputs


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """A model and its processor. Made by ``load_model``, which checks the accessors first."""

    model: Any
    """The ``transformers`` model, in evaluation mode. If other threads use vlmscope, hold
    ``model_lock()`` while calling it."""
    processor: Any
    """Its processor."""
    family: Family
    """The description of its architecture, with every path filled in."""
    name: str
    """Folder or hub id it was loaded from."""
    revision: str | None = None
    """Commit of the hub repository; None for a local folder."""
    vision_size: int = 0
    """Width of the vision encoder's output, as found by the checks at loading."""
    description: Mapping[str, Any] | None = None
    """The user's description of the architecture, if there is one."""
    adapter: str | None = None
    """Folder of its LoRA adapter."""
    quantization: str = ""
    """What its weights were quantised to at loading, ``4bit`` or ``8bit``; empty for none."""
    identity: Identity | None = None
    """Hashes of what it was loaded from; None for a model that ``load_model`` did not make."""
    lengths: LengthBands = ONE_BAND
    """Which rows may be in the same batch, by their lengths."""
    lens_fault: str = ""
    """Why hidden states cannot be turned into logits as the model does it; empty if they can."""

    def __repr__(self) -> str:
        """Return one line, not the modules, which would fill a notebook."""
        rounded = f", rounded to {self.quantization}" if self.quantization else ""
        adapted = f", adapter {self.adapter!r}" if self.adapter else ""
        return (
            f"VisionLanguageModel({self.name!r}, {self.family.title}, {self.num_layers} layers of "
            f"{self.hidden_size:,}, {str(self.dtype).removeprefix('torch.')} on {self.device}"
            f"{rounded}{adapted})"
        )

    @property
    def vision_encoder(self) -> nn.Module:
        """The module whose output becomes the vision-only representation."""
        return _part(self.model, "vision_encoder", self.family.vision_encoder)

    @property
    def vision_tower(self) -> nn.Module:
        """The complete encoder: the outermost module around ``vision_encoder`` with its own config.

        If there is none, ``vision_encoder`` itself.
        """
        decoder, path = self.decoder, self.family.vision_encoder.split(".")
        for end in range(1, len(path) + 1):
            part: nn.Module = self.model.get_submodule(".".join(path[:end]))
            own = getattr(part, "config", self.model.config) is not self.model.config
            if own and not any(module is decoder for module in part.modules()):
                return part
        return self.vision_encoder

    @property
    def projector(self) -> nn.Module | None:
        """The module that maps the encoder's output to the width of the decoder, if known."""
        path = self.family.projector
        return _part(self.model, "projector", path) if path else None

    @property
    def decoder(self) -> nn.Module:
        """The language model: its blocks and the norm after them."""
        return _part(self.model, "decoder", self.family.decoder)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder blocks."""
        return cast("nn.ModuleList", _part(self.decoder, "layers", self.family.layers))

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last decoder block; ``hidden_states[-1]`` is its output."""
        return _part(self.decoder, "final_norm", self.family.final_norm)

    @property
    def lm_head(self) -> nn.Module:
        """The projection from hidden states to logits."""
        return self.model.get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def image_token_id(self) -> int:
        """Id of the image token in the expanded prompt."""
        return int(attrgetter(self.family.image_token)(self.model.config))

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """Width of the decoder's hidden states."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def max_prompt_tokens(self) -> int:
        """Longest sequence for the decoder's positions; if not given, for the tokenizer."""
        config = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        return int((limit or 0) * self.lengths.stretch or self.processor.tokenizer.model_max_length)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The device of inputs: that of the embeddings, also when layers are spread out."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def cuda_devices(self) -> tuple[torch.device, ...]:
        """The GPUs that contain a part of the model.

        Only of a model on several devices are all parameters looked at: it is asked for every
        batch.
        """
        placed = {str(part) for part in getattr(self.model, "hf_device_map", {}).values()}
        if len(placed) < 2:
            return (self.device,) if self.device.type == "cuda" else ()
        devices = {parameter.device for parameter in self.model.parameters()}
        return tuple(sorted((d for d in devices if d.type == "cuda"), key=str))

    @property
    def attention(self) -> str:
        """Attention implementation of the decoder, and of the vision encoder if it differs.

        For example ``sdpa``, or ``eager, vision encoder sdpa``.
        """
        decoder, encoder = implementations(self.decoder), implementations(self.vision_tower)
        other = encoder and encoder != decoder
        return f"{decoder}, vision encoder {encoder}" if other else decoder

    @property
    def one_at_a_time(self) -> str:
        """Why questions are run one at a time; empty if they may be batched."""
        if self.quantization == "8bit":
            return "8-bit quantisation depends on all tokens of the batch"
        if self.family.vision_rows == "whole":
            return "in a batch this architecture's vectors change, or cannot be assigned to rows"
        return ""

    @property
    def skipped_without_image(self) -> frozenset[int]:
        """Blocks that a prompt without an image skips: their output is their input."""
        path = self.family.skipped_without_image
        return frozenset(attrgetter(path)(self.model.config) if path else ())

    def check_files(self) -> None:
        """Check that the weight files are unchanged: on a CPU the weights are the mapped files.

        Raises:
            ModelChangedError: A weight file was overwritten in place since loading.
        """
        if self.identity is None or self.device.type != "cpu":
            return
        if path := self.identity.rewritten():
            raise ModelChangedError(
                f"{path}: was changed while the model computed with it, so results since then are "
                "not recorded; restore the file and run the same command again"
            )

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` with floating tensors in the model's dtype, as its first layer does."""
        return cast_inputs(inputs, self.dtype)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the preparation of inputs needs to know of the model."""
        return Preprocessing(
            self.processor,
            self.family,
            self.lengths,
            self.max_prompt_tokens,
            self.image_token_id,
            self.dtype,
            self.one_at_a_time,
            pin_memory=self.device.type == "cuda",
        )

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` on the model's device, ``cast``."""
        return {name: tensor.to(self.device) for name, tensor in self.cast(inputs).items()}


def _part(module: nn.Module, name: str, path: str) -> nn.Module:
    """Return the part of a module at a path; the error names the part."""
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise AttributeError(f"{name} {path!r}: {error}") from error
