"""States of all image tokens and of all tokens of an answer, against the slow method."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vlmscope
from engine.against_reference import answered_by_generate
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from vlmscope.cli.extract import confirm_size
from vlmscope.dataset import in_memory
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.engine.decoding import scheduler
from vlmscope.errors import InputError, RunMismatchError
from vlmscope.executors import Request, make_plan, runner
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import TOKEN_STATES, TOKEN_STATISTICS, token_states_name
from vlmscope.store import Run
from vlmscope.verification import check_rows, compare

SPEC = CaptureSpec(
    layers="0,n-2,n-1",
    positions=("last_prompt_token", "answer_mean"),
    max_new_tokens=6,
    signals=TOKEN_STATES,
)
FAMILIES = ("mllama", "qwen2_5_vl", "llava_next", "gemma3", "qwen3_5")
WITH_GENERATE = ("gemma3",)
"""Families whose answers ``generate`` decodes: a short sliding window."""


def assert_same(found: Capture, expected: Capture) -> None:
    """Compare the states of each token on its own."""
    assert found.answer_token_ids is not None
    assert found.answer_token_ids.tolist() == expected.answer_token_ids.tolist()  # type: ignore[union-attr]
    assert found.signals.keys() == expected.signals.keys()
    for name in found.signals:
        if name.startswith(TOKEN_STATES):
            own, other = found.signals[name], expected.signals[name]
            assert own.shape == other.shape
            assert own.dtype == np.float32
            errors = np.linalg.norm(own - other, axis=1) / np.linalg.norm(other, axis=1)
            assert errors.max() < 3e-5, name
            if name.startswith("answer"):
                assert len(own) == len(found.answer_token_ids)
    for path, vector in found.vectors.items():
        np.testing.assert_allclose(vector, expected.vectors[path], atol=1e-4, rtol=1e-4)


def with_ends(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the answers end at different tokens: where some of them have theirs."""
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [10**6])
    plain = CaptureSpec(layers="0", max_new_tokens=6)
    answers = [item.answer_token_ids for item in capture(ONE_IMAGE, vlm, plain, batch_size=4)]
    ends = {int(answer[3 + i % 2]) for i, answer in enumerate(answers[:3]) if answer is not None}
    monkeypatch.setattr(config, "eos_token_id", sorted(ends))


@pytest.mark.first(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_equal_the_reference(
    family: str, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In padded batches, with one image and with several; the end-of-turn token is processed."""
    vlm = models(family)
    with_ends(vlm, monkeypatch)
    generated = answered_by_generate(monkeypatch)
    reasons, lengths = set(), set()
    rows = [*ONE_IMAGE, SEVERAL[0]]
    spec = replace(SPEC, positions=("last_prompt_token",))
    for item in capture(rows, vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))
        reasons.add(item.finish_reason)
        lengths.add(len(item.answer_token_ids))  # type: ignore[arg-type]
        assert len(item.signals[token_states_name("image_tokens", 0)]) > 0
    assert len(lengths) > 1
    assert "stop" in reasons
    assert bool(generated) == (family in WITH_GENERATE)


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_answers_of_the_greatest_length(
    family: str, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = models(family)
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [10**6])
    for item in capture(ONE_IMAGE[:2], vlm, SPEC, batch_size=2):
        assert item.finish_reason == "length"
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
def test_nothing_else_changes(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers, statistics, samples and vectors are those of a run without these signals."""
    for family in ("qwen2_5_vl", "gemma3"):
        vlm = models(family)
        with_ends(vlm, monkeypatch)
        spec = CaptureSpec(
            layers="0,n-1", positions=("last_prompt_token",), max_new_tokens=6, samples=2,
            signals=("attention", *TOKEN_STATES),
        )  # fmt: skip
        plain = replace(spec, signals="attention,samples")
        for one, other in zip(
            capture(ONE_IMAGE, vlm, spec, batch_size=4),
            capture(ONE_IMAGE, vlm, plain, batch_size=4),
            strict=True,
        ):
            kept = {n: a for n, a in one.signals.items() if not n.startswith(TOKEN_STATES)}
            assert kept.keys() == other.signals.keys()
            for name in kept:
                if other.signals[name].dtype == object:
                    assert kept[name].tolist() == other.signals[name].tolist()
                else:
                    np.testing.assert_allclose(kept[name], other.signals[name], atol=1e-5)
            assert one.answer == other.answer
            assert one.finish_reason == other.finish_reason


@pytest.mark.exhaustive
def test_slots_that_are_taken_again(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch equals each row alone, whatever was in its slot before."""
    vlm = models("qwen2_5_vl")
    with_ends(vlm, monkeypatch)
    rows = [replace(row, id=f"{row.id}{i}") for i in range(2) for row in ONE_IMAGE]
    spec = replace(SPEC, positions=("last_prompt_token",), max_new_tokens=9)
    resolved = resolve_spec(spec, vlm)
    session = CaptureSession(vlm, resolved, 3)
    found: list[Any] = []
    for start in range(0, len(rows), 2):
        batches, _ = prepare(rows[start : start + 2], vlm, resolved)
        for batch in batches:
            found += session.submit(batch)
    found += session.drain()
    assert len(found) == len(rows)
    assert len({len(item.answer_token_ids) for item in found}) > 1
    for item in found:
        [alone] = capture([item.sample], vlm, spec)
        assert_same(item, alone)


def test_slots_are_fewer_if_the_states_fill_the_memory(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = models("qwen2_5_vl")
    monkeypatch.setattr(scheduler, "HOST_BYTES", 1)
    for signals, rows in (("image_tokens", 2), ("answer_tokens", 8)):
        resolved = resolve_spec(replace(SPEC, signals=signals), vlm)
        session = CaptureSession(vlm, resolved, 8)
        [batch], _ = prepare(ONE_IMAGE[:2], vlm, resolved)
        found = [*session.submit(batch)]
        assert session._decoding.capacity == rows
        assert len([*found, *session.drain()]) == 2


@pytest.mark.exhaustive
def test_prompts_that_share_beginnings(models: Any) -> None:
    """The image tokens of two images, each with two questions, in the first pass."""
    vlm = models("qwen2_5_vl")
    rows = [
        Sample(f"{i}{row.id}", row.image, question)
        for i, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for row in (ONE_IMAGE[0], ONE_IMAGE[1])
    ]
    spec = replace(SPEC, positions=("last_prompt_token",))
    [batch], _ = prepare(rows, vlm, resolve_spec(spec, vlm))
    assert batch.prefix is not None
    for item in capture(rows, vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_questions_without_an_image(family: str, models: Any) -> None:
    vlm = models(family)
    for item in capture([ONE_IMAGE[0], *NONE], vlm, replace(SPEC, max_new_tokens=3), batch_size=3):
        expected = reference(item.sample, vlm, replace(SPEC, max_new_tokens=3))
        assert_same(item, expected)
        assert (token_states_name("image_tokens", 0) in item.signals) == bool(item.sample.images)
        assert token_states_name("answer_tokens", 0) in item.signals


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_half_precision(family: str, dtype: Any, models: Any) -> None:
    vlm = load_model(models(family).name, device="cpu", dtype=dtype)
    [found] = capture(ONE_IMAGE[:1], vlm, replace(SPEC, signals="image_tokens,answer_tokens"))
    path = "query_token_representation/layer_0"
    assert found.signals["image_tokens/layer_0"].shape[1:] == found.vectors[path].shape
    mean = found.vectors["answer_mean_representation/layer_0"]
    content = found.signals["answer_tokens/layer_0"][
        : -1 if found.finish_reason == "stop" else None
    ]
    np.testing.assert_allclose(content.mean(axis=0), mean, rtol=1e-2, atol=1e-3)


def test_a_prefill_alone_has_image_tokens(models: Any) -> None:
    vlm = models("qwen2_5_vl")
    spec = CaptureSpec(layers="0", max_new_tokens=0, signals="image_tokens")
    for item in capture(ONE_IMAGE[:2], vlm, spec, batch_size=2):
        assert set(item.signals) == {"image_tokens/layer_0"}
        expected = reference(item.sample, vlm, spec).signals["image_tokens/layer_0"]
        np.testing.assert_allclose(item.signals["image_tokens/layer_0"], expected, atol=3e-5)
    with pytest.raises(InputError, match="signals answer_tokens: needs max_new_tokens above 0"):
        CaptureSpec(max_new_tokens=0, signals="answer_tokens")


@pytest.fixture(scope="module")
def run(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Any]:
    """A run of four rows, two of them without an image, by two sessions and two ranks."""
    vlm, out = models("qwen2_5_vl"), tmp_path_factory.mktemp("runs") / "run"
    rows = [
        {"id": row.id, "image": row.image, "question": row.question, "target": ""}
        for row in (NONE[0], ONE_IMAGE[0], ONE_IMAGE[1], NONE[1])
    ]
    options = {"layers": "0,n-1", "max_new_tokens": 4, "signals": TOKEN_STATES}
    for some, shard in ((rows[:2], None), (rows, "0/2"), (rows, "1/2")):
        vlmscope.extract(some, vlm, out, text_only=True, shard=shard, **options)  # type: ignore[arg-type]
    return vlmscope.open_run(out), vlm


def test_stored_states_are_verified(run: tuple[Run, Any]) -> None:
    stored, vlm = run
    assert stored.manifest.states_dtype == "float16"
    assert not stored.check()
    rows = [NONE[0], ONE_IMAGE[0], ONE_IMAGE[1], NONE[1]]
    for check in check_rows(stored, rows, vlm):
        assert not check.faults(3e-5, "float32")
        assert "signals/answer_tokens/layer_0" in check.errors
    row = stored[ONE_IMAGE[0].id]
    array = row.signals["image_tokens/layer_0"].copy()
    array[-1] = array[0]
    damaged = replace(row, signals={**row.signals, "image_tokens/layer_0": array})
    positions = stored.manifest.capture.positions
    spec = replace(SPEC, layers="0,n-1", max_new_tokens=4, positions=positions)
    faults = compare(damaged, reference(ONE_IMAGE[0], vlm, spec)).faults(3e-5, "float32")
    assert len(faults) == 1
    assert "signals/image_tokens/layer_0 differs by" in faults[0]
    name = "signals/image_tokens/layer_0"
    rounded = replace(check, errors={name: 5e-4})
    assert not rounded.faults(3e-5, "float32")
    [fault] = rounded.faults(3e-5, "float32", "float32")  # nothing was rounded to float16
    assert fault == f"{name} differs by 5.0e-04, tolerance 3e-05"


@pytest.mark.exhaustive
def test_a_type_on_disk_that_was_given(models: Any, tmp_path: Path) -> None:
    vlm, row = models("qwen2_5_vl"), ONE_IMAGE[0]
    options = {"layers": "0", "max_new_tokens": 2, "signals": TOKEN_STATES, "progress": False}
    run = vlmscope.extract([row], vlm, tmp_path / "a", store_dtype="float32", **options)  # type: ignore[arg-type]
    assert run.manifest.states_dtype == "float32"
    [expected] = capture(
        [row], vlm, CaptureSpec(layers="0", max_new_tokens=2, signals=TOKEN_STATES)
    )
    for name, array in run[row.id].signals.items():
        np.testing.assert_array_equal(array, expected.signals[name])
    with pytest.raises(RunMismatchError, match="states_dtype is"):
        vlmscope.extract([row], vlm, tmp_path / "a", **options)  # type: ignore[arg-type]
    plain = vlmscope.extract(
        [row], vlm, tmp_path / "b", store_dtype="float32", layers="0", max_new_tokens=2
    )
    assert len(vlmscope.extract([row], vlm, tmp_path / "b", layers="0", max_new_tokens=2)) == 1
    assert plain.signals == TOKEN_STATISTICS


def test_the_plan_counts_image_tokens(models: Any, tmp_path: Path) -> None:
    """Of rows that are spread over the table."""
    vlm = models("qwen2_5_vl")
    rows = [
        {"id": f"q{i}", "image": ONE_IMAGE[i % 3].image, "question": "What is it?"}
        for i in range(70)
    ]
    expected = [
        len(item.signals["image_tokens/layer_0"])
        for item in capture(
            ONE_IMAGE[:3], vlm, CaptureSpec(layers="0", max_new_tokens=0, signals="image_tokens")
        )
    ]
    assert len(set(expected)) > 1
    spec = replace(SPEC, signals="image_tokens")
    request = Request(in_memory(rows), vlm, tmp_path / "run", spec=spec)  # type: ignore[arg-type]
    plan = make_plan(request)
    assert plan.image_tokens[0] == pytest.approx(
        np.mean([expected[i % 3] for i in range(0, 70, 3)])
    )
    without = make_plan(replace(request, spec=replace(SPEC, signals="none")))
    assert without.image_tokens == (0, 0)
    assert plan.bytes_todo > without.bytes_todo


def test_large_runs_are_confirmed(run: tuple[Run, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = run[0].manifest
    plan: Any = SimpleNamespace(manifest=manifest, done=(), bytes_todo=101 * 10**9)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError, match=r"tokens: about 101.0 GB .* give yes"):
        confirm_size(plan, yes=False)
    confirm_size(plan, yes=True)
    for change in ({"done": ("q1",)}, {"bytes_todo": 99 * 10**9}):
        confirm_size(SimpleNamespace(**{**vars(plan), **change}), yes=False)  # type: ignore[arg-type]
    plain = replace(manifest, capture=replace(manifest.capture, signal_widths=None))
    confirm_size(SimpleNamespace(**{**vars(plan), "manifest": plain}), yes=False)  # type: ignore[arg-type]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    confirm_size(plan, yes=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    with pytest.raises(InputError, match="not started"):
        confirm_size(plan, yes=False)


def test_settings_that_delay_the_end_are_refused(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = models("qwen2_5_vl")
    monkeypatch.setattr(vlm.model.generation_config, "min_new_tokens", 3)
    with pytest.raises(InputError, match=r"signals answer_tokens: .* min_new_tokens"):
        resolve_spec(SPEC, vlm)
    resolve_spec(replace(SPEC, signals="image_tokens"), vlm)


class PowerCut(BaseException):
    """The process dies; nothing may catch it."""


@pytest.mark.exhaustive
def test_a_run_that_was_killed_continues_to_equal_rows(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every signal of tokens; what was published before is kept as it is."""
    vlm, calls = models("qwen2_5_vl"), 0
    signals = (*TOKEN_STATES, "similarity", "lens", "attention_map")
    options: Any = {"layers": "0,n-1", "max_new_tokens": 4, "signals": signals, "progress": False}
    original = runner.capture_batch

    def dying(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise PowerCut
        return original(*arguments)

    rows = [replace(row, id=f"{row.id} {i}") for i in range(2) for row in ONE_IMAGE[1:]]
    monkeypatch.setattr(runner, "capture_batch", dying)
    with pytest.raises(PowerCut):
        vlmscope.extract(rows, vlm, tmp_path / "run", batch_size=1, **options)
    monkeypatch.setattr(runner, "capture_batch", original)
    before = len(vlmscope.open_run(tmp_path / "run"))
    assert 0 < before < len(rows)
    found = vlmscope.extract(rows, vlm, tmp_path / "run", batch_size=3, **options)
    assert len(found) == len(rows)
    assert not found.check()
    whole = vlmscope.extract(rows, vlm, tmp_path / "whole", batch_size=6, **options)
    for id_ in whole.ids:
        one, other = found[id_].signals, whole[id_].signals
        assert one.keys() == other.keys()
        for name, array in other.items():
            np.testing.assert_allclose(one[name], array, rtol=2e-3, atol=3e-5, err_msg=name)
