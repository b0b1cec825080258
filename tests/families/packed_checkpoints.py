"""Tiny EXAONE 4.5 and VideoLLaMA 3: any size, all patches of a batch in one row, as in Qwen-VL.

Their decoders count positions in one dimension. ``image_grid_thw`` says whose the patches are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, WIDTH, llama, qwen_tokenizer
from families.family_tokenizer import build_tokenizer

ROPE = {"rope_type": "default", "rope_theta": 1e6}


def build_exaone4_5(folder: Path, **decoder: Any) -> Path:
    """EXAONE 4.5: windows in all vision layers but one; heads of the encoder share their keys.

    In the decoder three blocks of four have a sliding window, and the fourth no rotary embedding.

    Args:
        folder: Where.
        decoder: Other settings of the decoder.
    """
    turns = ["[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"]
    marks = ["<vision>", "</vision>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = build_tokenizer(
        ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *turns, "<think>", "</think>", *marks],
        bos="[BOS]", eos="[|endofturn|]", pad="[PAD]",
    )  # fmt: skip
    image, video = tokenizer.convert_tokens_to_ids(marks[2:])
    text = llama(
        tokenizer,
        **{"model_type": "exaone4", "sliding_window": 16, "sliding_window_pattern": 4, **decoder},
    )
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.EXAONE4_5,
        config={
            "model_type": "exaone4_5",
            "vision_config": {
                "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 10,
                "num_key_value_heads": 5, "out_hidden_size": WIDTH, "window_size": 56,
                "fullatt_block_indexes": [1], "patch_size": 14, "temporal_patch_size": 2,
                "spatial_merge_size": 2,
            },
            "text_config": text | {"rope_parameters": ROPE},
            "image_token_id": image,
            "video_token_id": video,
        },
        processor={"processor_class": "Exaone4_5_Processor"},
        images={
            "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14,
            "temporal_patch_size": 2, "merge_size": 2, **CLIP_COLOURS,
            "size": {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28},
        },
        stops=["[|endofturn|]"],
    )  # fmt: skip


def build_video_llama_3(folder: Path, merge: int = 1) -> Path:
    """VideoLLaMA 3 on Qwen2: every patch of an image is an image token, as released.

    Args:
        folder: Where.
        merge: So many by so many patches become one image token: 2 in its videos.
    """
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = qwen_tokenizer(*marks)
    image, video = tokenizer.convert_tokens_to_ids(marks[2:])
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.VIDEO_LLAMA_3,
        config={
            "model_type": "video_llama_3",
            "vision_config": {
                "model_type": "video_llama_3_vision", "hidden_size": 40, "intermediate_size": 64,
                "num_hidden_layers": 3, "num_attention_heads": 5, "patch_size": 14,
            },
            "text_config": llama(tokenizer, model_type="qwen2", rope_parameters=ROPE),
            "image_token_id": image,
            "video_token_id": video,
        },
        processor={"processor_class": "VideoLlama3Processor"},
        images={
            "image_processor_type": "VideoLlama3ImageProcessor", "patch_size": 14,
            "temporal_patch_size": 1, "merge_size": merge, **SIGLIP_COLOURS,
            "size": {"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28 * merge**2},
        },
        stops=["<|im_end|>", "<|endoftext|>"],
    )  # fmt: skip
