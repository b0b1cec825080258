"""Compiled norms, MLPs and rotary embeddings: in place during a pass, and nowhere else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.mllama import modeling_mllama
from transformers.models.mllama.modeling_mllama import MllamaTextMLP, MllamaTextRMSNorm

from engine.against_reference import assert_all_same, captured_together, expected_of, run_session
from vlmscope.model import VisionLanguageModel
from vlmscope.model.fused import (
    CACHE_VARIABLE,
    ROWS_TO_FUSE,
    FusedParts,
    _is_by_token,
    worth_fusing,
)
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=4)


def test_the_numbers_are_those_of_the_slow_method(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    fused = FusedParts(vlm.model, backend="eager")
    results = captured_together(samples[:4], vlm, SPEC, parts=fused)
    assert fused._modules
    assert not fused._failed
    assert_all_same(results, expected_of(samples[:4], vlm, SPEC), samples[:4])


def test_parts_are_compiled_once_a_class_and_restored(vlm: VisionLanguageModel) -> None:
    fused = FusedParts(vlm.model, backend="eager")
    kinds = {type(module) for module, _ in fused._modules}
    assert {MllamaTextMLP, MllamaTextRMSNorm} <= kinds
    assert len({id(forward.args[0]) for _, forward in fused._modules}) == len(kinds)  # type: ignore[attr-defined]
    own = modeling_mllama.apply_rotary_pos_emb
    with contextlib.suppress(KeyboardInterrupt), fused.in_place():
        assert modeling_mllama.apply_rotary_pos_emb is not own
        assert all("forward" in vars(module) for module, _ in fused._modules)
        raise KeyboardInterrupt
    assert modeling_mllama.apply_rotary_pos_emb is own
    assert not any("forward" in vars(module) for module, _ in fused._modules)


def test_one_compilation_for_prefill_and_steps(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def spy(function: Any, **_: Any) -> Any:
        def call(module: Any, states: torch.Tensor) -> Any:
            shapes.append(tuple(states.shape))
            return function(module, states)

        return call

    monkeypatch.setattr(torch, "compile", spy)
    norm = next(m for m in vlm.model.modules() if isinstance(m, MllamaTextRMSNorm))
    width = norm.weight.shape[0]
    fused = FusedParts(norm)
    for shape in ((3, 5, width), (3, 1, width), (7, width)):
        states = torch.randn(shape)
        with fused.in_place():
            found = norm(states)
        torch.testing.assert_close(found, norm(states))
    assert shapes == [(15, width), (3, width), (7, width)]


def test_only_what_computes_each_token_on_its_own(vlm: VisionLanguageModel) -> None:
    from transformers.models.llama4.modeling_llama4 import Llama4VisionPixelShuffleMLP

    assert not _is_by_token(Llama4VisionPixelShuffleMLP)  # it needs all patches of an image
    assert _is_by_token(MllamaTextMLP)
    fused = FusedParts(vlm.model, backend="eager")
    states = torch.randn(2, 3, vlm.hidden_size)
    expected = vlm.final_norm(states)
    with fused.in_place():
        torch.testing.assert_close(vlm.final_norm(hidden_states=states), expected)
        torch.testing.assert_close(vlm.final_norm(states), expected)


def test_a_forward_that_somebody_replaced_later_stays() -> None:
    norm = MllamaTextRMSNorm(8)
    fused = FusedParts(norm, backend="eager")
    own = norm.forward = lambda states: states  # type: ignore[method-assign,assignment]
    with fused.in_place():
        assert norm.forward is own
    assert norm.forward is own


def test_a_module_with_a_hook_on_its_parts_runs_as_it_is(vlm: VisionLanguageModel) -> None:
    fused = FusedParts(vlm.model, backend="eager")
    mlp = next(m for m, _ in fused._modules if isinstance(m, MllamaTextMLP))
    seen: list[int] = []
    handle = mlp.down_proj.register_forward_hook(lambda *_: seen.append(1))
    try:
        with fused.in_place():
            assert "forward" not in vars(mlp)
            mlp(torch.randn(2, 3, mlp.down_proj.out_features))
    finally:
        handle.remove()
    assert seen


def test_without_a_compiler_the_model_runs_as_it_was_loaded(
    vlm: VisionLanguageModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("Failed to find C compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    fused = FusedParts(vlm.model)
    with pytest.warns(RuntimeWarning, match="torch.compile failed .*C compiler") as warned:
        results = captured_together(samples[:2], vlm, SPEC, parts=fused)
    assert len([w for w in warned if "torch.compile" in str(w.message)]) == 1
    assert_all_same(results, expected_of(samples[:2], vlm, SPEC), samples[:2])


def test_memory_is_not_the_compilers_fault(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: full)
    fused = FusedParts(vlm.model)
    with pytest.raises(torch.OutOfMemoryError), fused.in_place():
        vlm.final_norm(torch.randn(2, vlm.hidden_size))
    assert not fused._failed


@pytest.mark.parametrize(
    ("rows", "changes", "worth"),
    [
        (ROWS_TO_FUSE, {}, True),
        (ROWS_TO_FUSE - 1, {}, False),
        (10**6, {"cuda_devices": ()}, False),
        (10**6, {"cuda_devices": (1, 2)}, False),
        (10**6, {"dtype": torch.float32}, False),
        (10**6, {"quantization": "4bit"}, False),
        (10**6, {"adapter": "folder"}, False),
    ],
)
def test_when_it_pays(rows: int, changes: dict[str, Any], worth: bool) -> None:
    model: Any = SimpleNamespace(
        **{"cuda_devices": (0,), "dtype": torch.bfloat16, "quantization": "", "adapter": None}
        | changes
    )
    assert worth_fusing(model, rows) == worth


@pytest.mark.parametrize("own", ["", "/of/the/user"])
def test_the_compilers_folder_is_set_for_a_pass_only(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str
) -> None:
    monkeypatch.setenv("VLMSCOPE_CACHE", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    if own:
        monkeypatch.setenv(CACHE_VARIABLE, own)
    fused = FusedParts(vlm.model, backend="eager")
    before = os.environ.get(CACHE_VARIABLE)  # torch may have set its default
    assert before == own or (not own and before != str(tmp_path / "kernels"))
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), fused.in_place():
            assert os.environ[CACHE_VARIABLE] == (own or str(tmp_path / "kernels"))
            raise ZeroDivisionError
        assert os.environ.get(CACHE_VARIABLE) == before


@pytest.mark.exhaustive
def test_sessions_with_and_without_it_alternate(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    fused = FusedParts(vlm.model, backend="eager")
    first = captured_together(samples[:2], vlm, SPEC, parts=fused)
    pieces = run_session(samples[:2], vlm, SPEC, rows=2, size=2)
    assert_all_same(first, expected_of(samples[:2], vlm, SPEC), samples[:2])
    assert_all_same(
        [item for piece in pieces for item in piece],
        expected_of(samples[:2], vlm, SPEC),
        samples[:2],
    )
