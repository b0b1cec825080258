"""Every family, one suite: what vlmscope records of it is what the slow method sees.

Tiny random weights, real processor classes, chat templates as released. One test is one column of
the table in docs/families.md; a new version of transformers that breaks a family breaks its row.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend

from engine.against_reference import answered_by_generate, assert_same_samples
from executors.prepared import assert_same_prepared
from families.conformance import (
    CONTENTS,
    INTERLEAVED,
    NONE,
    NOT_JOINED,
    ONE_IMAGE,
    ORDERS,
    PADDED,
    RUNNABLE,
    SEVERAL,
    THIRD,
    WANTS_TIMM,
    WANTS_TORCHVISION,
    WIDE,
    build,
    make_image,
)
from families.vision_rows import rows_per_image, without_fill
from vlmscope.engine import capture, capture_batch, image_rows, prepare
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.errors import RowError
from vlmscope.executors.workers import Workers
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.computing import full_float32
from vlmscope.model.loading.processors import MADE_BY
from vlmscope.positions import IMAGE_POSITIONS, IMAGE_REPRESENTATIONS, REPRESENTATIONS, VISION_ONLY
from vlmscope.prompt import chat_template, encode
from vlmscope.reference import reference
from vlmscope.sampling import is_of_samples
from vlmscope.schema import Capture, CaptureSpec, Sample
from vlmscope.signals import (
    INTEGERS,
    LENS_ENTROPY,
    LENS_PROB,
    LENS_PROBS,
    LENS_RANK,
    LENS_TOKENS,
    P_TRUE,
    SIGNALS,
    is_token_states,
)
from vlmscope.verification import signal_errors

DEVICE = os.environ.get("VLMSCOPE_DEVICE", "cpu")
"""Where the suite runs; ``cuda`` proves the same of a GPU's kernels."""

TOLERANCE = 1e-5 if DEVICE == "cpu" else 3e-5
"""Relative error of a vector in float32."""

SHARES = 5e-5
"""Error of a share of attention, or of a token's statistics in nats: Gemma 4's logits are large."""

FILLED_UP = ("mllama", "phi4_multimodal")
"""Families whose encoder's output holds padding."""

SIDE_BY_SIDE = ("perception_lm",)
"""Families whose prompts do not tell where one image ends and the next begins."""

SHORT_WINDOW = {"gemma3": 16, "gemma4": 16, "aya_vision": 16, "cohere2_vision": 16, "exaone4_5": 16}
"""Families whose tiny checkpoint has a sliding window, and how many tokens that is: too few for the
slots, so that ``generate`` writes (``test_windows.py`` has wider ones)."""

GENERATED = ("llama4",)
"""Families whose answers ``generate`` writes: of Llama 4 each pair proves itself."""

RECURRENT = ("qwen3_5", "qwen3_5_moe", "lfm2_vl", "minicpmv4_6", "minicpmv4_7")
"""Families some of whose blocks have a state in place of keys, which no earlier token is read from:
linear attention, convolutions."""

SHARES_PROMPTS = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
    "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "glm4v", "glm4v_moe", "glm46v",
    "video_llama_3", "idefics3", "smolvlm", "internvl", "ovis2", "pixtral", "mistral3", "janus",
    "aria", "granite4_vision", "hunyuan_vl", "got_ocr2", "kimi_k25", "fastvlm", "molmo2",
)  # fmt: skip
"""Families whose questions about one image share the beginning of their prompts."""

IMAGES_FIRST = ("llava", "llava_next", "llava_onevision", "paligemma", "molmo2", "perception_lm")
"""Families whose chat template writes every image before the text."""

WITH_ALL_SIGNALS = (
    "mllama", "qwen2_5_vl", "llava_next", "qwen3_vl_moe", "qwen3_5", "gemma3", "paligemma",
    "internvl", "idefics3", "mistral3", *WANTS_TORCHVISION, *WANTS_TIMM,
)  # fmt: skip
"""Families for which one pass is compared with all signals and samples: cross-attention, packed
images, tiles, experts, linear attention, windows, a prefix that sees the question."""

PROMPT = CaptureSpec(layers="all", max_new_tokens=0)


@pytest.fixture(scope="module", params=RUNNABLE)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def vlm(family: str, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = build(family, tmp_path_factory.mktemp("family") / family)
    return load_model(folder, device=DEVICE, dtype="float32")


@pytest.fixture
def endless(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> VisionLanguageModel:
    """The model, with an end-of-turn token that nothing can generate: no answer is empty."""
    beyond = vlm.model.get_output_embeddings().weight.shape[0] + 8
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [beyond])
    return vlm


def positions(vlm: VisionLanguageModel) -> tuple[str, ...]:
    """Every position; PaliGemma's template does not say where the question ends."""
    blind = "last_question_token" if vlm.family.model_type == "paligemma" else ""
    return tuple(name for name in REPRESENTATIONS if name != blind)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def assert_same(found: Capture, expected: Capture) -> None:
    assert found.vectors.keys() == expected.vectors.keys()
    for name, vector in expected.vectors.items():
        assert error(found.vectors[name], vector) < TOLERANCE, name
    for name in ("boundaries", "num_prompt_tokens", "answer", "finish_reason", "image_sha256"):
        assert getattr(found, name) == getattr(expected, name), name
    if expected.answer is not None:
        np.testing.assert_array_equal(found.answer_token_ids, expected.answer_token_ids)
        np.testing.assert_allclose(
            found.answer_logprobs, expected.answer_logprobs, rtol=1e-4, atol=1e-4
        )
    assert found.first_token_entropy == pytest.approx(expected.first_token_entropy, rel=1e-4)
    assert found.signals.keys() == expected.signals.keys()
    errors = signal_errors(found.signals, expected.signals)
    for name, array in expected.signals.items():
        if is_of_samples(name):  # ``assert_same_samples`` compares them
            continue
        if name in INTEGERS or is_token_states(name):
            assert errors[name] < SHARES, name
        else:
            np.testing.assert_allclose(found.signals[name], array, atol=SHARES, err_msg=name)


def test_one_pass_equals_three(family: str, endless: VisionLanguageModel) -> None:
    """Every representation at every layer, of a padded batch of four, answers, and attention.

    One of its rows here: the slow method takes most of the time. The other signals, and samples,
    here for families of different kinds.
    """
    if family in WITH_ALL_SIGNALS:
        assert_rows_equal_three(endless, {"tall"}, spec_of_all(endless))
    else:
        spec = CaptureSpec(
            layers="all", positions=positions(endless), max_new_tokens=4, signals="attention,heads"
        )
        assert_rows_equal_three(endless, {"tall"}, spec)


def test_the_other_rows_equal_three(endless: VisionLanguageModel) -> None:
    """Those with the same image, and a third image; every signal, and samples."""
    assert_rows_equal_three(endless, {"wide", "shared", "third"}, spec_of_all(endless))


def spec_of_all(vlm: VisionLanguageModel) -> CaptureSpec:
    return CaptureSpec(
        layers="all", positions=positions(vlm), max_new_tokens=4, signals=tuple(SIGNALS),
        samples=2,
        seed=2,  # no sample has an image token, for which Phi-4's class expects an image in a step
    )  # fmt: skip


def assert_rows_equal_three(
    vlm: VisionLanguageModel, compared: set[str], spec: CaptureSpec
) -> None:
    found = list(capture(ONE_IMAGE, vlm, spec, batch_size=4))
    assert [item.sample for item in found] == list(ONE_IMAGE)
    assert compared < {item.sample.id for item in found}
    for item in found:
        assert set(item.boundaries) == {p for p in spec.positions if not p.endswith("_mean")}
        assert not spec.samples or np.isfinite(item.signals[P_TRUE])
        if item.sample.id in compared:
            given = [answer.token_ids for answer in item.samples]
            expected = reference(item.sample, vlm, spec, sample_token_ids=given)
            assert_same(item, expected)
            if spec.samples:
                assert_same_samples(item, expected)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions whose answers the library's ``generate`` wrote."""
    return answered_by_generate(monkeypatch)


def test_a_batch_equals_each_row_alone(
    family: str, vlm: VisionLanguageModel, generated: list[str]
) -> None:
    """With answers that end where the model ends them, written step by step where they can be."""
    assert bool(why_not_in_slots(vlm)) == (family in GENERATED)
    spec = CaptureSpec(layers="all", max_new_tokens=8, signals="attention,heads")
    together = list(capture(ONE_IMAGE, vlm, spec, batch_size=4))
    for item, alone in zip(together, capture(ONE_IMAGE, vlm, spec, batch_size=1), strict=True):
        assert_same(item, alone)
    assert_same(together[0], reference(together[0].sample, vlm, spec))
    assert bool(generated) == (family in SHORT_WINDOW or family in GENERATED)


def test_questions_about_one_image_share_its_prompt(
    family: str, endless: VisionLanguageModel, generated: list[str]
) -> None:
    """Two passes for a batch that repeats images, beginnings and ends; the numbers are the same.

    They equal those of each row alone; a row with two images is compared with the slow method too.
    """
    spec = CaptureSpec(
        layers="all", positions=positions(endless), max_new_tokens=3, signals="attention,mlp"
    )
    rows = [
        Sample(f"{i}_{row.id}", row.images, question)
        for i, question in enumerate(("Is it lit?", "What is it, and is it a cat?"))
        for row in (ONE_IMAGE[0], ONE_IMAGE[1], SEVERAL[0])
    ]
    batches, failures = prepare(rows, endless, resolve_spec(spec, endless))
    assert not failures
    shared = [batch for batch in batches if batch.prefix is not None]
    if family != "hunyuan_vl":  # before transformers 5.23 its frequencies depend on the length
        assert bool(shared) == (family in SHARES_PROMPTS)
    several = [batch for batch in shared if len(set(batch.prefix.entries)) > 1]
    assert bool(several) == bool(shared), "beginnings are told apart"
    together = list(capture(rows, endless, spec, batch_size=6))
    for item, alone in zip(together, capture(rows, endless, spec, batch_size=1), strict=True):
        assert_same(item, alone)
    assert_same(together[5], reference(together[5].sample, endless, spec))
    assert not generated or not shared


def test_images_in_one_piece_have_the_same_numbers(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, as the library's own class returns them."""
    images = vlm.processor.image_processor
    if MADE_BY not in vars(type(images)):
        assert getattr(type(images), "rescale", None) is not PilBackend.rescale
        return
    own = type(images).__mro__[1]
    assert own.__name__ == type(images).__name__
    rows = (*ONE_IMAGE, *SEVERAL)
    spec = resolve_spec(PROMPT, vlm)
    in_one_piece: list[bool] = []
    rescale = PilBackend.rescale

    def spy(self: Any, image: np.ndarray, scale: float, **options: Any) -> np.ndarray:
        in_one_piece.append(image.flags.c_contiguous)
        return np.asarray(rescale(self, image, scale, **options))

    with monkeypatch.context() as patch:
        patch.setattr(PilBackend, "rescale", spy)
        found = prepare(rows, vlm, spec)
    assert found[0]
    assert in_one_piece
    assert all(in_one_piece)
    monkeypatch.setattr(images, "__class__", own)
    assert_same_prepared(found, prepare(rows, vlm, spec))


def test_images_one_at_a_time_have_the_same_numbers(
    family: str, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit those of one call for all of them, in the dtype of most models too."""
    rows, spec = (*ONE_IMAGE, *SEVERAL), resolve_spec(PROMPT, vlm)
    monkeypatch.setattr(image_rows, "_proven", WeakKeyDictionary())
    for dtype in (torch.bfloat16, torch.float32):
        model = dataclasses.replace(vlm.preprocessing, dtype=dtype)
        alone = dataclasses.replace(model, image_by_image=True)
        assert_same_prepared(prepare(rows, alone, spec), prepare(rows, model, spec))
    [ways] = image_rows._proven.values()
    assert (image_rows.ROWS in ways) == (family not in NOT_JOINED)
    assert any(dimension for _, dimension in ways) == (family in PADDED)


@pytest.mark.exhaustive  # ``test_workers.py`` does it with one family; the processes take seconds
def test_worker_processes_prepare_the_same(
    vlm: VisionLanguageModel, worker_processes: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve_spec(CaptureSpec(positions=positions(vlm), max_new_tokens=2), vlm)
    rows = [*ONE_IMAGE, *SEVERAL, *INTERLEAVED, Sample("text", None, "What is a cat?")]
    [first, *_], _ = prepare(rows[:1], vlm, spec)
    limit = int(first.attention_mask.sum()) + 40
    model = dataclasses.replace(vlm.preprocessing, max_prompt_tokens=limit)
    rows += [Sample("long", WIDE, "What is it? " * limit)]
    expected = prepare(rows, model, spec)
    assert expected[0]
    assert any("tokens" in failure.error for failure in expected[1])
    worker_processes.begin(model, spec)
    monkeypatch.setattr(worker_processes, "_prepared_here", None)
    assert_same_prepared(worker_processes.prepare(rows), expected)


def test_vision_only_is_the_encoders_output(family: str, vlm: VisionLanguageModel) -> None:
    """Before the projector, pooled over positions: not pixels, not channel means.

    Whose rows are whose is told by a rule of the suite's own; the encoder's width is neither the
    decoder's nor the number of positions.
    """
    # Phi-4 fills up every image of a batch to the most crops, Mllama to the most tiles.
    rows = [*ONE_IMAGE, SEVERAL[0]] if family not in FILLED_UP else [ONE_IMAGE[0]]
    batches, _ = prepare(rows, vlm, resolve_spec(PROMPT, vlm))
    assert vlm.vision_size != vlm.hidden_size
    for batch in batches:
        shares = encoder_rows(family, vlm, batch.inputs)
        for item, number in zip(
            capture_batch(batch, vlm, resolve_spec(PROMPT, vlm)), batch.images, strict=True
        ):
            assert isinstance(item, Capture)
            parts = number if family not in SIDE_BY_SIDE else 1
            own = torch.cat([next(shares) for _ in range(parts)])
            assert item.vectors[VISION_ONLY].shape == (vlm.vision_size,) == own.shape[1:]
            assert error(item.vectors[VISION_ONLY], own.mean(dim=0).cpu().numpy()) < TOLERANCE
        assert next(shares, None) is None


def encoder_rows(
    family: str, vlm: VisionLanguageModel, inputs: dict[str, Tensor]
) -> Iterator[Tensor]:
    """Yield each image's share of the encoder's output, ``[rows, width]``."""
    with encoder_output(vlm) as seen, torch.inference_mode(), full_float32():
        vlm.model(**moved(inputs))
    flat = without_fill(family, moved(inputs), vlm.model.config, seen[0])
    if family in FILLED_UP:
        yield flat
        return
    counts = rows_per_image(family, inputs, vlm.model, vlm.processor.tokenizer)
    if family.startswith(("glm4", "ovis2")):  # the rule counts merged patches, four of the pooled
        counts = [4 * n for n in counts]
    yield from flat.split(counts)


def moved(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


@contextmanager
def encoder_output(vlm: VisionLanguageModel) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = vlm.vision_encoder.register_forward_hook(
        lambda _module, _args, output: seen.append(getattr(output, "last_hidden_state", output))
    )
    try:
        yield seen
    finally:
        handle.remove()


def test_positions_are_those_the_decoder_saw(vlm: VisionLanguageModel) -> None:
    """Another image changes what goes into the decoder at image tokens and nowhere else."""
    pair = [Sample(str(seed), make_image(70, 40, seed), "What is it?") for seed in (1, 2)]
    [batch], _ = prepare(pair, vlm, resolve_spec(PROMPT, vlm))
    spec = dataclasses.replace(PROMPT, positions=("first_image_token", *PROMPT.positions))
    [item, _] = capture_batch(batch, vlm, resolve_spec(spec, vlm))
    assert isinstance(item, Capture)
    image = np.flatnonzero(batch.input_ids[0] == vlm.image_token_id)
    assert item.boundaries["last_image_token"] == image[-1]
    assert item.boundaries["first_image_token"] == image[0]
    assert item.boundaries["last_prompt_token"] == batch.input_ids.shape[1] - 1
    if vlm.family.skipped_without_image:  # Mllama: images come in by cross-attention
        assert len(image) == 1
        return
    one, other = decoder_input(vlm, batch.inputs)
    changed = np.flatnonzero((one - other).abs().amax(dim=1).cpu().numpy() > 1e-4)
    assert len(changed) > 1
    # What precedes in Hunyuan-VL marks the beginning of an image.
    assert changed[0] == image[int(vlm.family.model_type == "hunyuan_vl")]
    assert set(changed) <= set(image)
    # What follows in LLaVA-NeXT and OneVision marks the end of a row of patches.
    assert set(range(changed[-1], image[-1] + 1)) <= set(image)


def decoder_input(vlm: VisionLanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = vlm.layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.inference_mode():
            vlm.model(**moved(inputs))
    finally:
        handle.remove()
    return seen[0]


def test_several_images_in_one_question(endless: VisionLanguageModel) -> None:
    spec = CaptureSpec(layers="all", positions=positions(endless), max_new_tokens=3)
    rows = [ONE_IMAGE[0], *SEVERAL, ONE_IMAGE[1]]
    for item in capture(rows, endless, spec, batch_size=4):
        assert_same(item, reference(item.sample, endless, spec))


def test_images_where_placeholders_stand(family: str, endless: VisionLanguageModel) -> None:
    """Each image at its number, one shown twice, one without a number first; or the row fails."""
    if family in IMAGES_FIRST:
        for sample in INTERLEAVED:
            with pytest.raises(RowError, match="a placeholder of an image; the images are"):
                list(capture([sample], endless, PROMPT))
        return
    spec = CaptureSpec(layers="all", positions=positions(endless), max_new_tokens=3)
    rows = [SEVERAL[1], *INTERLEAVED]
    for item in capture(rows, endless, spec, batch_size=4):
        assert_same(item, reference(item.sample, endless, spec))
    batches, failures = prepare(INTERLEAVED, endless, resolve_spec(spec, endless))
    assert not failures
    made = {s.id: (b, i) for b in batches for i, s in enumerate(b.samples)}
    for sample, content, order in zip(INTERLEAVED, CONTENTS, ORDERS, strict=True):
        batch, row = made[sample.id]
        inputs = by_hand(endless, content, [sample.images[i] for i in order])
        real = batch.attention_mask[row].astype(bool)
        assert batch.input_ids[row][real].tolist() == inputs["input_ids"][0].tolist()


def by_hand(
    vlm: VisionLanguageModel, content: list[str | None], images: list[Any]
) -> dict[str, Tensor]:
    """Return what the processor makes of texts and images (None) in this order."""
    parts = [
        {"type": "image"} if text is None else {"type": "text", "text": text} for text in content
    ]
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        chat_template=chat_template(vlm.processor),
        add_generation_prompt=True,
        tokenize=False,
    )
    return encode(vlm.processor, [text], [images])


def test_no_image_in_the_question(endless: VisionLanguageModel) -> None:
    """What needs an image is absent: there is no position 0 that stands for nothing."""
    spec = CaptureSpec(layers="all", positions=positions(endless), max_new_tokens=3)
    rows = [ONE_IMAGE[0], NONE[0], SEVERAL[0], NONE[1]]
    if not endless.family.text_only:
        with pytest.raises(RowError, match="takes no question without an image"):
            list(capture(rows, endless, spec, batch_size=4))
        return
    for item in capture(rows, endless, spec, batch_size=4):
        assert_same(item, reference(item.sample, endless, spec))
        if not item.sample.images:
            assert not set(item.boundaries) & set(IMAGE_POSITIONS)
            assert not {name.split("/")[0] for name in item.vectors} & {*IMAGE_REPRESENTATIONS}
            assert item.image_sha256 == ""


def test_the_question_does_not_reach_the_image_tokens(vlm: VisionLanguageModel) -> None:
    """Another last word changes the query token; image tokens only where they look ahead."""
    pair = [Sample(word, THIRD, f"Is there a {word}") for word in ("cat", "cup")]
    one, other = capture(pair, vlm, PROMPT, batch_size=2)
    assert one.num_prompt_tokens == other.num_prompt_tokens
    change = {name: error(other.vectors[name], one.vectors[name]) for name in one.vectors}
    assert change[VISION_ONLY] < TOLERANCE
    looks_ahead = vlm.family.prefix_sees_question
    for layer in range(vlm.num_layers):
        assert change[f"query_token_representation/layer_{layer}"] > 1e-4
        reached = change[f"vision_token_representation/layer_{layer}"] > TOLERANCE
        assert reached == looks_ahead


def test_the_lens_of_the_last_layer_is_the_models_own(vlm: VisionLanguageModel) -> None:
    """At the last prompt token it is the distribution of the first token, scales and caps too."""
    spec = CaptureSpec(
        "0,n-1", ("last_image_token", "last_prompt_token"), max_new_tokens=0, signals="lens"
    )
    for item in capture(ONE_IMAGE[:2], vlm, spec, batch_size=2):
        tokens, probs = item.signals[LENS_TOKENS][1], item.signals[LENS_PROBS][1]
        np.testing.assert_array_equal(tokens[1], item.first_token_ids[:10])
        np.testing.assert_allclose(np.log(probs[1]), item.first_token_logprobs[:10], atol=2e-5)
        entropy, rank = item.signals[LENS_ENTROPY][1], item.signals[LENS_RANK][1]
        assert entropy[1] == pytest.approx(item.first_token_entropy, abs=2e-5)
        assert rank[1] == 0
        assert item.signals[LENS_PROB][1, 1] == probs[1, 0]
        assert np.abs(probs[0] - probs[1]).max() > 1e-5


def test_the_image_reaches_every_representation(vlm: VisionLanguageModel) -> None:
    pair = [Sample(str(seed), make_image(90, 66, seed), "What is it?") for seed in (1, 2)]
    one, other = capture(pair, vlm, PROMPT, batch_size=2)
    change = {name: error(other.vectors[name], one.vectors[name]) for name in one.vectors}
    first = min(vlm.skipped_without_image, default=0)  # Mllama's first cross-attention
    assert change[VISION_ONLY] > 1e-4
    for layer in range(vlm.num_layers):
        assert (change[f"vision_token_representation/layer_{layer}"] > 1e-4) == (layer >= first)
    # A sliding window may take some layers to look back that far.
    assert change[f"query_token_representation/layer_{vlm.num_layers - 1}"] > 1e-4
