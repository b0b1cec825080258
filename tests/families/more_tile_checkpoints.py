"""Tiny Idefics2, Aria, DeepSeek-VL, Granite 4 Vision, Hunyuan-VL and GOT-OCR2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import (
    CLIP_COLOURS,
    SIGLIP_COLOURS,
    WIDTH,
    llama,
    llama_tokenizer,
    qwen_tokenizer,
)
from families.family_tokenizer import build_tokenizer

DEEPSEEK_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 40, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 56, "patch_size": 14,
}  # fmt: skip


def build_idefics2(folder: Path) -> Path:
    """Idefics2 on Mistral: four quarters and the whole image, each in its own shape, filled up."""
    tokenizer = llama_tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.IDEFICS2,
        config={
            "model_type": "idefics2",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 5, "image_size": 70, "patch_size": 14,
            },
            "perceiver_config": {
                "hidden_size": 56, "resampler_n_latents": 3, "resampler_depth": 2,
                "resampler_n_heads": 4, "resampler_head_dim": 8, "num_key_value_heads": 2,
            },
            "text_config": llama(tokenizer, model_type="mistral", sliding_window=None),
            "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        },
        processor={"processor_class": "Idefics2Processor", "image_seq_len": 3},
        images={
            "image_processor_type": "Idefics2ImageProcessor", "do_image_splitting": True,
            "size": {"shortest_edge": 28, "longest_edge": 70}, **SIGLIP_COLOURS,
        },
        stops=["</s>", "<end_of_utterance>"],
    )  # fmt: skip


def build_aria(folder: Path) -> Path:
    """Aria: one square of 980 pixels filled up to the right and below; experts in every block.

    Its processor knows no other size than 490 and 980 pixels, so the patches are large.
    """
    tokenizer = qwen_tokenizer("<|img|>", "<fim_prefix>", "<fim_suffix>", image_token="<|img|>")  # noqa: S106
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.ARIA,
        config={
            "model_type": "aria",
            "vision_config": {
                "model_type": "idefics3_vision", "hidden_size": 40, "intermediate_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 980,
                "patch_size": 140,
            },
            "text_config": llama(
                tokenizer, model_type="aria_text", moe_num_experts=4, moe_topk=2,
                moe_num_shared_experts=1,
            ),
            "projector_patch_to_query_dict": {"49": 6},
            "image_token_index": tokenizer.convert_tokens_to_ids("<|img|>"),
        },
        processor={"processor_class": "AriaProcessor", "size_conversion": {"980": 6}},
        images={
            "image_processor_type": "AriaImageProcessor", "max_image_size": 980,
            "min_image_size": 336, "split_image": False, **SIGLIP_COLOURS,
        },
        stops=["<|im_end|>"],
    )  # fmt: skip


def build_deepseek_vl(folder: Path) -> Path:
    """DeepSeek-VL on Llama: SigLIP, one square an image, every position an image token."""
    return _build_deepseek(folder, "deepseek_vl", "DeepseekVL", {}, {})


def build_granite4_vision(folder: Path) -> Path:
    """Granite 4 Vision: LLaVA-NeXT's tiles; features of several layers join several blocks."""
    tokenizer = build_tokenizer(
        ["<|pad|>", "<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<image>"],
        bos="<|end_of_text|>", eos="<|end_of_text|>", pad="<|pad|>",
    )  # fmt: skip
    pinpoints = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.GRANITE4_VISION,
        config={
            "model_type": "granite4_vision",
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 80,
                "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56,
                "patch_size": 14, "vision_use_head": False,
            },
            "text_config": llama(
                tokenizer, model_type="granite4_vision_text", num_hidden_layers=7,
                embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.25,
                logits_scaling=4.0,
            ),
            "qformer_config": {
                "model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 80,
                "cross_attention_frequency": 1, "use_qformer_text_input": False,
                "hidden_size": 64, "encoder_hidden_size": 64, "num_attention_heads": 1,
            },
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_grid_pinpoints": pinpoints,
            "image_seq_length": 4,
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-1, 0], [-2, 1]],
            "spatial_target_layers": [2, 3, 4, 5],
            "vision_feature_select_strategy": "full",
        },
        processor={
            "processor_class": "Granite4VisionProcessor", "patch_size": 14,
            "vision_feature_select_strategy": "full", "downsample_rate": "1/2",
            "num_additional_image_tokens": 0, "image_token": "<image>",
        },
        images={
            "image_processor_type": "LlavaNextImageProcessor", "do_center_crop": False,
            "size": {"height": 56, "width": 56}, "crop_size": {"height": 56, "width": 56},
            "image_grid_pinpoints": pinpoints, **SIGLIP_COLOURS,
        },
        stops=["<|end_of_text|>"],
    )  # fmt: skip


def build_hunyuan_vl(folder: Path) -> Path:
    """HunyuanOCR: images of any size, a token behind every row of patches, four kinds of position.

    The texts of its special tokens are placeholders with numbers, in the released checkpoint too.
    """
    marks = {
        "image_start_token": "<｜hy_place▁holder▁no▁100｜>",
        "image_token": "<｜hy_place▁holder▁no▁102｜>",
        "image_end_token": "<｜hy_place▁holder▁no▁101｜>",
    }
    first, end, pad = "<｜hy_begin▁of▁sentence｜>", "<｜hy_place▁holder▁no▁2｜>", "<｜hy_▁pad▁｜>"
    tokenizer = build_tokenizer(
        [first, end, pad, "<｜hy_User｜>", "<｜hy_place▁holder▁no▁3｜>", *marks.values()],
        bos=first, eos=end, pad=pad, named=marks,
    )  # fmt: skip
    start, image, stop = tokenizer.convert_tokens_to_ids(list(marks.values()))
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.HUNYUAN_VL,
        config={
            "model_type": "hunyuan_vl",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 5, "patch_size": 14, "max_image_size": 112,
                "out_hidden_size": WIDTH, "text_hidden_size": WIDTH,
            },
            "text_config": llama(
                tokenizer, model_type="hunyuan_vl_text",
                rope_parameters={
                    "rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0,
                    "mrope_section": [1, 2, 2, 2],
                },
            ),
            "image_token_id": image,
            "im_start_id": start,
            "im_end_id": stop,
        },
        processor={"processor_class": "HunYuanVLProcessor"},
        images={
            "image_processor_type": "HunYuanVLImageProcessor", "patch_size": 14, "merge_size": 2,
            "min_pixels": 28 * 56, "max_pixels": 112 * 112, **CLIP_COLOURS,
        },
        stops=[end],
    )  # fmt: skip


def build_deepseek_vl_hybrid(folder: Path) -> Path:
    """DeepSeek-VL 7B: SigLIP on a small square and SAM on a large one, joined at every position."""
    sam = {
        "model_type": "sam_vision_model", "hidden_size": 24, "output_channels": 8,
        "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64,
        "patch_size": 8, "window_size": 3, "global_attn_indexes": [1, 2], "mlp_dim": 48,
    }  # fmt: skip
    return _build_deepseek(
        folder, "deepseek_vl_hybrid", "DeepseekVLHybrid",
        {"high_res_vision_config": sam}, {"high_res_size": {"height": 64, "width": 64}},
    )  # fmt: skip


def _build_deepseek(
    folder: Path, model_type: str, classes: str, config: dict[str, Any], images: dict[str, Any]
) -> Path:
    tokenizer = _deepseek_tokenizer()
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.DEEPSEEK_VL,
        config={
            "model_type": model_type,
            "vision_config": DEEPSEEK_SIGLIP,
            "text_config": llama(tokenizer),
            "image_token_id": tokenizer.convert_tokens_to_ids("<image_placeholder>"),
            **config,
        },
        processor={"processor_class": f"{classes}Processor", "num_image_tokens": 16},
        images={
            "image_processor_type": f"{classes}ImageProcessor", "min_size": 14,
            "size": {"height": 56, "width": 56}, **images, **SIGLIP_COLOURS,
        },
        stops=["<｜end▁of▁sentence｜>"],
    )  # fmt: skip


def build_got_ocr2(folder: Path) -> Path:
    """GOT-OCR2 on Qwen2: SAM, whose map of 64 x 64 patches becomes 256 image tokens.

    Its processor knows no other number of image tokens, so that the patches are single pixels.
    """
    tokenizer = qwen_tokenizer("<img>", "</img>", "<imgpad>")
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.GOT_OCR2,
        config={
            "model_type": "got_ocr2",
            "vision_config": {
                "hidden_size": 24, "output_channels": 20, "num_hidden_layers": 2,
                "num_attention_heads": 4, "image_size": 64, "patch_size": 1, "window_size": 8,
                "global_attn_indexes": [], "mlp_dim": 32,
            },
            "text_config": llama(tokenizer, model_type="qwen2"),
            "image_token_index": tokenizer.convert_tokens_to_ids("<imgpad>"),
        },
        processor={"processor_class": "GotOcr2Processor"},
        images={
            "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": False,
            "size": {"height": 64, "width": 64}, **CLIP_COLOURS,
        },
        stops=["<|im_end|>"],
    )  # fmt: skip


def _deepseek_tokenizer() -> Any:
    marks = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
    return build_tokenizer(
        [*marks, "<image_placeholder>"], bos=marks[0], eos=marks[1], pad=marks[2], adds_bos=True,
        named={"image_token": "<image_placeholder>"},
    )  # fmt: skip
