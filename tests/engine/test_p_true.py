"""P(True): the question whether an answer is true, against a straightforward second prompt."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmscope
from engine.against_reference import assert_same, each_once, run_session
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.engine import p_true as asking
from vlmscope.engine.decoding import asking as in_slots
from vlmscope.engine.decoding.asking import SlotAsker
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.model.p_true import log_odds, question_about, reply_tokens
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.signals import P_TRUE, P_TRUE_MASS, PREVIOUS, PREVIOUS_HEAD
from vlmscope.verification import check_rows, compare

SPEC = CaptureSpec(layers="0", max_new_tokens=4, signals="p_true")


@pytest.fixture
def complete_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are asked about with complete prompts, not from their slots."""
    monkeypatch.setattr(SlotAsker, "prompts", lambda *_: None)


def is_nan(item: Capture) -> bool:
    return math.isnan(item.signals[P_TRUE]) and math.isnan(item.signals[P_TRUE_MASS])


@pytest.mark.exhaustive
def test_questions_about_one_image_several_and_none(vlm: VisionLanguageModel) -> None:
    rows = (*ONE_IMAGE, *SEVERAL, *NONE)
    for item in capture(rows, vlm, SPEC, batch_size=8):
        assert not is_nan(item)
        assert item.signals[P_TRUE].shape == ()
        assert item.signals[P_TRUE].dtype == np.float32
        assert_same(item, reference(item.sample, vlm, SPEC))


def test_it_is_the_first_token_of_another_question(vlm: VisionLanguageModel) -> None:
    """With plain transformers, and every text and token written out."""
    image = Image.new("RGB", (60, 40), "teal")
    [row] = capture([Sample("a", image, "What colour is it?")], vlm, SPEC)
    text = (
        f"What colour is it?\nProposed answer: {str(row.answer).strip()}\n"
        "Is the proposed answer true? Answer yes or no."
    )
    content = [{"type": "image"}, {"type": "text", "text": text}]
    chat = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = vlm.processor(text=chat, images=image, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        probs = vlm.model(**inputs).logits[0, -1].double().softmax(dim=0)
    known = vlm.processor.tokenizer.convert_tokens_to_ids(["Yes", "ĠYes", "No"])
    yes, no = probs[known[:2]].sum(), probs[known[2]]
    assert float(row.signals[P_TRUE]) == pytest.approx(float((yes / no).log()), abs=3e-5)
    assert float(row.signals[P_TRUE_MASS]) == pytest.approx(float(yes + no), rel=1e-4)


@pytest.mark.usefixtures("complete_prompts")
def test_rows_are_asked_about_in_batches_and_images_are_encoded_once(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, encoded, threads = [], [], set()
    original, prepared = asking.Asker._ask_together, asking.Asker._prepared
    handle = talkative_vlm.vision_encoder.register_forward_hook(
        lambda _module, _args, output: encoded.append(len(output.last_hidden_state))
    )

    def spy(self: asking.Asker, rows: Sequence[Capture], *more: Any) -> Any:
        sizes.append(len(rows))
        return original(self, rows, *more)

    def noted(self: asking.Asker, rows: Sequence[Capture]) -> Any:
        threads.add(threading.current_thread().name)
        return prepared(self, rows)

    monkeypatch.setattr(asking.Asker, "_ask_together", spy)
    monkeypatch.setattr(asking.Asker, "_prepared", noted)
    try:
        pieces = run_session(samples, talkative_vlm, SPEC, rows=4, size=4)
    finally:
        handle.remove()
    found = each_once([item for piece in pieces for item in piece], samples)
    assert sum(sizes) == len(samples)
    assert threads == {"vlmscope-ask_0"}
    assert max(sizes) == 4
    assert len(sizes) < len(samples) / 2
    assert sum(encoded) == len({item.image_sha256 for item in found.values()})
    for alone in capture(samples, talkative_vlm, SPEC, batch_size=1):
        assert_same(found[alone.sample.id], alone)


@pytest.mark.exhaustive
def test_rows_with_the_same_id_have_their_own(vlm: VisionLanguageModel) -> None:
    teal, red = (Image.new("RGB", (60, 40), colour) for colour in ("teal", "red"))
    for other in (Sample("a", teal, "Is it red?"), Sample("a", red, "What colour is it?")):
        rows = [Sample("a", teal, "What colour is it?"), other]
        for item in capture(rows, vlm, SPEC, batch_size=2):
            [alone] = capture([item.sample], vlm, SPEC)
            assert_same(item, alone)


def test_settings_about_the_end_of_an_answer_make_no_difference(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm.model.generation_config, "min_new_tokens", 3)
    [item] = capture(samples[:1], vlm, SPEC)
    expected = reference(item.sample, vlm, SPEC, answer_token_ids=item.answer_token_ids)
    assert float(item.signals[P_TRUE]) == pytest.approx(float(expected.signals[P_TRUE]), abs=3e-5)


def test_a_question_that_cannot_be_asked_has_nan(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(processor: Any, question: str, *args: Any) -> str | None:
        text = question_about(processor, question, *args)
        return None if question == samples[1].question else text

    monkeypatch.setattr(asking, "question_about", refuse)
    monkeypatch.setattr(in_slots, "question_about", refuse)
    found = list(capture(samples[:3], vlm, SPEC, batch_size=3))
    assert [is_nan(item) for item in found] == [False, True, False]
    assert all(item.answer for item in found)


@pytest.mark.exhaustive
def test_a_prompt_that_is_too_long_has_nan(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    [row] = capture(samples[:1], vlm, SPEC)
    config = vlm.model.config.get_text_config(decoder=True)
    monkeypatch.setattr(config, "max_position_embeddings", row.num_prompt_tokens + 3)
    [found] = capture(samples[:1], vlm, SPEC)
    assert is_nan(found)
    assert found.answer == row.answer
    assert_same(found, reference(samples[0], vlm, SPEC))


@pytest.mark.parametrize("answer", ["it is <image 1>", "<image_1>", "<|image|>", "no <|eot_id|>"])
def test_answers_that_would_change_the_prompt(vlm: VisionLanguageModel, answer: str) -> None:
    assert question_about(vlm.processor, "What is it?", answer, 1) is None
    assert question_about(vlm.processor, "What is it?", " a cat\n", 1) == (
        "What is it?\nProposed answer: a cat\nIs the proposed answer true? Answer yes or no."
    )


@pytest.mark.usefixtures("complete_prompts")
def test_memory_that_runs_out_halves_the_rows_and_one_row_is_recorded(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = asking.Asker._ask_together

    def scarce(self: asking.Asker, rows: Sequence[Capture], *more: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 2 or rows[0].sample.id == samples[3].id:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, rows, *more)

    monkeypatch.setattr(asking.Asker, "_ask_together", scarce)
    pieces = run_session(samples[:5], vlm, SPEC, rows=5, size=5)
    found = each_once([item for piece in pieces for item in piece], samples[:5])
    assert sizes[0] == 5
    failed = [item for item in found.values() if isinstance(item, Failure)]
    assert [item.id for item in failed] == [samples[3].id]
    assert failed[0].stage == "capture"
    assert failed[0].error.startswith("out of memory on this row alone")


@pytest.mark.usefixtures("complete_prompts")
@pytest.mark.exhaustive
@pytest.mark.parametrize("where", ["Asker._ask_together", "_read"])
def test_no_row_is_lost_by_an_interrupt(
    where: str, vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is used again after Ctrl-C, as in a notebook."""
    name, _, method = where.rpartition(".")
    owner: Any = getattr(asking, name) if name else asking
    original, calls = getattr(owner, method), []

    def interrupted(*args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, method, interrupted)
    spec = resolve_spec(SPEC, vlm)
    session, found = CaptureSession(vlm, spec, 2), list[Capture | Failure]()
    for start in range(0, 8, 2):
        [batch], _ = prepare(samples[start : start + 2], vlm, spec)
        with suppress(KeyboardInterrupt):
            found += session.submit(batch)
    with suppress(KeyboardInterrupt):
        found += session.drain()
    found += session.drain()
    assert len(calls) > 2
    assert all(isinstance(item, Capture) for item in each_once(found, samples[:8]).values())


@pytest.mark.usefixtures("complete_prompts")
def test_an_image_that_changes_meanwhile_is_a_failure(
    vlm: VisionLanguageModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "image.png"
    original = asking.Asker._prepared

    def change(self: asking.Asker, rows: Sequence[Capture]) -> Any:
        if gone:
            file.unlink()
        else:
            Image.new("RGB", (40, 30), "blue").save(file)
        return original(self, rows)

    monkeypatch.setattr(asking.Asker, "_prepared", change)
    for gone, stage in ((False, "image"), (True, "image")):
        Image.new("RGB", (40, 30), "red").save(file)
        [[], [found]] = run_session(
            [Sample("a", str(file), "What is it?")], vlm, SPEC, rows=1, size=1
        )
        assert isinstance(found, Failure)
        assert (found.id, found.stage) == ("a", stage)
        assert gone or "the image changed" in found.error


def test_it_is_refused_before_the_start(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="signals p_true: needs max_new_tokens above 0"):
        CaptureSpec(signals="p_true", max_new_tokens=0)

    speaks = True

    class Vocabulary:
        def get_vocab(self) -> dict[Any, int]:
            return {"ĠYES": 3, b" nO": 4, "nothing": 5, "▁yes": 6} if speaks else {"yes": 1}

    assert reply_tokens(Vocabulary()) == ([3, 6], [4])
    speaks = False
    with pytest.raises(InputError, match="no token of this model's tokenizer is the word 'no'"):
        reply_tokens(Vocabulary())
    monkeypatch.setattr(
        "vlmscope.model.resolved_spec.reply_tokens", lambda _: reply_tokens(Vocabulary())
    )
    resolve_spec(replace(SPEC, signals=("entropy",)), vlm)
    with pytest.raises(InputError, match="omit this signal"):
        resolve_spec(SPEC, vlm)


def test_log_odds_of_all_variants() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
    found = log_odds(logits, ([0, 2, 9], [1]))  # there is no logit of token 9
    probs = logits.softmax(dim=1)
    yes, no = probs[:, 0] + probs[:, 2], probs[:, 1]
    np.testing.assert_allclose(found, torch.stack([(yes / no).log(), yes + no], dim=1), rtol=1e-5)


def test_nothing_is_asked_without_the_signal(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(asking.Asker, "__init__", refuse)
    [found] = capture(samples[:1], vlm, replace(SPEC, signals=("entropy",)))
    assert P_TRUE not in found.signals


@pytest.mark.exhaustive
def test_a_run_that_was_stopped_is_continued_and_verified(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample], tmp_path: Path
) -> None:
    """With another batch size, two ranks, attention and samples beside it."""
    rows = samples[:4]
    spec = replace(SPEC, signals="p_true,attention", samples=1)
    options: dict[str, Any] = {"spec": spec, "progress": False}
    out = tmp_path / "run"
    vlmscope.extract(rows, talkative_vlm, out, limit=1, batch_size=1, **options)
    for shard, size in (("0/2", 4), ("1/2", 1)):
        vlmscope.extract(rows, talkative_vlm, out, shard=shard, batch_size=size, **options)
    run = vlmscope.open_run(out)
    assert sorted(run.ids) == sorted(row.id for row in rows)
    for row in capture(rows, talkative_vlm, spec, batch_size=4):
        assert not is_nan(row)
        for name in (P_TRUE, P_TRUE_MASS, PREVIOUS, PREVIOUS_HEAD):
            np.testing.assert_allclose(
                run[row.sample.id].signals[name], row.signals[name], atol=3e-5
            )
    [check] = check_rows(run, rows[:1], talkative_vlm)
    assert {f"signals/{name}" for name in (P_TRUE, P_TRUE_MASS, PREVIOUS)} <= check.errors.keys()
    assert not check.faults(3e-5, "float32")
    stored = run[rows[0].id]
    for name in (P_TRUE, P_TRUE_MASS):
        wrong = replace(stored, signals={**stored.signals, name: stored.signals[name] + 0.01})
        assert compare(wrong, stored).faults(3e-5, "float32")
