"""Tiny Qwen2.5-Omni and Qwen3-Omni: their thinkers, and whole checkpoints with a thinker inside.

The thinker is the part that reads text, images, videos and sound and writes text. Released
checkpoints hold it beside the parts that speak: its configuration is ``thinker_config`` and its
weights begin with ``thinker.``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from families import chat_formats
from families.checkpoint_folder import write_checkpoint
from families.decoders import CLIP_COLOURS, SIGLIP_COLOURS, WIDTH, llama, qwen_tokenizer

MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [3, 2, 2]}
PATCHES = {"temporal_patch_size": 2, "spatial_merge_size": 2}
SOUND = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16,
    "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 30,
    "padding_value": 0.0, "return_attention_mask": True,
}  # fmt: skip
"""Settings of the feature extractor for sound; images never meet it."""


def build_qwen2_5_omni(folder: Path) -> Path:
    """Qwen2.5-Omni's thinker: the encoder of Qwen2.5-VL, with windows, and its decoder."""
    names = {
        "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    }  # fmt: skip
    vision = {
        "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5, "patch_size": 14,
        "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    audio = {"n_window": 50, "encoder_layers": 1, "output_dim": WIDTH, "num_mel_bins": 16}
    return _build(folder, "qwen2_5_omni", names, vision, audio, chat_formats.QWEN2_5_OMNI)


def build_qwen3_omni_moe(folder: Path) -> Path:
    """Qwen3-Omni's thinker: the encoder of Qwen3-VL, and four experts in every decoder block."""
    names = {
        "image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>",
        "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>", "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 40, "intermediate_size": 64, "num_heads": 5, "patch_size": 16,
        "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2],
    }  # fmt: skip
    audio = {
        "encoder_layers": 1, "output_dim": WIDTH, "num_mel_bins": 16, "downsample_hidden_size": 8,
    }  # fmt: skip
    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "decoder_sparse_step": 1, "norm_topk_prob": True,
    }  # fmt: skip
    return _build(
        folder, "qwen3_omni_moe", names, vision, audio, chat_formats.QWEN3_OMNI, **experts
    )


def build_whole(thinker: Path, folder: Path) -> Path:
    """Write the whole checkpoint around a thinker, as the hub has it: with parts that speak.

    Args:
        thinker: Folder of the thinker's checkpoint.
        folder: Where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in thinker.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "generation_config.json").unlink()  # as released: the library's code knows the end
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = config["model_type"].removesuffix("_thinker")
    name = {"qwen2_5_omni": "Qwen2_5Omni", "qwen3_omni_moe": "Qwen3OmniMoe"}[model_type]
    whole = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": model_type,
        "enable_audio_output": True,
        "thinker_config": config,
    }
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    renamed = {f"thinker.{key}": tensor for key, tensor in weights.items()}
    speaks = ("token2wav", "talker") if model_type == "qwen2_5_omni" else ("code2wav", "talker")
    # The blocks of the talker are called as the thinker's, and are of another size.
    blocks = [key for key in weights if key.startswith("model.") and ".0." in key]
    number = next(iter(weights.values())).new_ones
    renamed |= {f"{part}.{key}": number(4, 4) for part in speaks for key in blocks}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _build(
    folder: Path,
    model_type: str,
    names: dict[str, str],
    vision: dict[str, Any],
    audio: dict[str, Any],
    template: str,
    **experts: Any,
) -> Path:
    third = model_type == "qwen3_omni_moe"
    tokenizer = qwen_tokenizer(*names.values(), **names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    suffix = "id" if third else "index"
    kinds = {f"{kind}_token_{suffix}": ids[f"{kind}_token"] for kind in ("image", "audio", "video")}
    sound = {"d_model": 24, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    text = llama(tokenizer, model_type=f"{model_type}_text", **experts)
    rope = {**MROPE, "mrope_interleaved": True} if third else MROPE
    image = 2 * int(vision["patch_size"])
    return write_checkpoint(
        folder,
        tokenizer=tokenizer,
        template=template,
        config={
            "model_type": f"{model_type}_thinker",
            "vision_config": {"out_hidden_size": WIDTH, **PATCHES, **vision},
            "audio_config": {**sound, **audio},
            "text_config": text | {"rope_parameters": rope},
            **kinds,
            "vision_start_token_id": ids["vision_bos_token"],
            "vision_end_token_id": ids["vision_eos_token"],
            "audio_start_token_id": ids["audio_bos_token"],
            "audio_end_token_id": ids["audio_eos_token"],
        },
        processor={
            "processor_class": "Qwen3OmniMoeProcessor" if third else "Qwen2_5OmniProcessor"
        },
        images={
            "image_processor_type": "Qwen2VLImageProcessor", "patch_size": vision["patch_size"],
            "temporal_patch_size": 2, "merge_size": 2,
            "size": {"shortest_edge": image**2, "longest_edge": 16 * image**2},
            **(SIGLIP_COLOURS if third else CLIP_COLOURS),
        },
        audio=SOUND,
        stops=["<|im_end|>"],
    )  # fmt: skip
