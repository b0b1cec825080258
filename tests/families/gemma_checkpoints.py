"""Tiny Gemma 3 and PaliGemma: image tokens see each other in both directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import SIGLIP_COLOURS, WIDTH, llama
from families.family_tokenizer import build_tokenizer

SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 40, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 56, "patch_size": 14,
    "vision_use_head": False,
}  # fmt: skip
"""4 x 4 patches, no class token."""

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def build_gemma3(folder: Path) -> Path:
    """Gemma 3: local and global layers, 16 patches pooled to 4 image tokens."""
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = _tokenizer([*SPECIALS, *named.values()], named)
    boi, eoi, image = tokenizer.convert_tokens_to_ids(list(named.values()))
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.GEMMA3,
        config={
            "model_type": "gemma3",
            "vision_config": SIGLIP,
            "text_config": llama(
                tokenizer,
                model_type="gemma3_text",
                num_hidden_layers=6,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
                sliding_window=16,
                query_pre_attn_scalar=WIDTH // 4,
            ),
            "mm_tokens_per_image": 4,
            "boi_token_index": boi,
            "eoi_token_index": eoi,
            "image_token_index": image,
        },
        processor={"processor_class": "Gemma3Processor", "image_seq_length": 4},
        images={
            "image_processor_type": "Gemma3ImageProcessor",
            "size": {"height": 56, "width": 56},
            "image_seq_length": 4,
            "do_pan_and_scan": None,
            "do_convert_rgb": None,
            "image_mean": SIGLIP_COLOURS["image_mean"],
            "image_std": SIGLIP_COLOURS["image_std"],
        },
        stops=["<eos>", "<end_of_turn>"],
    )


def build_paligemma(folder: Path, **decoder: Any) -> Path:
    """PaliGemma: the prompt is ``<image>`` 16 times, BOS, the question and a line break.

    Args:
        folder: Where.
        decoder: Settings of another decoder: PaliGemma 2 has Gemma 2's.
    """
    tokenizer = _tokenizer([*SPECIALS[:4], "<image>"], {})
    # The processor adds these if they are missing, and the model would have no rows for them.
    tokenizer.add_tokens(
        [f"<loc{i:04}>" for i in range(1024)] + [f"<seg{i:03}>" for i in range(128)]
    )
    text: dict[str, Any] = llama(
        tokenizer, **{"model_type": "gemma", "num_key_value_heads": 1, **decoder}
    )
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.PALIGEMMA,
        config={
            "model_type": "paligemma",
            "vision_config": {**SIGLIP, "projection_dim": WIDTH, "num_image_tokens": 16},
            "text_config": {**text, "num_image_tokens": 16},
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "projection_dim": WIDTH,
            "hidden_size": WIDTH,
        },
        processor={"processor_class": "PaliGemmaProcessor"},
        images={
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": 56, "width": 56},
            "image_seq_length": 16,
            "image_mean": SIGLIP_COLOURS["image_mean"],
            "image_std": SIGLIP_COLOURS["image_std"],
        },
        stops=["<eos>"],
    )


def _tokenizer(specials: list[str], named: dict[str, str]) -> Any:
    return build_tokenizer(
        specials, bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=True, named=named,
        specials_first=True,
    )  # fmt: skip
