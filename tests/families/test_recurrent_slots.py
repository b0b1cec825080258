"""Blocks with a state in place of keys (linear attention) decode in slots like any others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

import plain_kernels
from engine.against_reference import (
    answered_by_generate,
    assert_all_same,
    assert_same_samples,
    captured_together,
    each_once,
    expected_of,
    run_session,
    submitted,
)
from engine.recorded_steps import with_recorded_steps
from families.conformance import NONE, ONE_IMAGE, build
from vlmscope.engine import CaptureSession, prepare, session, shared_prefix
from vlmscope.engine.decoding.slots import bytes_of_a_row, make_slots
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.attention.kv_cache import Recurrent, cache_over, keys_and_values, layer_with
from vlmscope.model.elementwise import ElementwiseKernels
from vlmscope.model.elementwise.recurrence import DeltaRuleKernel
from vlmscope.schema import CaptureSpec, Sample

ROWS = (*ONE_IMAGE, *(Sample(f"{row.id} again", row.image, "Is it?") for row in ONE_IMAGE), NONE[0])
"""Nine rows: they leave and enter the slots while others stay."""

ANSWERS = CaptureSpec(layers="all", max_new_tokens=9, signals="attention")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    """Qwen3.5, three of four blocks with linear attention; answers end at different lengths."""
    folder = build("qwen3_5", tmp_path_factory.mktemp("recurrent") / "qwen3_5")
    vlm = load_model(folder, dtype="float32")  # also on a GPU
    ends = vlm.model.generation_config.eos_token_id
    often = list(range(5, vlm.model.config.get_text_config().vocab_size, 7))
    vlm.model.generation_config.eos_token_id = [
        *([ends] if isinstance(ends, int) else ends),
        *often,
    ]
    return vlm


@pytest.mark.first(1)
@pytest.mark.parametrize("as_on_a_gpu", [True, False])
def test_rows_enter_and_leave(
    as_on_a_gpu: bool, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in steps that are none of theirs, and none is made twice before it is recorded."""
    recorded = with_recorded_steps(monkeypatch) if as_on_a_gpu else []
    generated = answered_by_generate(monkeypatch)
    expected = expected_of(ROWS, vlm, ANSWERS)
    lengths = {len(row.answer_token_ids) for row in expected.values()}  # type: ignore[arg-type]
    assert len(lengths) > 2
    pieces = run_session(ROWS, vlm, ANSWERS, rows=5, size=2)
    assert_all_same([item for piece in pieces for item in piece], expected, ROWS)
    assert not generated
    assert bool(recorded) == as_on_a_gpu


@pytest.mark.first(1)
@pytest.mark.parametrize("as_on_a_gpu", [True, False])
def test_rows_enter_and_leave_while_a_kernel_changes_the_states(
    as_on_a_gpu: bool, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's step makes new states; the kernel changes those of the slots in place."""
    expected = expected_of(ROWS, vlm, ANSWERS)
    if as_on_a_gpu:
        with_recorded_steps(monkeypatch)
    plain_kernels.CALLS.clear()
    kernels = ElementwiseKernels(vlm)
    by_kernel = DeltaRuleKernel(vlm.model, plain_kernels)
    kernels.parts = [by_kernel]
    monkeypatch.setattr(session, "ElementwiseKernels", lambda _: kernels)
    pieces = run_session(ROWS, vlm, ANSWERS, rows=5, size=2)
    assert_all_same([item for piece in pieces for item in piece], expected, ROWS)
    assert list(by_kernel._known.values()) == [True]
    assert plain_kernels.CALLS.count("delta_step") > 20


def test_samples_begin_at_the_state_of_their_question(vlm: VisionLanguageModel) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=5, samples=2)
    alone, together = (
        each_once([item for piece in run_session(ROWS[:5], vlm, spec, rows=r, size=s)
                   for item in piece], ROWS[:5])
        for r, s in ((1, 1), (5, 2))
    )  # fmt: skip
    for id_, item in together.items():
        assert_same_samples(item, alone[id_])


def test_a_step_that_was_interrupted_changes_no_state_twice(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first step, after which the session is used again."""
    rows, layer = ROWS[:3], vlm.layers[2]
    expected, forward, steps = expected_of(rows, vlm, ANSWERS), type(layer).forward, list[int]()

    def interrupted(*args: Any, **options: Any) -> Any:
        output = forward(layer, *args, **options)
        if output.shape[1] == 1:
            steps.append(len(output))
            if len(steps) == 1:
                raise KeyboardInterrupt
        return output

    monkeypatch.setattr(layer, "forward", interrupted)
    capturing = CaptureSession(vlm, resolve_spec(ANSWERS, vlm), 3)
    [batch], _ = prepare(rows, vlm, resolve_spec(ANSWERS, vlm))
    assert not capturing.submit(batch)
    with pytest.raises(KeyboardInterrupt):
        capturing.drain()
    assert not capturing.drain()
    lost = capturing.pop_failed()
    assert lost == list(rows)
    pieces = [*submitted(capturing, lost, vlm, ANSWERS, 3), capturing.drain()]
    assert_all_same([item for piece in pieces for item in piece], expected, rows)


def test_beginnings_are_not_shared_even_if_a_configuration_hides_the_blocks(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefix, "why_not_shared", lambda _: "")
    rows = [ROWS[0], ROWS[2], ROWS[1]]
    spec = CaptureSpec(layers="all", max_new_tokens=3)
    prepares_with = CaptureSession(vlm, resolve_spec(spec, vlm), 3).prepares_with
    batches, _ = prepare(rows, prepares_with, resolve_spec(spec, vlm))
    assert any(batch.prefix is not None for batch in batches)
    found = captured_together(rows, vlm, spec)
    assert_all_same(found, expected_of(rows, vlm, spec), rows)


def made_up(rows: int) -> tuple[LinearAttentionLayer, tuple[Tensor, Tensor]]:
    layer = LinearAttentionLayer()
    layer.update_conv_state(torch.ones(rows, 6, 4))
    layer.update_recurrent_state(torch.ones(rows, 2, 3, 5))
    return layer, (torch.ones(rows, 2, 7, 3), torch.ones(rows, 2, 7, 4))


def test_a_state_takes_the_same_space_whatever_the_length() -> None:
    layer, keys = made_up(3)
    layers = keys_and_values(cache_over([layer, layer_with(*keys)]), 20)
    assert layers is not None
    assert [isinstance(pair, Recurrent) for pair in layers] == [True, False]
    slots = make_slots(
        layers, frozenset(), rows=5, length=20, limit=4, dims=1, states=None, ends=[1]
    )
    assert slots.recurrent == {0}
    assert [tuple(each.shape) for each in (*slots.keys, *slots.values)] == [
        (5, 6, 4), (5, 2, 20, 3), (5, 2, 3, 5), (5, 2, 20, 4),
    ]  # fmt: skip
    for length in (20, 40):
        per_row = 4 * (6 * 4 + 2 * 3 * 5 + 2 * length * (3 + 4))
        assert bytes_of_a_row(layers, frozenset(), length) == per_row


def test_a_layer_with_several_states_or_none_yet_is_unknown() -> None:
    two, none, kept = LinearAttentionLayer(2), LinearAttentionLayer(), made_up(1)[0]
    two.update_conv_state(torch.ones(1, 6, 4))
    kept.activate_past_recording()
    for layer in (two, none, kept):
        assert keys_and_values(cache_over([layer]), 20) is None
