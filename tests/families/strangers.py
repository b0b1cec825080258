"""Made-up architectures, registered with transformers as somebody's own would be.

``acme`` and ``acme_tiles`` are LLaVA under another name: they follow every convention.
``acme_backwards`` returns its images in an order that nobody could guess. ``acme_odd`` calls its
parts by names that no convention knows. ``acme_headed``, ``acme_scaled``, ``acme_steps``,
``acme_merger``, ``acme_twice`` and ``acme_hearing`` do one thing each that a convention leaves
open. ``acme_mllama`` and ``acme_mistral`` are Mllama and Mistral 3 without their descriptions.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast


class AcmeConfig(LlavaConfig):
    model_type = "acme"


class Acme(LlavaForConditionalGeneration):
    config_class = AcmeConfig


class AcmeTilesConfig(LlavaNextConfig):
    model_type = "acme_tiles"


class AcmeTiles(LlavaNextForConditionalGeneration):
    config_class = AcmeTilesConfig


class AcmeBackwardsConfig(LlavaConfig):
    model_type = "acme_backwards"


class AcmeBackwards(LlavaForConditionalGeneration):
    """The encoder sees the images last to first; the projector turns them round again."""

    config_class = AcmeBackwardsConfig

    def __init__(self, config: AcmeBackwardsConfig) -> None:
        super().__init__(config)
        self.model.vision_tower.register_forward_pre_hook(self._turn, with_kwargs=True)
        self.model.multi_modal_projector.register_forward_pre_hook(
            lambda _module, args: (args[0].flip(0), *args[1:])
        )

    @staticmethod
    def _turn(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0].flip(0), *args[1:]), kwargs
        return args, {**kwargs, "pixel_values": kwargs["pixel_values"].flip(0)}


class AcmeHeadedConfig(LlavaConfig):
    model_type = "acme_headed"
    own_decoder: bool = False


class AcmeHeaded(LlavaForConditionalGeneration):
    """Its ``get_decoder`` gives the language model with its head."""

    config_class = AcmeHeadedConfig

    def get_decoder(self) -> nn.Module:
        with torch.device("meta"):
            language = LlamaForCausalLM(self.config.text_config)
        language.model = self.model.language_model
        if self.config.own_decoder:  # as Llama 4's says
            language.get_decoder = lambda: language
        return language


class AcmeScaledConfig(LlavaConfig):
    model_type = "acme_scaled"


class AcmeScaled(LlavaForConditionalGeneration):
    """Scales its logits, as Cohere does, and caps them softly, as Gemma does.

    Without a cap in the configuration it returns logarithms of probabilities.
    """

    config_class = AcmeScaledConfig

    def forward(self, input_ids: Any = None, pixel_values: Any = None, **kwargs: Any) -> Any:
        outputs = super().forward(input_ids, pixel_values, **kwargs)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        if cap is None:
            outputs.logits = outputs.logits.log_softmax(dim=-1)
        else:
            outputs.logits = cap * torch.tanh(0.3 * outputs.logits / cap)
        return outputs


class AcmeStepsConfig(LlavaConfig):
    model_type = "acme_steps"


class AcmeSteps(LlavaForConditionalGeneration):
    """Counts padding as positions, at the steps of an answer only."""

    config_class = AcmeStepsConfig

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Any = None, attention_mask: Any = None,
        pixel_values: Any = None, **kwargs: Any,
    ) -> dict[str, Any]:  # fmt: skip
        found: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, attention_mask=attention_mask,
            pixel_values=pixel_values, **kwargs,
        )  # fmt: skip
        if past_key_values is not None and (length := past_key_values.get_seq_length()):
            found["position_ids"] = torch.full((len(input_ids), 1), length)
        return found


class AcmeMergerConfig(Glm4vConfig):
    model_type = "acme_merger"


class AcmeMerger(Glm4vForConditionalGeneration):
    """Its encoder ends behind a merger, in the decoder's width."""

    config_class = AcmeMergerConfig


class AcmeTwiceConfig(InternVLConfig):
    model_type = "acme_twice"


class AcmeTwice(InternVLForConditionalGeneration):
    """Its encoder sees the overview of an image and its tiles in two calls."""

    config_class = AcmeTwiceConfig

    def __init__(self, config: AcmeTwiceConfig) -> None:
        super().__init__(config)
        once = self.model.get_image_features

        def twice(pixel_values: Tensor, **more: Any) -> Any:
            found = once(pixel_values=pixel_values[-1:], **more)
            if len(pixel_values) > 1:
                tiles = once(pixel_values=pixel_values[:-1], **more)
                found.pooler_output = torch.cat([tiles.pooler_output, found.pooler_output])
            return found

        self.model.get_image_features = twice


class AcmeEarsConfig(PreTrainedConfig):
    model_type = "acme_ears"


class AcmeEars(PreTrainedModel):
    config_class = AcmeEarsConfig
    _supports_sdpa = False

    def __init__(self, config: AcmeEarsConfig) -> None:
        super().__init__(config)
        self.drum = nn.Linear(2, 2)
        self.post_init()


class AcmeHearingConfig(LlavaConfig):
    model_type = "acme_hearing"
    sub_configs = {**LlavaConfig.sub_configs, "ears_config": AcmeEarsConfig}  # noqa: RUF012

    def __init__(self, ears_config: Any = None, **more: Any) -> None:
        self.ears_config = _made(AcmeEarsConfig, ears_config)
        super().__init__(**more)


class AcmeHearing(LlavaForConditionalGeneration):
    """Has a part that has no sdpa and is neither encoder nor decoder."""

    config_class = AcmeHearingConfig

    def __init__(self, config: AcmeHearingConfig) -> None:
        super().__init__(config)
        self.ears = AcmeEars(config.ears_config)


class AcmeMistralConfig(Mistral3Config):
    model_type = "acme_mistral"


class AcmeMistral(Mistral3ForConditionalGeneration):
    config_class = AcmeMistralConfig


class AcmeMllamaConfig(MllamaConfig):
    model_type = "acme_mllama"


class AcmeMllama(MllamaForConditionalGeneration):
    config_class = AcmeMllamaConfig


class AcmeOddConfig(PreTrainedConfig):
    model_type = "acme_odd"
    sub_configs = {"text_config": LlamaConfig, "vision_config": SiglipVisionConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: Mapping[str, Any] | None = None,
        vision_config: Mapping[str, Any] | None = None,
        image_token: int = 0,
        **more: Any,
    ) -> None:
        self.text_config = _made(LlamaConfig, text_config)
        self.vision_config = _made(SiglipVisionConfig, vision_config)
        self.image_token = image_token
        super().__init__(**more)


def _made(kind: Any, settings: Any) -> Any:
    if isinstance(settings, kind):
        return settings
    return kind(**{k: v for k, v in dict(settings or {}).items() if k != "model_type"})


class Mind(nn.Module):
    """A decoder whose blocks are called ``steps``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        inner = LlamaModel(config)
        self.words, self.steps, self.last = inner.embed_tokens, inner.layers, inner.norm
        self.turn = inner.rotary_emb


class AcmeOdd(PreTrainedModel, GenerationMixin):
    config_class = AcmeOddConfig
    _supports_sdpa = True

    def __init__(self, config: AcmeOddConfig) -> None:
        super().__init__(config)
        # A copy: by its configuration, too, nobody could find it.
        self.eyes = nn.ModuleDict({"left": SiglipVisionModel(copy.deepcopy(config.vision_config))})
        self.bridge = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)
        self.mind = Mind(config.text_config)
        self.mouth = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.mind.words

    def get_output_embeddings(self) -> nn.Module:
        return self.mouth

    def see(self, pixel_values: Tensor) -> Tensor:
        seen: BaseModelOutputWithPooling = self.eyes["left"](pixel_values)
        return self.bridge(seen.last_hidden_state)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        hidden = self.mind.words(input_ids)
        if pixel_values is not None:
            places = (input_ids == self.config.image_token).unsqueeze(-1).expand_as(hidden)
            hidden = hidden.masked_scatter(places, self.see(pixel_values))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        order = (mask.cumsum(1) - 1).clamp_min(0)
        seen = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
        allowed = seen & mask[:, None, None, :].bool()
        bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(hidden.dtype).min)
        turned = self.mind.turn(hidden, order)
        states = [hidden]
        for step in self.mind.steps:
            hidden = step(hidden, attention_mask=bias, position_embeddings=turned)
            states.append(hidden)
        states[-1] = self.mind.last(hidden)
        return CausalLMOutputWithPast(
            logits=self.mouth(states[-1][:, -logits_to_keep:]),
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Everything anew at every step: it keeps no cache."""
        kept = {"pixel_values", "attention_mask", "logits_to_keep"}
        return {"input_ids": input_ids} | {k: v for k, v in kwargs.items() if k in kept}


def register() -> None:
    """Tell transformers about them all, as a package of somebody's would when it is imported."""
    for config, model in (
        (AcmeConfig, Acme),
        (AcmeTilesConfig, AcmeTiles),
        (AcmeBackwardsConfig, AcmeBackwards),
        (AcmeHearingConfig, AcmeHearing),
        (AcmeMistralConfig, AcmeMistral),
        (AcmeHeadedConfig, AcmeHeaded),
        (AcmeScaledConfig, AcmeScaled),
        (AcmeStepsConfig, AcmeSteps),
        (AcmeMergerConfig, AcmeMerger),
        (AcmeTwiceConfig, AcmeTwice),
        (AcmeMllamaConfig, AcmeMllama),
        (AcmeOddConfig, AcmeOdd),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageTextToText.register(config, model, exist_ok=True)


def rename(known: Path, folder: Path, model_type: str) -> Path:
    """Copy a checkpoint under another architecture's name."""
    shutil.copytree(known, folder)
    model = AutoModelForImageTextToText.from_pretrained(known)
    settings = {k: v for k, v in model.config.to_dict().items() if k != "model_type"}
    renamed = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **settings))
    renamed.load_state_dict(model.state_dict())
    renamed.generation_config = model.generation_config
    renamed.save_pretrained(folder)
    return folder


def redraw(known: Path, folder: Path, model_type: str, **vision: Any) -> Path:
    """Copy a checkpoint under another architecture's name, with other settings of its encoder."""
    shutil.copytree(known, folder)
    settings = json.loads((known / "config.json").read_text())
    settings["vision_config"] |= vision
    kept = {k: v for k, v in settings.items() if k not in {"model_type", "architectures"}}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **kept))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    model.generation_config = GenerationConfig.from_pretrained(known)
    model.save_pretrained(folder)
    return folder


def build_odd(like: Path, folder: Path) -> Path:
    """Write a checkpoint of ``acme_odd`` with LLaVA's tokenizer and processor."""
    shutil.copytree(like, folder)
    old = json.loads((like / "config.json").read_text())
    vision = {"hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "image_size": 42, "patch_size": 14}  # fmt: skip
    config = AcmeOddConfig(
        text_config=old["text_config"],
        vision_config=vision,
        image_token=old["image_token_index"],
    )
    torch.manual_seed(0)
    model = AcmeOdd(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["num_additional_image_tokens"] = 0  # SigLIP has no class token
    processor["vision_feature_select_strategy"] = "full"
    (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder
