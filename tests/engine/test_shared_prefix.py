"""Questions about one image in a batch: which may share a beginning, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.against_reference import (
    answered_by_generate,
    assert_all_same,
    expected_of,
    run_session,
    submitted,
)
from families.checkpoints import BUILDERS
from families.conformance import make_image
from vlmscope.engine import CaptureSession, prepare, preprocessing_of, shared_prefill
from vlmscope.engine import session as sessions
from vlmscope.engine import shared_prefix as sharing
from vlmscope.engine.decoding.step import Stepper
from vlmscope.engine.shared_prefix import why_not_shared, with_shared_prefix
from vlmscope.executors.batching import BatchSizer
from vlmscope.executors.runner import ResilientRunner
from vlmscope.executors.workers import Workers
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(
    positions=(
        "first_image_token",
        "image_mean",
        "last_question_token",
        "last_prompt_token",
    ),
    max_new_tokens=4,
)
QUESTIONS = ("Is it lit?", "What is it, and is it a cat?", "Is it a cat?", "Is it lit?")
IMAGES = (make_image(70, 40, 1), make_image(90, 66, 2))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("qwen") / "model"
    BUILDERS["qwen2_5_vl"](folder)
    return load_model(folder, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Forget which processors were compared with sharing."""
    sharing._checked.clear()
    yield
    sharing._checked.clear()


def rows(images: Any = IMAGES, questions: Any = QUESTIONS) -> list[Sample]:
    return [
        Sample(f"{i}_{j}", image, question)
        for j, question in enumerate(questions)
        for i, image in enumerate(images)
    ]


def test_images_are_prepared_and_encoded_once(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    handle = qwen.vision_encoder.register_forward_hook(
        lambda _module, args, _output: encoded.append(len(args[0]))
    )
    generated = answered_by_generate(monkeypatch)
    try:
        pieces = run_session(rows(), qwen, SPEC, rows=8, size=8)
    finally:
        handle.remove()
    [batch], _ = prepare(rows(), qwen, resolve_spec(SPEC, qwen))
    assert batch.prefix is not None
    assert batch.prefix.entries == (0, 1) * 4
    assert encoded == [len(batch.prefix.inputs["pixel_values"])]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert not generated
    found = [item for piece in pieces for item in piece]
    assert_all_same(found, expected_of(rows(), qwen, SPEC), rows())


def test_every_row_alone_shares_nothing(qwen: VisionLanguageModel) -> None:
    for images in (IMAGES[:1], [make_image(60, 40, seed) for seed in range(4)]):
        few = rows(images, QUESTIONS[:1])
        [batch], _ = prepare(few, qwen, resolve_spec(SPEC, qwen))
        assert batch.prefix is None


def test_several_images_in_a_question(qwen: VisionLanguageModel) -> None:
    """The beginning ends after the last image; other images are another beginning."""
    pairs = [Sample(f"{i}", images, q) for i, (images, q) in enumerate(
        [(IMAGES, "Is it lit?"), (IMAGES[::-1], "Is it lit?"), (IMAGES, "What is it?"),
         (IMAGES[::-1], "Is it a cat?")]
    )]  # fmt: skip
    [batch], _ = prepare(pairs, qwen, resolve_spec(SPEC, qwen))
    assert batch.prefix is not None
    assert batch.prefix.entries == (0, 1, 0, 1)
    found = [item for piece in run_session(pairs, qwen, SPEC, rows=4, size=4) for item in piece]
    assert_all_same(found, expected_of(pairs, qwen, SPEC), pairs)


def test_an_image_after_the_question_is_not_shared(qwen: VisionLanguageModel) -> None:
    numbered = [Sample(f"{q}", IMAGES[:1], f"{q} <image 1>") for q in ("Is it lit?", "A cat?")]
    [batch], _ = prepare(numbered, qwen, resolve_spec(SPEC, qwen))
    assert batch.prefix is None
    found = [item for piece in run_session(numbered, qwen, SPEC, rows=2, size=2) for item in piece]
    spec = dataclasses.replace(SPEC)
    assert_all_same(found, expected_of(numbered, qwen, spec), numbered)


def test_a_position_may_be_at_the_image_in_one_row_only(qwen: VisionLanguageModel) -> None:
    """A question that ends with an image has its last token there; one that goes on has not."""
    texts = ("Compare <image 1> with <image 2> in colour", "Compare <image 1> with <image 2>")
    mixed = [Sample(f"{text}{i}", IMAGES, text) for i in range(2) for text in texts]
    [batch], _ = prepare(mixed, qwen, resolve_spec(SPEC, qwen))
    assert batch.prefix is not None
    found = [item for piece in run_session(mixed, qwen, SPEC, rows=4, size=4) for item in piece]
    assert_all_same(found, expected_of(mixed, qwen, SPEC), mixed)


def test_a_question_may_equal_another_or_end_with_the_image_texts(
    qwen: VisionLanguageModel,
) -> None:
    same = rows(IMAGES[:1], ("Is it lit?", "Is it lit?", "Is", "Is it lit?\nIs it lit?"))
    found = [item for piece in run_session(same, qwen, SPEC, rows=4, size=4) for item in piece]
    assert_all_same(found, expected_of(same, qwen, SPEC), same)


@pytest.mark.exhaustive
def test_answers_that_generate_must_write_are_prepared_again(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step has failed, for example: ``generate`` needs the images of every row."""
    generated = answered_by_generate(monkeypatch)
    session = CaptureSession(qwen, resolve_spec(SPEC, qwen), 8)
    session._stepwise = False
    found = [item for piece in submitted(session, rows(), qwen, SPEC, 8) for item in piece]
    assert_all_same(found, expected_of(rows(), qwen, SPEC), rows())
    assert generated


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:a decoding step failed:RuntimeWarning")
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_after_a_failed_step_rows_are_prepared_once(
    kind: str,
    qwen: VisionLanguageModel,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each prompt as a whole, where it was prepared before: not again in the model's thread."""
    spec = resolve_spec(SPEC, qwen)
    session = CaptureSession(qwen, spec, 8)
    workers: Workers | None = None
    if kind == "processes":  # which take seconds to start
        workers = request.getfixturevalue("worker_processes")
        workers.begin(preprocessing_of(qwen, spec), spec)
        workers.wait()
    runner = ResilientRunner(qwen, spec, BatchSizer(8), session, workers=workers)
    again: list[Any] = []
    prepare_again = sessions.prepare
    monkeypatch.setattr(sessions, "prepare", lambda *a: again.append(a) or prepare_again(*a))

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a kernel that is not there")

    first, later = rows(), [dataclasses.replace(row, id=f"{row.id}_later") for row in rows()]
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", broken)
        found = [item for piece in runner.run(first) for item in piece]
        found += [item for piece in runner.drain() for item in piece]
    assert not session.shares_prefix
    found += [item for piece in runner.run(later) for item in piece]
    assert_all_same(found, expected_of([*first, *later], qwen, SPEC), [*first, *later])
    assert not again


def test_a_session_without_answers_always_shares(qwen: VisionLanguageModel) -> None:
    session = CaptureSession(qwen, resolve_spec(CaptureSpec(max_new_tokens=0), qwen), 8)
    session._stepwise = False
    assert session.shares_prefix


def test_a_cache_that_cannot_be_shared_is_not(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_prefill, "keys_and_values", lambda *_: None)
    found = [item for piece in run_session(rows(), qwen, SPEC, rows=8, size=8) for item in piece]
    assert_all_same(found, expected_of(rows(), qwen, SPEC), rows())


def test_tokens_are_compared_with_the_processors_once(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that would make other tokens of a prompt: every prompt is then whole."""
    spec = resolve_spec(SPEC, qwen)
    prepare(rows(), qwen, spec)
    assert sharing.is_checked(qwen.processor) is True
    sharing._checked.clear()
    original = sharing.expanded

    def wrong(*tokens: Any) -> Any:
        found = original(*tokens)
        return found and [*found[:-1], found[-1] + 1]

    monkeypatch.setattr(sharing, "expanded", wrong)
    for _ in range(2):
        [batch], _ = prepare(rows(), qwen, spec)
        assert batch.prefix is None
    assert sharing.is_checked(qwen.processor) is False


def test_a_failed_comparison_is_final(qwen: VisionLanguageModel) -> None:
    """Threads compare their first batches at the same time, in any order."""
    assert not sharing._remember(qwen.processor, agrees=False)
    assert not sharing._remember(qwen.processor, agrees=True)
    assert sharing.is_checked(qwen.processor) is False


def test_an_unknown_input_per_token_is_not_cut(qwen: VisionLanguageModel) -> None:
    model = preprocessing_of(qwen, resolve_spec(SPEC, qwen))
    ids = torch.tensor([[5, qwen.image_token_id, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = [ids[0].tolist()] * 2
    assert with_shared_prefix(inputs, (0, 0), plain, model) is not None
    for other in (torch.ones(1, 4, 2), torch.ones(1, 3, 4, dtype=torch.int64)):
        assert with_shared_prefix(inputs | {"other": other}, (0, 0), plain, model) is None
    assert sharing.is_checked(qwen.processor) is False  # no batch is prepared in vain again


def test_positions_and_masks_of_the_layout(qwen: VisionLanguageModel) -> None:
    [batch], _ = prepare(rows(), qwen, resolve_spec(SPEC, qwen))
    [whole], _ = prepare(rows(), qwen.preprocessing, resolve_spec(SPEC, qwen))
    assert whole.prefix is None
    assert batch.prefix is not None
    for row in range(len(batch.samples)):
        own, other = (b.attention_mask[row].astype(bool) for b in (batch, whole))
        np.testing.assert_array_equal(batch.input_ids[row][own], whole.input_ids[row][other])
    assert batch.computed_tokens < whole.computed_tokens


@pytest.mark.exhaustive
def test_worker_processes_send_beginnings(
    qwen: VisionLanguageModel, worker_processes: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve_spec(SPEC, qwen)
    worker_processes.begin(preprocessing_of(qwen, spec), spec)
    monkeypatch.setattr(worker_processes, "_prepared_here", None)
    [sent], _ = worker_processes.prepare(rows())
    [own], _ = prepare(rows(), qwen, spec)
    assert sent.prefix is not None
    assert sent.prefix.entries == own.prefix.entries  # type: ignore[union-attr]
    assert sent.tensors().keys() == own.tensors().keys()
    for name, tensor in own.tensors().items():
        assert torch.equal(sent.tensors()[name], tensor), name


@pytest.mark.first(1)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's
@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("paligemma", "attend to the question"),
        ("qwen3_5", "not all of its layers"),
    ],
)
def test_who_shares_nothing(family: str, why: str, tmp_path: Path) -> None:
    BUILDERS[family](tmp_path / "model")
    vlm = load_model(tmp_path / "model", device="cpu", dtype="float32")
    assert why in why_not_shared(vlm)
    assert not preprocessing_of(vlm, resolve_spec(CaptureSpec(), vlm)).shares_prefix


def test_mllama_has_its_own_way(vlm: VisionLanguageModel) -> None:
    assert "not in its prompt" in why_not_shared(vlm)


def test_rows_of_few_tokens_make_larger_prefills() -> None:
    sizer = BatchSizer("auto", 16, 16)
    sizer.learn(rows=16, tokens=16 * 150, memory_used=0.22, memory_idle=0.2)
    assert sizer.size == 54
    sizer = BatchSizer("auto", 16, 16)
    sizer.learn(rows=16, tokens=16 * 2400, memory_used=0.22, memory_idle=0.2)
    assert sizer.size == 16
