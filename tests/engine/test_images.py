"""Each image through the vision encoder once, and what is remembered of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.against_reference import (
    assert_all_same,
    expected_of,
    relative_error,
    run_session,
    submitted,
)
from material import QUESTIONS, make_image
from vlmscope.engine import Batch, CaptureSession, image_cache, prepare
from vlmscope.engine.image_cache import Encodings, ImageEncoder
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.model.attention.switch import configurations
from vlmscope.positions import VISION_ONLY
from vlmscope.schema import CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=4)
NAMES = ("one", "two_wide", "two_tall", "four")


@pytest.fixture
def encoded(vlm: VisionLanguageModel) -> Iterator[list[int]]:
    """Images of every pass of the vision encoder."""
    seen: list[int] = []
    tiles = vlm.model.config.vision_config.max_num_tiles
    handle = vlm.vision_encoder.patch_embedding.register_forward_hook(
        lambda _m, _a, out: seen.append(len(out) // tiles)
    )
    yield seen
    handle.remove()


def about(image: Any, start: int = 0, count: int = 4) -> list[Sample]:
    """Return questions about one image."""
    return [
        Sample(f"{start + i}", image, QUESTIONS[(start + i) % len(QUESTIONS)]) for i in range(count)
    ]


def test_an_image_is_encoded_once_for_all_its_questions(
    vlm: VisionLanguageModel, encoded: list[int]
) -> None:
    """In one batch and in those that follow, with answers and without; reference.py agrees."""
    image, other = make_image("two_wide"), make_image("four")
    rows = [*about(image), *about(image, 4, 2), *about(other, 6, 1), *about(image, 7, 1)]
    session = CaptureSession(vlm, resolve_spec(SPEC, vlm), 4)
    found = submitted(session, rows, vlm, SPEC, 4)
    assert encoded == [1, 1]
    results = [*(item for piece in found for item in piece), *session.drain()]
    assert_all_same(results, expected_of(rows, vlm, SPEC), rows)
    shared = [item for item in results if item.sample.image is image]  # type: ignore[union-attr]
    assert len(shared) == 7
    for item in shared:
        np.testing.assert_array_equal(item.vectors[VISION_ONLY], shared[0].vectors[VISION_ONLY])  # type: ignore[union-attr]


def test_the_pixels_tell_and_not_the_names(
    vlm: VisionLanguageModel, encoded: list[int], tmp_path: Path
) -> None:
    same, pixels = make_image("one"), np.asarray(make_image("one")).copy()
    pixels[0, 0, 0] ^= 1
    same.save(tmp_path / "a.png")
    same.save(tmp_path / "b.bmp")
    Image.fromarray(pixels).save(tmp_path / "c.png")
    rows = [
        Sample(name, str(tmp_path / name), QUESTIONS[0])
        for name in ("a.png", "b.bmp", "c.png", "a.png")[:3]
    ]
    spec = CaptureSpec(max_new_tokens=0)
    found = {
        item.sample.id: item.vectors[VISION_ONLY]  # type: ignore[union-attr]
        for piece in run_session(rows, vlm, spec, rows=3, size=3)
        for item in piece
    }
    assert encoded == [2]
    np.testing.assert_array_equal(found["a.png"], found["b.bmp"])
    assert not np.array_equal(found["a.png"], found["c.png"])


def test_several_images_are_one_thing_in_their_order(
    vlm: VisionLanguageModel, encoded: list[int]
) -> None:
    one, other = make_image("one"), make_image("two_tall")
    orders = [(one, other), (other, one), (one, other)]
    rows = [Sample(str(i), pair, QUESTIONS[i]) for i, pair in enumerate(orders)]
    pieces = run_session(rows, vlm, SPEC, rows=3, size=3)
    assert encoded == [4]  # two rows of two images each
    assert_all_same(pieces[-1], expected_of(rows, vlm, SPEC), rows)


def batch_of(vlm: VisionLanguageModel, seeds: Sequence[int]) -> Batch:
    """Return a batch with one image for each seed, of all tile counts."""
    rows = [
        Sample(str(i), make_image(NAMES[seed % 4], seed), QUESTIONS[i % len(QUESTIONS)])
        for i, seed in enumerate(seeds)
    ]
    [batch], _ = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    return batch


def encode(encoder: ImageEncoder, vlm: VisionLanguageModel, seeds: Sequence[int]) -> Encodings:
    with torch.inference_mode():
        return encoder.encode(batch_of(vlm, seeds))


def plainly(vlm: VisionLanguageModel, seed: int) -> tuple[np.ndarray, list[Tensor]]:
    """Return the library's pooled encoding of an image alone, and the keys and values of it."""
    batch = batch_of(vlm, [seed])
    taken = {name: batch.inputs[name] for name in vlm.family.encoder_inputs}
    with torch.inference_mode():
        features = vlm.vision_encoder(**taken).last_hidden_state
        cache = vlm.model(**batch.inputs, use_cache=True).past_key_values
    layers = [cache.layers[block] for block in sorted(vlm.skipped_without_image)]
    kept = [part[0] for layer in layers for part in (layer.keys, layer.values)]
    return features.flatten(1, -2).mean(dim=1)[0].numpy(), kept


@pytest.mark.first(1)
@pytest.mark.parametrize("at_once", [2, 8])
def test_each_row_gets_its_own_images_encoding(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, encoded: list[int], at_once: int
) -> None:
    """Some are known, some come twice, and rows with as many tiles go through together."""
    monkeypatch.setattr(image_cache, "AT_ONCE", at_once)
    encoder, seeds = ImageEncoder(vlm, "all"), [0, 3, 1, 3, 2, 7, 4, 0, 5]
    encode(encoder, vlm, [4, 1])
    encoded.clear()
    found = encode(encoder, vlm, seeds)
    assert sum(encoded) == 5
    assert max(encoded) == min(at_once, 5)
    for row, seed in enumerate(seeds):
        pooled, kept = plainly(vlm, seed)
        assert relative_error(found.pooled[row].numpy(), pooled) < 1e-5
        own = [part[row] for pair in found.layers.values() for part in pair]
        assert len(own) == len(kept) > 0
        for part, expected in zip(own, kept, strict=True):
            assert relative_error(part.numpy(), expected.numpy()) < 1e-5
    assert list(found.layers) == sorted(vlm.skipped_without_image)
    assert found.shapes["vision_encoder"][0] == len(seeds)


def test_the_images_that_were_not_asked_for_longest_are_forgotten(
    vlm: VisionLanguageModel, encoded: list[int]
) -> None:
    encoder = ImageEncoder(vlm, "all", kept=2)
    history = []
    for seed in (0, 1, 0, 2, 0, 2, 1, 0):
        before = len(encoded)
        encode(encoder, vlm, [seed])
        history.append(len(encoded) > before)
    assert history == [True, True, False, True, False, False, True, True]


def test_a_batch_of_more_images_than_are_kept(vlm: VisionLanguageModel, encoded: list[int]) -> None:
    encoder = ImageEncoder(vlm, "all", kept=2)
    found = encode(encoder, vlm, [0, 1, 2, 3])
    for row in range(4):
        assert relative_error(found.pooled[row].numpy(), plainly(vlm, row)[0]) < 1e-5
    kept = [
        part
        for one in encoder._known.values()
        for part in (one.pooled, *(part for pair in one.layers.values() for part in pair))
    ]
    assert len(encoder._known) == 2
    for part in kept:  # and nothing of what was encoded with them
        assert part.untyped_storage().nbytes() == part.nbytes
    encoded.clear()
    encode(encoder, vlm, [2, 3])
    assert encoded == []
    encode(encoder, vlm, [0])
    assert encoded == [1]


def test_room_is_made_before_images_are_encoded(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, known = ImageEncoder(vlm, "all", kept=3), list[int]()
    encode(encoder, vlm, [0, 1, 2])
    original = ImageEncoder._encode

    def watch(self: ImageEncoder, rows: Sequence[int], *arguments: Any) -> None:
        known.append(len(self._known) + len(rows))
        original(self, rows, *arguments)

    monkeypatch.setattr(ImageEncoder, "_encode", watch)
    encode(encoder, vlm, [2, 3, 4])
    encode(encoder, vlm, [5, 6, 7, 0])
    assert known == [3, 4]


def test_a_session_keeps_so_many_and_no_more(vlm: VisionLanguageModel, encoded: list[int]) -> None:
    spec, seeds = CaptureSpec(layers="0", max_new_tokens=0), [*range(image_cache.KEPT + 1), 1, 0]
    rows = [Sample(str(i), make_image("one", seed), "Why?") for i, seed in enumerate(seeds)]
    run_session(rows, vlm, spec, rows=1, size=1)
    assert encoded == [1] * (image_cache.KEPT + 2)  # of the last two only the older is gone


def test_what_is_forgotten_is_encoded_again(
    vlm: VisionLanguageModel, encoded: list[int], samples: Sequence[Sample]
) -> None:
    session, rows = CaptureSession(vlm, resolve_spec(SPEC, vlm), 4), about(make_image("four"), 0, 2)
    session.forget()  # before there is anything
    found = submitted(session, rows[:1], vlm, SPEC, 1)
    session.forget()
    found += [*submitted(session, rows[1:], vlm, SPEC, 1), session.drain()]
    assert encoded == [1, 1]
    flat = [item for piece in found for item in piece]
    assert_all_same(flat, expected_of(rows, vlm, SPEC), rows)


def test_the_image_processor_works_once_for_an_image(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows may mix it with others; every input has the values that it had, entry for entry."""
    seeds = [3, 0, 3, 1, 0, 3]
    apart = [batch_of(vlm, [seed]) for seed in seeds]
    seen: list[int] = []
    own = type(vlm.processor.image_processor).preprocess

    def preprocess(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(images))
        return own(self, images, *args, **kwargs)

    monkeypatch.setattr(type(vlm.processor.image_processor), "preprocess", preprocess)
    batch = batch_of(vlm, seeds)
    assert seen == [3]
    assert len(batch.inputs["pixel_values"]) == 3
    assert len(batch.inputs["cross_attention_mask"]) == len(seeds)
    for name in vlm.family.encoder_inputs:
        whole = batch.model_inputs()[name]
        for row, alone in enumerate(apart):
            assert torch.equal(whole[row], alone.model_inputs()[name][0]), name
    assert set(batch.model_inputs(without=vlm.family.encoder_inputs)) == {
        "input_ids", "attention_mask", "cross_attention_mask",
    }  # fmt: skip


@pytest.mark.exhaustive
def test_shared_images_where_the_encoder_is_not_apart(vlm: VisionLanguageModel) -> None:
    """The prompt is then given every row's image, although each was prepared once."""
    rows = [*about(make_image("two_wide"), 0, 2), *about(make_image("four"), 2, 2)]
    expected = expected_of(rows, vlm, SPEC)
    family = dataclasses.replace(vlm.family, cross_attention="")
    pieces = run_session(rows, dataclasses.replace(vlm, family=family), SPEC, rows=4, size=4)
    assert_all_same([item for piece in pieces for item in piece], expected, rows)


def test_after_a_prefill_that_raises_the_model_is_as_before(vlm: VisionLanguageModel) -> None:
    def fail(*_: Any) -> None:
        raise ArithmeticError

    def state() -> tuple[list[str], int]:
        hooks = sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in vlm.model.modules()
        )
        names = [one._attn_implementation for one in configurations(vlm.model)]
        return names, hooks

    rows, before = about(make_image("one"), 0, 2), state()
    handle = vlm.layers[2].register_forward_hook(fail)
    try:
        with pytest.raises(ArithmeticError):
            run_session(rows, vlm, SPEC, rows=2, size=2)
    finally:
        handle.remove()
    assert state() == before
    pieces = run_session(rows, vlm, SPEC, rows=2, size=2)
    assert_all_same(pieces[-1], expected_of(rows, vlm, SPEC), rows)
