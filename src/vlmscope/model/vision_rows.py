"""Assign the vision encoder's output for a batch to the questions of the batch.

Some architectures return ``[images, positions, width]``, some concatenate all tiles or all patches
of the batch, some in a single row, and Mllama pads missing images and tiles. Every rule here
returns the positions of each question; ``RULES`` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

VisionRows = tuple[Float[Tensor, "_positions width"], Bool[Tensor, " _positions"]]
"""One question's part of the encoder's output, and which of its positions are not padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The vision encoder's output for a batch, and what is needed to split it."""

    features: Tensor
    """The encoder's output, unchanged."""
    inputs: Mapping[str, Tensor]
    """The model's inputs."""
    images: Sequence[int]
    """Number of images of each question; may be 0."""
    config: Any
    """The model's configuration."""
    image_token_id: int
    """Id of the image token in the expanded prompt."""
    own: Mapping[str, Tensor] = field(default_factory=dict)
    """The inputs on the CPU, if the batch has them: their numbers are read without waiting."""

    def on_host(self, name: str) -> Tensor:
        """Return an input whose numbers are read."""
        return self.own.get(name, self.inputs[name])


Rule = Callable[[Encoded], list[VisionRows]]
"""Output of the encoder → one entry per question of the batch."""


def one_question(encoded: Encoded) -> list[VisionRows]:
    """Return everything for the only question: the rule for an unknown order."""
    if len(encoded.images) != 1:
        raise RuntimeError(f"a batch of {len(encoded.images)} questions, this family takes one")
    features = encoded.features.flatten(0, -2)
    return _split(features, [len(features)])


def by_image_tokens(encoded: Encoded) -> list[VisionRows]:
    """Split the positions in proportion to the prompts' image tokens.

    Correct if every image token corresponds to the same number of positions: Qwen-VL merges 4
    patches into one, InternVL and SmolVLM a square of each tile, LLaVA-1.5 and Gemma use the same
    number for all images.
    """
    features = encoded.features.flatten(0, -2)
    tokens = (encoded.on_host("input_ids") == encoded.image_token_id).sum(dim=1).tolist()
    total = sum(tokens)
    if any(count * len(features) % max(total, 1) for count in tokens):
        raise RuntimeError(
            f"{len(features)} positions of the vision encoder cannot be split in proportion to "
            f"{tokens} image tokens"
        )
    return _split(features, [count * len(features) // total for count in tokens])


def by_channels_first(encoded: Encoded) -> list[VisionRows]:
    """Split ``[images, width, height, width of the map]``, the output of a convolution."""
    maps = encoded.features.flatten(2).transpose(1, 2)
    features = maps.flatten(0, 1)
    return _split(features, [count * maps.shape[1] for count in encoded.images])


def by_tiles(encoded: Encoded) -> list[VisionRows]:
    """Split ``[tiles, positions, width]``: an overview and the tiles of the best grid (LLaVA-NeXT).

    The number of image tokens is not usable: the model removes those of padding and adds one per
    row. In LLaVA-OneVision, if a question has several images, each has the overview only.
    """
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config, sizes = encoded.config, encoded.on_host("image_sizes").tolist()
    tiles = [
        image_size_to_num_patches(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        for size in sizes
    ]
    alone = [count == 1 for count in encoded.images for _ in range(count)]
    if "batch_num_images" in encoded.inputs:
        tiles = [count if single else 1 for count, single in zip(tiles, alone, strict=True)]
    positions = encoded.features.shape[-2]
    return _split(
        encoded.features.flatten(0, -2),
        [positions * sum(own) for own in _by_question(tiles, encoded.images)],
    )


def by_image(encoded: Encoded) -> list[VisionRows]:
    """Split ``[questions, images, tiles, patches, width]`` (Mllama).

    Tiles without an image are padding. All questions of a batch have the same number of images.
    """
    used = encoded.inputs["aspect_ratio_mask"].to(encoded.features.device, torch.bool)
    rows = []
    for question, tiles in zip(encoded.features, used, strict=True):
        valid = tiles.unsqueeze(-1).expand(question.shape[:-1])
        rows.append((question.flatten(0, -2), valid.flatten()))
    return rows


def by_crops(encoded: Encoded) -> list[VisionRows]:
    """Split ``[images × most crops, patches, width]`` (Phi-4): an overview, then the crops.

    Crops that pad an image to the most crops of the batch are dropped. Patches that the mask
    excludes are padding.
    """
    inputs, crop = encoded.inputs, encoded.config.vision_config.crop_size
    sizes = encoded.on_host("image_sizes").reshape(-1, 2)
    counts = (1 + (sizes // crop).prod(dim=1)).tolist()
    width = encoded.features.shape[-1]
    images = encoded.features.reshape(len(counts), -1, encoded.features.shape[-2], width)
    mask = inputs["image_attention_mask"].to(encoded.features.device, torch.bool)
    masks = mask.reshape(images.shape[:-1])
    crops = [
        (image[:count].flatten(0, 1), valid[:count].flatten())
        for image, valid, count in zip(images, masks, counts, strict=True)
    ]
    return [
        (torch.cat([features for features, _ in own]), torch.cat([valid for _, valid in own]))
        for own in _by_question(crops, encoded.images)
    ]


def by_crop_counts(encoded: Encoded) -> list[VisionRows]:
    """Split ``[crops, patches, width]`` with ``image_num_crops`` for each image (Molmo 2)."""
    positions = encoded.features.shape[-2]
    crops = encoded.on_host("image_num_crops").tolist()
    return _split(
        encoded.features.flatten(0, -2),
        [positions * sum(own) for own in _by_question(crops, encoded.images)],
    )


def by_grid(encoded: Encoded) -> list[VisionRows]:
    """Split ``[1, patches of the batch, width]`` with the grid of each image (Hunyuan-VL).

    The number of image tokens is not usable: each row of patches has one more, each image two more.
    """
    patches = encoded.on_host("image_grid_thw").prod(dim=1).tolist()
    return _split(
        encoded.features.flatten(0, -2),
        [sum(own) for own in _by_question(patches, encoded.images)],
    )


def by_patch_shapes(encoded: Encoded) -> list[VisionRows]:
    """Split ``[tiles, most patches, width]`` with the shape of each tile in patches (LFM2-VL).

    Tiles are taken for a question until their image tokens add up to its own. Patches that pad a
    tile to the most patches are padding.
    """
    inputs, factor = encoded.inputs, int(encoded.config.downsample_factor)
    tokens = (encoded.on_host("input_ids") == encoded.image_token_id).sum(dim=1).tolist()
    mask = inputs["pixel_attention_mask"].to(encoded.features.device, torch.bool)
    each = (-(-encoded.on_host("spatial_shapes") // factor)).prod(dim=1).tolist()
    rows, begin = [], 0
    for total in tokens:
        end, left = begin, total
        while left > 0 and end < len(each):
            left, end = left - each[end], end + 1
        if left:
            raise RuntimeError(f"tiles of {each} image tokens do not add up to {tokens}")
        rows.append((encoded.features[begin:end].flatten(0, 1), mask[begin:end].flatten()))
        begin = end
    if begin != len(encoded.features):
        raise RuntimeError(f"{len(encoded.features)} tiles, but the questions have {begin}")
    return rows


def by_patch_mask(encoded: Encoded) -> list[VisionRows]:
    """Split ``[tiles, most patches, width]`` with a mask of each tile's pixels (Idefics2).

    Tiles are padded to the largest of the batch, and questions to the most tiles. Both depend on
    the other questions, so only patches completely inside a tile are used, as in the model.
    """
    patch = int(encoded.config.vision_config.patch_size)
    mask = encoded.inputs["pixel_attention_mask"].to(encoded.features.device, torch.bool)
    questions, tiles = mask.shape[:2]
    in_tile = ~F.max_pool2d((~mask).float().flatten(0, 1), patch).bool()
    patches = in_tile.reshape(questions, tiles, -1)
    used = mask.flatten(2).any(dim=2)
    if encoded.features.shape[:2] != (int(used.sum()), patches.shape[2]):
        raise RuntimeError(
            f"the vision encoder returned {tuple(encoded.features.shape[:2])} tiles and patches, "
            f"the mask has {(int(used.sum()), patches.shape[2])}"
        )
    shares = torch.split(encoded.features, used.sum(dim=1).tolist())
    own = [share[patches[i][used[i]]] for i, share in enumerate(shares)]
    return _split(torch.cat(own), [len(share) for share in own])


def by_pixel_mask(encoded: Encoded) -> list[VisionRows]:
    """Split ``[images, patches, width]`` with a mask of each image's pixels (Aria).

    Every image is padded to the same square; patches without any of its pixels are padding.
    """
    patch = int(encoded.config.vision_config.patch_size)
    mask = encoded.inputs["pixel_mask"].to(encoded.features.device)
    patches = F.max_pool2d(mask.float(), patch).bool().flatten(1)
    shares = by_image_tokens(encoded)
    valid = torch.split(patches.flatten(), [len(features) for features, _ in shares])
    return [(features, own) for (features, _), own in zip(shares, valid, strict=True)]


def _by_question(values: Sequence[Any], images: Sequence[int]) -> list[Sequence[Any]]:
    """Group one value per image by question."""
    if len(values) != sum(images):
        raise RuntimeError(f"the inputs have {len(values)} images, the questions {sum(images)}")
    ends = [sum(images[: i + 1]) for i in range(len(images))]
    return [values[end - count : end] for end, count in zip(ends, images, strict=True)]


def _split(features: Tensor, counts: Sequence[int]) -> list[VisionRows]:
    """Split ``[rows, width]`` into consecutive parts, which must cover all rows."""
    if sum(counts) != len(features):
        raise RuntimeError(
            f"the vision encoder returned {len(features)} positions, expected {sum(counts)}"
        )
    shares = torch.split(features, list(counts))
    return [
        (share, torch.ones(len(share), dtype=torch.bool, device=share.device)) for share in shares
    ]


RULES: Mapping[str, Rule] = {
    "image tokens": by_image_tokens,
    "channels first": by_channels_first,
    "tiles": by_tiles,
    "image": by_image,
    "crops": by_crops,
    "crop counts": by_crop_counts,
    "grid": by_grid,
    "patch shapes": by_patch_shapes,
    "patch mask": by_patch_mask,
    "pixel mask": by_pixel_mask,
    "whole": one_question,
}
"""Name in a description → rule."""
