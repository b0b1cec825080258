"""Tiny MiniCPM-V 4.6 and 4.7: an overview of an image and slices of it, packed into one row.

The encoder merges four patches into one in the middle of its layers, the projector four again.
"""

from __future__ import annotations

from pathlib import Path

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import SIGLIP_COLOURS, llama, qwen_tokenizer
from families.qwen_checkpoints import LINEAR, MROPE

NAMED = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
    "image_start_token": "<image>", "image_end_token": "</image>",
    "slice_start_token": "<slice>", "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
}  # fmt: skip
SLICES = {"scale_resolution": 56, "patch_size": 7, "max_slice_nums": 4, **SIGLIP_COLOURS}
"""The overview, and up to four slices of about 8 x 8 patches, 4 image tokens."""


def build_minicpmv4_6(folder: Path) -> Path:
    """MiniCPM-V 4.6 on Qwen3.5: the decoder counts image tokens as it counts words."""
    return _build(folder, "minicpmv4_6", "MiniCPMV4_6Processor")


def build_minicpmv4_7(folder: Path) -> Path:
    """MiniCPM-V 4.7 on Qwen3.5: image tokens have rows and columns on the canvas of their image."""
    return _build(folder, "minicpmv4_7", "MiniCPMV4_7Processor")


def _build(folder: Path, model_type: str, processor: str) -> Path:
    tokenizer = qwen_tokenizer(*NAMED.values(), **NAMED)
    ids = dict(zip(NAMED, tokenizer.convert_tokens_to_ids(list(NAMED.values())), strict=True))
    marks = {  # of 4.7
        **{name.replace("_token", "_id"): ids[name] for name in list(NAMED)[2:6]},
        "newline_id": tokenizer.convert_tokens_to_ids("Ċ"),
    }
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.MINICPM,
        config={
            "model_type": model_type,
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 5, "image_size": 56, "patch_size": 7,
            },
            "text_config": llama(
                tokenizer, model_type="qwen3_5_text", **LINEAR,
                rope_parameters={**MROPE, "mrope_interleaved": True},
            ),
            "insert_layer_id": 1,
            "image_size": 56,
            "image_token_id": ids["image_token"],
            "video_token_id": ids["video_token"],
            **(marks if model_type == "minicpmv4_7" else {}),
        },
        processor={"processor_class": processor},
        images={"image_processor_type": "MiniCPMV4_6ImageProcessor", **SLICES},
        videos={"video_processor_type": "MiniCPMV4_6VideoProcessor", **SLICES},
        stops=["<|im_end|>", "<|endoftext|>"],
    )  # fmt: skip
