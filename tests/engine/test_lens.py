"""The logit lens: equal to the slow method, whatever shares its batch, and what is stored of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import vlmscope
from engine.against_reference import answered_by_generate
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from vlmscope.cli.info import _rows_of
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.engine.lens import ImageLens, image_lens_for
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model import unembedding as module
from vlmscope.model.loading import checks
from vlmscope.model.unembedding import Unembedding, unembedding_of
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import (
    LENS_ENTROPY,
    LENS_PROB,
    LENS_PROBS,
    LENS_RANK,
    LENS_TOKENS,
    NO_TOKEN,
    confidence_name,
)
from vlmscope.store import Run, describe
from vlmscope.store.export import export_run
from vlmscope.verification import check_rows, signal_errors

FAMILIES = ("mllama", "qwen2_5_vl", "llava", "gemma3", "aya_vision", "granite4_vision")
WITH_GENERATE = ("gemma3", "aya_vision")
"""Families whose answers ``generate`` decodes: their sliding windows are short."""

PROMPT = ("last_image_token", "last_prompt_token", "image_mean")
ANSWER = ("first_answer_token", "last_answer_token", "answer_mean")


def spec_of(*positions: str, **options: Any) -> CaptureSpec:
    return CaptureSpec(
        **{"layers": "0,n-2,n-1", "max_new_tokens": 3, "signals": "lens"} | options,
        positions=positions,
    )


@pytest.fixture
def llava(models: Any) -> VisionLanguageModel:
    return models("llava")


@pytest.fixture
def talkative(models: Any, monkeypatch: pytest.MonkeyPatch) -> VisionLanguageModel:
    """A model whose answers end after some tokens."""
    vlm = models("qwen2_5_vl")
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", list(range(0, 372, 4)))
    return vlm


def without_ends(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = vlm.lm_head.weight.shape[0] + 8
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [beyond])


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.answer == expected.answer
    assert found.signals.keys() == expected.signals.keys()
    errors = signal_errors(found.signals, expected.signals)
    assert max(errors.values()) < 3e-5, errors
    for name in {LENS_TOKENS, LENS_RANK} & expected.signals.keys():
        assert found.signals[name].dtype == expected.signals[name].dtype == np.int32
        assert (found.signals[name] == expected.signals[name]).mean() > 0.99, name


@pytest.mark.first(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_equals_the_reference(
    family: str, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a padded batch with several images; at positions in the prompt and in the answer."""
    vlm = models(family)
    without_ends(vlm, monkeypatch)
    generated = answered_by_generate(monkeypatch)
    spec = spec_of(*PROMPT, *ANSWER)
    layers = resolve_spec(spec, vlm).layers
    for item in capture([ONE_IMAGE[1], SEVERAL[0]], vlm, spec, batch_size=2):
        assert_same(item, reference(item.sample, vlm, spec))
        assert item.signals[LENS_TOKENS].shape == (4, len(layers), 10)
        assert item.signals[LENS_PROBS].dtype == np.float32
        assert {n for n in item.signals if n.startswith("internal")} == {
            confidence_name(layer) for layer in layers
        }
        for layer in layers:
            confidence = item.signals[confidence_name(layer)]
            assert confidence.shape == item.answer_logprobs.shape  # type: ignore[union-attr]
            assert (confidence > 0).all()
            assert (confidence <= 1).all()
    assert bool(generated) == (family in WITH_GENERATE)


@pytest.mark.exhaustive
def test_a_batch_equals_each_row_alone(talkative: VisionLanguageModel) -> None:
    """Answers of different lengths, in slots that are taken again by other rows."""
    spec = spec_of(*PROMPT, max_new_tokens=12)
    rows = [replace(row, id=f"{row.id}{i}") for i in range(2) for row in ONE_IMAGE]
    session = CaptureSession(talkative, resolve_spec(spec, talkative), 3)
    found: list[Any] = []
    for start in range(0, len(rows), 2):
        batches, _ = prepare(rows[start : start + 2], talkative, resolve_spec(spec, talkative))
        for batch in batches:
            found += session.submit(batch)
    found += session.drain()
    assert len(found) == len(rows)
    assert len({len(item.answer_token_ids) for item in found}) > 1
    for item in found:
        [alone] = capture([item.sample], talkative, spec)
        assert_same(item, alone)


@pytest.mark.exhaustive
def test_prompts_that_share_beginnings(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image tokens are in the first pass, the end of the prompt in the second."""
    vlm = models("qwen2_5_vl")
    without_ends(vlm, monkeypatch)
    spec = spec_of(*PROMPT, "first_answer_token")
    rows = [
        Sample(f"{i}{row.id}", row.image, question)
        for i, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for row in (ONE_IMAGE[0], ONE_IMAGE[1])
    ]
    [batch], _ = prepare(rows, vlm, resolve_spec(spec, vlm))
    assert batch.prefix is not None
    assert len(batch.prefix.first_rows) == 2
    for item in capture(rows, vlm, spec, batch_size=4):
        assert_same(item, reference(item.sample, vlm, spec))


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_questions_without_an_image(family: str, models: Any) -> None:
    """What is read from an image is absent; the rest is there. Mllama skips blocks for them."""
    vlm = models(family)
    spec = spec_of(*PROMPT)
    for item in capture([ONE_IMAGE[0], *NONE], vlm, spec, batch_size=3):
        assert_same(item, reference(item.sample, vlm, spec))
        assert any(n.startswith("internal") for n in item.signals) == bool(item.sample.images)
        no_image, prompt = item.signals[LENS_TOKENS]
        assert (prompt >= 0).all()
        if not item.sample.images:
            assert (no_image == NO_TOKEN).all()
            assert (item.signals[LENS_RANK][0] == NO_TOKEN).all()
            for name in (LENS_PROBS, LENS_ENTROPY, LENS_PROB):
                assert np.isnan(item.signals[name][0]).all()
                assert np.isfinite(item.signals[name][1]).all()


def test_a_first_token_that_settings_choose(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer's first token is the one that was generated, not the likeliest one."""
    vlm = models("llava")
    [plain] = capture(ONE_IMAGE[:1], vlm, spec_of(*PROMPT))
    banned = [int(plain.first_token_ids[0])]
    monkeypatch.setattr(vlm.model.generation_config, "suppress_tokens", banned)
    [item] = capture(ONE_IMAGE[:1], vlm, spec_of(*PROMPT))
    assert item.signals[LENS_RANK][1, -1] == 1
    assert item.signals[LENS_TOKENS][1, -1, 0] == banned[0]
    assert_same(item, reference(item.sample, vlm, spec_of(*PROMPT)))


def test_a_run_without_answers(llava: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest first token is the answer's; nothing is computed of image tokens."""
    monkeypatch.setattr(ImageLens, "add", None)
    spec = spec_of(*PROMPT, max_new_tokens=0)
    [item] = capture(ONE_IMAGE[:1], llava, spec)
    assert_same(item, reference(item.sample, llava, spec))
    assert {*item.signals} == {LENS_TOKENS, LENS_PROBS, LENS_ENTROPY, LENS_RANK, LENS_PROB}
    assert item.signals[LENS_RANK][1, -1] == 0
    assert item.signals[LENS_PROB][1, -1] == item.signals[LENS_PROBS][1, -1, 0]
    assert item.signals[LENS_RANK][0].max() > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: Any, llava: VisionLanguageModel) -> None:
    vlm, spec = load_model(llava.name, device="cpu", dtype=dtype), spec_of(*PROMPT)
    for item in capture(ONE_IMAGE[:2], vlm, spec, batch_size=2):
        assert item.answer_token_ids is not None
        for values in item.signals.values():
            assert np.isfinite(values).all()
        expected = reference(item.sample, vlm, spec, answer_token_ids=item.answer_token_ids)
        errors = signal_errors(item.signals, expected.signals)
        assert max(v for n, v in errors.items() if n.startswith(("lens", "internal"))) < 0.1
        own = np.exp(item.first_token_logprobs[:10])
        np.testing.assert_allclose(item.signals[LENS_PROBS][1, -1], own, rtol=0.02)


def test_the_largest_probability_of_any_image_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image token of the second row is sure of token 5, and a text token of token 6."""
    torch.manual_seed(0)
    norm, head = nn.LayerNorm(16), nn.Linear(16, 12, bias=False)
    nn.init.orthogonal_(head.weight)
    states = torch.randn(3, 9, 16)
    tokens = np.zeros((3, 9), bool)
    tokens[0, 1:3] = tokens[1, 2:8] = tokens[2, 0:5] = True
    states[1, 6], states[1, 8] = 99 * head.weight[5], 99 * head.weight[6]
    unembedding = Unembedding(norm, head, torch.float32, last_layer=4)
    monkeypatch.setattr(module, "PIECE", 4 * 12 * 4)  # pieces of four tokens
    lens = ImageLens(unembedding, (3, 4), tokens, torch.device("cpu"))
    with torch.inference_mode():
        lens.add(3, states)
        lens.add(4, states)
        for at, layer in enumerate((3, 4)):
            probs = head(norm(states) if layer == 3 else states).softmax(dim=-1)
            for row in range(3):
                expected = torch.stack([probs[row, t] for t in np.flatnonzero(tokens[row])])
                torch.testing.assert_close(lens.table()[row, at].exp(), expected.amax(dim=0))
    table = lens.table().exp()
    assert table[1, 1, 5] > 0.999
    assert table[[0, 2], 1, 5].max() < 0.9
    assert table[1, 1, 6] < 0.9


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("cohere", {"logit_scale": 0.3}),
        ("cohere2", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 7.0}),
        ("gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}),
        ("gemma3_text", {"final_logit_softcapping": 2.0, "head_dim": 8}),
        ("gemma3_text", {"head_dim": 8}),
        ("llama", {}),
    ],
)
def test_what_models_do_to_the_logits(model_type: str, options: dict[str, Any]) -> None:
    """Scales and caps, as the library's models apply them."""
    config = AutoConfig.for_model(
        model_type, vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    nn.init.normal_(model.lm_head.weight)
    vlm: Any = SimpleNamespace(
        model=model,
        lm_head=model.lm_head,
        final_norm=model.model.norm,
        dtype=torch.float32,
        num_layers=1,
    )
    with torch.inference_mode():
        outputs = model(torch.arange(5)[None], output_hidden_states=True)
        states = outputs.hidden_states[-1][0]
        found = unembedding_of(vlm).logits(states, 0)
        raw = model.lm_head(states)
    torch.testing.assert_close(found, outputs.logits[0], rtol=1e-6, atol=1e-6)
    assert torch.allclose(raw, found) == (set(options) <= {"head_dim"})


@pytest.mark.exhaustive
def test_a_factor_that_the_model_does_not_apply(models: Any) -> None:
    """Aya Vision's decoder has a factor in its configuration; its logits are not multiplied."""
    vlm = models("aya_vision")
    assert vlm.model.config.text_config.logit_scale not in (None, 1.0)
    assert unembedding_of(vlm).scales == ()
    assert unembedding_of(models("granite4_vision")).scales == (
        ("/", vlm_scaling(models("granite4_vision"))),
    )


def vlm_scaling(vlm: VisionLanguageModel) -> float:
    return float(vlm.model.config.text_config.logits_scaling)


def test_other_logits_are_noticed_at_loading(llava: VisionLanguageModel) -> None:
    states = torch.randn(1, 3, llava.hidden_size)
    with torch.inference_mode():
        logits = llava.lm_head(states)
        own = SimpleNamespace(hidden_states=[states], logits=logits)
        assert checks._lens_fault(llava, own) == ""
        other = SimpleNamespace(hidden_states=[states], logits=logits / 2)
        assert "LLaVA-1.5 are not those of its final norm" in checks._lens_fault(llava, other)
    assert llava.lens_fault == ""


def test_unknown_logits_are_refused_before_the_run(llava: VisionLanguageModel) -> None:
    strange = replace(llava, lens_fault="the logits of Strange are computed in an unknown way")
    with pytest.raises(InputError, match=r"signals lens: the logits of Strange .*; omit"):
        resolve_spec(spec_of(*PROMPT), strange)
    with pytest.raises(InputError, match="image_mean is a single token, and there are no answers"):
        resolve_spec(spec_of("image_mean", max_new_tokens=0), llava)
    resolved = resolve_spec(spec_of("image_mean"), llava)
    assert [*resolved.signals.shapes()] == []
    assert (
        image_lens_for(
            llava,
            resolve_spec(spec_of(*PROMPT, signals="none"), llava),
            np.array([[llava.image_token_id]]),
            np.array([[1]]),
        )
        is None
    )


@pytest.fixture(scope="module")
def run(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Any]:
    """A run of four rows, two of them without an image, in two parts, with sampled answers."""
    vlm, out = models("qwen2_5_vl"), tmp_path_factory.mktemp("runs") / "run"
    rows = [
        {"id": row.id, "image": row.image, "question": row.question, "target": ""}
        for row in (NONE[0], ONE_IMAGE[0], ONE_IMAGE[1], NONE[1])
    ]
    for some in (rows[:2], rows):
        vlmscope.extract(
            some, vlm, out, text_only=True, layers="0,n-1", positions=PROMPT, max_new_tokens=6,
            signals="detectors", samples=2,
        )  # fmt: skip
    return Run.open(out), vlm


@pytest.mark.exhaustive
def test_the_stored_lens_is_verified(run: tuple[Run, Any]) -> None:
    stored, vlm = run
    samples = [NONE[0], ONE_IMAGE[0], ONE_IMAGE[1], NONE[1]]
    for check in check_rows(stored, samples, vlm):
        assert not check.faults(3e-5, "float32")
        assert {f"signals/{LENS_TOKENS}", "signals/samples/logprobs"} <= check.errors.keys()
    assert not stored.check()


@pytest.mark.exhaustive
def test_columns_of_the_lens(run: tuple[Run, Any]) -> None:
    stored, _ = run
    last = stored.manifest.model.num_layers - 1
    assert {LENS_TOKENS, confidence_name(last)} <= set(stored.signals)
    for name in (LENS_TOKENS, LENS_PROBS, LENS_ENTROPY, LENS_RANK, LENS_PROB):
        column = stored.signal(name)
        for id_, values in zip(stored.ids, column, strict=True):
            np.testing.assert_array_equal(values, stored[id_].signals[name])
        assert column.dtype == (np.int32 if name in (LENS_TOKENS, LENS_RANK) else np.float32)  # type: ignore[union-attr]
    for id_, values in zip(stored.ids, stored.signal(confidence_name(last)), strict=True):
        row = stored[id_]
        assert len(values) == len(row.answer_token_ids)  # type: ignore[arg-type]
        if row.image_sha256:
            np.testing.assert_array_equal(values, row.signals[confidence_name(last)])
        else:
            assert np.isnan(values).all()
            assert confidence_name(last) not in row.signals
    assert describe(stored.path).signals[LENS_TOKENS] == (2, 2, 10)


@pytest.mark.exhaustive
def test_info_names_the_layers_of_the_image_tokens_once(run: tuple[Run, Any]) -> None:
    stored, _ = run
    shown = [*_rows_of(describe(stored.path).signals)]
    assert (LENS_TOKENS, "", "2 × 2 × 10") in shown
    assert [row for row in shown if "internal" in row[0]] == [
        ("internal_confidence", "0, 4", "per token")
    ]
    assert ("entropy", "", "per token") in shown


def test_the_lens_as_a_table(run: tuple[Run, Any]) -> None:
    stored, vlm = run
    found = stored.lens(ONE_IMAGE[0].id, vlm.processor.tokenizer)
    assert [*found] == ["position", "layer", "rank", "token_id", "probability", "token"]
    assert len(found) == 2 * 2 * 10
    top = found[(found["position"] == "last_prompt_token") & (found["rank"] == 0)].iloc[-1]
    row = stored[ONE_IMAGE[0].id]
    assert top["token_id"] == row.first_token_ids[0]
    assert top["token"] == vlm.processor.decode([int(top["token_id"])])
    assert set(stored.lens(NONE[0].id)["position"]) == {"last_prompt_token"}


@pytest.mark.exhaustive
def test_exports_of_the_lens(run: tuple[Run, Any], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    stored, _ = run
    bare = [not stored[id_].image_sha256 for id_ in stored.ids]
    for suffix in ("h5", "npz", "parquet"):
        export_run(stored, tmp_path / f"lens.{suffix}")
    with h5py.File(tmp_path / "lens.h5") as file:
        for id_ in stored.ids:
            row, signals = stored[id_], file[id_]["signals"]
            assert signals[LENS_TOKENS].dtype == np.int32
            np.testing.assert_array_equal(signals[LENS_TOKENS], row.signals[LENS_TOKENS])
            assert ("internal_confidence" in signals) == bool(row.image_sha256)
            for name in (n for n in row.signals if n.startswith("internal")):
                np.testing.assert_array_equal(signals[name], row.signals[name])
    assert describe(tmp_path / "lens.h5").signals == describe(stored.path).signals
    arrays = np.load(tmp_path / "lens.npz")
    offsets = arrays["answer_offsets"]
    confidence = arrays[f"signals/{confidence_name(0)}"]
    assert offsets[-1] == len(confidence) == len(arrays["answer_token_ids"])
    table = pq.read_table(tmp_path / "lens.parquet")  # type: ignore[no-untyped-call]
    column = table["signals.internal_confidence.layer_0"].to_pylist()
    for i, absent in enumerate(bare):
        values = confidence[offsets[i] : offsets[i + 1]]
        assert (column[i] is None) == absent == bool(np.isnan(values).all())
        if not absent:
            np.testing.assert_allclose(values, column[i])
    np.testing.assert_array_equal(
        np.array(table[f"signals.{LENS_TOKENS}"].to_pylist()).reshape(len(bare), 2, 2, 10),
        stored.signal(LENS_TOKENS),
    )
