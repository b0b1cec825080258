"""Sliding windows: one that is wider than a row changes nothing, else ``generate`` writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.against_reference import Pieces, answered_by_generate, each_once, run_session
from families.checkpoint_folder import change_settings
from families.conformance import ONE_IMAGE, RUNNABLE, THIRD, build
from families.test_conformance import SHORT_WINDOW, assert_same
from vlmscope.engine import CaptureSession, prepare, session
from vlmscope.engine.decoding.slots import rounded_up
from vlmscope.engine.prefill import DeviceBatch
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.positions import ANSWER_POSITIONS
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

WINDOW = 128
"""Tokens: more than any row of the suite has."""

LONG = Sample("long", THIRD, "Is there a cat, or a cup, " * 12)
"""A row that has more."""

SPEC = CaptureSpec(
    layers="all", positions=("last_prompt_token", *ANSWER_POSITIONS), max_new_tokens=6
)


@pytest.fixture(scope="module", params=[name for name in SHORT_WINDOW if name in RUNNABLE])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(family, tmp_path_factory.mktemp("windows") / family)


def load_with(folder: Path, window: int) -> VisionLanguageModel:
    """Load a model with another window; no answer ends before the limit."""
    change_settings(folder, "text_config", sliding_window=window)
    vlm = load_model(folder, device="cpu", dtype="float32")
    vlm.model.generation_config.eos_token_id = [10**6]
    return vlm


@pytest.fixture(scope="module")
def vlm(family: str, folder: Path) -> VisionLanguageModel:
    """The family's model with a wide window."""
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["sliding_window"] == SHORT_WINDOW[family]
    return load_with(folder, WINDOW)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that the library's ``generate`` answered."""
    return answered_by_generate(monkeypatch)


@pytest.fixture
def prefills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every pass through the model that begins with prompts."""
    seen: list[int] = []
    original = session.run

    def spy(device_batch: DeviceBatch, *rest: Any, **options: Any) -> Any:
        seen.append(len(device_batch.batch.samples))
        return original(device_batch, *rest, **options)

    monkeypatch.setattr(session, "run", spy)
    return seen


def assert_exact(pieces: Pieces, rows: Sequence[Sample], vlm: VisionLanguageModel) -> None:
    found = each_once([item for piece in pieces for item in piece], rows)
    for row in rows:
        assert_same(found[row.id], reference(row, vlm, SPEC))
        assert (found[row.id].num_prompt_tokens > WINDOW) == row.id.startswith("long")


@pytest.mark.first(1)
def test_rows_that_do_not_outgrow_the_window(
    vlm: VisionLanguageModel, generated: list[str], prefills: list[int]
) -> None:
    assert_exact(run_session(ONE_IMAGE, vlm, SPEC, rows=4, size=4), ONE_IMAGE, vlm)
    assert generated == []
    assert prefills == [4]


@pytest.mark.exhaustive
@pytest.mark.first(1)
def test_only_rows_that_outgrow_the_window_go_another_way(
    vlm: VisionLanguageModel, generated: list[str], prefills: list[int]
) -> None:
    """Also while those before them are still being answered, and not those behind them."""
    again = Sample("long, too", THIRD, LONG.question)
    rows = (*ONE_IMAGE[:2], LONG, ONE_IMAGE[2], again)
    assert_exact(run_session(rows, vlm, SPEC, rows=4, size=1), rows, vlm)
    assert generated == [LONG.id, again.id]
    assert len(prefills) == len(rows) + 1  # once it was tried in vain


SHARING = tuple(
    Sample(f"{question[:6]} {image.id}", image.images, question)
    for question in ("Is it lit?", "What colour is the largest thing in it?")
    for image in ONE_IMAGE[:2]
)
"""Questions about two images, in turn."""


@pytest.mark.first(1)
def test_questions_share_a_beginning_within_the_window(
    vlm: VisionLanguageModel, generated: list[str]
) -> None:
    [batch], _ = prepare(SHARING, vlm, resolve_spec(SPEC, vlm))
    assert batch.prefix is not None
    assert_exact(run_session(SHARING, vlm, SPEC, rows=4, size=4), SHARING, vlm)
    assert generated == []


@pytest.mark.exhaustive
def test_no_beginning_is_shared_in_a_batch_that_is_one_token_longer(
    vlm: VisionLanguageModel, folder: Path
) -> None:
    """With padding; the answers count too, in the length that slots have for them."""
    [batch], _ = prepare(SHARING, vlm, resolve_spec(SPEC, vlm))
    length = batch.inputs["input_ids"].shape[1]
    answered = rounded_up(length + SPEC.max_new_tokens + 1)
    prompt = dataclasses.replace(SPEC, positions=("last_prompt_token",), max_new_tokens=0)
    for window, spec, shares in (
        (length, prompt, True),
        (length - 1, prompt, False),
        (answered, SPEC, True),
        (answered - 1, SPEC, False),
    ):
        other = load_with(folder, window)
        [batch], _ = prepare(SHARING, other, resolve_spec(spec, other))
        assert (batch.prefix is not None) == shares, (window, length)
        pieces = run_session(SHARING, other, spec, rows=4, size=4)
        found = each_once([item for piece in pieces for item in piece], SHARING)
        for row in (SHARING[0], SHARING[3]):
            assert_same(found[row.id], reference(row, other, spec))
    load_with(folder, WINDOW)


@pytest.mark.exhaustive
def test_a_batch_that_was_prepared_for_shorter_answers(
    vlm: VisionLanguageModel, generated: list[str]
) -> None:
    """Its slots would be longer than the window."""
    longer = dataclasses.replace(SPEC, max_new_tokens=WINDOW)
    [batch], _ = prepare(SHARING, vlm, resolve_spec(SPEC, vlm))
    assert batch.prefix is not None
    capturing = CaptureSession(vlm, resolve_spec(longer, vlm), 4)
    found = [*capturing.submit(batch), *capturing.drain()]
    assert len(found) == len(SHARING)
    assert set(generated) == {row.id for row in SHARING}
