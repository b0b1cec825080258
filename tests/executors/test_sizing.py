"""The size of a prefill and the number of slots, for each place a model can be in."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
import torch

from vlmscope.executors.batching import (
    ANSWERED_ELSEWHERE,
    ANSWERED_ON_GPU,
    LARGEST_BESIDE_ANSWERS,
    LARGEST_ELSEWHERE,
    LARGEST_GENERATING,
    LARGEST_ON_GPU,
    START_ON_GPU,
    BatchSizer,
    rows_at_once,
    sizer_for,
)
from vlmscope.model import VisionLanguageModel

Wanted = int | Literal["auto"]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, vlm: VisionLanguageModel) -> VisionLanguageModel:
    """The model, as if it were on a GPU: sizes ask for nothing else."""
    monkeypatch.setattr(VisionLanguageModel, "cuda_devices", (torch.device("cuda", 0),))
    return vlm


def generating(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model as one whose answers are not written step by step."""
    return dataclasses.replace(vlm, description={"title": "Mine"})


def largest(sizer: BatchSizer) -> int:
    """Return where a size ends that has all the memory it wants."""
    while not sizer.settled:
        sizer.learn(rows=sizer.size)
    return sizer.size


@pytest.mark.parametrize(
    ("wanted", "answers", "size"),
    [(16, True, 8), (7, True, 3), (2, True, 1), (1, True, 1), (16, False, 16), (1, False, 1)],
)
def test_on_a_cpu_half_of_the_slots_are_filled_at_once(
    vlm: VisionLanguageModel, wanted: Wanted, answers: bool, size: int
) -> None:
    sizer = sizer_for(vlm, wanted, answers=answers)
    assert sizer.size == size
    assert sizer.settled
    assert rows_at_once(vlm, wanted) == wanted


@pytest.mark.parametrize(
    ("wanted", "answers", "size"), [(64, True, 16), (6, True, 1), (3, True, 1), (64, False, 64)]
)
def test_on_a_gpu_it_is_a_quarter(
    on_gpu: VisionLanguageModel, wanted: Wanted, answers: bool, size: int
) -> None:
    assert sizer_for(on_gpu, wanted, answers=answers).size == size
    assert rows_at_once(on_gpu, wanted) == wanted


def test_where_generate_writes_a_batch_is_as_large_as_was_asked_for(
    vlm: VisionLanguageModel,
) -> None:
    assert sizer_for(generating(vlm), 16, answers=True).size == 16


def test_the_largest_of_auto(vlm: VisionLanguageModel) -> None:
    for answers in (False, True):
        sizer = sizer_for(vlm, "auto", answers=answers)
        assert sizer.size == 1
        assert largest(sizer) == LARGEST_ELSEWHERE
    assert largest(sizer_for(generating(vlm), "auto", answers=True)) == LARGEST_ELSEWHERE
    assert rows_at_once(vlm, "auto") == ANSWERED_ELSEWHERE


def test_the_largest_of_auto_on_a_gpu(on_gpu: VisionLanguageModel) -> None:
    assert largest(sizer_for(on_gpu, "auto")) == LARGEST_ON_GPU
    assert largest(sizer_for(on_gpu, "auto", answers=True)) == LARGEST_BESIDE_ANSWERS
    assert largest(sizer_for(generating(on_gpu), "auto", answers=True)) == LARGEST_GENERATING
    assert largest(sizer_for(generating(on_gpu), "auto")) == LARGEST_ON_GPU
    assert rows_at_once(on_gpu, "auto") == ANSWERED_ON_GPU


@pytest.mark.parametrize("wanted", [16, "auto"])
def test_a_model_that_takes_one_question_at_a_time(vlm: VisionLanguageModel, wanted: Any) -> None:
    alone = dataclasses.replace(vlm, quantization="8bit")
    sizer = sizer_for(alone, wanted, answers=True)
    assert (sizer.size, sizer.settled) == (1, True)


def test_the_slots_take_what_prefills_bring(vlm: VisionLanguageModel) -> None:
    """A prefill never has more rows than there are slots."""
    for wanted in (*range(1, 40), "auto"):
        sizer = sizer_for(vlm, wanted, answers=True)  # type: ignore[arg-type]
        assert largest(sizer) <= rows_at_once(vlm, wanted)  # type: ignore[arg-type]


def test_on_a_gpu_auto_begins_with_what_the_encoder_takes_at_once(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not sizer_for(vlm, "auto").worth_preparing  # one row, to learn from
    monkeypatch.setattr(VisionLanguageModel, "cuda_devices", (torch.device("cuda", 0),))
    sizer = sizer_for(vlm, "auto")
    assert sizer.size == START_ON_GPU
    assert sizer.worth_preparing
    assert not sizer.settled
    sizer.shrink(START_ON_GPU)
    assert (sizer.size, sizer.settled, sizer.worth_preparing) == (START_ON_GPU // 2, True, True)
