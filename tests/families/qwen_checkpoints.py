"""Tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense and mixture of experts) and GLM-4.1V.

They share one way with images: any size, cut into patches, all patches of all images of a batch
in one long row; ``image_grid_thw`` says whose they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, WIDTH, llama, qwen_tokenizer
from families.family_tokenizer import build_tokenizer

VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [3, 2, 2]}
PATCHES = {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2}
PIXELS = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}
"""Between one and sixteen image tokens an image."""
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_hidden_layers": 5, "full_attention_interval": 2,
}  # fmt: skip
GLM_EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
}  # fmt: skip


def build_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: in its vision settings ``hidden_size`` is the width of the *decoder*."""
    vision = {"depth": 3, "embed_dim": 40, "hidden_size": WIDTH, "mlp_ratio": 2, "num_heads": 5}
    return _build(folder, "qwen2_vl", "Qwen2VLProcessor", vision, chat_formats.QWEN2_VL)


def build_qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: window attention in all vision layers but one, which permutes the patches."""
    vision = {
        "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5,
        "out_hidden_size": WIDTH, "window_size": 56, "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }  # fmt: skip
    return _build(folder, "qwen2_5_vl", "Qwen2_5_VLProcessor", vision, chat_formats.QWEN2_VL)


def build_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: features of two vision layers are added behind the first two decoder layers."""
    return _build_qwen3(folder, "qwen3_vl")


def build_qwen3_vl_moe(folder: Path) -> Path:
    """Qwen3-VL with four experts in every decoder layer, two of them used for a token."""
    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "decoder_sparse_step": 1, "norm_topk_prob": True,
    }  # fmt: skip
    return _build_qwen3(folder, "qwen3_vl_moe", **experts)


def build_glm4v(folder: Path) -> Path:
    """GLM-4.1V: half of every head is rotated; videos use the image token as well."""
    return _build_glm(folder, "glm4v", "Glm4v", {"model_type": "glm4v_text"})


def build_glm46v(folder: Path, **decoder: Any) -> Path:
    """GLM-4.6V on the mixture of experts of GLM-4.5V.

    Args:
        folder: Where.
        decoder: Settings of another decoder: that of GLM-4.6V-Flash is GLM-4.1V's.
    """
    text = decoder or {"model_type": "glm4v_moe_text", **GLM_EXPERTS}
    return _build_glm(folder, "glm46v", "Glm46V", text)


def build_glm4v_moe(folder: Path) -> Path:
    """GLM-4.5V: the first block is dense, the others have four experts and a shared one."""
    text = {"model_type": "glm4v_moe_text", **GLM_EXPERTS}
    return _build_glm(folder, "glm4v_moe", "Glm4v", text)


def _build_glm(folder: Path, model_type: str, name: str, decoder: dict[str, Any]) -> Path:
    special = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    tokenizer = build_tokenizer(
        [
            "<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>",
            *special, "<|image|>", "<|video|>",
        ],
        eos="<|endoftext|>", pad="<|endoftext|>",
    )  # fmt: skip
    start, end, video_start, video_end, image, video = tokenizer.convert_tokens_to_ids([
        *special, "<|image|>", "<|video|>",
    ])  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    text = llama(tokenizer, num_attention_heads=2, num_key_value_heads=1, **decoder)
    vision = {
        "depth": 3, "hidden_size": 40, "intermediate_size": 64, "num_heads": 5, "image_size": 56,
        "out_hidden_size": WIDTH, **PATCHES,
    }  # fmt: skip
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.GLM4V,
        config={
            "model_type": model_type,
            "vision_config": vision,
            "text_config": text
            | {"head_dim": WIDTH // 2, "rope_parameters": {**rope, "mrope_section": [3, 2, 2]}},
            "image_token_id": image,
            "video_token_id": video,
            "image_start_token_id": start,
            "image_end_token_id": end,
            "video_start_token_id": video_start,
            "video_end_token_id": video_end,
        },
        processor={"processor_class": f"{name}Processor"},
        images=_image_settings(f"{name}ImageProcessor", size=sizes, **CLIP_COLOURS),
        videos=_image_settings(f"{name}VideoProcessor", size=sizes, **CLIP_COLOURS),
        stops=["<|endoftext|>", "<|user|>", "<|observation|>"],
    )


def build_qwen3_5(folder: Path) -> Path:
    """Qwen3.5: of four decoder blocks three have linear attention and one full attention."""
    return _build_qwen3(folder, "qwen3_5", **LINEAR)


def build_qwen3_5_moe(folder: Path) -> Path:
    """Qwen3.5 with four experts and a shared one in every block."""
    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 40,
    }  # fmt: skip
    return _build_qwen3(folder, "qwen3_5_moe", **LINEAR, **experts)


def _build_qwen3(folder: Path, model_type: str, **experts: Any) -> Path:
    deepstack = {} if "qwen3_5" in model_type else {"deepstack_visual_indexes": [0, 2]}
    vision = {
        "depth": 4, "hidden_size": 40, "intermediate_size": 64, "num_heads": 5,
        "out_hidden_size": WIDTH, "num_position_embeddings": 36, "patch_size": 16,
        **deepstack,
    }  # fmt: skip
    template = chat_formats.QWEN3_VL
    return _build(folder, model_type, "Qwen3VLProcessor", vision, template, **experts)


def _build(
    folder: Path,
    model_type: str,
    processor: str,
    vision: dict[str, Any],
    template: str,
    **text: Any,
) -> Path:
    tokenizer = qwen_tokenizer(*VISION)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(VISION))
    third = model_type.startswith("qwen3")
    rope = {**MROPE, "mrope_interleaved": True} if third else MROPE
    colours = SIGLIP_COLOURS if third else CLIP_COLOURS
    patches = {**PATCHES, "patch_size": 16 if third else 14}
    sizes = {"size": {"shortest_edge": 32 * 32, "longest_edge": 16 * 32 * 32}} if third else PIXELS
    kind = "Qwen2VLImageProcessorFast" if third else "Qwen2VLImageProcessor"
    settings = {**sizes, **colours, "patch_size": patches["patch_size"]}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=template,
        config={
            "model_type": model_type,
            "vision_config": {**patches, **vision},
            "text_config": llama(
                tokenizer, model_type=f"{model_type}_text", rope_parameters=rope, **text
            ),
            "image_token_id": image,
            "video_token_id": video,
            "vision_start_token_id": start,
            "vision_end_token_id": end,
        },
        processor={"processor_class": processor},
        images=_image_settings(kind, **settings),
        videos=_image_settings("Qwen3VLVideoProcessor", **settings) if third else None,
        stops=["<|im_end|>", "<|endoftext|>"],
    )


def _image_settings(kind: str, **settings: Any) -> dict[str, Any]:
    name = "video_processor_type" if "Video" in kind else "image_processor_type"
    return {name: kind, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, **settings}
