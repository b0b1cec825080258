"""How the vision encoder's output of a batch falls into images, family by family.

Written from the models' own code, on its own, so that it can check what vlmscope does. The
encoder's ``last_hidden_state`` is flattened to ``[rows, width]``; the images of a batch lie in it
one behind the other, in the order in which the prompts name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor]
Rule = Callable[[Inputs, Any, Any], list[int]]


CHANNELS_FIRST = ("fastvlm", "got_ocr2")
"""Families whose encoder ends in a convolution."""


def rows_per_image(family: str, inputs: Inputs, model: Any, tokenizer: Any) -> list[int]:
    """Return how many rows of the flattened output belong to each image of a batch."""
    return _RULES[family](inputs, model.config, tokenizer)


def without_fill(family: str, inputs: Inputs, config: Any, features: Tensor) -> Tensor:
    """Return the rows of an encoder's output, without those whose number the batch decides.

    Idefics2 fills every tile up to the largest of the batch; a patch counts if all of its pixels
    are the tile's own.
    """
    if family in CHANNELS_FIRST:
        features = features.movedim(1, -1)
    if family != "idefics2":
        return features.flatten(0, -2)
    return features[_whole_patches(inputs, config)]


def _whole_patches(inputs: Inputs, config: Any) -> Tensor:
    """Return which patches of the tiles that hold something are all theirs, tile by tile."""
    patch = config.vision_config.patch_size
    masks = [tile for question in inputs["pixel_attention_mask"] for tile in question if tile.any()]
    return torch.stack([
        torch.stack([
            mask[y : y + patch, x : x + patch].all()
            for y in range(0, mask.shape[0] - patch + 1, patch)
            for x in range(0, mask.shape[1] - patch + 1, patch)
        ])
        for mask in masks
    ])  # fmt: skip


def _masked_tiles(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """Four quarters and the whole image, each with patches of its own number."""
    return [int(five.sum()) for five in _whole_patches(inputs, config).split(5)]


def _equal_shares(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """One entry an image, all of one size; CLIP counts its class token."""
    vision = config.vision_config
    positions = (vision.image_size // vision.patch_size) ** 2 + (config.model_type == "llava")
    return [positions] * len(inputs["pixel_values"])


def _anyres(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """An overview and the tiles of the best grid, padding tiles dropped by the model.

    Questions with several images get the overview only, in LLaVA-OneVision.
    """
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    vision = config.vision_config
    positions = (vision.image_size // vision.patch_size) ** 2 + (config.model_type == "llava_next")
    alone = [True] * len(inputs["image_sizes"])
    if "batch_num_images" in inputs:
        alone = [count == 1 for count in inputs["batch_num_images"].tolist() for _ in range(count)]
    tiles = [
        image_size_to_num_patches(size.tolist(), config.image_grid_pinpoints, vision.image_size)
        for size in inputs["image_sizes"]
    ]
    return [positions * (n if only else 1) for n, only in zip(tiles, alone, strict=True)]


def _grid(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """All patches of all images in one row; GLM-4.1V has merged them by then."""
    merged = (
        config.vision_config.spatial_merge_size**2 if config.model_type.startswith("glm4") else 1
    )
    return (inputs["image_grid_thw"].prod(-1) // merged).tolist()


def _shrunk_grid(inputs: Inputs, _config: Any, _tokenizer: Any) -> list[int]:
    """VideoLLaMA 3: the encoder itself shrinks each image by the processor's merge size."""
    return (inputs["image_grid_thw"].prod(-1) // inputs["image_merge_sizes"] ** 2).tolist()


def _sizes(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """Whole patches of the resized image, before it was padded to the batch's largest."""
    patch = config.vision_config.patch_size
    return (inputs["image_sizes"] // patch).prod(-1).tolist()


def _gemma4(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """Positions that are not -1, pooled."""
    patches = (inputs["image_position_ids"] != -1).all(-1).sum(-1)
    return (patches // config.vision_config.pooling_kernel_size**2).tolist()


def _marked(opening: str) -> Rule:
    """Tiles of an image: the image tokens behind its opening mark, by those of one tile."""

    def rule(inputs: Inputs, config: Any, tokenizer: Any) -> list[int]:
        image, start = config.image_token_id, tokenizer.convert_tokens_to_ids(opening)
        counts: list[int] = []
        for token in inputs["input_ids"].flatten().tolist():
            if token == start:
                counts.append(0)
            elif token == image:
                counts[-1] += 1
        # InternVL's 16 patches and class token, Aya's 16 patches: 4 image tokens.
        # Llama 4 and Ovis2 have merged their 16 by then.
        positions = {"internvl": 17, "llama4": 4, "ovis2": 4}.get(config.model_type, 16)
        return [count // 4 * positions for count in counts]

    return rule


def _named_tiles(inputs: Inputs, config: Any, tokenizer: Any) -> list[int]:
    """Runs of image tokens are tiles; the one behind ``<global-img>`` is an image's last."""
    overview = tokenizer.convert_tokens_to_ids("<global-img>")
    image, counts, tiles = config.image_token_id, [], 0
    for before, token in pairwise(inputs["input_ids"].flatten().tolist()):
        if token == image and before != image:
            tiles += 1
            if before == overview:
                counts.append(tiles)
                tiles = 0
    vision = config.vision_config
    return [count * (vision.image_size // vision.patch_size) ** 2 for count in counts]


def _maps(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """A convolution's map of each image: every position is an image token."""
    image = config.image_token_id
    images = len(inputs["pixel_values"])
    return [int((inputs["input_ids"] == image).sum()) // images] * images


def _counted_crops(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """Molmo 2 counts its crops; each has as many patches as pixel_values says."""
    return (inputs["image_num_crops"] * inputs["pixel_values"].shape[-2]).tolist()


def _padded_tiles(inputs: Inputs, config: Any, tokenizer: Any) -> list[int]:
    """LFM2-VL: a tile behind each mark of one, or one in all; each is filled up to the longest."""
    start = tokenizer.convert_tokens_to_ids("<|image_start|>")
    rest = {i for text, i in tokenizer.get_vocab().items() if text.startswith("<|img_")}
    counts: list[int] = []
    for token in inputs["input_ids"].flatten().tolist():
        if token == start:
            counts.append(0)
        elif token in rest:
            counts[-1] += 1
    return [max(1, count) * inputs["pixel_values"].shape[1] for count in counts]


def _slices(inputs: Inputs, config: Any, tokenizer: Any) -> list[int]:
    """MiniCPM-V: an overview behind ``<image>``, then slices; four patches were merged by then."""
    start, more = tokenizer.convert_tokens_to_ids(["<image>", "<slice>"])
    tiles: list[int] = []
    for token in inputs["input_ids"].flatten().tolist():
        if token == start:
            tiles.append(1)
        elif token == more:
            tiles[-1] += 1
    positions = (inputs["target_sizes"].prod(-1) // 4).split(tiles)
    return [int(own.sum()) for own in positions]


def _tokens_of_tiles(inputs: Inputs, config: Any, _tokenizer: Any) -> list[int]:
    """Perception LM: 4 image tokens a tile, of 16 patches and a class token.

    Images of one question are side by side: one run, given as one.
    """
    counts: list[int] = []
    for row in inputs["input_ids"].tolist():
        runs = "".join("i" if token == config.image_token_id else " " for token in row).split()
        counts += [len(run) // 4 * 17 for run in runs]
    return counts


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(["llava", "gemma3", "paligemma", "janus"], _equal_shares),
    **dict.fromkeys(["deepseek_vl", "deepseek_vl_hybrid", "aria", "got_ocr2"], _equal_shares),
    **dict.fromkeys(["llava_next", "llava_onevision", "granite4_vision"], _anyres),
    **dict.fromkeys(["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v"], _grid),
    **dict.fromkeys(
        ["qwen3_5", "qwen3_5_moe", "glm4v_moe", "glm46v", "ernie4_5_vl_moe", "kimi_k25"], _grid
    ),
    **dict.fromkeys(["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "exaone4_5"], _grid),
    "video_llama_3": _shrunk_grid,
    **dict.fromkeys(["pixtral", "mistral3"], _sizes),
    **dict.fromkeys(["idefics3", "smolvlm"], _named_tiles),
    "idefics2": _masked_tiles,
    "internvl": _marked("<img>"),
    "ovis2": _marked("<IMG_START>"),
    "cohere2_vision": _marked("<|START_OF_IMG|>"),
    "llama4": _marked("<|image_start|>"),
    "lfm2_vl": _padded_tiles,
    "hunyuan_vl": _grid,
    "aya_vision": _marked("<|START_OF_IMG|>"),
    "gemma4": _gemma4,
    "fastvlm": _maps,
    **dict.fromkeys(["minicpmv4_6", "minicpmv4_7"], _slices),
    "perception_lm": _tokens_of_tiles,
    "molmo2": _counted_crops,
}
