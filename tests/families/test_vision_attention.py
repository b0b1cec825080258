"""Phi-4's vision encoder: what its attention implementation is must not change what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from families.checkpoints import BUILDERS
from vlmscope.model.loading.corrections import disable_causal_attention


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS["phi4_multimodal"](tmp_path_factory.mktemp("phi4") / "phi4")


def encoder(folder: Path, attention: str) -> Any:
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation=attention)
    return model.get_submodule("model.embed_tokens_extend.image_embed.img_processor").eval()


def look(part: Any, *, padded: bool) -> torch.Tensor:
    """Return what the encoder makes of an image, beside one with or without padding."""
    size = part.config.crop_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    patches = size // part.config.patch_size
    mask = torch.ones(2, patches, patches, dtype=torch.bool)
    mask[1, :, -1] = not padded
    with torch.inference_mode():
        return part(pixels, patch_attention_mask=mask).last_hidden_state[0]


def test_the_switch_is_turned_off(folder: Path) -> None:
    sdpa, eager = encoder(folder, "sdpa"), encoder(folder, "eager")
    wanted = look(eager, padded=False)
    assert disable_causal_attention(sdpa) > 0
    for padded in (False, True):
        torch.testing.assert_close(look(sdpa, padded=padded), wanted, rtol=1e-4, atol=1e-4)
    assert disable_causal_attention(sdpa) == 0


def test_the_library_still_has_it_the_wrong_way(folder: Path) -> None:
    """When this fails, transformers has mended it, and ``vision_attention`` may go."""
    sdpa = encoder(folder, "sdpa")
    difference = look(sdpa, padded=False) - look(sdpa, padded=True)
    assert float(difference.abs().max()) > 0.1
