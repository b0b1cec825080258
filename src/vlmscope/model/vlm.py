"""``VisionLanguageModel``: a loaded checkpoint under standard names.

vlm.vision_encoder   the encoder, before any projection      output [..., vision_size]
vlm.projector        brings it to the decoder's width        output [..., hidden_size]
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


@dataclass(frozen=True, slots=True)
class VisionLanguageModel:
    """A model and its processor. Made by ``load_model``, which proves the accessors first."""

    model: Any
    """The ``transformers`` model, in evaluation mode. Where other threads use vlmscope, hold
    ``model_lock()`` around calls of it."""
    processor: Any
    """Its processor."""
    family: Family
    """What is particular about its architecture, every path filled in."""
    name: str
    """Folder or hub id it was loaded from."""
    revision: str | None = None
    """Commit of the hub repository; None for a local folder."""
    vision_size: int = 0
    """Width of the vision encoder's output, as the proof saw it."""
    description: Mapping[str, Any] | None = None
    """The user's own description of the architecture, if there is one."""
    adapter: str | None = None
    """Folder of the LoRA adapter in it."""
    quantization: str = ""
    """What its weights were rounded to at loading, ``4bit`` or ``8bit``; empty: to nothing."""
    identity: Identity | None = None
    """What it was loaded from, in hashes; None for a model that ``load_model`` did not make."""
    lengths: LengthBands = ONE_BAND
    """Which rows may share a call, by their lengths."""

    def __repr__(self) -> str:
        """Return one line: the modules would fill a notebook."""
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
        """All of the encoder: the outermost module around ``vision_encoder`` with its own config.

        Where there is none it is that itself.
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
        """The module that brings the encoder's output to the width of the decoder, if known."""
        path = self.family.projector
        return _part(self.model, "projector", path) if path else None

    @property
    def decoder(self) -> nn.Module:
        """The language model: its blocks and the norm behind them."""
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
        """Longest sequence the decoder's positions allow; where none is given, the tokenizer's."""
        config = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        return int((limit or 0) * self.lengths.stretch or self.processor.tokenizer.model_max_length)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when layers are spread out."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def cuda_devices(self) -> tuple[torch.device, ...]:
        """The GPUs that hold a part of the model."""
        devices = {parameter.device for parameter in self.model.parameters()}
        return tuple(sorted((d for d in devices if d.type == "cuda"), key=str))

    @property
    def attention(self) -> str:
        """Attention implementation of the decoder, and of the vision encoder where it is another.

        For example ``sdpa``, or ``eager, vision encoder sdpa``.
        """
        decoder, encoder = implementations(self.decoder), implementations(self.vision_tower)
        other = encoder and encoder != decoder
        return f"{decoder}, vision encoder {encoder}" if other else decoder

    @property
    def one_at_a_time(self) -> str:
        """Why questions go through the model one at a time; empty where they may be batched."""
        if self.quantization == "8bit":
            return "8-bit rounding depends on all tokens that go through together"
        if self.family.vision_rows == "whole":
            return "in a batch this architecture's vectors could not be told apart, or changed"
        return ""

    @property
    def skipped_without_image(self) -> frozenset[int]:
        """Blocks that a prompt without an image does not pass: what goes in comes out."""
        path = self.family.skipped_without_image
        return frozenset(attrgetter(path)(self.model.config) if path else ())

    def check_files(self) -> None:
        """Check that the weights still are what was loaded: on a CPU they are the files, mapped.

        Raises:
            ModelChangedError: A weight file was written to in place since.
        """
        if self.identity is None or self.device.type != "cpu":
            return
        if path := self.identity.rewritten():
            raise ModelChangedError(
                f"{path}: was written to while the model computed with it, so that what it gave "
                "since is not recorded; restore the file and run the same command again"
            )

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` with floating tensors in the model's dtype, as its first layer does."""
        return {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in inputs.items()
        }

    def on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``inputs`` on the model's device, ``cast``."""
        return {name: tensor.to(self.device) for name, tensor in self.cast(inputs).items()}


def _part(module: nn.Module, name: str, path: str) -> nn.Module:
    """Return the part of a module at a path; the error says what it should have been."""
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise AttributeError(f"{name} {path!r}: {error}") from error
