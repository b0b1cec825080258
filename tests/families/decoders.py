"""What several families have in common: the small decoder, its tokenizers, the colour constants."""

from __future__ import annotations

from typing import Any

from families.family_tokenizer import build_tokenizer

CLIP_COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}
"""What CLIP, Qwen-VL and Pixtral normalise with."""

SIGLIP_COLOURS = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
"""What SigLIP normalises with."""

WIDTH = 56
"""Of every decoder; no vision encoder is that wide, and no image has that many patches."""


def llama(tokenizer: Any, *, model_type: str = "llama", **more: Any) -> dict[str, Any]:
    """Return the settings of a decoder of 5 layers; most families' decoders read these names."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 80,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // 4,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def llama_tokenizer(*more: str) -> Any:
    """Return Llama 2's and Mistral's: ``<s>`` is added by the tokenizer."""
    return build_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", *more],
        bos="<s>", eos="</s>", pad="<pad>", adds_bos=True,
    )  # fmt: skip


def qwen_tokenizer(*more: str, **named: str) -> Any:
    """Return Qwen's: no BOS at all."""
    return build_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more],
        eos="<|im_end|>", pad="<|endoftext|>", named=named,
    )  # fmt: skip
