"""Answers written in slots: who shares them, comes late or ends early changes nobody's answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from engine.against_reference import (
    assert_all_same,
    assert_same,
    each_once,
    expected_of,
    run_session,
)
from material import QUESTIONS, make_image
from vlmscope.engine import CaptureSession, prepare
from vlmscope.engine.decoding import scheduler
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.positions import ANSWER_POSITIONS, REPRESENTATIONS
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=12)


@pytest.fixture(scope="module")
def eleven(samples: Sequence[Sample]) -> list[Sample]:
    return [*samples, Sample("one more", make_image("two_tall", 5), QUESTIONS[3])]


@pytest.fixture(scope="module")
def expected(eleven: Sequence[Sample], talkative_vlm: VisionLanguageModel) -> Mapping[str, Capture]:
    found = expected_of(eleven, talkative_vlm, SPEC)
    assert len({len(item.answer_token_ids) for item in found.values()}) > 3  # type: ignore[arg-type]
    return found


@pytest.fixture(autouse=True)
def _stepwise_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every answer must come out of the slots."""

    def refused(*_: Any) -> Any:
        raise AssertionError("generate was to write an answer")

    monkeypatch.setattr(CaptureSession, "_generate", refused)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Length of the slots, each time that some are made."""
    made: list[int] = []
    original = scheduler.make_slots

    def spy(*layers: Any, **options: Any) -> Any:
        made.append(options["length"])
        return original(*layers, **options)

    monkeypatch.setattr(scheduler, "make_slots", spy)
    return made


def test_more_rows_than_slots(
    eleven: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    lengths: list[int],
) -> None:
    *early, late = run_session(eleven, talkative_vlm, SPEC, rows=3, size=2)
    assert_all_same([item for piece in (*early, late) for item in piece], expected, eleven)
    assert sum(map(len, early)) >= 11 - 3  # what is not in a slot any more has been returned
    assert len(lengths) == 1


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(("rows", "size"), [(4, 3), (1, 1), (4, 1), (2, 5), (11, 4)])
def test_it_does_not_matter_who_shares_the_slots(
    eleven: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    rows: int,
    size: int,
) -> None:
    mixed = random.Random(rows * 10 + size).sample(eleven, len(eleven))  # noqa: S311
    pieces = run_session(mixed, talkative_vlm, SPEC, rows=rows, size=size)
    assert_all_same([item for piece in pieces for item in piece], expected, eleven)


@pytest.mark.exhaustive
def test_never_more_rows_than_slots_go_through_a_step(
    eleven: Sequence[Sample], talkative_vlm: VisionLanguageModel
) -> None:
    seen: list[int] = []
    handle = talkative_vlm.layers[0].register_forward_hook(
        lambda _m, _a, out: seen.append(len(out)) if out.shape[1] == 1 else None
    )
    try:
        run_session(eleven, talkative_vlm, SPEC, rows=3, size=2)
    finally:
        handle.remove()
    assert max(seen) == 3
    assert min(seen) < 3  # rows that have ended take no part


def test_a_longer_prompt_than_the_slots_have_room_for_comes_later(
    samples: Sequence[Sample], talkative_vlm: VisionLanguageModel, lengths: list[int]
) -> None:
    long = Sample("long", make_image("one"), "Is there a cat, or a cup, " * 9)
    rows = [*samples[:3], long, samples[3]]
    pieces = run_session(rows, talkative_vlm, SPEC, rows=4, size=1)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows, talkative_vlm, SPEC), rows)
    assert lengths == [64, 128]
    assert each_once(found, rows)["long"].num_prompt_tokens + 12 > lengths[0]


@pytest.mark.exhaustive
def test_an_answer_that_just_fits_into_the_slots(
    vlm: VisionLanguageModel, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last place of every slot, and one token more than that."""
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [100_000])
    sample = Sample("q", make_image("one"), QUESTIONS[0])
    prompt = reference(sample, vlm, CaptureSpec(max_new_tokens=0)).num_prompt_tokens
    for extra in (0, 1):
        spec = CaptureSpec(layers="0", max_new_tokens=64 - prompt - 1 + extra)
        [[], [item]] = run_session([sample], vlm, spec, rows=1, size=1)
        assert_same(item, reference(sample, vlm, spec))
    assert lengths == [64, 128]


@pytest.mark.exhaustive
def test_rows_about_two_images_after_rows_about_one(
    samples: Sequence[Sample], talkative_vlm: VisionLanguageModel, lengths: list[int]
) -> None:
    pair = (make_image("one"), make_image("four"))
    two = [Sample(f"two {i}", pair, question) for i, question in enumerate(QUESTIONS[:3])]
    rows = [*samples[:3], *two, samples[3]]
    pieces = run_session(rows, talkative_vlm, SPEC, rows=4, size=2)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows, talkative_vlm, SPEC), rows)
    assert len(lengths) == 2  # keys of two images need longer slots, which do for one too


@pytest.mark.exhaustive
def test_rows_whose_tiles_are_all_used_among_others(talkative_vlm: VisionLanguageModel) -> None:
    """A step goes without the mask of the tiles only while no row in it needs it."""
    names = ["four", "four", "one", "four", "four", "two_wide"]
    rows = [
        Sample(str(i), make_image(name, i), QUESTIONS[i % len(QUESTIONS)])
        for i, name in enumerate(names)
    ]
    pieces = run_session(rows, talkative_vlm, SPEC, rows=3, size=1)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows, talkative_vlm, SPEC), rows)


@pytest.mark.first(1)
@pytest.mark.parametrize("positions", [("last_prompt_token",), tuple(REPRESENTATIONS)], ids=len)
def test_one_token(
    samples: Sequence[Sample], vlm: VisionLanguageModel, positions: tuple[str, ...]
) -> None:
    spec = CaptureSpec(layers="0,n-1", positions=positions, max_new_tokens=1)
    pieces = run_session(samples[:5], vlm, spec, rows=3, size=2)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(samples[:5], vlm, spec), samples[:5])


@pytest.mark.exhaustive
def test_every_position_with_rows_that_come_and_go(
    eleven: Sequence[Sample], talkative_vlm: VisionLanguageModel, expected: Mapping[str, Capture]
) -> None:
    """The states of an answer are its own row's, whatever slot that has moved to."""
    answered = [s for s in eleven if len(expected[s.id].answer_token_ids) > 1]  # type: ignore[arg-type]
    answered = answered[:7]
    assert len(answered) == 7
    spec = CaptureSpec(layers="0,3,n-1", positions=tuple(REPRESENTATIONS), max_new_tokens=12)
    assert set(ANSWER_POSITIONS) < set(spec.positions)
    pieces = run_session(answered, talkative_vlm, spec, rows=3, size=2)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(answered, talkative_vlm, spec), answered)


@pytest.mark.exhaustive
@pytest.mark.parametrize("limit", [1, 2, 12])
def test_answers_that_end_at_their_first_token(
    samples: Sequence[Sample], vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    rows, spec = samples[:5], CaptureSpec(max_new_tokens=limit)
    firsts = {s.id: int(reference(s, vlm, SPEC).first_token_ids[0]) for s in rows}
    ends = sorted(set(firsts.values()))[::2]
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [*config.eos_token_id, *ends])
    pieces = run_session(rows, vlm, spec, rows=2, size=2)
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows, vlm, spec), rows)
    ended = {id_ for id_, item in each_once(found, rows).items() if item.finish_reason == "stop"}
    assert {id_ for id_, first in firsts.items() if first in ends} <= ended


def test_no_step_is_taken_for_answers_that_have_ended(
    samples: Sequence[Sample], vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one for each batch, which goes ahead before the host has looked."""
    steps: list[int] = []
    handle = vlm.layers[0].register_forward_hook(
        lambda _m, _a, out: steps.append(len(out)) if out.shape[1] == 1 else None
    )
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(640)))
    try:
        run_session(samples[:4], vlm, SPEC, rows=2, size=2)
    finally:
        handle.remove()
    assert steps == [2, 2]


def test_a_model_without_an_end_of_turn_token(
    samples: Sequence[Sample], vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", None)
    [first, last] = run_session(samples[:2], vlm, CaptureSpec(max_new_tokens=4), rows=2, size=2)
    assert not first
    assert [(len(item.answer_token_ids), item.finish_reason) for item in last] == [  # type: ignore[union-attr, arg-type]
        (4, "length")
    ] * 2


@pytest.mark.exhaustive
def test_a_session_goes_on_after_a_drain(
    eleven: Sequence[Sample], talkative_vlm: VisionLanguageModel, expected: Mapping[str, Capture]
) -> None:
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 3)
    found = []
    for rows in (eleven[:4], eleven[4:]):
        for start in range(0, len(rows), 2):
            found += run_piece(session, rows[start : start + 2], talkative_vlm)
        found += session.drain()
        assert not session.drain()
    assert_all_same(found, expected, eleven)


def run_piece(session: CaptureSession, rows: Sequence[Sample], vlm: VisionLanguageModel) -> Any:
    [batch], _ = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    return session.submit(batch)


@pytest.mark.exhaustive
def test_where_memory_is_short_there_are_fewer_slots(
    eleven: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    original = scheduler.make_slots

    def small_device(*layers: Any, **options: Any) -> Any:
        asked.append(options["rows"])
        if options["rows"] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*layers, **options)

    monkeypatch.setattr(scheduler, "make_slots", small_device)
    pieces = run_session(eleven, talkative_vlm, SPEC, rows=8, size=2)
    assert_all_same([item for piece in pieces for item in piece], expected, eleven)
    assert asked == [8, 4, 2]


@pytest.mark.first(1)
@pytest.mark.parametrize("slots", [2, 1])
def test_a_row_of_nan_leaves_nothing_behind_in_its_slot(
    samples: Sequence[Sample],
    talkative_vlm: VisionLanguageModel,
    expected: Mapping[str, Capture],
    slots: int,
) -> None:
    """A mask does not keep a NaN away: nought times NaN is NaN."""
    bad = Sample("bad", samples[0].image, "Is there a cat, or a cup, " * 3)
    rows, current = [bad, *samples[:5]], [""]

    def poison(_module: Any, _args: Any, output: Any) -> Any:
        return output * float("nan") if current[0] == "bad" and output.shape[1] > 1 else None

    session, found = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), slots), []
    handle = talkative_vlm.layers[0].register_forward_hook(poison)
    try:
        for row in rows:
            current[0] = row.id
            [batch], _ = prepare([row], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
            found += session.submit(batch)
        found += session.drain()
    finally:
        handle.remove()
    results = each_once(found, rows)
    assert "NaN" in results.pop("bad").error
    for id_, item in results.items():
        assert_same(item, expected[id_])
