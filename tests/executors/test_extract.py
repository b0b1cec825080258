"""The main job from table to run folder: what is stored, resume, memory, errors, stopping."""

from __future__ import annotations

import dataclasses
import errno
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmscope import FailedRowsWarning, extract
from vlmscope.engine import Batch
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.executors import Request, make_plan, plan, run_plan, runner
from vlmscope.model import VisionLanguageModel
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.store import Run, RunWriter, open_run, read_failures

SPEC = CaptureSpec(max_new_tokens=3)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, vlm: VisionLanguageModel) -> None:
    """Plans share the session's model instead of loading it again."""
    monkeypatch.setattr(plan, "load_with", lambda *_, **__: vlm)


@pytest.fixture
def run_once(table: Path, vlm: VisionLanguageModel, tmp_path: Path) -> Callable[..., Run]:
    def run(out: str = "run", **options: Any) -> Run:
        options = {"spec": SPEC, "batch_size": 4} | options
        return extract(table, model=vlm, out=tmp_path / out, **options)

    return run


def assert_same_rows(found: Run, expected: Run) -> None:
    assert sorted(found.ids) == sorted(expected.ids)
    for id_ in expected.ids:
        one, other = found[id_], expected[id_]
        assert one.answer == other.answer
        assert one.boundaries == other.boundaries
        for name, vector in other.vectors.items():
            np.testing.assert_allclose(one.vectors[name], vector, rtol=1e-4, atol=1e-5)


def test_every_row_is_stored_as_the_reference_gives_it(
    run_once: Callable[..., Run], samples: list[Sample], vlm: VisionLanguageModel
) -> None:
    run = run_once()
    assert sorted(run.ids) == [sample.id for sample in samples]
    for sample in samples:
        stored, expected = run[sample.id], reference(sample, vlm, SPEC)
        assert stored.sample.question == sample.question
        assert stored.sample.target == "Yes"
        assert stored.sample.image_id == sample.image_id
        assert stored.sample.metadata["category"] in {"existence", "attribute"}
        assert stored.answer == expected.answer
        assert stored.num_prompt_tokens == expected.num_prompt_tokens
        for name, vector in expected.vectors.items():
            error = np.linalg.norm(stored.vectors[name] - vector) / np.linalg.norm(vector)
            assert error < 1e-5, name
    matrix = run.matrix("query_token_representation", layer=4)
    assert matrix.shape == (10, 64)
    np.testing.assert_array_equal(
        matrix[3], run[run.ids[3]].vectors["query_token_representation/layer_4"]
    )


@pytest.mark.exhaustive
def test_every_position_is_stored(
    run_once: Callable[..., Run], samples: list[Sample], vlm: VisionLanguageModel
) -> None:
    spec = CaptureSpec(layers="2,n-1", positions=tuple(REPRESENTATIONS), max_new_tokens=6)
    run = run_once(spec=spec)
    assert set(run.representations) == {VISION_ONLY, *REPRESENTATIONS.values()}
    expected = reference(samples[3], vlm, spec)
    stored = run[samples[3].id]
    assert stored.boundaries == expected.boundaries
    for name, vector in expected.vectors.items():
        np.testing.assert_allclose(stored.vectors[name], vector, rtol=1e-3, atol=1e-4)
    assert run.matrix("answer_mean_representation", layer=7).shape == (10, 64)


@pytest.mark.exhaustive
def test_the_batch_size_does_not_change_the_result(run_once: Callable[..., Run]) -> None:
    assert_same_rows(run_once("auto", batch_size="auto"), run_once("one", batch_size=1))


def test_a_second_run_goes_on_where_the_first_ended(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = runner.capture_batch

    def spy(batch: Batch, *rest: Any) -> Any:
        seen.extend(sample.id for sample in batch.samples)
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", spy)
    assert len(run_once(limit=3)) == 3
    assert len(run_once()) == 10
    assert len(run_once()) == 10
    assert len(seen) == len(set(seen)) == 10
    assert_same_rows(run_once(), run_once("other"))


def test_when_memory_runs_out_the_batch_is_halved(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = runner.capture_batch

    def small_device(batch: Batch, *rest: Any) -> Any:
        sizes.append(len(batch.samples))
        if len(batch.samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 11.7 GiB")
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", small_device)
    run = run_once(batch_size=16)
    assert len(run) == 10
    assert not run.failures
    assert sizes[:3] == [8, 4, 2]
    assert sizes[-1] <= 2


@pytest.mark.exhaustive
def test_the_row_that_alone_does_not_fit_is_recorded(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner.capture_batch

    sizes = []

    def poisoned(batch: Batch, *rest: Any) -> Any:
        sizes.append(len(batch.samples))
        if any(sample.id == "question_comb_5" for sample in batch.samples):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", poisoned)
    with pytest.warns(FailedRowsWarning, match="1 row failed: "):
        run = run_once(batch_size=8)
    assert len(run) == 9
    assert sizes[-1] == 2  # the last rows go together again: the size was not to blame
    assert list(run.failures) == ["question_comb_5"]
    assert run.failures["question_comb_5"].stage == "capture"
    assert "questions.csv line 7" in run.failures["question_comb_5"].error
    assert "memory" in run.failures["question_comb_5"].error
    monkeypatch.setattr(runner, "capture_batch", original)
    again = run_once(batch_size=8)
    assert len(again) == 10
    assert not again.failures


def test_a_row_on_which_the_model_raises_harms_no_other(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner.capture_batch

    def moody(batch: Batch, *rest: Any) -> Any:
        if any(sample.id == "question_comb_0" for sample in batch.samples):
            raise ValueError("what a strange image")
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", moody)
    with pytest.warns(FailedRowsWarning, match="1 row failed: "):
        assert len(run_once()) == 9
    with pytest.warns(FailedRowsWarning, match="1 row failed: "):
        run = run_once()
    assert run.failures["question_comb_0"].attempt == 2
    assert "ValueError: what a strange image" in run.failures["question_comb_0"].error


@pytest.mark.exhaustive
def test_while_the_halves_run_the_failed_batch_is_gone(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner.capture_batch
    failed: list[weakref.ref[torch.Tensor]] = []

    def small_device(batch: Batch, *rest: Any) -> Any:
        assert not [tensor for tensor in failed if tensor() is not None]
        if len(batch.samples) > 1:
            activations = torch.zeros(100)
            failed.extend([weakref.ref(activations), weakref.ref(batch.inputs["pixel_values"])])
            raise torch.OutOfMemoryError("out of memory") from ValueError(activations)
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", small_device)
    assert len(run_once(batch_size=16)) == 10
    assert len(failed) == 2 * 3  # 8, 4 and 2 rows; afterwards one at a time


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_the_ways_of_saying_that_memory_ran_out(error: Exception) -> None:
    assert runner.is_out_of_memory(error)
    assert not runner.is_out_of_memory(RuntimeError("CUDA error: device-side assert"))


@pytest.mark.exhaustive
def test_rows_that_fail_at_the_start_do_not_keep_the_others_back(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = runner.capture_batch
    poison = {f"question_comb_{i}" for i in (0, 8, 1, 2)}  # 0 and 8 are about one image

    def moody(batch: Batch, *rest: Any) -> Any:
        if any(sample.id in poison for sample in batch.samples):
            raise ValueError("what a strange image")
        return original(batch, *rest)

    monkeypatch.setattr(runner, "capture_batch", moody)
    with pytest.raises(ValueError, match="strange"):
        run_once(batch_size=1)
    assert len(read_failures(tmp_path / "run")) == 3
    for _ in range(2):  # the second time only rows that fail are left
        with pytest.warns(FailedRowsWarning, match="4 rows failed, "):
            run = run_once(batch_size=1)
        assert len(run) == 6
        assert set(run.failures) == poison


@pytest.mark.exhaustive
def test_a_plan_that_was_overtaken_does_no_row_twice(
    table: Path, checkpoint: Path, tmp_path: Path
) -> None:
    request = Request(str(table), str(checkpoint), tmp_path / "run", spec=SPEC, batch_size=4)
    first, second = make_plan(request), make_plan(request)
    assert run_plan(first).captured == 10
    assert run_plan(second).captured == 0
    assert len(open_run(tmp_path / "run")) == 10


def test_another_folder_of_images_is_pointed_out(
    run_once: Callable[..., Run], table: Path, checkpoint: Path, tmp_path: Path
) -> None:
    run_once(limit=2)
    other = tmp_path / "other"
    other.mkdir()
    request = Request(str(table), str(checkpoint), tmp_path / "run", images=str(other), spec=SPEC)
    [note] = make_plan(request).notes
    assert str(other) in note


@pytest.mark.parametrize(
    "error", [ValueError("a bug of ours"), RuntimeError("CUDA error: device-side assert triggered")]
)
def test_an_error_on_every_row_is_a_bug_and_is_raised(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(runner, "capture_batch", broken)
    with pytest.raises(type(error), match=str(error)):
        run_once()


class StopAfter:
    """An observer that asks to stop after the first published batch."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def advance(self, **_: Any) -> None:
        self.event.set()


@pytest.mark.exhaustive
def test_a_stop_request_publishes_what_is_done(
    table: Path, checkpoint: Path, tmp_path: Path, run_once: Callable[..., Run]
) -> None:
    request = Request(str(table), str(checkpoint), tmp_path / "run", spec=SPEC, batch_size=1)
    observer = StopAfter()
    summary = run_plan(make_plan(request), observer=observer, stop=observer.event)
    assert summary.stopped
    assert 0 < summary.captured < 10
    assert len(open_run(tmp_path / "run")) == summary.captured
    assert (tmp_path / "run" / "index.h5").exists()
    assert_same_rows(run_once(), run_once("other"))


def test_strict_stops_at_the_first_failed_row(
    table: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "two_wide_0.png").unlink()
    request = Request(
        str(table), str(checkpoint), tmp_path / "run", spec=SPEC, batch_size=1, strict=True
    )
    summary = run_plan(make_plan(request))
    assert summary.failed == 1
    assert summary.stopped
    assert list(read_failures(tmp_path / "run")) == ["question_comb_1"]
    assert open_run(tmp_path / "run").ids == ("question_comb_0",)


@pytest.mark.exhaustive
def test_a_full_disk_is_one_error_and_what_was_published_is_safe(
    run_once: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writes = []
    original = RunWriter.begin

    def full_disk(self: Any, captures: Any) -> Any:
        writes.append(captures)
        if len(writes) > 2:
            raise StoreError("no space left") from OSError(errno.ENOSPC, "No space left on device")
        return original(self, captures)

    monkeypatch.setattr(RunWriter, "begin", full_disk)
    with pytest.raises(StoreError, match="no space left"):
        run_once(batch_size=2)
    assert len(open_run(tmp_path / "run")) == 4
    monkeypatch.setattr(RunWriter, "begin", original)
    assert len(run_once(batch_size=2)) == 10


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec": dataclasses.replace(SPEC, layers="0,1")}, "capture.layers"),
        ({"spec": dataclasses.replace(SPEC, positions=("image_mean",))}, "capture.positions"),
        ({"spec": dataclasses.replace(SPEC, vision_pooling="valid")}, "capture.vision_pooling"),
        ({"spec": dataclasses.replace(SPEC, max_new_tokens=7)}, "capture.max_new_tokens"),
        ({"store_dtype": "float16"}, "store_dtype"),
    ],
)
def test_a_run_made_with_other_settings_is_refused(
    run_once: Callable[..., Run], change: dict[str, Any], field: str
) -> None:
    run_once(limit=2)
    with pytest.raises(RunMismatchError, match=field):
        run_once(**change)


@pytest.mark.exhaustive
def test_rows_that_changed_are_refused(run_once: Callable[..., Run], table: Path) -> None:
    run_once()
    table.write_text(table.read_text("utf-8").replace("What is it?", "What was it?"), "utf-8")
    with pytest.raises(RunMismatchError, match=r"'question_comb_\d' \(question\)"):
        run_once()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": dataclasses.replace(SPEC, layers="99")}, "layers 0 to 7"),
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"store_dtype": "int8"}, "store_dtype"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_done(
    run_once: Callable[..., Run], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_once(**options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_not_written_into(
    run_once: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        run_once()


@pytest.mark.exhaustive
def test_half_the_disk_with_float16(run_once: Callable[..., Run]) -> None:
    full, half = run_once("full"), run_once("half", store_dtype="float16")
    name = ("query_token_representation", 4)
    np.testing.assert_allclose(half.matrix(*name), full.matrix(*name), rtol=1e-3, atol=1e-3)
    assert half.matrix(*name).dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": ("third_token",)}, "third_token"),
        ({"positions": ()}, "last_prompt_token"),
        ({"vision_pooling": "ALL"}, "all, valid"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"positions": ("answer_mean",), "max_new_tokens": 0}, "needs an answer"),
    ],
)
def test_a_spec_that_makes_no_sense_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CaptureSpec(**options)
