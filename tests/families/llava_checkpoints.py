"""Tiny LLaVA, LLaVA-NeXT and LLaVA-OneVision, as the ``llava-hf`` checkpoints are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, llama, llama_tokenizer, qwen_tokenizer

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 40, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 42, "patch_size": 14,
    "projection_dim": 24,
}  # fmt: skip
"""3 x 3 patches and a class token."""


def build_llava(folder: Path, **decoder: Any) -> Path:
    """LLaVA-1.5: CLIP, centre-cropped to one square; 9 of its 10 positions go to the decoder.

    Args:
        folder: Where.
        decoder: Settings of another decoder than Llama's, its ``model_type`` among them.
    """
    tokenizer = llama_tokenizer("<image>")
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.LLAVA,
        config={
            "model_type": "llava",
            "vision_config": CLIP,
            "text_config": llama(tokenizer, **{"num_key_value_heads": 4, **decoder}),
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_seq_length": 9,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        },
        processor={
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        images={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 42},
            "crop_size": {"height": 42, "width": 42},
            **CLIP_COLOURS,
        },
        stops=["</s>"],
    )


def build_llava_next(folder: Path, **decoder: Any) -> Path:
    """LLaVA-1.6 on Mistral: an overview and 2 to 4 tiles; the batch is padded to most tiles.

    Args:
        folder: Where.
        decoder: Settings of another decoder.
    """
    tokenizer = llama_tokenizer("<image>")
    pinpoints = [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.LLAVA_NEXT,
        config={
            "model_type": "llava_next",
            "vision_config": CLIP,
            "text_config": llama(
                tokenizer, **{"model_type": "mistral", "sliding_window": None, **decoder}
            ),
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_seq_length": 9,
            "image_grid_pinpoints": pinpoints,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        },
        processor={
            "processor_class": "LlavaNextProcessor",
            "image_token": "<image>",
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
        images={
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": 42},
            "crop_size": {"height": 42, "width": 42},
            "image_grid_pinpoints": pinpoints,
            "do_pad": True,
            **CLIP_COLOURS,
        },
        stops=["</s>"],
    )


def build_llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision on Qwen2: SigLIP without a class token, an overview and up to 9 tiles."""
    tokenizer = qwen_tokenizer("<image>", "<video>")
    pinpoints = [[42 * rows, 42 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    sizes = {"size": {"height": 42, "width": 42}, **SIGLIP_COLOURS}
    vision: dict[str, Any] = {
        "model_type": "siglip_vision_model", "hidden_size": 40, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 5, "image_size": 42, "patch_size": 14,
        "vision_use_head": False,
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.LLAVA_ONEVISION,
        config={
            "model_type": "llava_onevision",
            "vision_config": vision,
            "text_config": llama(tokenizer, model_type="qwen2"),
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
            "image_grid_pinpoints": pinpoints,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": 9,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
        images={
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "image_grid_pinpoints": pinpoints,
            "do_pad": True,
            **sizes,
        },
        videos={"video_processor_type": "LlavaOnevisionVideoProcessor", **sizes},
        stops=["<|im_end|>"],
    )
