"""The true shapes of nine families, as released checkpoints have them.

Written down from the released ``config.json``, ``preprocessor_config.json`` and tokenizers of
Qwen2.5-VL-7B-Instruct, gemma-3-12b-it, llama3-llava-next-8b-hf, SmolVLM2-2.2B-Instruct,
Qwen3-VL-8B-Instruct, llava-onevision-qwen2-7b-ov-hf, InternVL3-8B-hf and Llama-3.2-11B-Vision, and
checked by their numbers of parameters. Qwen3.5's is what transformers builds without settings,
which its documentation calls the style of Qwen3.5-9B. Vocabularies and the ids of the special
tokens are the true ones. ``tiny`` says what becomes small for a CPU: widths, depths and tiles,
never the structure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from photo_crops import IMAGE_SIZES
from standins import CHAT_TEMPLATE, SPECIAL_TOKENS

# The chat formats and colours of the families are the tests' own, so that they stand in one place.
# Without this folder, which has a script of the name of the tests' package.
_PATHS, _HERE = list(sys.path), Path(__file__).parent
sys.path[:] = [str(_HERE.parent / "tests"), *(p for p in _PATHS if Path(p).resolve() != _HERE)]

from families import chat_formats  # noqa: E402
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS  # noqa: E402
from families.tile_checkpoints import IDEFICS_TOKENS  # noqa: E402

sys.path[:] = [*_PATHS, sys.path[0]]


@dataclass(frozen=True, slots=True)
class FamilyShape:
    """One released checkpoint, without its weights."""

    title: str
    """Its name."""
    parameters: float
    """How many parameters the released checkpoint has, in billions."""
    config: Mapping[str, Any]
    """``config.json``, with ``model_type``."""
    processor: Mapping[str, Any]
    """``processor_config.json``, with ``processor_class``."""
    images: Mapping[str, Any]
    """``preprocessor_config.json``, with ``image_processor_type``."""
    template: str
    """The chat template."""
    tokens: Mapping[str, int]
    """Special token → id."""
    tokenizer: Mapping[str, Any]
    """Roles of the special tokens: arguments of ``build_tokenizer``."""
    stops: tuple[str, ...]
    """Tokens that end an answer."""
    tiny: Mapping[str, Any]
    """What is different in the tiny one: ``config``, ``processor`` and ``images``, laid over."""
    videos: Mapping[str, Any] | None = field(default=None)
    """``video_preprocessor_config.json``, where the processor cannot do without."""
    crops: tuple[tuple[int, int], ...] = IMAGE_SIZES
    """Sizes of the images that it is measured with."""


_SIGLIP: Mapping[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip
"""SigLIP So400m."""

_TINY_VISION = {
    "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 5,
}  # fmt: skip

_TINY_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip

QWEN2_5_VL = FamilyShape(
    title="Qwen2.5-VL-7B",
    parameters=8.292,
    config={
        "model_type": "qwen2_5_vl",
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
        "text_config": {
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "max_position_embeddings": 128_000, "max_window_layers": 28, "sliding_window": 32_768,
            "use_sliding_window": False, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "bos_token_id": 151_643, "eos_token_id": 151_645,
        },
        "image_token_id": 151_655, "video_token_id": 151_656,
        "vision_start_token_id": 151_652, "vision_end_token_id": 151_653,
        "tie_word_embeddings": False,
    },
    processor={"processor_class": "Qwen2_5_VLProcessor"},
    images={
        "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136,
        "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        **CLIP_COLOURS,
    },
    template=chat_formats.QWEN2_VL,
    tokens={
        "<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645,
        "<|vision_start|>": 151_652, "<|vision_end|>": 151_653, "<|vision_pad|>": 151_654,
        "<|image_pad|>": 151_655, "<|video_pad|>": 151_656,
    },
    tokenizer={"eos": "<|im_end|>", "pad": "<|endoftext|>"},
    stops=("<|im_end|>", "<|endoftext|>"),
    tiny={
        "config": {
            "vision_config": {
                "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5,
                "out_hidden_size": 128, "window_size": 56, "fullatt_block_indexes": [1],
            },
            # One head of the true width: the three sections of its rotation stay as they are.
            "text_config": {
                "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 5,
                "num_attention_heads": 1, "num_key_value_heads": 1,
            },
        },
        "images": {"max_pixels": 16 * 28 * 28},
    },
)  # fmt: skip
"""Any size of image; its patches see each other in windows. 391 image tokens for 640 x 480."""

GEMMA3 = FamilyShape(
    title="Gemma-3-12B",
    parameters=12.187,
    config={
        "model_type": "gemma3",
        "vision_config": {
            "model_type": "siglip_vision_model", **_SIGLIP, "image_size": 896,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "gemma3_text", "vocab_size": 262_208, "hidden_size": 3840,
            "intermediate_size": 15_360, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 256, "query_pre_attn_scalar": 256,
            "sliding_window": 1024, "sliding_window_pattern": 6, "rope_theta": 1e6,
            "rope_local_base_freq": 1e4, "max_position_embeddings": 131_072,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "mm_tokens_per_image": 256, "boi_token_index": 255_999, "eoi_token_index": 256_000,
        "image_token_index": 262_144,
    },
    processor={"processor_class": "Gemma3Processor", "image_seq_length": 256},
    images={
        "image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896},
        "image_seq_length": 256, "do_pan_and_scan": None, "do_convert_rgb": None,
        "image_mean": SIGLIP_COLOURS["image_mean"], "image_std": SIGLIP_COLOURS["image_std"],
    },
    template=chat_formats.GEMMA3,
    tokens={
        "<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 105,
        "<end_of_turn>": 106, "<start_of_image>": 255_999, "<end_of_image>": 256_000,
        "<image_soft_token>": 262_144,
    },
    tokenizer={
        "bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "adds_bos": True,
        "named": {
            "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    },
    stops=("<eos>", "<end_of_turn>"),
    tiny={
        "config": {
            "vision_config": {**_TINY_VISION, "image_size": 112},
            "text_config": {
                **_TINY_TEXT, "num_hidden_layers": 7, "query_pre_attn_scalar": 16,
                "sliding_window": 16,
            },
            "mm_tokens_per_image": 16,
        },
        "processor": {"image_seq_length": 16},
        "images": {"size": {"height": 112, "width": 112}, "image_seq_length": 16},
    },
)  # fmt: skip
"""Every image is one square of 896 pixels, 4096 patches pooled to 256 image tokens."""

_PINPOINTS = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
"""Rows and columns of tiles that LLaVA-NeXT chooses from."""

LLAVA_NEXT = FamilyShape(
    title="LLaVA-NeXT-8B",
    parameters=8.355,
    config={
        "model_type": "llava_next",
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336,
            "patch_size": 14, "projection_dim": 768, "vocab_size": 32_000,
        },
        "text_config": {
            "model_type": "llama", "vocab_size": 128_320, "hidden_size": 4096,
            "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_theta": 5e5, "bos_token_id": 128_000, "eos_token_id": 128_009,
            "pad_token_id": 128_257,
        },
        "image_token_index": 128_256, "image_seq_length": 576, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_grid_pinpoints": [[336 * rows, 336 * columns] for rows, columns in _PINPOINTS],
    },
    processor={
        "processor_class": "LlavaNextProcessor", "image_token": "<image>", "patch_size": 14,
        "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
    },
    images={
        "image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336}, "do_pad": True,
        "image_grid_pinpoints": [[336 * rows, 336 * columns] for rows, columns in _PINPOINTS],
        **CLIP_COLOURS,
    },
    template=(
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
        "{{ '<image>\n' }}{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ part['text'] + '<|eot_id|>' }}{% endfor %}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    tokens={
        "<|begin_of_text|>": 128_000, "<|end_of_text|>": 128_001, "<|start_header_id|>": 128_006,
        "<|end_header_id|>": 128_007, "<|eot_id|>": 128_009, "<image>": 128_256, "<pad>": 128_257,
    },
    tokenizer={"bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "pad": "<pad>", "adds_bos": True},
    stops=("<|eot_id|>",),
    tiny={
        "config": {
            "vision_config": {**_TINY_VISION, "image_size": 56},
            "text_config": _TINY_TEXT,
            "image_seq_length": 16,
            "image_grid_pinpoints": [[56 * rows, 56 * columns] for rows, columns in _PINPOINTS],
        },
        "images": {
            "size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56},
            "image_grid_pinpoints": [[56 * rows, 56 * columns] for rows, columns in _PINPOINTS],
        },
    },
)  # fmt: skip
"""An overview and four tiles for 640 x 480, 576 patches each."""

SMOLVLM = FamilyShape(
    title="SmolVLM2-2.2B",
    parameters=2.247,
    config={
        "model_type": "smolvlm",
        "vision_config": {"model_type": "smolvlm_vision", **_SIGLIP, "image_size": 384},
        "text_config": {
            "model_type": "llama", "vocab_size": 49_280, "hidden_size": 2048,
            "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
            "num_key_value_heads": 32, "head_dim": 64, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 130_000.0, "bos_token_id": 1,
            "eos_token_id": 49_279, "pad_token_id": 2,
        },
        "image_token_id": 49_190, "pad_token_id": 2, "scale_factor": 3,
        "tie_word_embeddings": False,
    },
    processor={"processor_class": "SmolVLMProcessor", "image_seq_len": 81},
    images={
        "image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": True,
        "size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384},
        "do_pad": True, **SIGLIP_COLOURS,
    },
    template=chat_formats.SMOLVLM,
    tokens={
        "<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<global-img>": 49_152,
        **{token: 49_153 + i for i, token in enumerate(IDEFICS_TOKENS[4:])},
        "<fake_token_around_image>": 49_189, "<image>": 49_190, "<end_of_utterance>": 49_279,
    },
    tokenizer={
        "bos": "<|im_start|>", "eos": "<end_of_utterance>", "pad": "<|im_end|>",
        "named": {
            "fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
            "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>",
        },
    },
    stops=("<end_of_utterance>",),
    tiny={
        "config": {
            "vision_config": {**_TINY_VISION, "image_size": 84}, "text_config": _TINY_TEXT,
        },
        "processor": {"image_seq_len": 4},
        "images": {"size": {"longest_edge": 4 * 84}, "max_image_size": {"longest_edge": 84}},
    },
    videos={
        "video_processor_type": "SmolVLMVideoProcessor", "do_image_splitting": True,
        "size": {"longest_edge": 4 * 384}, "max_image_size": {"longest_edge": 384},
        "do_pad": True, "fps": 1, "num_frames": 64, **SIGLIP_COLOURS,
    },
)  # fmt: skip
"""Twelve tiles and an overview for 640 x 480, 729 patches shuffled to 81 image tokens each."""

_QWEN3_VISION: Mapping[str, Any] = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "out_hidden_size": 4096, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}  # fmt: skip
"""The encoder of Qwen3-VL and Qwen3.5."""

_TINY_QWEN3_VISION = {
    "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5, "out_hidden_size": 128,
    "num_position_embeddings": 36,
}  # fmt: skip

QWEN3_VL = FamilyShape(
    title="Qwen3-VL-8B",
    parameters=8.767,
    config={
        "model_type": "qwen3_vl",
        "vision_config": {**_QWEN3_VISION, "deepstack_visual_indexes": [8, 16, 24]},
        "text_config": {
            "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288,
            "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "rope_scaling": {
                "rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True,
            },
            "bos_token_id": 151_643, "eos_token_id": 151_645,
        },
        "image_token_id": 151_655, "video_token_id": 151_656,
        "vision_start_token_id": 151_652, "vision_end_token_id": 151_653,
        "tie_word_embeddings": False,
    },
    processor={"processor_class": "Qwen3VLProcessor"},
    images={
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2,
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    },
    template=chat_formats.QWEN3_VL,
    tokens=QWEN2_5_VL.tokens,
    tokenizer={"eos": "<|im_end|>", "pad": "<|endoftext|>"},
    stops=("<|im_end|>", "<|endoftext|>"),
    tiny={
        "config": {
            "vision_config": {**_TINY_QWEN3_VISION, "deepstack_visual_indexes": [0, 2]},
            "text_config": {
                "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 5,
                "num_attention_heads": 1, "num_key_value_heads": 1,
            },
        },
        "images": {"size": {"shortest_edge": 4096, "longest_edge": 16 * 32 * 32}},
    },
    videos={"video_processor_type": "Qwen3VLVideoProcessor"},
)  # fmt: skip
"""Any size of image, each seen as a whole; features of three layers enter the decoder's first."""

QWEN3_5 = FamilyShape(
    title="Qwen3.5-9B",
    parameters=9.410,
    config={
        "model_type": "qwen3_5",
        "vision_config": _QWEN3_VISION,
        "text_config": {
            "vocab_size": 248_320, "hidden_size": 4096, "intermediate_size": 12_288,
            "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4,
            "head_dim": 256, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10], "mrope_interleaved": True,
            },
        },
        "image_token_id": 248_056, "video_token_id": 248_057,
        "vision_start_token_id": 248_053, "vision_end_token_id": 248_054,
        "tie_word_embeddings": False,
    },
    processor=QWEN3_VL.processor,
    images=QWEN3_VL.images,
    template=chat_formats.QWEN3_VL,
    tokens={
        "<|endoftext|>": 248_044, "<|im_start|>": 248_045, "<|im_end|>": 248_046,
        "<|vision_start|>": 248_053, "<|vision_end|>": 248_054, "<|vision_pad|>": 248_055,
        "<|image_pad|>": 248_056, "<|video_pad|>": 248_057,
    },
    tokenizer=QWEN3_VL.tokenizer,
    stops=QWEN3_VL.stops,
    tiny={
        "config": {
            "vision_config": _TINY_QWEN3_VISION,
            # One head of the true width: the three sections of its rotation stay as they are.
            "text_config": {
                "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 5,
                "num_attention_heads": 1, "num_key_value_heads": 1, "linear_num_key_heads": 1,
                "linear_num_value_heads": 2, "linear_key_head_dim": 32,
                "linear_value_head_dim": 32,
            },
        },
        "images": QWEN3_VL.tiny["images"],
    },
    videos=QWEN3_VL.videos,
)  # fmt: skip
"""Three of four blocks keep a state of linear attention, and no keys."""

_QWEN2_7B: Mapping[str, Any] = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18_944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "bos_token_id": 151_643, "eos_token_id": 151_645,
}  # fmt: skip
"""Qwen2-7B and Qwen2.5-7B, without the size of the vocabulary."""

_UP_TO_SIX = [(rows, columns) for rows in range(1, 7) for columns in range(1, 7)]
"""Rows and columns of tiles that LLaVA-OneVision chooses from."""

LLAVA_ONEVISION = FamilyShape(
    title="LLaVA-OneVision-7B",
    parameters=8.030,
    config={
        "model_type": "llava_onevision",
        # 26 of SigLIP's 27 layers: the features come from the last but one.
        "vision_config": {
            "model_type": "siglip_vision_model", **_SIGLIP, "num_hidden_layers": 26,
            "image_size": 384, "vision_use_head": False,
        },
        "text_config": {**_QWEN2_7B, "vocab_size": 152_000},
        "image_token_index": 151_646, "video_token_index": 151_647,
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows, columns in _UP_TO_SIX],
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9", "tie_word_embeddings": False,
    },
    processor={
        "processor_class": "LlavaOnevisionProcessor", "image_token": "<image>",
        "video_token": "<video>", "num_image_tokens": 729,
        "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
    },
    images={
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows, columns in _UP_TO_SIX],
        "do_pad": True, "size": {"height": 384, "width": 384}, **SIGLIP_COLOURS,
    },
    template=chat_formats.LLAVA_ONEVISION,
    tokens={
        "<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645,
        "<image>": 151_646, "<video>": 151_647,
    },
    tokenizer={"eos": "<|im_end|>", "pad": "<|endoftext|>"},
    stops=("<|im_end|>", "<|endoftext|>"),
    tiny={
        "config": {
            "vision_config": {**_TINY_VISION, "image_size": 56},
            "text_config": _TINY_TEXT,
            "image_grid_pinpoints": [[56 * rows, 56 * columns] for rows, columns in _UP_TO_SIX],
        },
        "processor": {"num_image_tokens": 16},
        "images": {
            "image_grid_pinpoints": [[56 * rows, 56 * columns] for rows, columns in _UP_TO_SIX],
            "size": {"height": 56, "width": 56},
        },
    },
    videos={
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "size": {"height": 384, "width": 384}, **SIGLIP_COLOURS,
    },
)  # fmt: skip
"""An overview and four tiles for 640 x 480, 729 patches each; rows of patches end in a mark."""

_IMAGENET_COLOURS = {
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}  # fmt: skip
"""What InternViT normalises with."""

INTERNVL3 = FamilyShape(
    title="InternVL3-8B",
    parameters=7.944,
    config={
        "model_type": "internvl",
        "vision_config": {
            "model_type": "internvl_vision", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": [448, 448],
            "patch_size": [14, 14], "use_mean_pooling": True, "attention_bias": True,
        },
        "text_config": {
            **_QWEN2_7B, "vocab_size": 151_674,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        },
        "image_token_id": 151_667, "image_seq_length": 256, "downsample_ratio": 0.5,
        "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    },
    processor={"processor_class": "InternVLProcessor", "image_seq_length": 256},
    images={
        "image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False,
        "min_patches": 1, "max_patches": 12, "size": {"height": 448, "width": 448},
        **_IMAGENET_COLOURS,
    },
    template=chat_formats.INTERNVL,
    tokens={
        "<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645,
        "<img>": 151_665, "</img>": 151_666, "<IMG_CONTEXT>": 151_667, "<video>": 151_674,
    },
    tokenizer={
        "eos": "<|im_end|>", "pad": "<|endoftext|>",
        "named": {
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        },
    },
    stops=("<|im_end|>", "<|endoftext|>"),
    tiny={
        "config": {
            "vision_config": {**_TINY_VISION, "image_size": [56, 56]},
            "text_config": _TINY_TEXT,
            "image_seq_length": 4,
        },
        "processor": {"image_seq_length": 4},
        "images": {"size": {"height": 56, "width": 56}},
    },
    videos={
        "video_processor_type": "InternVLVideoProcessor", "size": {"height": 448, "width": 448},
        **_IMAGENET_COLOURS,
    },
)  # fmt: skip
"""Twelve tiles and an overview for 640 x 480, 1024 patches shuffled to 256 image tokens each."""

MLLAMA = FamilyShape(
    title="Llama-3.2-11B-Vision",
    parameters=10.670,
    config={
        "model_type": "mllama",
        "vision_config": {
            "hidden_size": 1280, "intermediate_size": 5120, "attention_heads": 16,
            "num_hidden_layers": 32, "num_global_layers": 8,
            "intermediate_layers_indices": [3, 7, 15, 23, 30], "vision_output_dim": 7680,
            "image_size": 560, "patch_size": 14,
        },
        "text_config": {
            "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
            "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 40,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
            "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
            "bos_token_id": 128_000, "eos_token_id": [128_001, 128_008, 128_009],
            "pad_token_id": 128_004,
        },
        "image_token_index": 128_256,
    },
    processor={"processor_class": "MllamaProcessor"},
    images={
        "image_processor_type": "MllamaImageProcessor", "max_image_tiles": 4, "do_pad": True,
        "size": {"height": 560, "width": 560}, **CLIP_COLOURS,
    },
    template=CHAT_TEMPLATE,
    tokens={
        **{token: 128_000 + offset for offset, token in SPECIAL_TOKENS.items()},
        "<|image|>": 128_256,
    },
    tokenizer={
        "bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "pad": "<|finetune_right_pad_id|>",
        "adds_bos": True,
    },
    stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    tiny={
        "config": {
            "vision_config": {
                "hidden_size": 32, "intermediate_size": 128, "attention_heads": 4,
                "num_hidden_layers": 3, "num_global_layers": 1,
                "intermediate_layers_indices": [0, 1], "vision_output_dim": 96, "image_size": 56,
            },
            "text_config": {
                "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
                "num_key_value_heads": 2, "num_hidden_layers": 8,
                "cross_attention_layers": [1, 3, 6],
            },
        },
        "images": {"size": {"height": 56, "width": 56}},
    },
    crops=((1120, 1120),),
)  # fmt: skip
"""Four tiles of 1,601 positions that the decoder attends to: images that fill all of them."""

SHAPES: Mapping[str, FamilyShape] = {
    "qwen2_5_vl": QWEN2_5_VL,
    "gemma3": GEMMA3,
    "llava_next": LLAVA_NEXT,
    "smolvlm": SMOLVLM,
    "qwen3_vl": QWEN3_VL,
    "qwen3_5": QWEN3_5,
    "llava_onevision": LLAVA_ONEVISION,
    "internvl": INTERNVL3,
    "mllama": MLLAMA,
}
"""Name on the command line → shape."""
