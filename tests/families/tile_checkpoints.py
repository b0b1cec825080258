"""Tiny Idefics3, SmolVLM, InternVL3 and Aya Vision: an image becomes a number of equal tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, WIDTH, llama, qwen_tokenizer
from families.family_tokenizer import build_tokenizer

IDEFICS_TOKENS = (
    "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)  # fmt: skip


def build_idefics3(folder: Path) -> Path:
    """Idefics3 on Llama 3: rows and columns of tiles with their names, then the whole image."""
    tokenizer = build_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", *IDEFICS_TOKENS],
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        pad="<|finetune_right_pad_id|>",
        adds_bos=True,
    )
    return _build_idefics(folder, tokenizer, "idefics3", "Idefics3", chat_formats.IDEFICS3)


def build_smolvlm(folder: Path) -> Path:
    """SmolVLM on SmolLM2: Idefics3's images; ``<|im_start|>`` serves as BOS."""
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *IDEFICS_TOKENS],
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        named=named,
    )
    return _build_idefics(folder, tokenizer, "smolvlm", "SmolVLM", chat_formats.SMOLVLM)


def _build_idefics(folder: Path, tokenizer: Any, model_type: str, name: str, template: str) -> Path:
    vision = {
        "model_type": "idefics3" if model_type == "idefics3" else "smolvlm_vision",
        "hidden_size": 24, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": 28, "patch_size": 7,
    }  # fmt: skip
    smol = model_type == "smolvlm"
    settings: dict[str, Any] = {
        "do_image_splitting": True, "size": {"longest_edge": 84},
        "max_image_size": {"longest_edge": 28}, "do_pad": True, **SIGLIP_COLOURS,
    }  # fmt: skip
    video = {"video_processor_type": "SmolVLMVideoProcessor", "fps": 1, "num_frames": 64}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=template,
        config={
            "model_type": model_type,
            "vision_config": vision,
            "text_config": llama(tokenizer),
            "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
            "pad_token_id": tokenizer.pad_token_id,
            "scale_factor": 2,
        },
        processor={"processor_class": f"{name}Processor", "image_seq_len": 4},
        images={"image_processor_type": f"{name}ImageProcessor", **settings},
        videos={**settings, **video} if smol else None,
        stops=["<end_of_utterance>"],
    )


def build_internvl(folder: Path, **decoder: Any) -> Path:
    """InternVL3 on Qwen2.5: 1 to 6 tiles and an overview, 16 patches shuffled to 4 tokens each.

    Args:
        folder: Where.
        decoder: Settings of another decoder.
    """
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = qwen_tokenizer(*named.values(), **named)
    settings = {"size": {"height": 56, "width": 56}, **CLIP_COLOURS}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.INTERNVL,
        config={
            "model_type": "internvl",
            "vision_config": {
                "model_type": "internvl_vision", "hidden_size": 40, "intermediate_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": [56, 56],
                "patch_size": [14, 14], "use_mean_pooling": True, "attention_bias": True,
            },
            "text_config": llama(tokenizer, **{"model_type": "qwen2", **decoder}),
            "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            "image_seq_length": 4,
            "downsample_ratio": 0.5,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
        },
        processor={"processor_class": "InternVLProcessor", "image_seq_length": 4},
        images={
            "image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False,
            "min_patches": 1, "max_patches": 6, **settings,
        },
        videos={"video_processor_type": "InternVLVideoProcessor", **settings},
        stops=["<|im_end|>"],
    )  # fmt: skip


COHERE_TURNS = ("START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN")


def build_cohere2_vision(folder: Path) -> Path:
    """Command A Vision on Cohere 2: SigLIP, four patches a token, and a break behind every tile."""
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>", "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tokenizer = build_tokenizer(
        [
            "<PAD>", "<UNK>", "<BOS_TOKEN>", "<EOS_TOKEN>", *(f"<|{n}|>" for n in COHERE_TURNS),
            "<|START_RESPONSE|>", "<|END_RESPONSE|>", *named.values(),
        ],
        bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>", adds_bos=True, named=named,
        specials_first=True,
    )  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.COMMAND_A_VISION,
        config={
            "model_type": "cohere2_vision",
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 40, "intermediate_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 56,
                "patch_size": 14, "vision_use_head": False,
            },
            "text_config": llama(
                tokenizer, model_type="cohere2", sliding_window=16, logit_scale=0.25,
                layer_types=["sliding_attention"] * 3 + ["full_attention", "sliding_attention"],
            ),
            "image_token_id": tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
            "downsample_factor": 2,
            "alignment_intermediate_size": 64,
        },
        processor={"processor_class": "Cohere2VisionProcessor"},
        images={
            "image_processor_type": "Cohere2VisionImageProcessorFast", "patch_size": 2,
            "max_patches": 4, "size": {"height": 56, "width": 56}, **SIGLIP_COLOURS,
        },
        stops=["<|END_OF_TURN_TOKEN|>"],
    )  # fmt: skip


def build_llama4(folder: Path) -> Path:
    """Llama 4: tiles, then the whole image; one block in four has no rotary embedding."""
    marks = [
        "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    ]  # fmt: skip
    tokenizer = build_tokenizer(
        ["<|begin_of_text|>", "<|eot|>", "<|finetune_right_pad|>", "<|header_start|>",
         "<|header_end|>", *marks],
        bos="<|begin_of_text|>", eos="<|eot|>", pad="<|finetune_right_pad|>", adds_bos=True,
    )  # fmt: skip
    start, end, _, patch, *_ = tokenizer.convert_tokens_to_ids(marks)
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.LLAMA4,
        config={
            "model_type": "llama4",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 160, "num_hidden_layers": 3,
                "num_attention_heads": 5, "image_size": 56, "patch_size": 14,
                "projector_input_dim": 48, "projector_output_dim": 48, "vision_output_dim": 48,
            },
            "text_config": llama(
                tokenizer, model_type="llama4_text", intermediate_size_mlp=80, num_local_experts=2,
                num_experts_per_tok=1, interleave_moe_layer_step=2,
            ),
            "boi_token_index": start,
            "eoi_token_index": end,
            "image_token_index": patch,
        },
        processor={"processor_class": "Llama4Processor", "patch_size": 14},
        images={
            "image_processor_type": "Llama4ImageProcessorFast", "max_patches": 4,
            "size": {"height": 56, "width": 56}, "resize_to_max_canvas": False, **SIGLIP_COLOURS,
        },
        stops=["<|eot|>"],
    )  # fmt: skip


def build_lfm2_vl(folder: Path) -> Path:
    """LFM2-VL: SigLIP 2 on tiles of any shape, filled up; blocks of convolutions and attention."""
    named = {
        "image_token": "<image>", "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>", "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    tiles = (f"<|img_row_{row}_col_{col}|>" for row in range(1, 5) for col in range(1, 5))
    tokenizer = build_tokenizer(
        ["<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", *named.values(), *tiles],
        bos="<|startoftext|>", eos="<|im_end|>", pad="<|pad|>", adds_bos=True, named=named,
    )  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.LFM2_VL,
        config={
            "model_type": "lfm2_vl",
            "vision_config": {
                "model_type": "siglip2_vision_model", "hidden_size": 40, "intermediate_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 5, "patch_size": 14,
                "num_patches": 36, "vision_use_head": False,
            },
            "text_config": llama(
                tokenizer, model_type="lfm2", block_auto_adjust_ff_dim=False,
                layer_types=["full_attention", "conv", "conv", "full_attention", "conv"],
            ),
            "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
            "downsample_factor": 2,
            "projector_hidden_size": 48,
        },
        processor={"processor_class": "Lfm2VlProcessor"},
        images={
            "image_processor_type": "Lfm2VlImageProcessorFast", "encoder_patch_size": 14,
            "tile_size": 56, "max_tiles": 4, "min_image_tokens": 2, "max_image_tokens": 6,
            "max_pixels_tolerance": 1.0, **SIGLIP_COLOURS,
        },
        stops=["<|im_end|>"],
    )  # fmt: skip


def build_aya_vision(folder: Path) -> Path:
    """Aya Vision on Cohere 2: InternVL's tiles, each with its name, and SigLIP."""
    image = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"]
    turns = ["START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN"]
    tokenizer = build_tokenizer(
        [
            "<PAD>", "<UNK>", "<BOS_TOKEN>", "<EOS_TOKEN>", *(f"<|{name}|>" for name in turns),
            "<|START_RESPONSE|>", "<|END_RESPONSE|>", *image, "<image>", "TILE_GLOBAL", "TILE",
        ],
        bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>", adds_bos=True,
        specials_first=True,
    )  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 40, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 56, "patch_size": 14,
        "vision_use_head": False,
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.AYA_VISION,
        config={
            "model_type": "aya_vision",
            "vision_config": vision,
            "text_config": llama(
                tokenizer, model_type="cohere2", sliding_window=16, logit_scale=0.25,
                layer_types=["sliding_attention"] * 3 + ["full_attention", "sliding_attention"],
            ),
            "image_token_index": tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
            "downsample_factor": 2,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "alignment_intermediate_size": 64,
        },
        processor={
            "processor_class": "AyaVisionProcessor", "patch_size": 14, "img_size": 56,
            "downsample_factor": 2, "image_token": "<image>",
        },
        images={
            "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True,
            "min_patches": 1, "max_patches": 6, "size": {"height": 56, "width": 56},
            **SIGLIP_COLOURS,
        },
        stops=["<|END_OF_TURN_TOKEN|>"],
    )  # fmt: skip


def build_ovis2(folder: Path) -> Path:
    """Ovis2 on Qwen2: tiles behind an overview; the encoder ends in a vocabulary of its own."""
    special = ["<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    named = {"image_token": "<image>"}
    tokenizer = qwen_tokenizer(*special, "<image>", **named)
    start, atom, grid, column, row, end = tokenizer.convert_tokens_to_ids(special)
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.OVIS2,
        config={
            "model_type": "ovis2",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 5, "image_size": 56, "patch_size": 14, "vocab_size": 48,
                "hidden_stride": 2,
            },
            "text_config": llama(tokenizer, model_type="qwen2"),
            "image_token_id": atom,
            "visual_indicator_token_ids": [start, grid, column, row, end],
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
        },
        processor={"processor_class": "Ovis2Processor", "image_seq_length": 4},
        images={
            "image_processor_type": "Ovis2ImageProcessor", "crop_to_patches": True,
            "min_patches": 1, "max_patches": 4, "size": {"height": 56, "width": 56},
            **CLIP_COLOURS,
        },
        stops=["<|im_end|>"],
    )  # fmt: skip
