"""Tiny ERNIE 4.5 VL and Kimi K2.5: images of any size, and a decoder that is a mixture of experts.

Neither prompt holds the tokenizer's BOS: both tokenizers have one, and both templates begin with
another token.
"""

from __future__ import annotations

from pathlib import Path

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, llama
from families.family_tokenizer import build_tokenizer


def build_ernie4_5_vl_moe(folder: Path) -> Path:
    """ERNIE 4.5 VL: image tokens and text tokens have experts of their own; one block is dense."""
    named = {
        f"{kind}_{part}token": f"<|{kind.upper()}_{text}|>"
        for kind in ("image", "video")
        for part, text in (("", "PLACEHOLDER"), ("start_", "START"), ("end_", "END"))
    }
    tokenizer = build_tokenizer(
        ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<think>",
         "</think>", *named.values()],
        bos="<s>", eos="</s>", pad="<unk>", named=named,
    )  # fmt: skip
    text = llama(
        tokenizer, model_type="ernie4_5_vl_moe_text", moe_num_experts=4, moe_k=2,
        moe_intermediate_size=[40, 24], moe_num_shared_experts=1, tie_word_embeddings=True,
        mlp_layer_types=["dense", *["sparse"] * 4],
        rope_parameters={
            "rope_type": "default", "rope_theta": 5e5, "mrope_section": [2, 2, 3],
        },
    )  # fmt: skip
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.ERNIE,
        config={
            "model_type": "ernie4_5_vl_moe",
            "vision_config": {
                "depth": 3, "hidden_size": 40, "intermediate_size": 64, "num_heads": 5,
            },
            "text_config": text,
            **ids,
        },
        processor={"processor_class": "Ernie4_5_VLMoeProcessor"},
        images={
            "image_processor_type": "Ernie4_5_VLMoeImageProcessorFast", "patch_size": 14,
            "merge_size": 2, "size": {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28},
            **CLIP_COLOURS,
        },
        videos={"video_processor_type": "Ernie4_5_VLMoeVideoProcessor", "draw_on_frames": False},
        stops=["</s>", "<|end_of_sentence|>"],
    )  # fmt: skip


def build_kimi_k25(folder: Path) -> Path:
    """Kimi K2.5 on DeepSeek-V3's decoder: keys and values of different widths, grouped experts."""
    marks = ["<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"]
    video = "<|kimi_k25_video_placeholder|>"
    turns = ["<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>"]
    tokenizer = build_tokenizer(
        ["[BOS]", "[EOS]", "[PAD]", *turns, *marks, "<think>", "</think>", video],
        bos="[BOS]", eos="<|im_end|>", pad="[PAD]",
        named={"image_token": "<|media_pad|>", "video_token": video},
    )  # fmt: skip
    start, _, end, image = tokenizer.convert_tokens_to_ids(marks)
    text = llama(
        tokenizer, model_type="deepseek_v3", num_key_value_heads=4, q_lora_rank=24,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=14, head_dim=8,
        n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1, n_shared_experts=1,
        moe_intermediate_size=40, first_k_dense_replace=1, norm_topk_prob=True,
        routed_scaling_factor=1.5,
    )  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.KIMI,
        config={
            "model_type": "kimi_k25",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3,
                "num_attention_heads": 5, "patch_size": 14, "pos_emb_height": 6, "pos_emb_width": 6,
            },
            "text_config": text,
            "projection_hidden_size": 40,
            "image_token_id": image,
            "video_token_id": tokenizer.convert_tokens_to_ids(video),
            "vision_start_token_id": start,
            "vision_end_token_id": end,
            "tie_word_embeddings": False,
        },
        processor={"processor_class": "Kimi_K25Processor"},
        images={
            "image_processor_type": "Kimi_K25ImageProcessor", "patch_size": 14, "merge_size": 2,
            "max_patches": 48, "size": {"max_height": 6, "max_width": 6}, **SIGLIP_COLOURS,
        },
        videos={"video_processor_type": "Kimi_K25VideoProcessor"},
        stops=["<|im_end|>", "[EOS]"],
    )  # fmt: skip
