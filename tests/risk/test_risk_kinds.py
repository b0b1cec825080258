"""A probe scores only questions like those it was trained on: with an image, without, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe_on_disk import save
from vlmscope.engine import capture
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.risk import Risk, RiskScorer
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample

WITHOUT = "the question has no image, and all questions that the probe was trained on have one"
WITH = "the question has an image, and no question that the probe was trained on has one"


@pytest.fixture(scope="module")
def captures(vlm: VisionLanguageModel, samples: list[Sample]) -> list[Capture]:
    return list(capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0), batch_size=4))


@pytest.mark.parametrize(
    ("images", "refused"),
    [("all", {"bare": WITHOUT, "listed": WITHOUT}), ("none", {"imaged": WITH}), ("some", {}),
     (None, {})],
)  # fmt: skip
def test_rows_unlike_the_training_rows_have_no_risk(
    images: Any,
    refused: dict[str, str],
    tmp_path: Path,
    vlm: VisionLanguageModel,
    samples: list[Sample],
    captures: list[Capture],
) -> None:
    save(tmp_path, vlm, captures, images=images)
    scorer = RiskScorer(vlm, tmp_path, batch_size=2)
    rows = [
        Sample("imaged", samples[0].image, "What is it?", origin="t.csv line 2"),
        Sample("bare", None, "What is it?", origin="t.csv line 3"),
        Sample("listed", [], "What is it?", origin="t.csv line 4"),
    ]
    found = list(scorer.score(rows))
    assert [each.id for each in found] == ["imaged", "bare", "listed"]
    failures = {each.id: each for each in found if isinstance(each, Failure)}
    assert failures.keys() == refused.keys()
    for row, each in zip(rows, found, strict=True):
        if isinstance(each, Failure):
            assert each.stage == "input"
            assert each.error.startswith(f"{row.origin}: {refused[each.id]}; train a probe on")
        else:
            assert isinstance(each, Risk)


def test_one_question_unlike_the_training_rows_is_an_error(
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample], captures: list[Capture]
) -> None:
    save(tmp_path, vlm, captures, images="none")
    scorer = RiskScorer(vlm, tmp_path)
    assert 0 < scorer.risk(None, "What is it?") < 1
    with pytest.raises(RowError, match="the question has an image") as caught:
        scorer.risk(samples[0].image, "What is it?")
    assert caught.value.stage == "input"


def test_a_probe_of_the_image_names_a_remedy_that_helps(
    tmp_path: Path, vlm: VisionLanguageModel, captures: list[Capture]
) -> None:
    """Another representation of the same rows would refuse the question too."""
    save(tmp_path, vlm, captures, "vision_token_representation/layer_2", images="all")
    with pytest.raises(RowError, match="train a probe on questions without an image"):
        RiskScorer(vlm, tmp_path).risk(None, "What is it?")
