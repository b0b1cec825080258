"""The differences between architectures, as data: one short description per family.

A description contains only what the library's conventions do not define. By convention the vision
encoder is ``get_encoder(modality="image")``, the decoder ``get_decoder()`` with ``layers`` and
``norm``, the image token ``config.image_token_id``, and every image token corresponds to the same
number of encoder positions. Everything else (prompt, capture, store) is the same for all families.
How to describe another one: docs/adding-a-model.md.

A checkpoint's family is one described here, one described by the user, or an undescribed
architecture. An undescribed architecture that follows the library's conventions works without a
description: its parts are found by the conventions, and the checks at loading decide whether it is
accepted. For a part that cannot be found, the error gives the line that would describe it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version
from torch import Tensor, nn

from vlmscope.errors import InputError, ModelError
from vlmscope.model.vision_rows import RULES
from vlmscope.regular import read_regular


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. Paths are relative to the model, with dots; empty means by convention."""

    model_type: str
    """``config.model_type`` of its checkpoints."""
    title: str
    """Its usual name."""
    vision_type: str = ""
    """``config.vision_config.model_type``, if ``model_type`` alone is ambiguous."""
    vision_encoder: str = ""
    """The module whose output is pooled, before any projection into the language model."""
    projector: str = ""
    """The module that maps the encoder's output to the width of the decoder; for display."""
    decoder: str = ""
    """The decoder."""
    layers: str = "layers"
    """Its blocks, relative to the decoder."""
    final_norm: str = "norm"
    """The norm after the last block, relative to the decoder."""
    image_token: str = "image_token_id"  # noqa: S105 - no password
    """Path of the image token's id in the configuration."""
    vision_rows: str = "image tokens"
    """How the encoder's output is assigned to questions: a name in ``vision_rows.RULES``."""
    encoder_inputs: tuple[str, ...] = ()
    """Inputs of the encoder with one leading entry per question, which are deduplicated if several
    questions of a batch share their images."""
    pixel_masks: tuple[str, ...] = ()
    """Inputs that are 1 where a pixel is part of an image and 0 elsewhere, of which the model only
    counts the ones, so that it computes the same of booleans."""
    skipped_without_image: str = ""
    """Path of the configuration's list of blocks that a prompt without an image skips."""
    text_only: bool = True
    """Whether its processor accepts questions without an image."""
    prefix_sees_question: bool = False
    """Whether image tokens attend to the question after them."""
    cross_attention_mask: str = ""
    """Input that defines which images' tiles each token attends to, in the cross-attention blocks
    that are skipped without an image."""
    cross_attention: str = ""
    """The attention to images in those blocks, relative to a block."""
    pads_tiles: bool = False
    """Whether a dense mask prevents the padding of its vision encoder's tiles from attending to
    itself (``split_attention``)."""
    packs_images: bool = True
    """Whether its vision encoder, if it packs images into one row, may attend to them in one call
    per layer (``packed_attention``)."""
    wrongly_causal: bool = False
    """Whether its vision attention is marked as causal by mistake."""
    numbers_images_of_batch: bool = False
    """Whether its positions number the images of a complete batch (``number_images_by_row``)."""
    squeezes_tokens: bool = False
    """Whether its class squeezes projected image tokens (``keep_lone_token``)."""
    stacks_tiles: bool = False
    """Whether its processor stacks the tiles of all images, which its model also accepts in one row
    (``join_tiles``)."""
    packs_pixels: bool = False
    """Whether ``pixel_values`` has the images of a batch in its last dimension, not its first."""
    needs: str = ""
    """What must be installed in addition to the library's own requirements."""
    since: str = ""
    """The first transformers version whose code for it is correct; older ones are refused."""
    tile_layout: Callable[[Mapping[str, Tensor], Any], tuple[int, int]] | None = None
    """(inputs, config) → rows and columns of tiles of the first image; for display."""


def mllama_tiles(inputs: Mapping[str, Tensor], config: Any) -> tuple[int, int]:
    """Return the layout for the first image's aspect-ratio id; ids count from 1."""
    rows, columns = config.vision_config.supported_aspect_ratios[
        int(inputs["aspect_ratio_ids"][0, 0]) - 1
    ]
    return rows, columns


MLLAMA = Family(
    model_type="mllama",
    title="Llama-3.2-Vision",
    vision_encoder="model.vision_model",
    projector="model.multi_modal_projector",
    decoder="model.language_model",
    vision_rows="image",
    encoder_inputs=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"),
    skipped_without_image="text_config.cross_attention_layers",
    cross_attention_mask="cross_attention_mask",
    cross_attention="cross_attn",
    pads_tiles=True,
    tile_layout=mllama_tiles,
)

_PROJECTOR = "model.multi_modal_projector"
_GLM = "model.visual.post_layernorm"
_MASK = ("pixel_attention_mask",)

_ALL = (
    MLLAMA,
    Family("llava", "LLaVA-1.5", projector=_PROJECTOR),
    Family("llava", "Pixtral", vision_type="pixtral", projector=_PROJECTOR),
    Family("llava_next", "LLaVA-NeXT", projector=_PROJECTOR, vision_rows="tiles"),
    Family("llava_onevision", "LLaVA-OneVision", projector=_PROJECTOR, vision_rows="tiles"),
    Family("qwen2_vl", "Qwen2-VL", projector="model.visual.merger"),
    Family("qwen2_5_vl", "Qwen2.5-VL", projector="model.visual.merger"),
    Family("qwen3_vl", "Qwen3-VL", projector="model.visual.merger"),
    Family("qwen3_vl_moe", "Qwen3-VL (MoE)", projector="model.visual.merger"),
    Family("qwen3_5", "Qwen3.5", projector="model.visual.merger"),
    Family("qwen3_5_moe", "Qwen3.5 (MoE)", projector="model.visual.merger"),
    Family("qwen2_5_omni_thinker", "Qwen2.5-Omni"),
    Family("qwen3_omni_moe_thinker", "Qwen3-Omni"),
    # The encoder's own output is merged 2x2 and projected: the norm before that is pooled.
    Family("glm4v", "GLM-4.1V", vision_encoder=_GLM, projector="model.visual.merger"),
    Family("glm4v_moe", "GLM-4.5V", vision_encoder=_GLM, projector="model.visual.merger"),
    Family("glm46v", "GLM-4.6V", vision_encoder=_GLM, projector="model.visual.merger"),
    Family("exaone4_5", "EXAONE 4.5", projector="model.visual.merger"),
    Family("video_llama_3", "VideoLLaMA 3", projector="model.projector"),
    Family("gemma3", "Gemma 3", projector=_PROJECTOR),
    Family("gemma4", "Gemma 4", projector="model.embed_vision"),
    Family(
        "paligemma",
        "PaliGemma",
        projector=_PROJECTOR,
        text_only=False,
        prefix_sees_question=True,
    ),
    Family(
        "idefics2",
        "Idefics2",
        projector="model.connector",
        vision_rows="patch mask",
        pixel_masks=_MASK,
    ),
    Family("idefics3", "Idefics3", projector="model.connector", pixel_masks=_MASK),
    Family("smolvlm", "SmolVLM", projector="model.connector", pixel_masks=_MASK),
    Family("internvl", "InternVL", projector=_PROJECTOR),
    Family("aya_vision", "Aya Vision", projector=_PROJECTOR),
    Family("cohere2_vision", "Command A Vision", projector=_PROJECTOR, needs="torchvision"),
    # Its decoder scales attention by positions that count padding: every pair is checked.
    Family(
        "llama4",
        "Llama 4",
        projector="multi_modal_projector",
        decoder="language_model.model",
        needs="torchvision",
    ),
    Family(
        "lfm2_vl",
        "LFM2-VL",
        projector=_PROJECTOR,
        final_norm="embedding_norm",
        vision_rows="patch shapes",
        needs="torchvision",
    ),
    # Its encoder ends with probabilities of visual words: the transformer inside it is pooled.
    Family(
        "ovis2",
        "Ovis2",
        vision_encoder="model.vision_tower.transformer",
        projector="model.visual_embeddings_table",
    ),
    Family("ernie4_5_vl_moe", "ERNIE 4.5 VL", projector="model.resampler_model"),
    Family("kimi_k25", "Kimi K2.5", projector="model.mm_projector", needs="torchvision"),
    # Before 5.19 its encoder merges the patches of all slices by the shape of the first.
    Family(
        "minicpmv4_6",
        "MiniCPM-V 4.6",
        projector="model.merger",
        packs_pixels=True,
        needs="transformers 5.19",
        since="5.19",
    ),
    Family(
        "minicpmv4_7",
        "MiniCPM-V 4.7",
        projector="model.merger",
        packs_pixels=True,
        needs="transformers 5.18",
    ),
    Family("mistral3", "Mistral 3", projector=_PROJECTOR, squeezes_tokens=True),
    Family("janus", "Janus", projector="model.aligner"),
    Family("deepseek_vl", "DeepSeek-VL", projector="model.aligner"),
    # Of its two encoders the one that ``vision_config`` describes: one row per image token.
    Family(
        "deepseek_vl_hybrid",
        "DeepSeek-VL hybrid",
        vision_encoder="model.vision_model",
        projector="model.aligner",
    ),
    Family("aria", "Aria", projector=_PROJECTOR, vision_rows="pixel mask"),
    # One projector of eight: each maps features of some layer to some block of the decoder.
    Family(
        "granite4_vision",
        "Granite 4 Vision",
        projector="model.layerwise_projectors.0",
        vision_rows="tiles",
    ),
    Family(
        "hunyuan_vl",
        "Hunyuan-VL",
        projector="model.vision_tower.patch_merger",
        vision_rows="grid",
        numbers_images_of_batch=True,
    ),
    Family(
        "fast_vlm",
        "FastVLM",
        projector=_PROJECTOR,
        vision_rows="channels first",
        needs="timm and torchvision",
    ),
    # Its processor accepts no text without an image.
    Family(
        "got_ocr2",
        "GOT-OCR2",
        projector=_PROJECTOR,
        vision_rows="channels first",
        text_only=False,
    ),
    Family(
        "perception_lm",
        "Perception LM",
        projector=_PROJECTOR,
        stacks_tiles=True,
        needs="timm and torchvision",
    ),
    Family(
        "phi4_multimodal",
        "Phi-4-multimodal",
        vision_encoder="model.embed_tokens_extend.image_embed.img_processor",
        projector="model.embed_tokens_extend.image_embed.img_projection_down",
        decoder="model",
        image_token="vision_config.image_token_id",  # noqa: S106
        vision_rows="crops",
        wrongly_causal=True,
        needs="torchvision",
    ),
    Family(
        "molmo2",
        "Molmo 2",
        projector=_PROJECTOR,
        vision_rows="crop counts",
        needs="torchvision and transformers 5.20",
    ),
)

FAMILIES: Mapping[str, Family] = {
    (f"{family.model_type}/{family.vision_type}".rstrip("/")): family for family in _ALL
}
"""``config.model_type``, if needed with ``/vision_config.model_type`` → description."""


DOCUMENT = "docs/adding-a-model.md"
"""The document that explains descriptions."""

_KEYS = (
    "title", "vision_encoder", "projector", "decoder", "layers", "final_norm", "image_token",
    "vision_rows", "skipped_without_image", "text_only", "prefix_sees_question",
)  # fmt: skip
"""Fields of ``Family`` that a description may set."""


def find_family(config: Any) -> Family | None:
    """Return the description of a configuration's architecture; None if there is none."""
    vision = getattr(config, "vision_config", None)
    own = f"{config.model_type}/{getattr(vision, 'model_type', '')}"
    return FAMILIES.get(own) or FAMILIES.get(config.model_type)


def check_version(family: Family | None, name: str) -> None:
    """Check that this version of transformers computes an architecture correctly.

    Args:
        family: Its description; None if there is none.
        name: The checkpoint, for the message.

    Raises:
        ModelError: It does not.
    """
    from transformers import __version__

    if family is not None and family.since and Version(__version__) < Version(family.since):
        raise ModelError(
            f"{name}: {family.title} is computed wrongly by transformers {__version__}: images "
            f"change with the other images of a batch; pip install 'transformers>={family.since}'"
        )


def undescribed_family(config: Any) -> Family:
    """Return the description of an undescribed architecture: the conventions."""
    return Family(model_type=config.model_type, title=config.model_type)


def read_description(path: str | Path) -> dict[str, Any]:
    """Read a description from a TOML file, see docs/adding-a-model.md.

    Args:
        path: The file; its keys are the fields of ``Family``, all of them optional.

    Raises:
        InputError: The file is missing or not TOML.
    """
    try:
        found = tomllib.loads(read_regular(path).decode())
    except FileNotFoundError as error:
        raise InputError(f"--family {path}: no such file; give a TOML file, {DOCUMENT}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--family {path}: cannot be read as TOML: {error}") from error
    return found


def described(description: Mapping[str, Any], config: Any, path: str | Path = "") -> Family:
    """Return the family that a description defines for a configuration's architecture.

    Fields that it does not set are those of our own description, if there is one, or the
    conventions.

    Args:
        description: Some fields of ``Family``, by name.
        config: The checkpoint's configuration.
        path: The file it was read from, for messages.

    Raises:
        InputError: It has an unknown field or an invalid value.
    """
    _check(description, path)
    return dataclasses.replace(find_family(config) or undescribed_family(config), **description)


def _check(found: Mapping[str, Any], path: str | Path) -> None:
    """Raise an error for unknown fields and invalid values of a description."""
    if unknown := sorted(found.keys() - set(_KEYS)):
        known = ", ".join(_KEYS)
        raise InputError(f"--family {path}: unknown key {unknown[0]!r}; choose from {known}")
    kinds = {field.name: field.type for field in dataclasses.fields(Family)}
    for name, value in found.items():
        wanted = bool if kinds[name] == "bool" else str
        if not isinstance(value, wanted):
            raise InputError(
                f"--family {path}: {name} is {value!r}, expected a {wanted.__name__}; {DOCUMENT}"
            )
    if found.get("vision_rows", "whole") not in RULES:
        raise InputError(
            f"--family {path}: vision_rows is {found['vision_rows']!r}; choose from "
            + ", ".join(map(repr, RULES))
        )


def resolve(family: Family, model: Any, name: str) -> Family:
    """Return the description with the paths that the conventions define.

    Raises:
        ModelError: A part does not follow the conventions; the message has the line to add.
    """
    encoder = family.vision_encoder or _path_of(model, _find_encoder(model))
    if not encoder:
        raise ModelError(
            f"{name}: no vision encoder: get_encoder(modality='image') returns none, and no part "
            f'has the vision configuration; describe it with vision_encoder = "path", {DOCUMENT}'
        )
    decoder = family.decoder or _path_of(model, _find_decoder(model))
    if not decoder:
        raise ModelError(
            f'{name}: no decoder: get_decoder() returns none; describe it with decoder = "path", '
            f"{DOCUMENT}"
        )
    projector = family.projector or _find_projector(model, encoder)
    return dataclasses.replace(family, vision_encoder=encoder, decoder=decoder, projector=projector)


def _find_projector(model: nn.Module, encoder: str) -> str:
    """Return the path of the merger at the end of an encoder, as in Qwen-VL; empty if none."""
    path = f"{encoder}.merger"
    return path if path in dict(model.named_modules()) else ""


def _find_encoder(model: Any) -> Any:
    """Return the vision encoder by convention, or None."""
    found = model.get_encoder(modality="image")
    if found is not model and found is not getattr(model, "base_model", None):
        return found
    vision = getattr(model.config, "vision_config", None)
    parts = [m for m in model.modules() if vision is not None and _config_of(m) is vision]
    return parts[0] if parts else None


def _config_of(module: nn.Module) -> Any:
    return getattr(module, "config", None)


def _find_decoder(model: Any) -> Any:
    """Return the decoder by convention, or None."""
    found = model.get_decoder()
    while found is not None and found is not model and _has_head(found):
        inner = found.get_decoder()  # a language model with a head contains the decoder
        if inner is found:  # Llama 4's returns itself
            inner = next((part for part in found.children() if hasattr(part, "layers")), None)
        if inner is None:
            break
        found = inner
    return None if found is model else found


def _has_head(module: Any) -> bool:
    """Return whether a module is a language model of the library with a head."""
    head = getattr(module, "get_output_embeddings", None)
    return head is not None and hasattr(module, "get_decoder") and head() is not None


def _path_of(model: nn.Module, part: Any) -> str:
    """Return a part's dotted path; empty if it is not in the model."""
    return next((name for name, module in model.named_modules() if module is part), "")
