"""Every family on a double of a GPU: nothing mixes devices, and no batch waits for the one before.

The numbers are those of the CPU: bit by bit in most families, but some of the library's operations
divide their sums in another way for tensors that say they are on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from engine.against_reference import assert_same
from families.conformance import (
    NONE,
    RUNNABLE,
    TALL,
    THIRD,
    WANTS_TIMM,
    WANTS_TORCHVISION,
    WIDE,
    build,
    make_image,
)
from families.gpu_double import GPU, Waits, on_double
from vlmscope.engine import prepare, prompt_pass
from vlmscope.engine.session import CaptureSession
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.device_copies import to_device
from vlmscope.model.host_positions import HostCopies
from vlmscope.schema import Capture, CaptureSpec, Sample

SPEC = CaptureSpec(layers="all", max_new_tokens=0)

Rows = Sequence[Sequence[Sample]]
"""Two batches."""

PADDED: Rows = (
    (
        Sample("a", WIDE, "Is there a cat in the image?"),
        Sample("b", TALL, "Why?"),
        Sample("c", THIRD, "How many people are there, and is there a rocket?"),
    ),
    (
        Sample("d", make_image(90, 66, 3), "Is it lit?"),
        Sample("e", make_image(24, 80, 4), "How many cats are there, and is there a rocket?"),
        Sample("f", make_image(70, 40, 5), "Why?"),
    ),
)

REPEATED = "images asked about again"

OTHERS: Mapping[str, Rows] = {
    REPEATED: tuple(
        (*batch, *(Sample(f"{row.id}2", row.image, f"So: {row.question}") for row in batch[:2]))
        for batch in PADDED
    ),
    "two images": (
        (Sample("two", (TALL, THIRD), "Which one?"), Sample("swapped", (THIRD, WIDE), "Is it?")),
        (Sample("again", (WIDE, TALL), "Which one is it?"), Sample("last", (TALL, WIDE), "Why?")),
    ),
    "no image": (NONE, NONE[:1]),
}
"""What is in the rows → two batches of such rows."""

WAITS = {
    "idefics2": "it looks for the images that are padding in their pixels",
    "idefics3": "it looks for the images that are padding in their pixels",
    "smolvlm": "it looks for the images that are padding in their pixels",
    "phi4_multimodal": "it asks whether there is an image token",
}
"""Families that wait for the batch before → for what."""

REARRANGED = ("perception_lm",)
"""Families whose encoder is given other tensors than the batch's, where images are repeated."""

WITH_EXTRAS = tuple(name for name in WANTS_TORCHVISION + WANTS_TIMM if name in RUNNABLE)

FIRST = ("qwen2_5_vl", "llava_next", "mllama", *WITH_EXTRAS)
"""Packed patches, sizes of images, cross-attention, and what only ``make test-extras`` runs."""

FAMILIES = [*FIRST, *(name for name in RUNNABLE if name not in FIRST)]


def captured(
    vlm: VisionLanguageModel, on_host: VisionLanguageModel, rows: Rows, waits: Waits | None = None
) -> list[Capture]:
    """Capture two batches; ``waits`` are then those of the second."""
    spec = resolve_spec(SPEC, on_host)
    session = CaptureSession(vlm, spec, rows=8)
    found = []
    for own in rows:
        batches, failures = prepare(own, on_host, spec)
        assert not failures
        if waits is not None:
            waits.restart()
        for batch in batches:
            found += session.submit(batch)
    found += session.drain()
    assert all(isinstance(each, Capture) for each in found), found
    assert len(found) == sum(map(len, rows))
    return sorted(found, key=lambda each: each.sample.id)  # type: ignore[arg-type,return-value]


def compare(vlm: VisionLanguageModel, rows: Rows) -> Waits:
    """Compare two batches on the double with the CPU; return what the second waited for."""
    expected = captured(vlm, vlm, rows)
    with on_double(vlm) as (placed, waits):
        assert placed.device == GPU
        assert prompt_pass.prepares_on_cpu(placed)
        found = captured(placed, vlm, rows, waits)
    assert vlm.device.type == "cpu"
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    return waits


def assert_waits(family: str, waits: Waits) -> None:
    """Assert that a batch waits for the one before only if that is stated."""
    assert waits.launched
    before = [wait for wait in waits.found if wait.before]
    assert bool(before) == (family in WAITS), before


def load(family: str, folder: Path) -> VisionLanguageModel:
    return load_model(build(family, folder / family), device="cpu", dtype="float32")


@pytest.mark.first(len(FIRST))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_batch_waits_for_the_one_before(family: str, tmp_path: Path) -> None:
    assert_waits(family, compare(load(family, tmp_path), PADDED))


@pytest.mark.exhaustive
@pytest.mark.parametrize("rows", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_mixes_devices(family: str, rows: str, tmp_path: Path) -> None:
    vlm = load(family, tmp_path)
    if rows == "no image" and not vlm.family.text_only:
        with on_double(vlm) as (placed, _):
            assert prepare(OTHERS[rows][0], placed.preprocessing, resolve_spec(SPEC, vlm))[1]
        return
    waits = compare(vlm, OTHERS[rows])
    # Tiles that the model chooses or rearranges before its encoder are compared on the GPU; and
    # without an image, the library asks for its mask whether there is padding.
    if rows == REPEATED and family not in REARRANGED:
        assert_waits(family, waits)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


def test_what_stays_on_the_cpu_is_noticed(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostCopies, "moved", lambda _self, tensor, _device: tensor)
    with (
        on_double(qwen) as (placed, _),
        pytest.raises(RuntimeError, match="all tensors to be on the same device"),
    ):
        captured(placed, qwen, PADDED[:1])


def test_what_waits_before_the_encoder_is_noticed(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_pass, "prepares_on_cpu", lambda _vlm: False)
    with on_double(qwen) as (placed, waits):
        captured(placed, qwen, PADDED[:1], waits)
    assert any("generation/utils.py" in wait.where for wait in waits.found if wait.before)


@pytest.mark.usefixtures("qwen")
def test_the_double_waits_as_a_gpu_does(qwen: VisionLanguageModel) -> None:
    numbers = torch.arange(6.0).reshape(2, 3)
    with torch.inference_mode(), on_double(qwen) as (_, waits):
        there = to_device(numbers, GPU)
        total = there @ there.T + 1
        total[0] = there[1, :2] * torch.tensor(2.0)
        total.repeat_interleave(2, dim=0)
        assert (total.device, total.is_cuda, waits.found) == (GPU, True, [])
        with pytest.raises(RuntimeError, match="same device"):
            there + numbers
        with pytest.raises(TypeError, match="becomes an array"):
            there.numpy()
        assert total.tolist() == [[6.0, 8.0], [15.0, 51.0]]
        assert bool((there > 4).any())
        assert there[there > 4].shape == (1,)
        assert there[[1]].shape == (1, 3)
        assert (there > 4).nonzero().tolist() == [[1, 2]]
        assert there.cpu().device.type == "cpu"
        numbers.to(GPU, non_blocking=True)
        torch.tensor([1, 2], device=GPU)
        torch.unique(there)
    names = [wait.name for wait in waits.found]
    assert names == [
        "tolist",
        "item",
        "index",
        "index",
        "nonzero",
        "tolist",
        *["to"] * 3,
        names[-1],
    ]
    assert "unique" in names[-1]
