"""Preparing a batch: a file is read once, and images are told apart by their pixels."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from material import make_image
from vlmscope.dataset import hash_image
from vlmscope.engine import batch, inputs, prepare
from vlmscope.engine.device import Fetch
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.schema import CaptureSpec, Sample


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    seen: list[str] = []
    original = inputs.load_image

    def spy(image: Any) -> Any:
        seen.append(Path(image).name if isinstance(image, str | Path) else "no file")
        return original(image)

    monkeypatch.setattr(inputs, "load_image", spy)
    return seen


def test_a_file_that_several_rows_name_is_read_once_a_batch(
    vlm: VisionLanguageModel, opened: list[str], tmp_path: Path
) -> None:
    for name in ("one", "four"):
        make_image(name).save(tmp_path / f"{name}.png")
    one, four = tmp_path / "one.png", tmp_path / "four.png"
    named: list[Any] = [str(one), one, four, (str(four), one), four.read_bytes()]
    rows = [Sample(str(i), image, "Why?") for i, image in enumerate(named)]
    batches, failures = prepare(rows, vlm)
    assert not failures
    assert sorted(opened) == ["four.png", "no file", "one.png"]
    hashes = {
        sample.id: hash_ for own in batches for sample, hash_ in
        zip(own.samples, own.image_hashes, strict=True)
    }  # fmt: skip
    first, second = hash_image(make_image("one")), hash_image(make_image("four"))
    assert [hashes[str(i)] for i in range(5)] == [
        first, first, second, f"{second}+{first}", second
    ]  # fmt: skip
    prepare(rows[:1], vlm)
    assert opened[-1] == "one.png"  # nothing is kept from batch to batch
    assert len(opened) == 4


def test_a_file_that_cannot_be_read_fails_for_each_of_its_rows(
    vlm: VisionLanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [Sample(id_, str(tmp_path / "bad.png"), "Why?") for id_ in "ab"]
    batches, failures = prepare([*rows, Sample("c", make_image("one"), "Why?")], vlm)
    assert [failure.id for failure in failures] == ["a", "b"]
    assert [[sample.id for sample in own.samples] for own in batches] == [["c"]]


def test_what_is_fetched_has_the_values_of_its_time() -> None:
    """On a CPU, too, it is a copy: the slots go on being written to."""
    counts, states = torch.arange(4), torch.ones(2, 3)
    fetch = Fetch({"counts": counts[1:], "states": states})
    counts += 10
    states.zero_()
    assert list(fetch) == ["counts", "states"]
    np.testing.assert_array_equal(fetch["counts"], [1, 2, 3])
    np.testing.assert_array_equal(fetch["states"], np.ones((2, 3)))
    assert fetch["counts"].dtype == np.int64
    counts[:] = -1
    np.testing.assert_array_equal(fetch["counts"], [1, 2, 3])


def test_a_batch_of_large_images_is_divided(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("one", "two_wide", "four")
    for name in names:
        make_image(name).save(tmp_path / f"{name}.png")
    rows = [Sample(str(i), tmp_path / f"{names[i % 3]}.png", "Why?") for i in range(7)]
    rows.insert(3, Sample("bad", tmp_path / "none.png", "Why?"))
    [whole], _ = prepare(rows, vlm)
    loaded: list[Any] = []
    most, original = 0, inputs.load_image

    def spy(image: Any) -> Any:
        nonlocal most
        opened = original(image)
        loaded.append(weakref.ref(opened))
        alive = [each for each in (reference() for reference in loaded) if each is not None]
        most = max(most, sum(each.width * each.height for each in alive))
        return opened

    monkeypatch.setattr(inputs, "load_image", spy)
    monkeypatch.setattr(batch, "PIXELS_AT_ONCE", 1)
    batches, failures = prepare(rows, vlm)
    assert most == make_image("four").width * make_image("four").height, "one image at a time"
    assert [failure.id for failure in failures] == ["bad"]
    assert [[sample.id for sample in own.samples] for own in batches] == [
        [str(i)] for i in range(7)
    ]
    assert [hash_ for own in batches for hash_ in own.image_hashes] == list(whole.image_hashes)
    ids = [own.input_ids[own.attention_mask == 1] for own in batches]
    for row, alone in enumerate(ids):
        np.testing.assert_array_equal(whole.input_ids[row][whole.attention_mask[row] == 1], alone)


def test_control_tokens_are_listed_once_for_a_batch(
    vlm: VisionLanguageModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma's tokenizer has 6,000 added tokens, which take 10 ms."""
    listed: list[list[str]] = []
    usual = batch.control_tokens

    def list_tokens(tokenizer: Any) -> list[str]:
        listed.append(usual(tokenizer))
        return listed[-1]

    monkeypatch.setattr(batch, "control_tokens", list_tokens)
    spec = resolve_spec(CaptureSpec(max_new_tokens=0), vlm)
    bad = replace(samples[0], id="bad", question=f"Is {usual(vlm.processor.tokenizer)[0]} there?")
    batches, [failure] = prepare([*samples[:3], bad], vlm, spec)
    assert sum(len(each.samples) for each in batches) == 3
    assert failure.id == "bad"
    assert "control token" in failure.error
    assert len(listed) == 1
