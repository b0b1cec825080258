"""Images of a token or two: whether such a row succeeds does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.against_reference import assert_same
from families import strangers
from families.conformance import NUMPY_2, WIDE, build, make_image
from vlmscope.engine import CaptureSession, capture
from vlmscope.executors.batching import BatchSizer
from vlmscope.executors.runner import ResilientRunner
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.loading import batching
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample

SPEC = CaptureSpec(layers="all", max_new_tokens=3)
SIZES = ((1, 1), (28, 28), (29, 13), (2, 150), (400, 1))
"""Of images, as width and height; the last is refused by some processors."""

ROWS = (
    *(Sample(f"{w}x{h}", make_image(w, h), "What is it?") for w, h in SIZES),
    Sample("again", make_image(1, 1, 1), "What colour is the thing?"),
    Sample("larger", WIDE, "Is there a cat?"),
)

pytestmark = NUMPY_2


def outcomes(
    rows: Sequence[Sample], vlm: VisionLanguageModel, size: int
) -> dict[str, Capture | Failure]:
    """Return what ``extract`` would record of each row, in batches of a size."""
    spec = resolve_spec(SPEC, vlm)
    session = CaptureSession(vlm, spec, size)
    runner = ResilientRunner(vlm, spec, BatchSizer(size), session, went_well=True)
    pieces = [
        piece
        for start in range(0, len(rows), size)
        for piece in runner.run(rows[start : start + size])
    ]
    found = [item for piece in (*pieces, *runner.drain()) for item in piece]
    return {item.id if isinstance(item, Failure) else item.sample.id: item for item in found}


def assert_alike(vlm: VisionLanguageModel, rows: Sequence[Sample] = ROWS) -> list[str]:
    """Hold rows in batches against rows alone; return those that fail."""
    alone = outcomes(rows, vlm, 1)
    for size in (2, len(rows)):
        for id_, item in outcomes(rows, vlm, size).items():
            own = alone[id_]
            if isinstance(own, Failure):
                assert isinstance(item, Failure)
                assert (item.stage, item.error) == (own.stage, own.error)
            else:
                assert_same(item, own)
    return [id_ for id_, item in alone.items() if isinstance(item, Failure)]


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("family", "failing"),
    [
        ("mistral3", ["400x1"]),
        ("qwen2_vl", ["400x1"]),
        ("internvl", []),
        ("gemma4", []),
    ],
)
def test_neighbours_do_not_decide(tmp_path: Path, family: str, failing: list[str]) -> None:
    vlm = load_model(build(family, tmp_path / family), device="cpu", dtype="float32")
    assert assert_alike(vlm) == failing


@pytest.fixture(scope="module")
def mistral3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("mistral3", tmp_path_factory.mktemp("smallest") / "mistral3")


def test_an_image_of_one_token_is_what_the_slow_method_sees(mistral3: Path) -> None:
    vlm = load_model(mistral3, device="cpu", dtype="float32")
    rows = [ROWS[0], ROWS[1], ROWS[-1]]
    for size in (1, 3):
        for item in capture(rows, vlm, SPEC, batch_size=size):
            assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
def test_a_stranger_is_mended_likewise(mistral3: Path, tmp_path: Path) -> None:
    strangers.register()
    folder = strangers.rename(mistral3, tmp_path / "copy", "acme_mistral")
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert not vlm.one_at_a_time
    assert assert_alike(vlm) == ["400x1"]


@pytest.mark.exhaustive
def test_what_cannot_be_mended_fails_in_every_batch(
    mistral3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers.register()
    folder = strangers.rename(mistral3, tmp_path / "copy", "acme_mistral")

    def nothing(_module: Any, _args: Any, _output: Any) -> None:
        """Leave the output as it is."""

    monkeypatch.setattr(batching, "_with_batch", nothing)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.one_at_a_time
    assert assert_alike(vlm) == ["1x1", "28x28", "400x1", "again"]
