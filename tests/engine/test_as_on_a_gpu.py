"""What only a GPU does, done on a CPU: rows that go along to round a graph up, and flags seen late.

A graph is recorded for a round number of rows, and the host looks at the flags of a step when the
next one is under way. So rows take part in steps that are none of theirs: before they have begun,
and after they have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from engine.against_reference import (
    assert_all_same,
    assert_same_samples,
    each_once,
    expected_of,
    run_session,
)
from engine.recorded_steps import with_recorded_steps
from vlmscope.engine.decoding.step import Stepper
from vlmscope.model import VisionLanguageModel
from vlmscope.positions import REPRESENTATIONS
from vlmscope.schema import Capture, CaptureSpec, Sample


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each graph that was recorded."""
    return with_recorded_steps(monkeypatch)


@pytest.mark.first(1)
@pytest.mark.parametrize("slots", [3, 8])
@pytest.mark.parametrize(
    "spec",
    [
        CaptureSpec(max_new_tokens=12),
        CaptureSpec(layers="0,3,n-1", positions=tuple(REPRESENTATIONS), max_new_tokens=5),
        CaptureSpec(max_new_tokens=12, signals="p_true"),
    ],
    ids=["answers", "every position", "p_true"],
)
def test_rows_in_steps_that_are_none_of_theirs_are_not_changed(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    recorded: list[int],
    spec: CaptureSpec,
    slots: int,
) -> None:
    config = talkative_vlm.model.generation_config
    answered = expected_of(samples, talkative_vlm, CaptureSpec(max_new_tokens=12))
    firsts = {int(item.answer_token_ids[0]) for item in answered.values()}  # type: ignore[index]
    assert not firsts & set(config.eos_token_id), "an empty answer has no position"
    expected = expected_of(samples, talkative_vlm, spec)
    pieces = run_session(samples, talkative_vlm, spec, rows=slots, size=2)
    assert_all_same([item for piece in pieces for item in piece], expected, samples)
    assert recorded
    assert any(rows % 4 == 0 for rows in recorded) == (slots == 8)


SAMPLED = CaptureSpec(layers="0,n-1", max_new_tokens=6, samples=2)


@pytest.fixture(scope="module")
def drawn(samples: Sequence[Sample], talkative_vlm: VisionLanguageModel) -> Mapping[str, Capture]:
    """Sampled answers as on a CPU."""
    pieces = run_session(samples, talkative_vlm, SAMPLED, rows=10, size=10)
    return each_once([item for piece in pieces for item in piece], samples)


class WithoutHost(TorchDispatchMode):
    """Raises an error where an operation would make the host wait for a device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(func)
        assert not any(each in name for each in ("_local_scalar_dense", "nonzero", "is_nonzero"))
        return func(*args, **(kwargs or {}))


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("slots", [2, 10])
def test_samples_are_drawn_without_the_host(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    drawn: Mapping[str, Capture],
    recorded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    slots: int,
) -> None:
    """A step can be a graph, and rows that go along in it change no other's tokens."""
    original = Stepper._advance

    def alone(self: Stepper, *args: Any) -> None:
        with WithoutHost():
            original(self, *args)

    monkeypatch.setattr(Stepper, "_advance", alone)
    pieces = run_session(samples, talkative_vlm, SAMPLED, rows=slots, size=2)
    found = each_once([item for piece in pieces for item in piece], samples)
    for id_, item in found.items():
        assert_same_samples(item, drawn[id_])
        assert item.answer == drawn[id_].answer
    assert recorded
