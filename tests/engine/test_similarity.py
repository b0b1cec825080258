"""Cosines of the answer's tokens with image tokens and the last prompt token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import vlmscope
from engine.against_reference import answered_by_generate
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.engine.similarity import PromptStates, _of_layer
from vlmscope.errors import InputError
from vlmscope.model import load_model, resolve_spec
from vlmscope.model.unembedding import Unembedding
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import (
    IMAGE_LENS,
    IMAGE_MAX,
    IMAGE_MEAN,
    IMAGE_TOP,
    LAST_PROMPT,
    SIMILARITY_KINDS,
    similarity_name,
)
from vlmscope.verification import check_rows, signal_errors

SPEC = CaptureSpec(
    layers="0,n-2,n-1",
    positions=("last_prompt_token",),
    max_new_tokens=6,
    signals="similarity,lens",
)
FEW = 2
"""Number of image tokens that a mean is of, in place of 32: the tiny prompts have fewer."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("engine.similarity", "reference_signals", "verification"):
        monkeypatch.setattr(f"vlmscope.{where}.TOP_IMAGE_TOKENS", FEW)


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.answer_token_ids is not None
    assert found.answer == expected.answer
    assert found.signals.keys() == expected.signals.keys()
    for name in found.signals:
        if name.startswith("similarity"):
            assert found.signals[name].shape == found.answer_token_ids.shape
            np.testing.assert_allclose(
                found.signals[name], expected.signals[name], atol=3e-5, err_msg=name
            )


def assert_differ(items: list[Capture]) -> None:
    """No kind of similarity is another one in all rows."""
    joined = [
        np.concatenate([item.signals[similarity_name(kind, 0)] for item in items])
        for kind in SIMILARITY_KINDS
    ]
    for i, one in enumerate(joined):
        assert all(np.abs(one - other).max() > 1e-4 for other in joined[:i])


@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl", "gemma3", "llava_next", "qwen3_5"])
def test_it_equals_the_reference(family: str, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In slots, and by ``generate``; the end-of-turn token included."""
    vlm = models(family)
    config = vlm.model.generation_config
    monkeypatch.setattr(config, "eos_token_id", [10**6])
    [plain] = capture(ONE_IMAGE[:1], vlm, CaptureSpec(layers="0", max_new_tokens=5))
    monkeypatch.setattr(config, "eos_token_id", [int(plain.answer_token_ids[3])])  # type: ignore[index]
    generated = answered_by_generate(monkeypatch)
    items = list(capture([*ONE_IMAGE[:3], SEVERAL[0]], vlm, SPEC, batch_size=3))
    for item in items:
        assert_same(item, reference(item.sample, vlm, SPEC))
    if family != "mllama":  # which has one image token
        assert_differ(items)
    assert "stop" in {item.finish_reason for item in items}
    assert bool(generated) == (family == "gemma3")


@pytest.mark.exhaustive
def test_prompts_that_share_beginnings_and_slots_that_are_taken_again(models: Any) -> None:
    vlm = models("qwen2_5_vl")
    rows = [
        Sample(f"{i}{row.id}", row.image, question)
        for i, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for row in (ONE_IMAGE[0], ONE_IMAGE[1])
    ]
    resolved = resolve_spec(SPEC, vlm)
    session = CaptureSession(vlm, resolved, 4)
    [batch], _ = prepare(rows, vlm, resolved)
    assert batch.prefix is not None
    more = [replace(row, id=f"{row.id}x") for row in ONE_IMAGE]
    batches, _ = prepare(more, vlm, resolved)
    found: list[Any] = [*session.submit(batch)]
    for other in batches:
        found += session.submit(other)
    found += session.drain()
    assert len(found) == len(rows) + len(more)
    for item in found:
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_questions_without_an_image(family: str, models: Any) -> None:
    vlm = models(family)
    for item in capture([ONE_IMAGE[0], *NONE], vlm, SPEC, batch_size=3):
        assert_same(item, reference(item.sample, vlm, SPEC))
        assert similarity_name(LAST_PROMPT, 0) in item.signals
        assert (similarity_name(IMAGE_MAX, 0) in item.signals) == bool(item.sample.images)


def test_without_the_lens_nothing_is_selected_by_it(models: Any) -> None:
    vlm = models("llava_next")
    spec = replace(SPEC, signals="similarity")
    [item] = capture(ONE_IMAGE[:1], vlm, spec)
    assert_same(item, reference(item.sample, vlm, spec))
    kinds = {name.split("/")[1] for name in item.signals if name.startswith("similarity")}
    assert kinds == set(SIMILARITY_KINDS) - {IMAGE_LENS}


def test_image_tokens_that_are_selected() -> None:
    """One image token is like the answer's, another is sure of its word."""
    torch.manual_seed(0)
    norm, head = nn.LayerNorm(16), nn.Linear(16, 12)
    nn.init.orthogonal_(head.weight)
    images = torch.randn(5, 16)
    own = torch.randn(2, 16)
    images[1] = 3 * own[0]
    images[4] = -own[0] + 99 * head.weight[7]
    lens = Unembedding(norm, head, torch.float32, last_layer=1)
    with torch.no_grad():
        totals = {0: head(norm(images)).logsumexp(dim=1)}
        prompt = PromptStates({0: own[1]}, {0: images}, totals)
        found = _of_layer(lens, prompt, 0, own, torch.tensor([7, 3]))
        logits = lens.logits_of(images, 0, torch.tensor([7, 99]))
        torch.testing.assert_close(logits[:, 0], head(norm(images))[:, 7])
    cosines = nn.functional.cosine_similarity(own[:, None], images[None], dim=2)
    torch.testing.assert_close(found[IMAGE_MEAN], cosines.mean(dim=1))
    torch.testing.assert_close(found[IMAGE_TOP], cosines.topk(FEW, dim=1).values.mean(dim=1))
    assert found[IMAGE_MAX][0] == pytest.approx(1, abs=1e-6)
    assert found[LAST_PROMPT][1] == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        likely = head(norm(images)).softmax(dim=1)[:, [7, 3]].T.topk(FEW, dim=1).indices
    torch.testing.assert_close(found[IMAGE_LENS], cosines.gather(1, likely).mean(dim=1))


def test_a_head_that_is_no_plain_matrix() -> None:
    class Doubled(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    torch.manual_seed(0)
    norm, head, states = nn.Identity(), Doubled(4, 6), torch.randn(3, 4)
    norm.weight = nn.Parameter(torch.ones(1))
    lens = Unembedding(norm, head, torch.float32, last_layer=1, scales=(("/", 3.0),))
    with torch.no_grad():
        found = lens.logits_of(states, 0, torch.tensor([5, 1]))
        torch.testing.assert_close(found, head(states)[:, [5, 1]] / 3)


def test_a_token_that_is_nearly_selected_is_no_error() -> None:
    name = similarity_name(IMAGE_LENS, 2)
    expected = {name: np.linspace(0.2, 0.8, 30, dtype=np.float32)}
    tied = expected[name].copy()
    tied[7] += 0.05
    assert signal_errors({name: tied}, expected)[name] == 0
    for wrong in (expected[name] + 0.01, np.where(np.arange(30) == 3, 0.9, expected[name])):
        assert signal_errors({name: wrong.astype(np.float32)}, expected)[name] > 1e-2


def test_it_needs_an_answer() -> None:
    with pytest.raises(InputError, match="signals similarity: needs max_new_tokens above 0"):
        CaptureSpec(max_new_tokens=0, signals="similarity")


@pytest.mark.exhaustive
def test_stored_similarity_is_verified(models: Any, tmp_path: Path) -> None:
    vlm = models("qwen2_5_vl")
    rows = [ONE_IMAGE[0], NONE[0], ONE_IMAGE[1]]
    for some in (rows[:1], rows):
        run = vlmscope.extract(some, vlm, tmp_path / "run", spec=SPEC, text_only=True)
    for check in check_rows(run, rows, vlm):
        assert not check.faults(3e-5, "float32")
        assert f"signals/{similarity_name(LAST_PROMPT, 0)}" in check.errors
    values = run.signal(similarity_name(IMAGE_TOP, 0))
    for id_, own in zip(run.ids, values, strict=True):
        wanted = run[id_].signals.get(similarity_name(IMAGE_TOP, 0))
        assert np.isnan(own).all() if wanted is None else own.tolist() == wanted.tolist()
    assert not any(name.startswith("image_tokens") for name in run.signals)


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: Any, models: Any) -> None:
    vlm = load_model(models("qwen2_5_vl").name, device="cpu", dtype=dtype)
    [item] = capture(ONE_IMAGE[:1], vlm, SPEC)
    expected = reference(item.sample, vlm, SPEC, answer_token_ids=item.answer_token_ids)
    for name in expected.signals:
        if name.startswith("similarity") and IMAGE_LENS not in name:
            np.testing.assert_allclose(item.signals[name], expected.signals[name], atol=2e-2)
