"""P(True) from the slots that hold the keys of a row's prompt: the numbers of a complete prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine import test_lengths
from engine.against_reference import (
    assert_same_samples,
    each_once,
    known_reference,
    note_complete_prompts,
    run_session,
    submitted,
)
from families.conformance import INTERLEAVED, NONE, ONE_IMAGE, SEVERAL, make_image
from vlmscope.engine import CaptureSession, batch, capture, prepare
from vlmscope.engine.decoding import asking, scheduler
from vlmscope.engine.decoding.asking import Continuation, OwnPrompt, SlotAsker
from vlmscope.engine.decoding.scheduler import Decoding
from vlmscope.engine.decoding.slots import Slots
from vlmscope.engine.decoding.step import Stepper
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.signals import P_TRUE, P_TRUE_MASS

SPEC = CaptureSpec(layers="0", max_new_tokens=6, signals="p_true")

ROWS = (
    *ONE_IMAGE,
    SEVERAL[1],
    INTERLEAVED[0],
    Sample("long", ONE_IMAGE[3].images, "Is there a cat in the image, or a cup? " * 3),
)
"""Several sizes, several images, images between texts, and one that is repeated."""

Load = Callable[[str], VisionLanguageModel]


@pytest.fixture
def qwen(models: Load, monkeypatch: pytest.MonkeyPatch) -> VisionLanguageModel:
    """Answers end at different lengths, the first after one token."""
    vlm = models("qwen2_5_vl")
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(2, 3000, 5)))
    return vlm


@pytest.fixture
def asked_later(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows whose complete prompt was run, with the images."""
    return note_complete_prompts(monkeypatch)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that were asked about together from slots."""
    seen: list[int] = []
    original = asking.run_ends

    def spy(vlm: VisionLanguageModel, ids: torch.Tensor, *more: Any) -> None:
        seen.append(len(ids))
        original(vlm, ids, *more)

    monkeypatch.setattr(asking, "run_ends", spy)
    return seen


def run(
    rows: Sequence[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec = SPEC,
    *,
    slots: int = 4,
    size: int = 2,
) -> dict[str, Any]:
    pieces = run_session(rows, vlm, spec, rows=slots, size=size)
    return each_once([item for piece in pieces for item in piece], rows)


def worst(found: Iterable[Any], vlm: VisionLanguageModel, spec: CaptureSpec = SPEC) -> float:
    """Return the largest difference from the slow method; NaN is none."""
    errors = []
    for item in found:
        assert isinstance(item, Capture), item
        expected = known_reference(item.sample, vlm, spec)
        assert item.answer == expected.answer
        for name in (P_TRUE, P_TRUE_MASS):
            assert item.signals[name].shape == ()
            assert item.signals[name].dtype == np.float32
            assert np.isfinite(expected.signals[name])
            errors.append(abs(float(item.signals[name]) - float(expected.signals[name])))
    return float(np.max(errors))


@pytest.mark.first(3)
@pytest.mark.parametrize(
    ("family", "slots", "size"),
    [
        ("qwen2_5_vl", 3, 2), ("mllama", 4, 3), ("qwen2_5_vl", 16, 7), ("qwen2_5_vl", 1, 1),
        ("mllama", 16, 7), ("mllama", 2, 1), ("llava_onevision", 3, 2),
    ],
)  # fmt: skip
def test_every_row_is_asked_about_from_its_slot(
    family: str,
    slots: int,
    size: int,
    models: Load,
    asked_later: list[str],
    groups: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches with padding, more rows than slots, answers that end at different lengths."""
    vlm = models(family)
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(2, 3000, 5)))
    rows = ROWS if family != "llava_onevision" else (*ONE_IMAGE, *SEVERAL)
    found = run(rows, vlm, slots=slots, size=size)
    assert worst(found.values(), vlm) < 3e-5
    assert not asked_later
    assert sum(groups) == len(rows)
    assert max(groups) > 1 or slots == 1
    assert len({len(item.answer_token_ids) for item in found.values()}) > 1


def test_questions_that_share_the_beginnings_of_their_prompts(
    qwen: VisionLanguageModel, asked_later: list[str]
) -> None:
    """In a slot there is padding within such a prompt."""
    images = make_image(70, 40, 1), make_image(90, 66, 2)
    texts = ("Is it lit?", "What is it, and is it a cat?")
    rows = [Sample(f"{i}_{q}", image, q) for q in texts for i, image in enumerate(images)]
    [shared], _ = prepare(rows, qwen, resolve_spec(SPEC, qwen))
    assert shared.prefix is not None
    assert worst(run(rows, qwen, slots=4, size=4).values(), qwen) < 3e-5
    assert not asked_later


def test_questions_without_an_image(qwen: VisionLanguageModel, asked_later: list[str]) -> None:
    assert worst(run([*NONE, ONE_IMAGE[0]], qwen).values(), qwen) < 3e-5
    assert not asked_later


def test_answers_that_end_at_once(qwen: VisionLanguageModel, groups: list[int]) -> None:
    """All rows wait for the model at the same time, more than are asked about together."""
    spec = dataclasses.replace(SPEC, max_new_tokens=1)
    rows = [dataclasses.replace(ONE_IMAGE[i % 4], id=f"{i}") for i in range(18)]
    found = run(rows, qwen, spec, slots=18, size=18)
    assert groups == [16, 2]
    for i in (1, 2):
        assert worst([found[f"{i}"]], qwen, spec) < 3e-5
        for other in range(i + 4, 18, 4):
            for name in (P_TRUE, P_TRUE_MASS):
                np.testing.assert_allclose(
                    found[f"{other}"].signals[name], found[f"{i}"].signals[name], atol=3e-5
                )


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of answers, and replies, are seen a step later, as on a GPU."""
    original = Decoding.__init__

    def init(self: Decoding, *args: Any) -> None:
        original(self, *args)
        self._lag = 1

    monkeypatch.setattr(Decoding, "__init__", init)


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("family", "timing"), [("qwen2_5_vl", "late"), ("mllama", "late"), ("mllama", None)]
)
def test_with_sampled_answers(
    family: str,
    timing: str | None,
    models: Load,
    asked_later: list[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Several slots for each question; the greedy one's is read."""
    vlm = models(family)
    ends = list(range(2, 3000, 5))
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", ends)
    if timing:
        request.getfixturevalue(timing)
    spec = dataclasses.replace(SPEC, samples=2, temperature=1.5)
    found = run(ROWS[:3], vlm, spec, slots=2, size=2)
    for item in found.values():
        given = [answer.token_ids for answer in item.samples]
        expected = reference(item.sample, vlm, spec, sample_token_ids=given)
        assert_same_samples(item, expected)
        for name in (P_TRUE, P_TRUE_MASS):
            np.testing.assert_allclose(item.signals[name], expected.signals[name], atol=3e-5)
    assert not asked_later


@dataclasses.dataclass
class Work:
    """What was computed."""

    prepared: int = 0
    """Images that were prepared."""
    encoded: int = 0
    """Inputs of the vision encoder: patches."""
    tokens: int = 0
    """Tokens of the decoder, with padding."""


@pytest.fixture
def work(qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    done = Work()
    original = batch.encode

    def encode(processor: Any, texts: Any, images: Any, *more: Any) -> Any:
        done.prepared += sum(map(len, images))
        return original(processor, texts, images, *more)

    def encoded(_module: nn.Module, args: Any, _output: Any) -> None:
        done.encoded += len(args[0])

    def decoded(_module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
        done.tokens += inputs["inputs_embeds"].shape[:2].numel()

    monkeypatch.setattr(batch, "encode", encode)
    handles = [
        qwen.vision_encoder.register_forward_hook(encoded),
        qwen.decoder.register_forward_pre_hook(decoded, with_kwargs=True),
    ]
    yield done
    for handle in handles:
        handle.remove()


def test_images_are_prepared_and_encoded_once_and_the_prompt_is_run_once(
    qwen: VisionLanguageModel, work: Work, groups: list[int]
) -> None:
    """Once its tokens were compared with those of the processor, for one row."""
    rows = [
        Sample(f"{i}", make_image(448, 56 * i, i), row.question)
        for i, row in enumerate(ONE_IMAGE, start=1)
    ]
    asking._checked.clear()
    found = run(rows, qwen, slots=4, size=4)
    first = dataclasses.replace(work)
    done = []
    for signals in ("entropy", "p_true"):
        work.prepared = work.encoded = work.tokens = 0
        found = run(rows, qwen, slots=4, size=4, spec=dataclasses.replace(SPEC, signals=signals))
        done.append(dataclasses.replace(work))
    plain, with_p_true = done
    assert first.prepared == 5
    assert plain.prepared == with_p_true.prepared == 4
    assert plain.encoded == with_p_true.encoded == first.encoded
    waiting = 4 * SPEC.max_new_tokens  # steps in which ended rows keep their slots
    ends = _ends(found.values(), qwen)
    assert groups == [4, 4]
    assert 0 <= with_p_true.tokens - plain.tokens - 4 * max(ends) <= waiting


def _ends(found: Iterable[Capture], vlm: VisionLanguageModel) -> list[int]:
    """Return the tokens of each question about an answer after those it has from the prompt."""
    spec = resolve_spec(SPEC, vlm)
    asker, lengths = SlotAsker(vlm, spec, ([], [])), []
    for item in found:
        [one], _ = prepare([item.sample], vlm, spec)
        [own] = asker.prompts(one) or []
        question = asker.begin(own, item).question.result()
        assert question is not None
        lengths.append(len(question.end))
    return lengths


def altered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows be asked about with other keys than their own."""
    laid_out, replies = asking._laid_out, SlotAsker._replies

    def changed(asked: list[tuple[OwnPrompt, Continuation]], pad: int) -> Any:
        by = {"one token less": -1, "one token more": 1}.get(name, 0)
        columns = -1 if name == "one column before" else 0
        return laid_out(
            [
                (
                    dataclasses.replace(own, columns=np.maximum(own.columns + columns, 0)),
                    Continuation(question.kept + by, question.end),
                )
                for own, question in asked
            ],
            pad,
        )

    def rotated(self: SlotAsker, slots: Slots, rows: torch.Tensor, ends: Any) -> Any:
        return replies(self, slots, rows.roll(1) if name == "another slot" else rows, ends)

    monkeypatch.setattr(asking, "_laid_out", changed)
    monkeypatch.setattr(SlotAsker, "_replies", rotated)


@pytest.mark.parametrize(
    "name", ["one token less", "one token more", "one column before", "another slot", "nothing"]
)
def test_the_numbers_need_the_right_slot_and_every_token_of_the_beginning(
    name: str, qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(name, monkeypatch)
    found = run(ROWS[:4], qwen, slots=4, size=4)
    errors = [worst([item], qwen) for item in found.values()]
    assert (max(errors) < 3e-5) == (name == "nothing")
    assert name == "nothing" or min(errors) > 3e-4, errors


def test_a_question_that_ends_with_an_image_goes_the_other_way(
    qwen: VisionLanguageModel, asked_later: list[str]
) -> None:
    """Its image is not followed by a text that the question about the answer has too."""
    assert worst(run([*ROWS[:2], INTERLEAVED[2]], qwen).values(), qwen) < 3e-5
    assert asked_later == [INTERLEAVED[2].id]


def test_a_row_whose_tokens_differ_goes_the_other_way(
    qwen: VisionLanguageModel, asked_later: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = asking.expanded

    def refuse(plain: Any, other: Any, own: list[int], marks: Any) -> Any:
        return None if own == odd else original(plain, other, own, marks)

    [one], _ = prepare(ROWS[1:2], qwen, resolve_spec(SPEC, qwen))
    odd = one.input_ids[0].tolist()
    monkeypatch.setattr(asking, "expanded", refuse)
    assert worst(run(ROWS[:4], qwen, slots=4, size=4).values(), qwen) < 3e-5
    assert asked_later == [ROWS[1].id]


@pytest.mark.parametrize("why", ["processor", "image", "window", "model"])
def test_where_it_is_not_exact_complete_prompts_are_run(
    why: str,
    qwen: VisionLanguageModel,
    asked_later: list[str],
    groups: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the processor has other tokens, which is looked at once."""
    asking._checked.clear()
    if why == "processor":
        plain = asking.plain_tokens
        monkeypatch.setattr(asking, "plain_tokens", lambda *a: [*plain(*a)[:-3], *plain(*a)[-2:]])
        monkeypatch.setattr(asking, "expanded", lambda new, _old, own, _marks: [*own[:-6], *new])
    elif why == "image":
        monkeypatch.setattr(asking, "image_end", lambda tokens, *_: len(tokens))
    elif why == "window":
        monkeypatch.setattr(asking, "window_of", lambda _: 50)
    else:
        monkeypatch.setattr(asking, "why_not_continued", lambda _: "it is another model")
    assert worst(run(ROWS[:4], qwen, slots=4, size=4).values(), qwen) < 3e-5
    assert sorted(asked_later) == sorted(row.id for row in ROWS[:4])
    assert not groups
    checked = asking._checked.get(qwen.processor)
    assert checked == {"processor": {True: False}, "window": {True: True}}.get(why)
    asking._checked.clear()


def test_frequencies_that_depend_on_the_length_of_the_question(
    tmp_path: Path, asked_later: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's prompt may be shorter than the length from which on they do, its question longer."""
    monkeypatch.setattr(test_lengths, "SWITCH", 120)
    vlm = load_model(test_lengths.build_dynamic(tmp_path / "model"), device="cpu", dtype="float32")
    rows = [test_lengths.row(f"{words}", words, words) for words in (0, 2, 30)]
    assert worst(run(rows, vlm, slots=3, size=3).values(), vlm) < 3e-5
    assert asked_later == ["30"]


def test_an_image_that_is_gone_is_not_read_again(
    qwen: VisionLanguageModel, tmp_path: Path, asked_later: list[str]
) -> None:
    for checked in (False, True):
        rows = []
        for i, row in enumerate(ONE_IMAGE):
            file = tmp_path / f"{i}.png"
            row.image.save(file)  # type: ignore[union-attr]
            rows.append(Sample(row.id, str(file), row.question))
        if not checked:
            asking._checked.clear()
        spec = resolve_spec(SPEC, qwen)
        session = CaptureSession(qwen, spec, 4)
        [one], _ = prepare(rows, qwen, spec)
        assert not session.submit(one)
        for file in tmp_path.iterdir():
            file.unlink()
        found = each_once(session.drain(), rows)
        if checked:
            for row in ONE_IMAGE:
                expected = known_reference(row, qwen, SPEC)
                assert abs(found[row.id].signals[P_TRUE] - expected.signals[P_TRUE]) < 3e-5
            assert not asked_later
        else:
            assert all(isinstance(item, Failure) for item in found.values())
            asked_later.clear()
            run(ROWS[:1], qwen)
            assert asking._checked[qwen.processor] == {True: True}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("odd")])
def test_if_it_fails_complete_prompts_are_run(
    error: Exception,
    qwen: VisionLanguageModel,
    asked_later: list[str],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Fewer rows at once if memory runs out, else none any more; no row is lost."""
    original, sizes = asking.run_ends, []

    def failing(vlm: VisionLanguageModel, ids: torch.Tensor, *more: Any) -> None:
        sizes.append(len(ids))
        if len(ids) > 1:
            raise error
        original(vlm, ids, *more)

    monkeypatch.setattr(asking, "run_ends", failing)
    found = run(ROWS, qwen, slots=4, size=2)
    assert worst(found.values(), qwen) < 3e-5
    warned = [str(w.message) for w in recwarn if "complete prompts are run" in str(w.message)]
    if isinstance(error, ValueError):
        assert [each > 1 for each in sizes] == [False] * (len(sizes) - 1) + [True]
        assert len(warned) == 1
        assert "ValueError: odd" in warned[0]
    else:
        assert not warned
        assert 0 < len(asked_later) < len(ROWS)
        assert sizes[-1] == 1


@pytest.mark.usefixtures("late")
@pytest.mark.first(6)
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("_Question.complete", len(ROWS)), ("_Question.complete", len(ROWS) + 1),
        *(
            (where, call)
            for call in range(3)
            for where in ("run_ends", "with_p_true", "Slots.release", "Stepper.step")
        ),
    ],
)  # fmt: skip
def test_no_row_is_lost_by_an_interrupt_or_failure(
    where: str,
    call: int,
    qwen: VisionLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in a notebook, after which the session is used again; or a step without memory."""
    name, _, method = where.rpartition(".")
    module: Any = {"run_ends": asking}.get(where, scheduler)
    owner: Any = {
        "Slots": Slots, "Stepper": Stepper, "_Question": scheduler._Question,
    }.get(name, module)  # fmt: skip
    original, calls = getattr(owner, method), 0
    fails = torch.OutOfMemoryError("out of memory") if name == "Stepper" else KeyboardInterrupt()

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 + call * (3 if name == "Stepper" else 1):
            raise fails
        return original(*args, **options)

    monkeypatch.setattr(owner, method, interrupted)
    spec = resolve_spec(SPEC, qwen)
    session, found = CaptureSession(qwen, spec, 4), list[Capture | Failure]()
    rows = [row for row in ROWS if len(row.images) == 1]
    for start in range(0, len(rows), 2):
        [one], _ = prepare(rows[start : start + 2], qwen, spec)
        try:
            found += session.submit(one)
        except KeyboardInterrupt:  # before it was admitted
            found += session.submit(one)
    with suppress(KeyboardInterrupt):
        found += session.drain()
    found += session.drain()
    while lost := session.pop_failed():
        for piece in submitted(session, lost, qwen, SPEC, 2):
            found += piece
        found += session.drain()
    assert calls > call
    assert worst(each_once(found, rows).values(), qwen) < 3e-5


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("state", ["held", "asked"])
def test_rows_that_wait_for_a_reply_are_run_again_if_a_step_fails(
    state: str, qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows are asked about together, while others are still being answered."""
    monkeypatch.setattr(asking, "ROWS_AT_ONCE", 2)
    session = CaptureSession(qwen, resolve_spec(SPEC, qwen), len(ROWS))
    original, failed = Stepper.step, list[str]()

    def failing(self: Stepper, *, masked: bool) -> None:
        decoding = session._decoding
        held = [row for row in decoding._rows if row.question.held is not None]
        asked = [row for rows, _ in decoding._replying for row in rows]
        waiting = {"held": held, "asked": asked}[state]
        if waiting and not failed:
            failed.extend(row.question.prefilled.sample.id for row in waiting)
            raise torch.OutOfMemoryError("out of memory")
        original(self, masked=masked)

    monkeypatch.setattr(Stepper, "step", failing)
    found = [item for piece in submitted(session, ROWS, qwen, SPEC, 3) for item in piece]
    found += session.drain()
    lost = session.pop_failed()
    assert failed
    assert {row.id for row in lost} >= set(failed)
    found += [item for piece in submitted(session, lost, qwen, SPEC, 2) for item in piece]
    found += session.drain()
    assert worst(each_once(found, ROWS).values(), qwen) < 3e-5


def test_nothing_of_it_is_called_without_the_signal(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("answers are not asked about")

    for owner, name in (
        (SlotAsker, "__init__"), (Decoding, "_ask"), (Decoding, "_rows_to_ask"),
        (OwnPrompt, "__init__"), (asking.ThreadPoolExecutor, "submit"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, refuse)
    spec = dataclasses.replace(SPEC, signals="entropy")
    for item in capture(ROWS[:4], qwen, spec, batch_size=1):
        assert P_TRUE not in item.signals
