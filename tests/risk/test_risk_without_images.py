"""A probe of the image has nothing to say about a question without one, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_on_disk import save
from vlmscope.engine import capture
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.risk import Risk, RiskScorer
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample


@pytest.fixture(scope="module")
def captures(vlm: VisionLanguageModel, samples: list[Sample]) -> list[Capture]:
    return list(capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0), batch_size=4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["vision_token_representation/layer_2", "vision_only_representation"]
)
@pytest.mark.parametrize("image", [None, []])
def test_a_row_without_an_image_is_a_failure_in_its_place(
    path: str,
    image: list[str] | None,
    tmp_path: Path,
    vlm: VisionLanguageModel,
    samples: list[Sample],
    captures: list[Capture],
) -> None:
    save(tmp_path, vlm, captures, path)
    scorer = RiskScorer(vlm, tmp_path, batch_size=2)
    bare = Sample("bare", image, "What is it?", origin="t.csv line 3")
    found = list(scorer.score([samples[0], bare, samples[1]]))
    assert [type(item) for item in found] == [Risk, Failure, Risk]
    assert found[1] == Failure(
        "bare",
        "input",
        f"t.csv line 3: the question has no image, and the probe reads {path.split('/')[0]}; use "
        "a probe of another representation, query_token_representation for example",
    )
    with pytest.raises(RowError, match="the question has no image") as caught:
        scorer.risk(image, "What is it?")
    assert caught.value.stage == "input"
