"""Element-wise kernels in every family: what is recognized, and the numbers are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import plain_kernels
from families.conformance import ONE_IMAGE, RUNNABLE, WANTS_TIMM, WANTS_TORCHVISION, build
from families.test_conformance import assert_same
from vlmscope.engine import prepare
from vlmscope.engine.session import CaptureSession
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.elementwise import ElementwiseKernels, kernels
from vlmscope.model.elementwise.epilogues import GeluEpilogue
from vlmscope.model.elementwise.gates import GatedKernel
from vlmscope.model.elementwise.norms import NormKernel
from vlmscope.model.elementwise.recurrence import DeltaRuleKernel
from vlmscope.model.elementwise.rotary import RotaryKernel
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec

WITH_EXTRAS = tuple(name for name in WANTS_TORCHVISION + WANTS_TIMM if name in RUNNABLE)

FIRST = ("gemma3", "qwen3_vl", "qwen3_5", *WITH_EXTRAS)
"""With ``1 + weight``, with norms of queries and keys, with linear attention, and what only
``make test-extras`` runs."""

WITH_DELTA_RULE = {"minicpmv4_6", "minicpmv4_7", "qwen3_5", "qwen3_5_moe"}
"""Families whose linear attention is the gated delta rule."""

WITHOUT = {"aya_vision", "cohere2_vision"}
"""Families whose norms subtract the mean."""

OTHER_ROTATIONS = {
    "aya_vision", "cohere2_vision", "kimi_k25", "llama4", "minicpmv4_6", "minicpmv4_7",
}  # fmt: skip
"""Families that rotate neighbouring channels, or a part of them."""

OTHER_MLPS = {
    "lfm2_vl", "llama4", "phi4_multimodal", "qwen3_omni_moe_thinker", "qwen3_vl_moe",
}  # fmt: skip
"""Families of experts, or whose gated MLPs have layers of other names."""

SPEC = CaptureSpec(layers="all", max_new_tokens=2)


WITH_TANH = {
    "aria", "aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "gemma3",
    "granite4_vision", "idefics2", "idefics3", "kimi_k25", "lfm2_vl", "llava_onevision",
    "minicpmv4_6", "minicpmv4_7", "molmo2", "paligemma", "phi4_multimodal", "qwen3_5",
    "qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "smolvlm",
    "video_llama_3",
}  # fmt: skip
"""Families whose encoder has MLPs with the approximation of GELU by tanh."""


def product_on_gpu(bias: Tensor, rows: Tensor, weight: Tensor, *, use_gelu: bool) -> Tensor:
    """As torch's operation on a GPU, with its kind of GELU."""
    assert use_gelu
    return torch.nn.functional.gelu(torch.addmm(bias, rows, weight), approximate="tanh")


def unknown(vlm: VisionLanguageModel, known: list[Any]) -> set[str]:
    """Return the classes of weighted norms that are not recognized, without those with a gate."""
    ids = {id(module) for module, _ in known}
    return {
        type(module).__name__
        for module in vlm.model.modules()
        if "RMSNorm" in type(module).__name__
        and hasattr(module, "weight")
        and id(module) not in ids
    }


@pytest.mark.first(len(FIRST))
@pytest.mark.parametrize("family", [*FIRST, *(name for name in RUNNABLE if name not in FIRST)])
def test_kernels_of_a_family(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "suits", lambda _vlm: True)
    monkeypatch.setattr(kernels, "triton_for", lambda _vlm: plain_kernels)
    monkeypatch.setattr(torch, "_addmm_activation", product_on_gpu)
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    spec = resolve_spec(SPEC, vlm)
    rows = ONE_IMAGE[:2]
    parts = ElementwiseKernels(vlm, many=True)
    norms, epilogues, rotary, gates, recurrence = parts.parts
    assert isinstance(norms, NormKernel)
    assert bool(norms._modules) == (family not in WITHOUT)
    assert all(name.endswith("Gated") for name in unknown(vlm, norms._modules))
    capturing = CaptureSession(vlm, spec, len(rows), kernels=parts)
    batches, failures = prepare(rows, capturing.prepares_with, spec)
    assert not failures
    plain_kernels.CALLS.clear()
    found = [item for batch in batches for item in capturing.submit(batch)] + capturing.drain()
    assert isinstance(rotary, RotaryKernel)
    assert any(rotary._known.values()) == (family not in OTHER_ROTATIONS)
    assert isinstance(epilogues, GeluEpilogue)
    assert bool(epilogues._modules) == (family in WITH_TANH)
    assert isinstance(gates, GatedKernel)
    assert bool(gates._modules) == (family not in OTHER_MLPS)
    assert not gates._modules or "gated" in plain_kernels.CALLS
    assert isinstance(recurrence, DeltaRuleKernel)
    assert any(recurrence._known.values()) == (family in WITH_DELTA_RULE)
    assert ("delta_step" in plain_kernels.CALLS) == (family in WITH_DELTA_RULE)
    expected = {row.id: reference(row, vlm, SPEC) for row in rows}
    for capture in found:
        assert isinstance(capture, Capture), capture
        assert_same(capture, expected[capture.sample.id])
