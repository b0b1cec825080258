"""A Llama-3.2-Vision with random weights, built on the spot: the true architecture, no knowledge.

It has the real model class, the real processor, the Llama 3 chat format, and the special tokens at
the real offsets behind the ordinary vocabulary. ``TINY`` runs in milliseconds on a CPU and serves
the tests; ``TRUE`` has the sizes of Llama-3.2-11B-Vision (10.67 billion parameters, every shape of
the specification's model) and serves the benchmarks on a GPU. The answers are noise. ``DEMO`` is
the size of the trained model that ships.

Two things differ from plain random initialisation, because they would hide mistakes: the gates of
the cross-attention layers and of the vision encoder start at zero in the real code, so an untouched
model ignores the image; and norms start at one, so a forgotten final norm would go unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.standin.processor import NUM_SPECIAL_TOKENS, build_processor

if TYPE_CHECKING:
    import torch
    from transformers import MllamaForConditionalGeneration


@dataclass(frozen=True, slots=True)
class StandInSize:
    """Sizes of a stand-in."""

    vocabulary: int
    """Ordinary tokens; special tokens follow."""
    tile: int
    """Tile edge in pixels."""
    patch: int
    """Patch edge in pixels."""
    vision_width: int
    """Width of the vision encoder. Its output is this times one plus ``intermediate``."""
    vision_heads: int
    """Attention heads of the vision encoder."""
    vision_layers: int
    """Local layers of the vision encoder."""
    vision_global_layers: int
    """Global layers of the vision encoder."""
    intermediate: tuple[int, ...]
    """Local layers whose output is joined to the encoder's output."""
    width: int
    """Width of the decoder."""
    heads: int
    """Attention heads of the decoder."""
    kv_heads: int
    """Key-value heads of the decoder."""
    feed_forward: int
    """Width of the decoder's feed-forward layers."""
    layers: int
    """Decoder layers."""
    cross_attention: tuple[int, ...]
    """Which of them attend to the image."""
    initializer_range: float
    """Standard deviation of the weights."""


TINY = StandInSize(
    vocabulary=640, tile=56, patch=14, vision_width=32, vision_heads=4, vision_layers=3,
    vision_global_layers=1, intermediate=(0, 1), width=64, heads=4, kv_heads=2, feed_forward=96,
    layers=8, cross_attention=(1, 3, 6), initializer_range=0.15,
)  # fmt: skip
"""0.5 million parameters: milliseconds on a CPU. Tiles of 56 pixels, for the tests."""

PHOTO = replace(TINY, tile=224, patch=28)
"""The same with tiles of 224 pixels, for real photographs."""

DEMO = StandInSize(
    vocabulary=640, tile=112, patch=14, vision_width=128, vision_heads=4, vision_layers=5,
    vision_global_layers=2, intermediate=(1, 3), width=160, heads=4, kv_heads=2, feed_forward=400,
    layers=10, cross_attention=(2, 5, 8), initializer_range=0.03,
)  # fmt: skip
"""4.8 million parameters: what the trained model that ships with vlmscope has."""

TRUE = StandInSize(
    vocabulary=128_000, tile=560, patch=14, vision_width=1280, vision_heads=16, vision_layers=32,
    vision_global_layers=8, intermediate=(3, 7, 15, 23, 30), width=4096, heads=32, kv_heads=8,
    feed_forward=14_336, layers=40, cross_attention=(3, 8, 13, 18, 23, 28, 33, 38),
    initializer_range=0.02,
)  # fmt: skip
"""The sizes of Llama-3.2-11B-Vision: 10.67 billion parameters, 21 GB in bfloat16."""


def build_standin(
    folder: Path,
    *,
    size: StandInSize = TINY,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Path:
    """Write a checkpoint that ``from_pretrained`` loads like the released one.

    Args:
        folder: Where the checkpoint goes; made if missing.
        size: ``TINY``, ``PHOTO``, ``DEMO`` or ``TRUE``.
        seed: Seed of the weights: the same seed gives the same weights on the same device.
        dtype: Type of the weights (default float32).
        device: Where the weights are drawn; a GPU for ``TRUE``.
    """
    processor = build_processor(vocabulary=size.vocabulary, tile=size.tile)
    model = build_model(size, seed=seed, dtype=dtype, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def build_model(
    size: StandInSize = TINY,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> MllamaForConditionalGeneration:
    """Return the random model, in evaluation mode."""
    import torch
    from transformers import MllamaForConditionalGeneration

    dtype = dtype or torch.float32
    torch.manual_seed(seed)
    with torch.device(device):
        model = MllamaForConditionalGeneration._from_config(_config(size), dtype=dtype)
    _wake_gates_and_norms(model, torch.Generator(device).manual_seed(seed))
    specials = size.vocabulary
    # The released checkpoint samples by default. vlmscope must be greedy all the same.
    model.generation_config.update(
        bos_token_id=specials,
        eos_token_id=[specials + 1, specials + 8, specials + 9],
        pad_token_id=specials + 4,
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
    )
    return model.eval()


def _config(size: StandInSize) -> Any:
    """Return the ``MllamaConfig`` of these sizes."""
    from transformers import MllamaConfig

    specials = size.vocabulary
    vision = {
        "hidden_size": size.vision_width,
        "intermediate_size": 4 * size.vision_width,
        "attention_heads": size.vision_heads,
        "num_hidden_layers": size.vision_layers,
        "num_global_layers": size.vision_global_layers,
        "intermediate_layers_indices": list(size.intermediate),
        "vision_output_dim": size.vision_width * (1 + len(size.intermediate)),
        "image_size": size.tile,
        "patch_size": size.patch,
        "initializer_range": size.initializer_range,
    }
    text = {
        "vocab_size": size.vocabulary + NUM_SPECIAL_TOKENS,
        "hidden_size": size.width,
        "intermediate_size": size.feed_forward,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "num_hidden_layers": size.layers,
        "cross_attention_layers": list(size.cross_attention),
        "initializer_range": size.initializer_range,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "bos_token_id": specials,
        "eos_token_id": [specials + 1, specials + 8, specials + 9],
        "pad_token_id": specials + 4,
    }  # fmt: skip
    return MllamaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=size.vocabulary + NUM_SPECIAL_TOKENS,
    )


def _wake_gates_and_norms(model: MllamaForConditionalGeneration, rng: torch.Generator) -> None:
    """Give every gate and norm a random value, so that nothing is switched off or an identity."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter, dtype=torch.float32)
            if "gate" in name.rsplit(".", 1)[-1]:
                parameter.copy_(noise.normal_(0.5, 0.2, generator=rng))
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(noise.normal_(1.0, 0.1, generator=rng))
