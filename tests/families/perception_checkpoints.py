"""Tiny Perception LM: an overview of an image and its tiles, seen by a transformer from timm."""

from __future__ import annotations

from pathlib import Path

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import SIGLIP_COLOURS, llama
from families.family_tokenizer import build_tokenizer


def build_perception_lm(folder: Path) -> Path:
    """Perception LM on Llama 3: 16 patches a tile, pooled to 4 tokens behind the projector."""
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tokenizer = build_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
         "<|eot_id|>", *named.values()],
        bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|end_of_text|>", adds_bos=True,
        named=named,
    )  # fmt: skip
    image, video = tokenizer.convert_tokens_to_ids(list(named.values()))
    vision = {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
        "do_pooling": True, "num_classes": 0, "global_pool": "map", "hidden_size": 40,
        "model_args": {
            "embed_dim": 40, "depth": 3, "num_heads": 5, "img_size": [56, 56], "global_pool": "",
            "use_post_transformer_norm": False, "init_values": 0.1, "ref_feat_shape": [4, 4],
        },
    }  # fmt: skip
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=chat_formats.PERCEPTION_LM,
        config={
            "model_type": "perception_lm",
            "vision_config": vision,
            "text_config": llama(tokenizer),
            "vision_use_cls_token": True,
            "projector_pooling_ratio": 2,
            "image_token_id": image,
            "video_token_id": video,
        },
        processor={
            "processor_class": "PerceptionLMProcessor", "patch_size": 14, "pooling_ratio": 2,
        },
        images={
            "image_processor_type": "PerceptionLMImageProcessorFast", "tile_size": 56,
            "max_num_tiles": 6, "vision_input_type": "thumb+tile",
            "size": {"height": 56, "width": 56}, **SIGLIP_COLOURS,
        },
        videos={
            "video_processor_type": "PerceptionLMVideoProcessor",
            "size": {"height": 56, "width": 56}, **SIGLIP_COLOURS,
        },
        stops=["<|eot_id|>", "<|end_of_text|>"],
    )  # fmt: skip
