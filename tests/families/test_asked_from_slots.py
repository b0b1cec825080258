"""P(True) of every family: from the slots of the rows where answers are decoded in slots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.against_reference import each_once, note_complete_prompts, run_session
from families.conformance import ONE_IMAGE, RUNNABLE, SEVERAL, THIRD, build
from families.conftest import FEW
from families.test_conformance import DEVICE, GENERATED, RECURRENT, SHARES, SHORT_WINDOW
from families.test_windows import load_with
from vlmscope.engine import capture
from vlmscope.engine.decoding.slots import rounded_up
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.signals import P_TRUE, P_TRUE_MASS

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SPEC = CaptureSpec(layers="0", max_new_tokens=5, signals="p_true")


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows whose complete prompt was run for the question about the answer."""
    return note_complete_prompts(monkeypatch)


def assert_exact(
    rows: Sequence[Sample], vlm: VisionLanguageModel, *, slots: int = 3, size: int = 2
) -> None:
    pieces = run_session(rows, vlm, SPEC, rows=slots, size=size)
    for item in each_once([item for piece in pieces for item in piece], rows).values():
        expected = reference(item.sample, vlm, SPEC, answer_token_ids=item.answer_token_ids)
        assert np.isfinite(expected.signals[P_TRUE])
        for name in (P_TRUE, P_TRUE_MASS):
            np.testing.assert_allclose(item.signals[name], expected.signals[name], atol=SHARES)


@pytest.mark.parametrize(
    "family",
    [
        name if name in FEW else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in RUNNABLE
    ],
)
def test_rows_are_asked_about_from_their_slots(
    family: str, tmp_path: Path, complete: list[str]
) -> None:
    vlm = load_model(build(family, tmp_path / family), device=DEVICE, dtype="float32")
    rows = (*ONE_IMAGE[:3], SEVERAL[0])
    assert_exact(rows, vlm)
    without_slots = family in SHORT_WINDOW or family in GENERATED
    if without_slots or family in RECURRENT or vlm.family.prefix_sees_question:
        assert sorted(complete) == sorted(row.id for row in rows)
    else:
        assert not complete


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("family", [name for name in SHORT_WINDOW if name in RUNNABLE])
def test_only_within_a_sliding_window(family: str, tmp_path: Path, complete: list[str]) -> None:
    """The prompt of a row may be within it, and the question about its answer not."""
    folder = build(family, tmp_path / family)
    rows = (*ONE_IMAGE[:2], Sample("long", THIRD, "Is there a cat, or a cup, or a " * 5))
    [_, _, longest] = capture(rows, load_with(folder, 512), SPEC)
    vlm = load_with(folder, rounded_up(longest.num_prompt_tokens + SPEC.max_new_tokens + 1))
    complete.clear()
    assert_exact(rows, vlm, slots=1, size=1)
    assert complete == ["long"]
