"""Signals of a pass, against the slow method: sub-layers, attention, statistics of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.against_reference import assert_same
from families.conformance import NONE, ONE_IMAGE, SEVERAL, build, make_image
from families.llava_checkpoints import build_llava
from vlmscope import reference_attention
from vlmscope.engine import capture, prepare
from vlmscope.engine.answer_states import most_attentive
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.attention.shares import last_weights, members_of, shares
from vlmscope.model.sublayers import sublayers_of
from vlmscope.reference import reference
from vlmscope.sampling import SAMPLES
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.signals import (
    ATTENDED,
    BOXES,
    NO_TOKEN,
    PATCHES,
    PREVIOUS,
    PREVIOUS_HEAD,
    SIGNALS,
    TOKEN_STATISTICS,
    RecordedSignals,
)
from vlmscope.verification import compare

EVERYTHING = CaptureSpec(layers="all", max_new_tokens=5, signals=set(SIGNALS) - {SAMPLES})
ROWS = (*ONE_IMAGE[1:3], SEVERAL[0], NONE[0])


def test_questions_about_one_image_several_and_none(vlm: VisionLanguageModel) -> None:
    """A decoder with layers of cross-attention, which a question without an image skips."""
    for item in capture(ROWS, vlm, EVERYTHING, batch_size=8):
        assert_same(item, reference(item.sample, vlm, EVERYTHING))
        across = item.signals["cross_attention_prompt"]
        patches = item.signals["cross_attention_patches_prompt"]
        if item.sample.images:
            np.testing.assert_allclose(across.sum(axis=2), 1, atol=1e-5)
            np.testing.assert_allclose(patches.sum(axis=2), 1, atol=1e-5)
        else:
            assert np.isnan(across).all()
            assert np.isnan(patches).all()
            skipped = vlm.skipped_without_image
            assert not any(f"query_token_heads/layer_{k}" in item.vectors for k in skipped)
        np.testing.assert_allclose(item.signals["attention_prompt"].sum(axis=2), 1, atol=1e-5)


def test_padding_within_a_tile_is_attended_to_and_has_its_own_share(
    vlm: VisionLanguageModel,
) -> None:
    """The mask excludes tiles, and not the padding of a tile beside a narrow image."""
    spec = CaptureSpec(layers="all", max_new_tokens=3, signals="attention,attention_map")
    tile = vlm.model.config.vision_config.image_size
    rows = [
        Sample("square", make_image(tile, tile), "What is it?"),
        Sample("narrow", make_image(tile // 4, tile), "What is it?"),
        Sample("both", (make_image(tile // 4, tile), make_image(tile, tile // 4)), "Which one?"),
    ]
    image, padding, whole = map(PATCHES.index, ("image", "padding", "tile"))
    for item in capture(rows, vlm, spec):
        assert_same(item, reference(item.sample, vlm, spec))
        for name, column in (("prompt", 0), ("answer", 1)):
            shares = item.signals[f"cross_attention_patches_{name}"]
            shares = shares if name == "prompt" else shares[0]
            assert (shares[..., whole] > 0).all()
            assert ((shares[..., padding] > 0) == (item.sample.id != "square")).all()
            drawn = item.signals[BOXES][:, 0] >= 0
            for at, layer in enumerate(sorted(vlm.skipped_without_image)):
                mean = item.signals[f"attention_map/layer_{layer}"][drawn, column].sum()
                assert shares[at, :, image].mean() == pytest.approx(mean, abs=1e-5)


def test_answers_that_end_at_different_tokens(
    talkative_vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=12, signals="attention")
    lengths = set()
    for item in capture(samples[:6], talkative_vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, talkative_vlm, spec))
        assert item.answer_token_ids is not None
        lengths.add(len(item.answer_token_ids))
        tokens = len(item.answer_token_ids) - (item.finish_reason == "stop")
        assert item.signals[PREVIOUS].shape == (tokens, len(item.signals[PREVIOUS_HEAD]))
        for name in TOKEN_STATISTICS:
            assert item.signals[name].shape == item.answer_token_ids.shape
        np.testing.assert_allclose(item.signals["max_logprob"], item.answer_logprobs, atol=1e-5)
    assert len(lengths) > 2


def test_an_answer_without_a_token_has_no_attention(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=4, signals="attention")
    first = next(capture(samples[:1], vlm, spec)).answer_token_ids[0]
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [*config.eos_token_id, int(first)])
    found = next(capture(samples[:1], vlm, spec))
    assert np.isnan(found.signals["attention_answer"]).all()
    assert not np.isnan(found.signals["attention_prompt"]).any()
    assert found.signals[PREVIOUS].shape == (0, len(found.signals[PREVIOUS_HEAD]))
    assert (found.signals[PREVIOUS_HEAD] == NO_TOKEN).all()
    assert len(found.signals["entropy"]) == 1
    assert_same(found, reference(samples[0], vlm, spec))


@pytest.mark.exhaustive
def test_the_end_that_a_checkpoint_forces_is_the_same_with_signals(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``generate`` decodes one token more for them."""
    end = vlm.model.generation_config.eos_token_id[0]
    monkeypatch.setattr(vlm.model.generation_config, "forced_eos_token_id", end)
    spec = CaptureSpec(layers="0", max_new_tokens=3)
    plain = list(capture(samples[:2], vlm, spec))
    assert {int(item.answer_token_ids[-1]) for item in plain} == {end}
    for signals in ("attention", "answer_tokens"):
        more = replace(spec, signals=signals)
        for item, expected in zip(capture(samples[:2], vlm, more), plain, strict=True):
            np.testing.assert_array_equal(item.answer_token_ids, expected.answer_token_ids)
            assert_same(
                item, reference(item.sample, vlm, more, answer_token_ids=item.answer_token_ids)
            )
    [sampled] = capture(samples[:1], vlm, replace(spec, samples=2, temperature=9.0))
    assert [answer.token_ids[-1] for answer in sampled.samples] == [end, end]
    assert [len(answer.token_ids) for answer in sampled.samples] == [3, 3]


def test_a_prefill_alone_has_the_signals_of_its_prompt(
    vlm: VisionLanguageModel, samples: Sequence[Sample]
) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=0, signals="attention,heads")
    for item in capture(samples[:3], vlm, spec, batch_size=3):
        divided = {"attention", "cross_attention", "cross_attention_patches"}
        assert set(item.signals) == {f"{name}_prompt" for name in divided}
        assert_same(item, reference(item.sample, vlm, spec))


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_a_model_that_attends_eagerly_has_the_same_attention(tmp_path: Path, family: str) -> None:
    folder = build(family, tmp_path / "model")
    spec = CaptureSpec(layers="0", max_new_tokens=3, signals="attention")
    fast, eager = (
        list(
            capture(
                ONE_IMAGE, load_model(folder, device="cpu", dtype="float32", attention=name), spec
            )
        )
        for name in ("auto", "eager")
    )
    for one, other in zip(fast, eager, strict=True):
        for name, array in one.signals.items():
            np.testing.assert_allclose(array, other.signals[name], atol=3e-5)


@pytest.mark.exhaustive
def test_half_precision_divides_all_attention(tmp_path: Path) -> None:
    vlm = load_model(build("qwen2_5_vl", tmp_path / "model"), device="cpu", dtype="bfloat16")
    spec = CaptureSpec(layers="0", max_new_tokens=3, signals="attention")
    for item in capture(ONE_IMAGE, vlm, spec):
        for name in ("attention_prompt", "attention_answer"):
            values = item.signals[name] if name.endswith("prompt") else item.signals[name][0]
            np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-5)


def test_layers_without_attention_are_left_out_and_stated(tmp_path: Path) -> None:
    """Every other layer of this decoder has linear attention."""
    vlm = load_model(build("qwen3_5", tmp_path / "model"), device="cpu", dtype="float32")
    found = resolve_spec(CaptureSpec(layers="all", signals="attention,heads"), vlm)
    assert found.signals.attention_layers == (1, 3)
    assert found.signals.layers("heads") == (1, 3)
    assert any("no heads of layers 0, 2, 4" in note for note in found.notes)
    assert any("no attention of layers 0, 2, 4" in note for note in found.notes)
    with pytest.raises(InputError, match=r"signals heads: none .* that have it: 1,3$"):
        resolve_spec(CaptureSpec(layers="0,2", signals="heads"), vlm)


def test_nothing_is_observed_without_the_signal(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("attention weights were computed")

    monkeypatch.setattr("vlmscope.model.attention.shares.last_weights", refuse)
    [found] = capture(samples[:1], vlm, CaptureSpec(layers="0", max_new_tokens=2))
    assert set(found.signals) == set(TOKEN_STATISTICS)
    assert not any("_heads" in path for path in found.vectors)


def test_the_head_that_attends_most_to_the_previous_token() -> None:
    values = torch.tensor(
        [
            [[0.9, 0.0, 0.0], [0.1, 0.4, 0.2], [0.1, 0.2, 0.4], [1.0, 0.0, 0.0]],
            [[0.3, 0.5, 0.2], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
            [[0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0]],
        ]
    )
    found, heads = most_attentive(values, torch.tensor([3, 1, 0]))
    assert heads.tolist() == [1, 1, NO_TOKEN]  # 0.3 = 0.3 > 0.1: the first; one token; none
    np.testing.assert_allclose(found[0, :3], [0.0, 0.4, 0.2])
    assert found[1, 0] == 0.5


def test_attention_to_the_previous_token_is_that_of_plain_transformers(tmp_path: Path) -> None:
    """The answer and one pass more, with ``output_attentions``."""
    folder = build("llava", tmp_path / "model")
    vlm = load_model(folder, device="cpu", dtype="float32")
    vlm.model.generation_config.eos_token_id = [10**6]  # no answer ends
    plain = load_model(folder, device="cpu", dtype="float32", attention="eager")
    spec = CaptureSpec(layers="0", max_new_tokens=6, signals="attention")
    for item in capture(ONE_IMAGE, vlm, spec):
        [batch], _ = prepare([item.sample], plain, resolve_spec(spec, plain))
        tokens = item.answer_token_ids
        assert len(item.signals[PREVIOUS]) == len(tokens) == 6
        ids = torch.cat([batch.inputs["input_ids"], torch.tensor([tokens.tolist()])], dim=1)
        inputs = {**batch.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            weights = plain.model(**inputs, output_attentions=True).attentions
        attended = torch.stack([w[0].diagonal(-1, 1, 2)[:, -len(tokens) :] for w in weights])
        heads = attended[:, :, 1:].mean(dim=2).argmax(dim=1)
        np.testing.assert_array_equal(item.signals[PREVIOUS_HEAD], heads)
        expected = attended[torch.arange(len(heads)), heads].T
        np.testing.assert_allclose(item.signals[PREVIOUS], expected, atol=3e-5)


def test_of_heads_that_attend_equally_either_may_be_stored(
    vlm: VisionLanguageModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = CaptureSpec(layers="0", max_new_tokens=4, signals="attention")
    [found] = capture(samples[:1], vlm, spec)
    others = (found.signals[PREVIOUS_HEAD] + 1) % 4
    clear = reference(samples[0], vlm, spec, previous_heads=others)
    assert_same(found, clear)
    monkeypatch.setitem(reference_attention.NEAR, torch.float32, 1.0)
    equal = reference(samples[0], vlm, spec, previous_heads=others)
    np.testing.assert_array_equal(equal.signals[PREVIOUS_HEAD], others)
    assert (equal.signals[PREVIOUS] != clear.signals[PREVIOUS]).any()
    stored = replace(found, signals=equal.signals)
    assert not compare(stored, equal).faults(3e-5, "float32")
    assert compare(stored, clear).faults(3e-5, "float32")


def straightforward(query: Tensor, key: Tensor, mask: Tensor | None, cap: float | None) -> Tensor:
    """Return the weights of the last query, head by head and key by key, in float64."""
    rows, heads, _, width = query.shape
    found = torch.zeros(rows, heads, key.shape[2], dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            own, shared = query[row, head, -1].double(), head * key.shape[1] // heads
            scores = [float(own @ k.double()) / math.sqrt(width) for k in key[row, shared]]
            if cap:
                scores = [cap * math.tanh(score / cap) for score in scores]
            if mask is not None:
                last = mask[row % len(mask), head % mask.shape[1], -1]
                scores = [
                    (score if last[i] else -math.inf)
                    if mask.dtype == torch.bool
                    else score + float(last[i])
                    for i, score in enumerate(scores)
                ]
            found[row, head] = torch.tensor(scores, dtype=torch.float64).softmax(dim=0)
    return found


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("kind", ["none", "bool", "one for all rows", "additive", "per head"])
def test_weights_equal_a_straightforward_computation(kind: str, cap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 5, 8, generator=generator)
    key = torch.randn(3, 2, 7, 8, generator=generator)
    seen = torch.rand(3, 4, 5, 7, generator=generator) > 0.3
    seen[..., -1] = True
    masks = {
        "none": None,
        "bool": seen[:, :1],
        "one for all rows": seen[:1, :1],
        "additive": torch.where(seen[:, :1], 0.0, torch.finfo(torch.float32).min),
        "per head": seen,
    }
    found = last_weights(query, key, masks[kind], None, {"softcap": cap})
    expected = straightforward(query, key, masks[kind], cap)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shares_of_a_window_are_those_of_the_last_tokens() -> None:
    members = members_of(torch.tensor([[-1, 3, 0, 0, 1, 2]]))
    weights = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    [[found]] = shares(weights, members)
    expected = {"image": 0.3, "text": 0.3, "answer": 0.4, "first": 0.0}
    np.testing.assert_allclose(found, [expected[name] for name in ATTENDED], atol=1e-6)


def test_the_parts_of_a_block_are_found_by_convention() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Linear(2, 2)
            self.feed_forward = nn.Linear(2, 2)

    block = Block()
    parts = sublayers_of(block)
    assert parts.attention is None
    assert parts.module("heads") is None
    assert parts.module("mlp") is block.feed_forward


class WithDropout(nn.Module):
    """An attention as GPT-2's: the projection is not the last part that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.c_proj, self.drop = nn.Linear(6, 2), nn.Dropout()

    def forward(self, states: Tensor) -> Tensor:
        attention_interface = torch.nn.Identity()
        attn_output = attention_interface(states)
        attn_output = self.c_proj(attn_output)
        attn_output = self.drop(attn_output)
        return attn_output  # noqa: RET504


def test_the_projection_may_be_followed_by_a_dropout() -> None:
    block = nn.ModuleDict({"attention": WithDropout()})
    assert sublayers_of(block).module("heads") is block["attention"].c_proj  # type: ignore[union-attr]


def test_a_feed_forward_part_that_is_none_is_not_taken() -> None:
    block = nn.Module()
    block.mlp, block.moe = None, nn.Linear(2, 2)
    assert sublayers_of(block).module("mlp") is block.moe


def test_layers_with_different_numbers_of_heads_are_refused(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = sublayers_of(vlm.layers[2]).attention
    monkeypatch.setattr(attention, "num_heads", 2)
    with pytest.raises(InputError, match=r"different numbers of heads \(4 in .*, 2 in layer 2\)"):
        resolve_spec(CaptureSpec(signals="attention"), vlm)


@pytest.mark.exhaustive
def test_differential_attention_has_no_weights(tmp_path: Path) -> None:
    """It calls the library's attention twice, and subtracts the results."""
    folder = build_llava(tmp_path / "model", model_type="diffllama", num_hidden_layers=2)
    vlm = load_model(folder, device="cpu", dtype="float32")
    with pytest.raises(InputError, match="signals attention: none of the layers of LLaVA"):
        resolve_spec(CaptureSpec(signals="attention"), vlm)
    spec = CaptureSpec(layers="0", max_new_tokens=2, signals="heads,attn_out")
    for item in capture(ONE_IMAGE[:1], vlm, spec):
        assert_same(item, reference(item.sample, vlm, spec))


@pytest.mark.parametrize("overloads", [("default", "out"), ("default", "out", "dtype")])
def test_products_into_float32_are_used_where_torch_has_them(
    monkeypatch: pytest.MonkeyPatch, overloads: tuple[str, ...]
) -> None:
    """Since 2.8, on a GPU."""
    calls = []

    def bmm(own: Tensor, keys: Tensor, **options: object) -> Tensor:
        calls.append(options)
        return own.float() @ keys.float()

    class OnGpu(Tensor):
        is_cuda = True

    monkeypatch.setattr(torch, "bmm", bmm)
    monkeypatch.setattr(torch.ops.aten.bmm, "overloads", lambda: overloads)
    query, key = torch.rand(1, 2, 1, 4).bfloat16(), torch.rand(1, 2, 3, 4).bfloat16()
    found = last_weights(query.as_subclass(OnGpu), key, None, None, {})
    np.testing.assert_allclose(found, last_weights(query, key, None, None, {}), atol=1e-6)
    assert calls == ([{"out_dtype": torch.float32}] if "dtype" in overloads else [])


def test_names_of_signals() -> None:
    assert CaptureSpec(signals="mlp, heads").signals == ("entropy", "heads", "mlp")
    assert CaptureSpec(signals=()).signals == ("entropy",)
    with pytest.raises(InputError, match="'lense' is not a signal; choose from"):
        CaptureSpec(signals=["lense"])
    with pytest.raises(InputError, match="signals heads: with compat='halp' none"):
        CaptureSpec(signals="heads", compat="halp")
    assert RecordedSignals().arrays(answers=False) == ()
