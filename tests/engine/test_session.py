"""A step that fails: no row is lost, none comes twice, and the answers are what they would be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
import torch

from engine.against_reference import (
    Pieces,
    answered_by_generate,
    assert_all_same,
    expected_of,
    run_session,
    submitted,
)
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.engine.decoding import scheduler
from vlmscope.engine.decoding.slots import Slots
from vlmscope.engine.decoding.step import Stepper
from vlmscope.engine.prefill import Prefilled
from vlmscope.inspection import inspect_sample
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.schema import Capture, CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=12)


@pytest.fixture(scope="module")
def expected(
    samples: Sequence[Sample], talkative_vlm: VisionLanguageModel
) -> Mapping[str, Capture]:
    return expected_of(samples, talkative_vlm, SPEC)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that the library's ``generate`` answered."""
    return answered_by_generate(monkeypatch)


@pytest.fixture
def failing_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let some decoding steps fail, counted from 0; returns how many there are slots for."""

    def fail(*, at: Sequence[int], error: Exception) -> list[int]:
        rooms: list[int] = []
        original = Stepper.step

        def step(self: Stepper, *, masked: bool) -> None:
            rooms.append(self._slots.rows)
            if len(rooms) - 1 in at:
                raise error
            original(self, masked=masked)

        monkeypatch.setattr(Stepper, "step", step)
        return rooms

    return fail


def flat(pieces: Pieces) -> list[Any]:
    return [item for piece in pieces for item in piece]


def attempt(
    session: CaptureSession, samples: Sequence[Sample], vlm: VisionLanguageModel, size: int = 2
) -> tuple[list[Any], list[Sample]]:
    """Return what a session makes of some rows, and the rows it lost."""
    found = flat(submitted(session, samples, vlm, SPEC, size)) + session.drain()
    return found, session.pop_failed()


@pytest.mark.first(1)
@pytest.mark.parametrize("at", [0, 1, 5, 9, 14, 20])
def test_what_a_failed_step_took_with_it_comes_again(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
    generated: list[str],
    at: int,
) -> None:
    """Whatever step it is: every row has either been returned or is said to be lost."""
    failing_step(at=[at], error=ValueError("a kernel that is not there\nand more"))
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 3)
    with pytest.warns(RuntimeWarning, match=r"ValueError: a kernel that is .*generate") as said:
        found, lost = attempt(session, samples, talkative_vlm)
    assert [one.category for one in said].count(RuntimeWarning) == 1
    assert session.pop_failed() == []
    assert 0 < len(lost) <= 3
    done = {item.sample.id for item in found}
    assert not done & {sample.id for sample in lost}
    assert len(found) + len(lost) == len(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        again, none = attempt(session, lost, talkative_vlm)
    assert none == []
    assert_all_same([*found, *again], expected, samples)
    assert {sample.id for sample in lost} <= set(generated)


def test_where_memory_runs_out_in_a_step_there_are_fewer_slots(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
    generated: list[str],
) -> None:
    rooms = failing_step(at=[3], error=torch.OutOfMemoryError("CUDA out of memory"))
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 6)
    found, lost = attempt(session, samples, talkative_vlm)
    assert lost
    again, none = attempt(session, lost, talkative_vlm)
    assert none == []
    assert_all_same([*found, *again], expected, samples)
    assert generated == []
    assert rooms[:4] == [6] * 4
    assert set(rooms[4:]) == {3}


@pytest.mark.exhaustive
def test_where_one_slot_is_too_many_generate_writes(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
    generated: list[str],
) -> None:
    failing_step(at=range(1000), error=torch.OutOfMemoryError("CUDA out of memory"))
    session, rows = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 4), samples[:3]

    def until_all_are_done() -> list[Any]:
        found, lost = attempt(session, rows, talkative_vlm, 1)
        while lost:
            more, lost = attempt(session, lost, talkative_vlm, 1)
            found += more
        return found

    with pytest.warns(RuntimeWarning, match="out of memory") as said:
        found = until_all_are_done()
    assert [one.category for one in said].count(RuntimeWarning) == 1
    assert_all_same(found, expected, rows)
    assert generated


def test_a_batch_that_does_not_fit_leaves_the_others_as_they_were(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
) -> None:
    """Its own rows are not kept; what was being answered goes on, what was finished is there."""
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 3)
    found = flat(submitted(session, samples[:3], talkative_vlm, SPEC, 3))
    [batch], _ = prepare(samples[3:6], talkative_vlm, resolve_spec(SPEC, talkative_vlm))

    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = talkative_vlm.layers[0].register_forward_hook(
        lambda _m, _a, out: no_memory() if out.shape[1] > 1 else None
    )
    try:
        with pytest.raises(torch.OutOfMemoryError):
            session.submit(batch)
    finally:
        handle.remove()
    found += session.submit(batch) + session.drain()
    assert session.pop_failed() == []
    assert_all_same(found, expected, samples[:6])


def test_no_room_for_the_slots_of_a_longer_prompt(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows that had to be finished before are not lost with the batch that did not fit."""
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 4)
    found = flat(submitted(session, samples[:2], talkative_vlm, SPEC, 2))
    long = Sample("long", samples[0].image, "Is there a cat, or a cup, " * 9)
    [batch], _ = prepare([long], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    with monkeypatch.context() as patch:

        def no_memory(*_: Any, **__: Any) -> Slots:
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr(scheduler, "make_slots", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            session.submit(batch)
    found += session.drain()
    assert session.pop_failed() == []
    assert_all_same(found, expected, samples[:2])


def test_a_row_is_lost_once_where_its_slot_cannot_be_given_away(
    samples: Sequence[Sample], talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Slots, "release", no_memory)
    session, rows = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 5), samples[:5]
    found, lost = attempt(session, rows, talkative_vlm, 5)
    ids = [item.sample.id for item in found] + [sample.id for sample in lost]
    assert sorted(ids) == sorted(sample.id for sample in rows)


@pytest.mark.exhaustive
def test_what_was_finished_before_a_step_of_the_drain_failed_is_there(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
) -> None:
    """All steps of a single batch are the drain's, and its answers end one after the other."""
    rows = samples[:8]
    lengths = [len(expected[row.id].answer_token_ids) for row in rows]  # type: ignore[arg-type]
    at = max(lengths) - 2  # the last step of the longest answer; the shortest has long ended
    assert min(lengths) < max(lengths)
    failing_step(at=[at], error=torch.OutOfMemoryError("CUDA out of memory"))
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 8)
    found, lost = attempt(session, rows, talkative_vlm, 8)
    assert len(lost) == lengths.count(max(lengths))
    again, _ = attempt(session, lost, talkative_vlm, 8)
    assert_all_same([*found, *again], expected, rows)


def test_slots_that_a_failed_step_dropped_count_as_freed(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_step: Callable[..., list[int]],
) -> None:
    """So the row that had no memory beside them is tried again."""
    session, rows = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 4), samples[:2]
    assert not flat(submitted(session, rows, talkative_vlm, SPEC, 2))
    failing_step(at=[0], error=torch.OutOfMemoryError("CUDA out of memory"))
    assert session.forget(slots=True)
    assert session.pop_failed() == rows
    assert not session.forget(slots=True)


@pytest.mark.first(1)
@pytest.mark.parametrize("at", [1, 6])
def test_an_answer_that_cannot_be_decoded_takes_no_other_with_it(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    """Nor are those done again that arrived with it and were decoded before."""
    rows, tried = samples[:6], count(1)
    lengths = [len(expected[row.id].answer_token_ids) for row in rows]  # type: ignore[arg-type]
    assert lengths.count(max(lengths)) > 1  # so the last of all arrives with another
    original = talkative_vlm.processor.decode

    def decode(*taken: Any, **options: Any) -> str:
        if next(tried) == at:
            raise ValueError("what strange tokens")
        return str(original(*taken, **options))

    monkeypatch.setattr(talkative_vlm.processor, "decode", decode)
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 6)
    with pytest.warns(RuntimeWarning, match="strange tokens"):
        found, lost = attempt(session, rows, talkative_vlm, 6)
    again, _ = attempt(session, lost, talkative_vlm, 6)
    assert_all_same([*found, *again], expected, rows)


def test_prompts_alone_take_no_steps(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_step: Callable[..., list[int]],
    generated: list[str],
) -> None:
    steps = failing_step(at=(), error=ValueError())
    pieces = run_session(samples[:4], talkative_vlm, PROMPT, rows=2, size=2)
    assert [len(piece) for piece in pieces] == [2, 2, 0]  # a CPU leaves nothing on its way
    assert steps == generated == []


PROMPT = CaptureSpec(max_new_tokens=0)


@pytest.fixture
def failing_copy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the copy of a row's tensors to the host fail, so many times."""
    original = Prefilled.capture

    def fail(id_: str, error: BaseException, times: int = 1000) -> None:
        left = [times]

        def copied(self: Prefilled) -> Capture:
            if self.sample.id == id_ and left[0]:
                left[0] -= 1
                raise error
            return original(self)

        monkeypatch.setattr(Prefilled, "capture", copied)

    return fail


def prompts(vlm: VisionLanguageModel) -> CaptureSession:
    """A session that copies the tensors of a batch during the next one, as on a GPU."""
    session = CaptureSession(vlm, resolve_spec(PROMPT, vlm), 2)
    session._copies_later = True
    return session


@pytest.mark.parametrize("error", [MemoryError(), ValueError("what strange numbers")], ids=repr)
def test_a_copy_that_fails_is_an_error_of_its_own_row(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_copy: Callable[..., None],
    error: Exception,
) -> None:
    failing_copy(samples[0].id, error)
    session = prompts(talkative_vlm)
    found = flat(submitted(session, samples[:4], talkative_vlm, PROMPT, 2))  # nothing is raised
    found += session.drain()
    lost = session.pop_failed()
    assert [sample.id for sample in lost] == [samples[0].id]
    assert_all_same(found, expected_of(samples[1:4], talkative_vlm, PROMPT), samples[1:4])
    with pytest.raises(type(error)):  # when it is submitted again, not for ever
        submitted(session, lost, talkative_vlm, PROMPT, 2)
    assert (session.drain(), session.pop_failed()) == ([], [])


def test_a_copy_that_fails_once_is_made_again(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_copy: Callable[..., None],
) -> None:
    failing_copy(samples[1].id, MemoryError(), times=1)
    session = prompts(talkative_vlm)
    found = flat(submitted(session, samples[:4], talkative_vlm, PROMPT, 2)) + session.drain()
    found += flat(submitted(session, session.pop_failed(), talkative_vlm, PROMPT, 2))
    assert_all_same(found, expected_of(samples[:4], talkative_vlm, PROMPT), samples[:4])


def test_a_dead_device_is_raised_whosever_copy_finds_it(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_copy: Callable[..., None],
) -> None:
    failing_copy(samples[0].id, RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        submitted(prompts(talkative_vlm), samples[:4], talkative_vlm, PROMPT, 2)


def test_of_a_batch_whose_own_copy_fails_nothing_is_returned(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    failing_copy: Callable[..., None],
) -> None:
    """It is run again in pieces: a row that was returned besides would come twice."""
    failing_copy(samples[1].id, ValueError("what strange numbers"))
    session = CaptureSession(talkative_vlm, resolve_spec(PROMPT, talkative_vlm), 3)
    with pytest.raises(ValueError, match="strange"):
        submitted(session, samples[:3], talkative_vlm, PROMPT, 3)
    assert (session.drain(), session.pop_failed()) == ([], [])


def test_capture_returns_every_row_though_a_step_fails(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
) -> None:
    """The public function has nobody behind it that would ask for the lost rows."""
    failing_step(at=[2], error=ValueError("a kernel that is not there"))
    with pytest.warns(RuntimeWarning, match="generate"):
        found = list(capture(samples, talkative_vlm, SPEC, batch_size=4))
    assert [item.sample.id for item in found] == [sample.id for sample in samples]
    assert_all_same(found, expected, samples)


def test_inspect_returns_its_row_though_a_step_fails(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    failing_step: Callable[..., list[int]],
) -> None:
    failing_step(at=[0], error=ValueError("a kernel that is not there"))
    with pytest.warns(RuntimeWarning, match="generate"):
        found = inspect_sample(samples[0], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    assert_all_same([found.capture], expected, samples[:1])
