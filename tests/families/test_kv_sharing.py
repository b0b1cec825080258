"""Layers that use the keys and values of earlier ones, as in Gemma 4 E2B and E4B.

The library computes them for the last token only; what is recorded needs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from families import test_conformance
from families.checkpoint_folder import change_settings
from families.conformance import ONE_IMAGE, SEVERAL, build
from families.test_conformance import assert_same, positions
from vlmscope.engine import capture, prepare
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

SHARED = 2
"""Layers at the end of the decoder that have no keys of their own."""

ROWS = (
    *ONE_IMAGE[:2],
    Sample("again", ONE_IMAGE[0].images, "What is it, and is it a cat?"),
    SEVERAL[0],
)


@pytest.fixture(scope="module", params=[256, 16], ids=["wide window", "short window"])
def vlm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> VisionLanguageModel:
    """The model with such layers, also with answers in slots and shared prompts (wide window)."""
    folder = build("gemma4", tmp_path_factory.mktemp("sharing") / "gemma4")
    sharing = {"num_kv_shared_layers": SHARED, "sliding_window": request.param}
    change_settings(folder, "text_config", **sharing)
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert [hasattr(layer.self_attn, "k_proj") for layer in vlm.layers][-SHARED:] == [False, False]
    vlm.model.generation_config.eos_token_id = [10**6]
    return vlm


@pytest.fixture(autouse=True)
def tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the promise: these layers round more than those of the other checkpoints."""
    monkeypatch.setattr(test_conformance, "TOLERANCE", 3e-5)


def assert_all(found: Iterable[Capture], vlm: VisionLanguageModel, spec: CaptureSpec) -> None:
    for each in found:
        assert_same(each, reference(each.sample, vlm, spec))


@pytest.mark.exhaustive
@pytest.mark.parametrize("signals", ["attention,heads,image_tokens", "lens,mlp,similarity"])
def test_every_token_has_a_state_in_every_layer(vlm: VisionLanguageModel, signals: str) -> None:
    spec = CaptureSpec(
        layers="all", positions=positions(vlm), max_new_tokens=3, signals=signals.split(",")
    )
    batches, failures = prepare(ROWS, vlm, resolve_spec(spec, vlm))
    assert not failures
    wide = vlm.model.config.text_config.sliding_window > 100
    assert any(batch.prefix is not None for batch in batches) == wide
    assert_all(capture(ROWS, vlm, spec, batch_size=4), vlm, spec)
    assert not any(name.startswith("_maybe") for name in vars(vlm.decoder))


@pytest.mark.first(1)
def test_without_answers(vlm: VisionLanguageModel) -> None:
    spec = CaptureSpec(layers="all", max_new_tokens=0)
    assert_all(capture(ROWS[:2], vlm, spec, batch_size=2), vlm, spec)
