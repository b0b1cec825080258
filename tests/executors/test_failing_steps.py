"""A run in which decoding steps fail holds the rows of one in which none did, each once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmscope.engine import CaptureSession, session
from vlmscope.engine.decoding.step import Stepper
from vlmscope.engine.prefill import DeviceBatch, Prefilled
from vlmscope.executors import Request, Summary, make_plan, plan, run_plan
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.store import Run, open_run, read_failures

SPEC = CaptureSpec(
    layers="0,4",
    positions=("last_prompt_token", "first_answer_token", "answer_mean"),
    max_new_tokens=12,
)
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory")
BROKEN = ValueError("a kernel that is not there")


@pytest.fixture(scope="module", autouse=True)
def loaded(talkative_vlm: VisionLanguageModel) -> Iterator[None]:
    """Plans share the session's model instead of loading it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "load_with", lambda *_, **__: talkative_vlm)
        yield


@pytest.fixture(scope="module")
def questions(samples: Sequence[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("failing") / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_name", "question"])
        for sample in samples:
            sample.image.save(path.parent / sample.image_id)  # type: ignore[union-attr]
            writer.writerow([sample.id, sample.image_id, sample.question])
    return path


def run(questions: Path, out: Path) -> tuple[Summary, Run]:
    """Run it with four slots, two of them filled at a time."""
    request = Request(str(questions), "model", out, spec=SPEC, batch_size=4)
    return run_plan(make_plan(request)), open_run(out)


@pytest.fixture(scope="module")
def undisturbed(questions: Path) -> Run:
    return run(questions, questions.parent / "undisturbed")[1]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let some decoding steps fail, counted from 0."""

    def fail(at: Sequence[int], error: Exception) -> None:
        count, original = [0], Stepper.step

        def step(self: Stepper, *, masked: bool) -> None:
            count[0] += 1
            if count[0] - 1 in at:
                raise error
            original(self, masked=masked)

        monkeypatch.setattr(Stepper, "step", step)

    return fail


def assert_same_runs(found: tuple[Summary, Run], expected: Run) -> None:
    summary, rows = found
    assert not summary.stopped
    assert sorted(rows.ids) == sorted(expected.ids)
    assert summary.captured == len(rows.ids) == len(set(rows.ids))
    for id_ in expected.ids:
        one, other = rows[id_], expected[id_]
        np.testing.assert_array_equal(one.answer_token_ids, other.answer_token_ids)
        assert (one.answer, one.boundaries) == (other.answer, other.boundaries)
        for name, vector in other.vectors.items():
            np.testing.assert_allclose(one.vectors[name], vector, rtol=1e-4, atol=1e-5)


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("at", "error"),
    [
        ([0], NO_MEMORY),
        ([7, 8], NO_MEMORY),
        ([19], NO_MEMORY),
        (range(1000), NO_MEMORY),
        ([0], BROKEN),
        ([15], BROKEN),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:a decoding step failed:RuntimeWarning")
def test_no_row_is_lost_and_none_comes_twice(
    questions: Path,
    tmp_path: Path,
    undisturbed: Run,
    failing: Callable[..., None],
    at: Sequence[int],
    error: Exception,
) -> None:
    failing(at, error)
    assert_same_runs(run(questions, tmp_path / "run"), undisturbed)
    # Without an answer there is nothing at its positions, disturbed or not.
    failed = [read_failures(out).keys() for out in (tmp_path / "run", undisturbed.path)]
    assert failed[0] == failed[1]


@pytest.mark.exhaustive
def test_the_user_is_told_once(
    questions: Path, tmp_path: Path, failing: Callable[..., None]
) -> None:
    failing([3], BROKEN)
    with pytest.warns(RuntimeWarning, match="generate decodes the answers from now on") as said:
        run(questions, tmp_path / "run")
    assert len(said) == 1


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_where_memory_runs_out_in_a_prefill_the_rows_in_the_slots_go_on(
    questions: Path, tmp_path: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Those that were finished to make room for the batch are written too."""
    count, original = [0], session.run

    def small_device(device_batch: DeviceBatch, *rest: object, **options: object) -> object:
        count[0] += 1
        if count[0] - 1 == at:
            raise NO_MEMORY
        return original(device_batch, *rest, **options)

    monkeypatch.setattr(session, "run", small_device)
    assert_same_runs(run(questions, tmp_path / "run"), undisturbed)


def test_a_row_that_is_never_copied_to_the_host_is_the_one_that_fails(
    questions: Path, samples: Sequence[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a batch is copied while the next one is in the model."""
    bad, init, copied = samples[1].id, CaptureSession.__init__, Prefilled.capture

    def as_on_a_gpu(self: CaptureSession, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        self._copies_later = True

    def copy(self: Prefilled) -> Capture:
        if self.sample.id == bad:
            raise ValueError("what strange numbers")
        return copied(self)

    monkeypatch.setattr(CaptureSession, "__init__", as_on_a_gpu)
    monkeypatch.setattr(Prefilled, "capture", copy)
    spec = CaptureSpec(layers="0,4", max_new_tokens=0)
    request = Request(str(questions), "model", tmp_path / "run", spec=spec, batch_size=2)
    summary = run_plan(make_plan(request))
    assert (summary.captured, summary.failed) == (len(samples) - 1, 1)
    assert set(open_run(tmp_path / "run").ids) == {sample.id for sample in samples} - {bad}
    assert list(read_failures(tmp_path / "run")) == [bad]
