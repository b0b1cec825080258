"""Rounding at loading: done for real where bitsandbytes is installed, else refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig

from adapter_folder import write_adapter
from checkpoint_identity import identify
from families.checkpoints import BUILDERS
from material import QUESTIONS, make_image
from tools.standin import build_standin
from vlmscope import capture
from vlmscope.errors import ModelError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.loading.device import bytes_of
from vlmscope.model.loading.quantization import check_device
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft, called by the tests
)

INSTALLED = find_spec("bitsandbytes") is not None
"""It weighs 125 MB, so that it is no part of the development tools."""

# bitsandbytes 0.50 cannot round Mllama's four-dimensional inputs to 8 bits on a CPU.
CASES = [
    ("mllama", "4bit"),
    ("llava", "4bit"),
    ("llava", "8bit"),
    ("qwen2_5_vl", "4bit"),
    ("qwen2_5_vl", "8bit"),
]
SPEC = CaptureSpec(layers="all", max_new_tokens=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("quantized")
    builders = BUILDERS | {"mllama": build_standin}
    return {family: builders[family](root / family) for family, _ in CASES}


def load(folder: Path, **options: str | Path | None) -> VisionLanguageModel:
    return load_model(folder, **({"device": "cpu", "dtype": "float32"} | options))


def is_refused(folder: Path, quantize: str) -> None:
    with pytest.raises(ModelError, match=f"^quantize {quantize} needs.*pip install bitsandbytes"):
        load(folder, quantize=quantize)


def questions() -> list[Sample]:
    return [
        Sample(id=str(i), image=make_image(name), question=QUESTIONS[i])
        for i, name in enumerate(("one", "four", "two_wide"))
    ]


def error(found: Capture, expected: Capture) -> float:
    """Largest relative error of a vector."""
    return max(
        float(np.linalg.norm(found.vectors[name] - vector) / np.linalg.norm(vector))
        for name, vector in expected.vectors.items()
    )


def check_parts(vlm: VisionLanguageModel, quantize: str) -> None:
    import bitsandbytes

    rounded = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[quantize]
    assert vlm.quantization == quantize
    assert vlm.dtype == torch.float32
    assert type(vlm.lm_head) is nn.Linear
    for part in (vlm.vision_encoder, vlm.layers):
        linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
        assert linear
        assert {type(module) for module in linear} == {rounded}
    inputs = {"pixel_values": torch.zeros(2, dtype=torch.float64), "input_ids": torch.ones(2).int()}
    assert [tensor.dtype for tensor in vlm.cast(inputs).values()] == [torch.float32, torch.int32]


def is_rounded(folder: Path, quantize: str) -> None:
    """The parts are what they should be, and the capture is the reference."""
    vlm, base = load(folder, quantize=quantize), load(folder)
    check_parts(vlm, quantize)
    assert vlm.vision_size == base.vision_size
    expected = [reference(sample, vlm, SPEC) for sample in questions()]
    # 8-bit layers see the whole call: asked together, the questions still go one at a time.
    assert bool(vlm.one_at_a_time) == (quantize == "8bit")
    for found, right in zip(capture(questions(), vlm, SPEC, batch_size=3), expected,
                            strict=True):  # fmt: skip
        assert found.answer == right.answer
        assert error(found, right) <= 1e-5
    whole = [reference(sample, base, SPEC).vectors["vision_only_representation"]
             for sample in questions()]  # fmt: skip
    for right, vector in zip(expected, whole, strict=True):
        moved = right.vectors["vision_only_representation"] - vector
        assert 0 < np.linalg.norm(moved) / np.linalg.norm(vector) < 0.5


@pytest.mark.parametrize(("family", "quantize"), CASES)
def test_rounding(folders: Mapping[str, Path], family: str, quantize: str) -> None:
    (is_rounded if INSTALLED else is_refused)(folders[family], quantize)


def test_what_bitsandbytes_cannot_do_is_refused(folders: Mapping[str, Path]) -> None:
    config = AutoConfig.from_pretrained(folders["mllama"])
    with pytest.raises(ModelError, match=r"in 8 bits on a CPU; use 4bit, or a GPU"):
        check_device("8bit", "a model", config, "cpu")
    check_device("8bit", "a model", config, "cuda:0")
    check_device("4bit", "a model", config, "cpu")


def test_without_bitsandbytes(folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    is_refused(folders["llava"], "4bit")


def test_an_unknown_rounding(folders: Mapping[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"^quantize '2bit': choose from 4bit, 8bit"):
        load(folders["llava"], quantize="2bit")


def has_an_adapter(folder: Path, adapter: Path) -> None:
    vlm = load(folder, quantize="4bit", adapter=adapter)
    check_hashes(folder, vlm)
    plain = load(folder, quantize="4bit")
    for sample, found in zip(questions(), capture(questions(), vlm, SPEC), strict=True):
        assert error(found, reference(sample, vlm, SPEC)) <= 1e-5
        assert error(found, reference(sample, plain, SPEC)) > 0.1


def check_hashes(folder: Path, vlm: VisionLanguageModel) -> None:
    others = [load(folder, quantize=how) for how in ("4bit", "8bit", None)]
    identities = [vlm.identity, identify(folder), *(other.identity for other in others)]
    hashes = [identity and identity.weights_hash for identity in identities]
    assert len(set(hashes)) == 4
    assert hashes[1] == hashes[4]


@pytest.mark.exhaustive
def test_an_adapter_on_rounded_weights(folders: Mapping[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(folders["llava"], tmp_path / "adapter")
    if INSTALLED:
        has_an_adapter(folders["llava"], adapter)
    else:
        is_refused(folders["llava"], "4bit")


def is_taken_as_it_is(folder: Path, stored: Path) -> None:
    made = load(folder, quantize="4bit")
    made.model.save_pretrained(stored)
    made.processor.save_pretrained(stored)
    [sample, *_] = questions()
    expected = reference(sample, made, SPEC)
    for quantize in (None, "4bit"):
        again = load(stored, quantize=quantize)
        assert again.quantization == "4bit"
        assert error(reference(sample, again, SPEC), expected) <= 1e-5
    with pytest.raises(ModelError, match="quantised already, by bitsandbytes; leave it out"):
        load(stored, quantize="8bit")


def test_a_checkpoint_that_is_rounded_already(folders: Mapping[str, Path], tmp_path: Path) -> None:
    if INSTALLED:
        is_taken_as_it_is(folders["llava"], tmp_path / "stored")
    else:
        is_refused(folders["llava"], "8bit")


def test_rounded_weights_take_less_room(vlm: VisionLanguageModel) -> None:
    config, kind = vlm.model.config, torch.float32
    whole = bytes_of(config, kind, None)
    assert whole == 4 * sum(parameter.numel() for parameter in vlm.model.parameters())
    rounded = {how: bytes_of(config, kind, how) for how in ("4bit", "8bit")}
    saved = [whole - rounded["4bit"], whole - rounded["8bit"]]
    assert saved[0] / saved[1] == pytest.approx((4 - 0.5625) / 3, rel=1e-4)
    assert 4 * vlm.lm_head.weight.numel() < rounded["4bit"] < rounded["8bit"] < whole
