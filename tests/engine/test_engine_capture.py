"""The one-pass capture against the reference method, and the specification's shapes and numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.against_reference import assert_same, known_reference, relative_error
from families.conformance import build
from material import IMAGE_SIZES, QUESTIONS, make_image
from vlmscope.engine import capture, capture_batch, prepare
from vlmscope.errors import RowError
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.positions import ANSWER_POSITIONS, REPRESENTATIONS
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample

SHORT = CaptureSpec(max_new_tokens=12)


@pytest.mark.first(1)
@pytest.mark.parametrize("batch_size", [5, 1, 2])
def test_equals_the_reference_at_every_layer(
    vlm: VisionLanguageModel, samples: Sequence[Sample], batch_size: int
) -> None:
    spec = CaptureSpec(layers="all", positions=tuple(REPRESENTATIONS), max_new_tokens=6)
    found = list(capture(samples, vlm, spec, batch_size=batch_size))
    assert [item.sample.id for item in found] == [sample.id for sample in samples]
    for item, sample in zip(found, samples, strict=True):
        assert_same(item, known_reference(sample, vlm, spec))


def test_answers_of_different_lengths_in_one_batch(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    found = list(capture(samples, talkative_vlm, SHORT, batch_size=len(samples)))
    assert {item.finish_reason for item in found} == {"stop", "length"}
    assert len({len(item.answer_token_ids) for item in found}) > 2
    for item, sample in zip(found, samples, strict=True):
        assert_same(item, known_reference(sample, talkative_vlm, SHORT))


@pytest.mark.exhaustive
def test_hidden_states_of_answers_of_different_lengths(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(layers="0,3,n-1", positions=ANSWER_POSITIONS, max_new_tokens=12)
    [batch], _ = prepare(samples, talkative_vlm)
    plain = [known_reference(sample, talkative_vlm, SHORT) for sample in samples]
    lengths = set()
    for found, sample, expected in zip(
        capture_batch(batch, talkative_vlm, resolve_spec(spec, talkative_vlm)),
        samples,
        plain,
        strict=True,
    ):
        if not (expected.answer or "").strip("\ufffd") and isinstance(found, Failure):
            assert "the answer is empty" in found.error
            continue
        assert isinstance(found, Capture)
        lengths.add(len(found.answer_token_ids))
        assert_same(found, known_reference(sample, talkative_vlm, spec))
    assert len(lengths) > 2
    assert 12 in lengths


def test_an_empty_answer_is_recorded_where_an_answer_token_is_wanted(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(capture(samples[:1], vlm, SHORT)).answer_token_ids[0]
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [*config.eos_token_id, int(first)])
    [batch], _ = prepare(samples[:1], vlm)
    spec = CaptureSpec(positions=("last_prompt_token", "answer_mean"), max_new_tokens=5)
    [result] = capture_batch(batch, vlm, resolve_spec(spec, vlm))
    assert isinstance(result, Failure)
    assert "the answer is empty" in result.error
    [kept] = capture_batch(batch, vlm, resolve_spec(SHORT, vlm))
    assert isinstance(kept, Capture)
    assert len(kept.answer_token_ids) == 1
    assert kept.finish_reason == "stop"


def test_the_last_question_token_is_the_questions_last(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(positions=("last_question_token",), max_new_tokens=0)
    short = [
        Sample(q, make_image("one"), q) for q in ("is", "a", "end", "user", "Is it lit? ", "\n?")
    ]
    rows = [*samples, *short]
    [batch], _ = prepare(rows, vlm, resolve_spec(spec, vlm))
    for row, item in enumerate(capture_batch(batch, vlm, resolve_spec(spec, vlm))):
        assert isinstance(item, Capture)
        ids = batch.input_ids[row][batch.attention_mask[row].astype(bool)]
        end = item.boundaries["last_question_token"] + 1
        text = vlm.processor.tokenizer.decode(ids[:end])
        assert text.endswith(f"<|image|>{rows[row].question}")
        assert vlm.processor.tokenizer.decode(ids[end:]).startswith("<|eot_id|>")
        assert_same(item, reference(rows[row], vlm, spec))


def test_a_template_that_trims_is_no_trouble(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = vlm.processor.chat_template.replace("part['text']", "part['text'] | trim")
    monkeypatch.setattr(vlm.processor, "chat_template", template)
    spec = CaptureSpec(positions=("last_question_token", "last_prompt_token"), max_new_tokens=2)
    for question in (" Is it lit? ", "Is it lit?\n\n"):
        sample = Sample(question, make_image("one"), question)
        [item] = capture([sample], vlm, spec)
        assert_same(item, reference(sample, vlm, spec))


@pytest.mark.exhaustive
def test_prefill_only_takes_the_same_path(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(max_new_tokens=0)
    for item, full in zip(
        capture(samples, vlm, spec, batch_size=5),
        capture(samples, vlm, SHORT, batch_size=5),
        strict=True,
    ):
        assert item.answer is None
        assert item.finish_reason == "prefill"
        for name, vector in item.vectors.items():
            np.testing.assert_array_equal(vector, full.vectors[name])
        assert item.first_token_entropy == full.first_token_entropy


def test_valid_pooling_leaves_padding_tiles_out(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(vision_pooling="valid", max_new_tokens=0)
    name = "vision_only_representation"
    for item, sample in zip(capture(samples, vlm, spec, batch_size=5), samples, strict=True):
        assert relative_error(item.vectors[name], reference(sample, vlm, spec).vectors[name]) < 1e-5
        everything = reference(sample, vlm, CaptureSpec(max_new_tokens=0)).vectors[name]
        four_tiles = sample.image_id.startswith("four")
        assert (relative_error(item.vectors[name], everything) < 1e-5) == four_tiles


def test_the_numbers_of_the_seed(vlm: VisionLanguageModel) -> None:
    sample = Sample("question_comb_1732", make_image("four"), "Is the forest lit by a full moon?")
    [item] = capture([sample], vlm, SHORT)
    assert item.boundaries == {"last_image_token": 5, "last_prompt_token": 19}
    assert item.num_prompt_tokens == 20
    assert item.vectors["vision_only_representation"].shape == (vlm.vision_size,)
    layers = [f"layer_{k}" for k in (0, 2, 4, 6, 7)]
    for group in ("vision_token_representation", "query_token_representation"):
        assert [n.split("/")[1] for n in item.vectors if n.startswith(group)] == layers
        assert all(item.vectors[f"{group}/{layer}"].shape == (64,) for layer in layers)


def test_bos_stands_once(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> None:
    [batch], _ = prepare(samples, vlm)
    bos = vlm.processor.tokenizer.bos_token_id
    assert ((batch.input_ids == bos).sum(axis=1) == 1).all()
    first = batch.attention_mask.argmax(axis=1)
    assert (batch.input_ids[np.arange(len(first)), first] == bos).all()


def test_each_image_is_encoded_once_and_the_prompt_prefilled_once(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    encoded, prefills, decoded = [], [], []
    encoder = vlm.vision_encoder.patch_embedding.register_forward_hook(
        lambda _m, _a, out: encoded.append(len(out))
    )
    decoder = vlm.layers[0].register_forward_hook(
        lambda _m, _a, out: (prefills if out.shape[1] > 1 else decoded).append(out.shape)
    )
    try:
        list(capture(samples, vlm, SHORT, batch_size=len(samples)))
    finally:
        encoder.remove()
        decoder.remove()
    distinct = len({sample.image_id for sample in samples})
    images_in_patches = encoded[0] // vlm.model.config.vision_config.max_num_tiles
    assert len(encoded) == 1
    assert images_in_patches == distinct < len(samples)
    assert len(prefills) == 1
    assert len(decoded) == SHORT.max_new_tokens - 1


def test_the_question_reaches_the_query_token_and_not_the_image_token(
    vlm: VisionLanguageModel,
) -> None:
    pair = [Sample(q, make_image("two_wide"), q) for q in ("Is there a cat?", "Is there a cup?")]
    one, other = capture(pair, vlm, CaptureSpec(layers="all", max_new_tokens=0))
    for name, vector in one.vectors.items():
        error = relative_error(vector, other.vectors[name])
        assert error > 1e-3 if name.startswith("query") else error < 1e-5, name


def test_the_image_reaches_every_representation_behind_the_first_cross_attention(
    vlm: VisionLanguageModel,
) -> None:
    pair = [Sample(str(seed), make_image("four", seed), "What is it?") for seed in (1, 2)]
    one, other = capture(pair, vlm, CaptureSpec(layers="all", max_new_tokens=0))
    for name, vector in one.vectors.items():
        blind = name.endswith("layer_0")  # the first cross-attention layer is layer 1
        assert (relative_error(vector, other.vectors[name]) < 1e-6) == blind, name


def test_nothing_stays_hooked(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> None:
    def count() -> int:
        modules = list(vlm.model.modules())
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = count()  # transformers keeps hooks of its own
    list(capture(samples[:2], vlm, SHORT))
    assert count() == before


def test_a_row_of_nan_is_a_failure_and_its_neighbours_are_not(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    [batch], _ = prepare(samples[:3], vlm)
    broken = batch.inputs | {"pixel_values": batch.inputs["pixel_values"].clone()}
    broken["pixel_values"][1] = torch.nan
    spec = CaptureSpec(max_new_tokens=0)
    results = capture_batch(dataclasses.replace(batch, inputs=broken), vlm, resolve_spec(spec, vlm))
    assert isinstance(results[1], Failure)
    assert results[1].stage == "capture"
    assert "NaN" in results[1].error
    for row in (0, 2):
        assert_same(results[row], reference(samples[row], vlm, spec))  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["<|image|>", "<|eot_id|>", "<|begin_of_text|>"])
def test_a_question_that_holds_a_control_token_is_refused(
    vlm: VisionLanguageModel, token: str
) -> None:
    sample = Sample(
        "q", make_image("one"), f"What does {token} mean?", origin="questions.csv line 3"
    )
    batches, failures = prepare([sample], vlm)
    assert not batches
    assert [failure.stage for failure in failures] == ["prompt"]
    assert "questions.csv line 3" in failures[0].error
    assert token in failures[0].error
    with pytest.raises(RowError, match="control token"):
        list(capture([sample], vlm))


def test_a_prompt_that_is_too_long_fails_alone(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [
        Sample("short", make_image("one"), QUESTIONS[1]),
        Sample("long", make_image("one"), "a b " * 50),
    ]
    text_config = vlm.model.config.get_text_config(decoder=True)
    monkeypatch.setattr(text_config, "max_position_embeddings", 60)
    [batch], failures = prepare(pair, vlm)
    assert [sample.id for sample in batch.samples] == ["short"]
    assert failures[0].id == "long"
    assert "shorten" in failures[0].error


@pytest.mark.first(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_stored_as_float32_and_close(
    checkpoint: object, samples: Sequence[Sample], dtype: torch.dtype
) -> None:
    half = load_model(str(checkpoint), device="cpu", dtype=str(dtype).removeprefix("torch."))
    spec = CaptureSpec(max_new_tokens=1)
    for item, sample in zip(capture(samples[:4], half, spec, batch_size=4), samples, strict=False):
        expected = reference(sample, half, spec)
        for name, vector in item.vectors.items():
            assert vector.dtype == np.float32
            assert relative_error(vector, expected.vectors[name]) < 3e-2, name


@pytest.mark.exhaustive
def test_batches_may_be_prepared_on_many_threads(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    chunks = [samples[i % 10 : i % 10 + 1 + i % 4] for i in range(80)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda chunk: prepare(chunk, vlm)[0][0], chunks))
    for chunk, batch in zip(chunks, together, strict=True):
        [alone], _ = prepare(chunk, vlm)
        for name, tensor in alone.inputs.items():
            assert torch.equal(tensor, batch.inputs[name]), name


def test_nan_in_the_logits_is_a_failure(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    def spoil(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, torch.nan)

    handle = vlm.lm_head.register_forward_hook(spoil)
    try:
        [batch], _ = prepare(samples[:1], vlm)
        [result] = capture_batch(
            batch, vlm, resolve_spec(CaptureSpec(layers="0", max_new_tokens=2), vlm)
        )
    finally:
        handle.remove()
    assert isinstance(result, Failure)
    assert "first_token_entropy" in result.error


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"guidance_scale": 1.5},
        {"prefill_chunk_size": 4},
        {"prompt_lookup_num_tokens": 3},
        {"max_time": 1e-9},
        {"num_return_sequences": 2, "do_sample": True},
        {"no_repeat_ngram_size": 2, "suppress_tokens": [47, 60, 117]},
        {"pad_token_id": 896},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_checkpoint_with_settings_of_its_own_is_decoded_greedily(
    talkative: Path, samples: Sequence[Sample], tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(talkative, tmp_path / "copy"))
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | settings))
    own = load_model(folder, device="cpu")
    for item, sample in zip(capture(samples[:5], own, SHORT, batch_size=5), samples, strict=False):
        assert_same(item, reference(sample, own, SHORT))


def test_a_template_that_rewrites_the_question_is_no_trouble_where_its_end_is_not_wanted(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = vlm.processor.chat_template.replace("part['text']", "part['text'] | upper")
    monkeypatch.setattr(vlm.processor, "chat_template", template)
    sample = Sample("q", make_image("one"), "Is it lit?")
    [item] = capture([sample], vlm, SHORT)
    assert_same(item, reference(sample, vlm, SHORT))


@pytest.mark.exhaustive
def test_an_answer_that_holds_the_image_token(tmp_path: Path) -> None:
    """The token is a word of the answer then; there is no image that belongs to it."""
    vlm = load_model(build("llava", tmp_path / "llava"), device="cpu", dtype="float32")
    vlm.model.generation_config.eos_token_id = [10**6]
    spec = CaptureSpec(layers="all", positions=ANSWER_POSITIONS, max_new_tokens=3)
    sample = Sample("q", make_image(next(iter(IMAGE_SIZES))), QUESTIONS[0])
    [prompt] = capture([sample], vlm, CaptureSpec(layers="n-1", positions=("last_prompt_token",)))
    [last] = [vector for name, vector in prompt.vectors.items() if name.startswith("query_token")]
    with torch.no_grad():
        vlm.lm_head.weight[vlm.image_token_id] = torch.from_numpy(last)
    [found] = capture([sample], vlm, spec)
    assert found.answer_token_ids is not None
    assert found.answer_token_ids[0] == vlm.image_token_id
    assert_same(found, reference(sample, vlm, spec))
