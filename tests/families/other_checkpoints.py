"""Tiny Gemma 4, FastVLM, Janus-Pro, Phi-4-multimodal and Molmo 2.

FastVLM's encoder comes from timm, the image processors of Phi-4-multimodal and Molmo 2 exist for
torchvision only: without those packages the former cannot be built at all, the latter cannot be
loaded with their processors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import SIGLIP_COLOURS, WIDTH, llama, qwen_tokenizer
from families.family_tokenizer import build_tokenizer

GEMMA4_VISION = {
    "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 5,
    "num_key_value_heads": 5, "head_dim": 8, "patch_size": 4, "pooling_kernel_size": 3,
    "position_embedding_size": 1024, "standardize": True,
}  # fmt: skip


def build_gemma4(folder: Path) -> Path:
    """Gemma 4: any size, at most 70 image tokens of 3 x 3 patches; ears are left out."""
    named = {
        "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
        "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    }  # fmt: skip
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", *named.values()]
    tokenizer = _gemma_tokenizer([*specials, "<|video|>"], named)
    ids = dict(zip(named, tokenizer.convert_tokens_to_ids(list(named.values())), strict=True))
    text = llama(
        tokenizer, model_type="gemma4_text", num_hidden_layers=6, sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        global_head_dim=16, hidden_size_per_layer_input=8, use_bidirectional_attention="vision",
        vocab_size_per_layer_input=len(tokenizer), final_logit_softcapping=30.0,
    )  # fmt: skip
    pixels = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.GEMMA4,
        config={
            "model_type": "gemma4",
            "vision_config": GEMMA4_VISION,
            "text_config": text,
            "audio_config": None,
            "image_token_id": ids["image_token"],
            "boi_token_id": ids["boi_token"],
            "eoi_token_id": ids["eoi_token"],
            "audio_token_id": ids["audio_token"],
            "boa_token_id": ids["boa_token"],
            "eoa_token_index": ids["eoa_token"],
            "video_token_id": tokenizer.convert_tokens_to_ids("<|video|>"),
        },
        processor={"processor_class": "Gemma4Processor", "image_seq_length": 70},
        images={"image_processor_type": "Gemma4ImageProcessor", **pixels},
        videos={"video_processor_type": "Gemma4VideoProcessor", **pixels},
        audio={"feature_extractor_type": "Gemma4AudioFeatureExtractor", "feature_size": 128},
        stops=["<eos>", "<turn|>"],
        nested=True,
    )


def build_fastvlm(folder: Path) -> Path:
    """FastVLM on Qwen2: FastViT from timm, whose output is an image ``[batch, width, h, w]``."""
    tokenizer = qwen_tokenizer("<image>")
    vision = {
        "model_type": "timm_wrapper", "architecture": "fastvit_mci3", "do_pooling": True,
        "hidden_size": 256, "model_args": {
            "inference_mode": True, "layers": [1, 1, 1, 1, 1], "embed_dims": [8, 16, 32, 64, 128],
        },
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.FASTVLM,
        config={
            "model_type": "fast_vlm",
            "vision_config": vision,
            "text_config": llama(tokenizer, model_type="qwen2"),
            "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
            "image_seq_length": 4,
        },
        processor={
            "processor_class": "LlavaProcessor", "patch_size": 64, "image_token": "<image>",
            "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0,
        },
        images={
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 128},
            "crop_size": {"height": 128, "width": 128}, "do_normalize": False,
        },
        stops=["<|im_end|>"],
    )  # fmt: skip


def build_janus(folder: Path) -> Path:
    """Janus-Pro: SigLIP for seeing; a second, quantising encoder for drawing is never called."""
    named = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = build_tokenizer(
        [
            "<|begin▁of▁sentence|>", "<|end▁of▁sentence|>", "<|▁pad▁|>", "<|User|>",
            "<|Assistant|>", *named.values(),
        ],
        bos="<|begin▁of▁sentence|>", eos="<|end▁of▁sentence|>", pad="<|▁pad▁|>",
        adds_bos=True, named=named,
    )  # fmt: skip
    vision = {
        "hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 5, "image_size": 56,
        "patch_size": 14, "mlp_ratio": 2.0, "projection_dim": WIDTH, "num_image_tokens": 16,
    }  # fmt: skip
    drawing = {
        "embed_dim": 4, "num_embeddings": 24, "latent_channels": 16, "base_channels": 32,
        "channel_multiplier": [1, 1], "num_res_blocks": 1, "projection_dim": WIDTH,
        "image_token_embed_dim": WIDTH,
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.JANUS,
        config={
            "model_type": "janus",
            "vision_config": vision,
            "vq_config": drawing,
            "text_config": llama(tokenizer, num_key_value_heads=4),
            "image_token_id": tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        },
        processor={"processor_class": "JanusProcessor", "num_image_tokens": 16},
        images={
            "image_processor_type": "JanusImageProcessor", "size": {"height": 56, "width": 56},
            "min_size": 14, **SIGLIP_COLOURS,
        },
        stops=["<|end▁of▁sentence|>"],
    )  # fmt: skip


def build_phi4_multimodal(folder: Path) -> Path:
    """Phi-4-multimodal: overview and tiles, and ears that are never used.

    Its code counts on 32 x 32 patches a tile, so the patches are small.
    """
    named = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
    tokenizer = build_tokenizer(
        ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", *named.values()],
        bos="<|endoftext|>", eos="<|endoftext|>", pad="<|endoftext|>", named=named,
    )  # fmt: skip
    image, audio = tokenizer.convert_tokens_to_ids(list(named.values()))
    text = llama(tokenizer)
    vision = {
        "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3, "crop_size": 64,
        "num_attention_heads": 5, "image_size": 64, "patch_size": 2, "image_token_id": image,
    }  # fmt: skip
    ears = {
        "hidden_size": 32, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 4,
        "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 16,
        "audio_token_id": audio,
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.PHI4_MULTIMODAL,
        config={
            **text, "model_type": "phi4_multimodal",
            "vision_config": vision, "audio_config": ears,
        },
        processor={"processor_class": "Phi4MultimodalProcessor"},
        images={
            "image_processor_type": "Phi4MultimodalImageProcessorFast", "patch_size": 2,
            "size": {"height": 64, "width": 64}, "dynamic_hd": 2, **SIGLIP_COLOURS,
        },
        audio={"feature_extractor_type": "Phi4MultimodalFeatureExtractor"},
        stops=["<|end|>", "<|endoftext|>"],
    )  # fmt: skip


def build_molmo2(folder: Path) -> Path:
    """Molmo 2: overlapping tiles, features of two layers joined, pooled by attention."""
    image = ["<im_start>", "<low_res_im_start>", "<im_end>", "<im_patch>", "<im_col>", "<im_low>"]
    more = [*image, "<frame_start>", "<frame_end>", "<|image|>", "<|video|>"]
    tokenizer = qwen_tokenizer(*more, image_token="<|image|>", video_token="<|video|>")  # noqa: S106
    number = dict(zip(more, tokenizer.convert_tokens_to_ids(more), strict=True))
    text: dict[str, Any] = llama(tokenizer, model_type="molmo2_text", additional_vocab_size=8)
    heads = {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8}
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.MOLMO2,
        config={
            "model_type": "molmo2",
            "vision_config": {
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3, **heads,
                "image_size": [56, 56], "patch_size": 14, "num_position_embeddings": 16,
            },
            "adapter_config": {
                "vision_feature_layer": [2, 1], "hidden_size": 40, "intermediate_size": 64,
                "text_hidden_size": WIDTH, **heads,
            },
            "text_config": text,
            "image_start_token_id": number["<im_start>"],
            "low_res_image_start_token_id": number["<low_res_im_start>"],
            "image_end_token_id": number["<im_end>"],
            "image_patch_id": number["<im_patch>"],
            "frame_start_token_id": number["<frame_start>"],
            "frame_end_token_id": number["<frame_end>"],
        },
        processor={"processor_class": "Molmo2Processor"},
        images={
            "image_processor_type": "Molmo2ImageProcessor", "size": {"height": 56, "width": 56},
            "max_crops": 4, "overlap_margins": [0, 0], "pooling_size": [2, 2], "patch_size": 14,
        },
        videos={"video_processor_type": "Molmo2VideoProcessor"},
        stops=["<|im_end|>"],
    )  # fmt: skip


def _gemma_tokenizer(specials: list[str], named: dict[str, str]) -> Any:
    return build_tokenizer(
        specials, bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=True, named=named,
        specials_first=True,
    )  # fmt: skip
