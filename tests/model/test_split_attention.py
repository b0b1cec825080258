"""The vision encoder without its mask: the same rows as with it, for every pattern of tiles."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention import tiles
from vlmscope.model.attention.switch import attending_with
from vlmscope.model.attention.tiles import SPLIT, splitting_attention

TILES = 4
"""Tiles that every image is filled up to."""


def inputs_for(vlm: VisionLanguageModel, used: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return inputs of the encoder: for each row, the tiles that each of its images uses."""
    config = vlm.model.config.vision_config
    shapes = config.supported_aspect_ratios
    layouts = {rows * columns: i for i, (rows, columns) in enumerate(shapes, start=1)}
    rng = torch.Generator().manual_seed(sum(map(sum, used)))
    edge, counts = config.image_size, torch.tensor(used)
    return {
        "pixel_values": torch.randn(*counts.shape, TILES, 3, edge, edge, generator=rng),
        "aspect_ratio_ids": torch.tensor([[layouts[n] for n in row] for row in used]),
        "aspect_ratio_mask": (torch.arange(TILES) < counts.unsqueeze(-1)).long(),
    }


def seen_by(vlm: VisionLanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        features: Tensor = vlm.vision_encoder(**inputs).last_hidden_state
    return features


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def maskless(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **options: Any
) -> tuple[Tensor, None]:
    found = F.scaled_dot_product_attention(query, key, value, scale=options["scaling"])
    return found.transpose(1, 2), None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every call of the split attention."""
    seen: list[int] = []
    original = tiles.split_attention

    def spy(module: nn.Module, query: Tensor, *rest: Any, **options: Any) -> Any:
        seen.append(len(query))
        return original(module, query, *rest, **options)

    monkeypatch.setattr(tiles, "split_attention", spy)
    return seen


@pytest.mark.parametrize(
    "used",
    [[[1]], [[2]], [[3]], [[4]], [[1], [4], [4], [2], [3]], [[2, 1], [4, 1], [3, 3]], [[4, 1, 1]]],
    ids=str,
)
def test_the_same_rows_as_with_the_mask(
    vlm: VisionLanguageModel, calls: list[int], used: list[list[int]]
) -> None:
    inputs = inputs_for(vlm, used)
    expected = seen_by(vlm, inputs)
    with splitting_attention(vlm, inputs):
        found = seen_by(vlm, inputs)
    config = vlm.model.config.vision_config
    assert calls == [sum(map(len, used))] * (config.num_hidden_layers + config.num_global_layers)
    assert error(found, expected) < 1e-5
    for image, other in zip(found.flatten(0, 1), expected.flatten(0, 1), strict=True):
        for tile, twin in zip(image, other, strict=True):  # those that only fill up, too
            assert error(tile, twin) < 1e-5


@pytest.mark.parametrize("used", [1, 2, 3, 4])
def test_without_the_mask_and_without_the_split_the_rows_are_others(
    vlm: VisionLanguageModel, used: int
) -> None:
    inputs = inputs_for(vlm, [[used]])
    with attending_with("vlmscope_maskless_test", maskless, vlm.vision_encoder):
        found = seen_by(vlm, inputs)
    assert error(found, seen_by(vlm, inputs)) > 1e-4


@given(
    st.integers(1, 3).flatmap(
        lambda images: st.lists(
            st.lists(st.integers(1, TILES), min_size=images, max_size=images),
            min_size=1,
            max_size=4,
        )
    )
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_pattern_of_tiles(vlm: VisionLanguageModel, used: list[list[int]]) -> None:
    inputs = inputs_for(vlm, used)
    expected = seen_by(vlm, inputs)
    with splitting_attention(vlm, inputs):
        assert error(seen_by(vlm, inputs), expected) < 1e-5


def implementations(vlm: VisionLanguageModel) -> list[str]:
    parts = [part for part in vlm.model.modules() if hasattr(part, "config")]
    return [part.config._attn_implementation for part in parts]


def marks(vlm: VisionLanguageModel) -> list[str]:
    """Return what the split has hung on the encoder's modules."""
    return [
        *(
            name
            for part in vlm.vision_encoder.modules()
            for name in part.__dict__
            if "scope" in name
        ),
        *("hook" for part in vlm.vision_encoder.modules() for _ in part._forward_pre_hooks),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_the_encoder_is_put_back(vlm: VisionLanguageModel, fails: bool) -> None:
    inputs = inputs_for(vlm, [[2]])
    before = implementations(vlm)
    with contextlib.suppress(ArithmeticError), splitting_attention(vlm, inputs):
        assert vlm.vision_encoder.config._attn_implementation == SPLIT
        assert vlm.decoder.config._attn_implementation == "sdpa"
        seen_by(vlm, inputs)
        assert tiles._TILES in marks(vlm)
        if fails:
            raise ArithmeticError
    assert implementations(vlm) == before
    assert marks(vlm) == []


def test_an_encoder_that_raises_is_put_back(vlm: VisionLanguageModel) -> None:
    before = implementations(vlm)
    inputs = inputs_for(vlm, [[2]]) | {"pixel_values": torch.zeros(1, 1, TILES, 5, 7, 7)}
    with pytest.raises(RuntimeError), splitting_attention(vlm, inputs):
        seen_by(vlm, inputs)
    assert (implementations(vlm), marks(vlm)) == (before, [])


def test_another_familys_encoder_is_left_alone(vlm: VisionLanguageModel, calls: list[int]) -> None:
    plain = dataclasses.replace(vlm.family, pads_tiles=False)
    inputs = inputs_for(vlm, [[2]])
    with splitting_attention(dataclasses.replace(vlm, family=plain), {}):
        seen_by(vlm, inputs)
    assert calls == []


@pytest.fixture
def eager(vlm: VisionLanguageModel) -> Iterator[VisionLanguageModel]:
    vlm.model.set_attn_implementation("eager")
    yield vlm
    vlm.model.set_attn_implementation("sdpa")


def test_eager_attention_is_left_alone(eager: VisionLanguageModel, calls: list[int]) -> None:
    inputs = inputs_for(eager, [[2]])
    with splitting_attention(eager, inputs):
        seen_by(eager, inputs)
    assert calls == []
    assert set(implementations(eager)) == {"eager"}


def test_tiles_that_need_no_filling_go_to_the_library() -> None:
    """No square grid and a class token make a multiple of eight, but another encoder may."""
    patches, module = 8, nn.Module()
    module.is_causal = False
    module.__dict__[tiles._TILES] = ([2], patches, TILES)
    rng = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, TILES * patches, 6, generator=rng)
    mask = torch.randn(1, 1, TILES * patches, TILES * patches, generator=rng)
    taken = (module, query, key, value, mask, 0.0, 0.3)
    found, _ = tiles.split_attention(*taken)
    assert torch.equal(found, sdpa_attention_forward(*taken)[0])
    without = sdpa_attention_forward(module, query, key, value, None, 0.0, 0.3)[0]
    assert error(found, without) > 1e-2
