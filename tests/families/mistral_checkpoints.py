"""Tiny Pixtral and Mistral Small 3.1: any size, one row of patches for the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, llama
from families.family_tokenizer import build_tokenizer

VISION = {
    "model_type": "pixtral", "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 5, "head_dim": 8, "image_size": 112, "patch_size": 14,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip


def build_pixtral(folder: Path) -> Path:
    """Pixtral: LLaVA's model class around another encoder; every patch is an image token."""
    tokenizer = _tokenizer()
    config = {
        "model_type": "llava",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": 1,
    }
    return _build(folder, tokenizer, config, chat_formats.PIXTRAL, merge=1)


def build_mistral3(folder: Path) -> Path:
    """Mistral Small 3.1: four patches are merged to one image token."""
    tokenizer = _tokenizer()
    config = {"model_type": "mistral3", "vision_feature_layer": -1, "spatial_merge_size": 2}
    return _build(folder, tokenizer, config, chat_formats.MISTRAL3, merge=2)


def _build(
    folder: Path, tokenizer: Any, config: dict[str, Any], template: str, *, merge: int
) -> Path:
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=template,
        config={
            **config,
            "vision_config": VISION,
            "text_config": llama(tokenizer, model_type="mistral", sliding_window=None),
            "image_token_index": tokenizer.convert_tokens_to_ids("[IMG]"),
        },
        processor={
            "processor_class": "PixtralProcessor",
            "patch_size": 14,
            "spatial_merge_size": merge,
            "image_token": "[IMG]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
        images={
            "image_processor_type": "PixtralImageProcessor",
            "size": {"longest_edge": 112},
            "patch_size": {"height": 14, "width": 14},
            **CLIP_COLOURS,
        },
        stops=["</s>"],
    )


def _tokenizer() -> Any:
    return build_tokenizer(
        [
            "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>", "[IMG_BREAK]",
            "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
        ],
        bos="<s>", eos="</s>", pad="<pad>", adds_bos=True, specials_first=True,
    )  # fmt: skip
