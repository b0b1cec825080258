"""Decoders that compute differently beyond a length, for every row of a call at once.

Whatever a row's neighbours are and whatever went through the model before, it gets what the library
gives for it alone from a model that was just loaded.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from torch import Tensor

from engine.against_reference import answered_by_generate, run_session
from engine.test_as_on_a_gpu import recorded  # noqa: F401 - a fixture
from families.conformance import THIRD, VERSION, build, make_image, not_here
from families.llava_checkpoints import build_llava
from families.test_conformance import assert_same
from vlmscope.engine import capture, capture_batch, prepare
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.lengths import ALONE, MARGIN
from vlmscope.positions import ANSWER_POSITIONS
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

SWITCH = 64
"""Tokens at which every decoder here switches."""

LARGE_SWITCH = 1024
"""The same of Phi-4-multimodal, whose images have hundreds of tokens."""

FACTORS = [1.0 + 0.5 * i for i in range(7)]
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 7, "long_factor": FACTORS,
    "original_max_position_embeddings": SWITCH,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}

SPEC = CaptureSpec(
    layers="all",
    positions=("last_image_token", "last_prompt_token", *ANSWER_POSITIONS),
    max_new_tokens=8,
)


def build_phi3(folder: Path) -> Path:
    return build_llava(
        folder, model_type="phi3", rope_parameters=LONGROPE, sliding_window=None,
        original_max_position_embeddings=SWITCH, num_key_value_heads=2, num_hidden_layers=3,
    )  # fmt: skip


def build_dynamic(folder: Path) -> Path:
    return build_llava(
        folder, rope_parameters=DYNAMIC, max_position_embeddings=SWITCH, num_hidden_layers=3
    )


def build_by_layer_type(folder: Path) -> Path:
    """Gemma 3, whose layers of one type switch and those of the other do not."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    default = {"rope_type": "default", "rope_theta": 1e4}
    return build_llava(
        folder, model_type="gemma3_text", layer_types=kinds, num_hidden_layers=3,
        sliding_window=512,
        rope_parameters={"full_attention": LONGROPE, "sliding_attention": default},
    )  # fmt: skip


BUILDERS = {
    "phi3": build_phi3,
    "dynamic": build_dynamic,
}
if Version(VERSION) >= Version("5.23"):  # before, the library failed at the second long sequence
    BUILDERS["by layer type"] = build_by_layer_type

LARGE = [] if not_here("phi4_multimodal") else ["phi4_multimodal"]


def row(name: str, words: int, seed: int = 0) -> Sample:
    return Sample(name, make_image(70, 40, seed), "Is there a cat? " + "cat " * words)


@pytest.fixture(
    scope="module",
    params=[
        "phi3",
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in [*BUILDERS][1:]),
        *LARGE,
    ],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths") / "model"
    if request.param in BUILDERS:
        return BUILDERS[request.param](folder)
    build(request.param, folder)
    path = folder / "config.json"
    switch = {"original_max_position_embeddings": LARGE_SWITCH}
    settings = {"rope_parameters": LONGROPE | switch} | switch
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VisionLanguageModel:
    return loaded(folder)


def loaded(folder: Path) -> VisionLanguageModel:
    """Load it; no answer ends before the limit."""
    vlm = load_model(folder, device="cpu", dtype="float32")
    vlm.model.generation_config.eos_token_id = [10**6]
    return vlm


@pytest.fixture(scope="module")
def rows(vlm: VisionLanguageModel) -> tuple[Sample, ...]:
    """Rows on both sides of the switch, at it, and such as cross it while they are answered."""
    tokens = tokens_of(vlm, row("", 0))
    switch = SWITCH if tokens < SWITCH else LARGE_SWITCH
    lengths = (0, switch + 30, switch - 4, 3, switch, switch + 50, switch + 7, switch - 1, 9)
    words = [max(0, length - tokens) if i not in {0, 3, 8} else length
             for i, length in enumerate(lengths)]  # fmt: skip
    found = tuple(row(f"{i}", count, i) for i, count in enumerate(words))
    assert tokens_of(vlm, found[4]) == switch
    return found


def tokens_of(vlm: VisionLanguageModel, sample: Sample) -> int:
    [batch], _ = prepare([sample], vlm, resolve_spec(CaptureSpec(max_new_tokens=0), vlm))
    return int(batch.attention_mask.sum())


@pytest.fixture(scope="module")
def alone(folder: Path, rows: Sequence[Sample]) -> dict[str, Capture]:
    """What the slow method finds for each row, in a model that has seen no other."""
    first = loaded(folder)
    found = {}
    for sample in rows:
        fresh = VisionLanguageModel(
            **{name: getattr(first, name) for name in first.__dataclass_fields__}
            | {"model": copy.deepcopy(first.model)}
        )
        found[sample.id] = reference(sample, fresh, SPEC)
    return found


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.exhaustive), 9])
def test_rows_in_batches_equal_rows_alone(
    vlm: VisionLanguageModel, rows: Sequence[Sample], alone: dict[str, Capture], size: int
) -> None:
    for item in capture(rows if size == 9 else rows[::-1], vlm, SPEC, batch_size=size):
        assert_same(item, alone[item.sample.id])


def test_prompts_without_answers(
    vlm: VisionLanguageModel, rows: Sequence[Sample], alone: dict[str, Capture]
) -> None:
    spec = CaptureSpec(layers="all", max_new_tokens=0)
    for item in capture(rows, vlm, spec, batch_size=9):
        expected = alone[item.sample.id]
        same = {name: expected.vectors[name] for name in item.vectors}
        known = {"vectors": same, "answer": None, "answer_token_ids": None,
                 "answer_logprobs": None, "finish_reason": "prefill", "signals": {},
                 "boundaries": item.boundaries}  # fmt: skip
        fields = {name: getattr(expected, name) for name in expected.__dataclass_fields__}
        assert_same(item, Capture(**fields | known))


def test_the_slow_method_does_not_depend_on_the_rows_before(
    vlm: VisionLanguageModel, rows: Sequence[Sample], alone: dict[str, Capture]
) -> None:
    for sample in (rows[5], rows[4], rows[1], rows[0]):
        assert_same(reference(sample, vlm, SPEC), alone[sample.id])


@pytest.mark.exhaustive
@pytest.mark.usefixtures("recorded")
def test_slots_of_rows_that_have_left_do_not_decide(
    vlm: VisionLanguageModel, rows: Sequence[Sample], alone: dict[str, Capture]
) -> None:
    """Graphs take along slots behind the active ones, in which longer rows have been."""
    spec = CaptureSpec(layers="all", max_new_tokens=8)
    longest_first = sorted(rows, key=lambda sample: -len(sample.question))
    for piece in run_session(longest_first, vlm, spec, rows=9, size=3):
        for item in piece:
            assert isinstance(item, Capture)
            assert item.answer == alone[item.sample.id].answer


def test_only_rows_that_must_go_alone(
    vlm: VisionLanguageModel, rows: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, failures = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    assert not failures
    generated = answered_by_generate(monkeypatch)
    for batch in batches:
        capture_batch(batch, vlm, resolve_spec(SPEC, vlm))
    sizes = sorted(len(batch.samples) for batch in batches)
    if vlm.lengths.switches:
        assert sizes == [1, 1, 1, 3, 3]
        assert sorted(generated) == ["2", "4", "7"]
    else:
        assert sizes == [1, 1, 1, 1, 1, 1, 3]
        assert sorted(generated) == ["1", "2", "4", "5", "6", "7"]


def test_a_batch_that_was_prepared_for_shorter_answers_is_refused(
    vlm: VisionLanguageModel, rows: Sequence[Sample]
) -> None:
    short = [rows[0], rows[3]]
    [batch], _ = prepare(short, vlm, resolve_spec(SPEC, vlm))
    longer = CaptureSpec(max_new_tokens=500)
    with pytest.raises(InputError, match="prepare the batch with the spec"):
        capture_batch(batch, vlm, resolve_spec(longer, vlm))
    assert len(capture_batch(batch, vlm, resolve_spec(SPEC, vlm))) == 2


def test_dynamic_positions_reach_beyond_those_of_the_training(tmp_path: Path) -> None:
    vlm = load_model(build_dynamic(tmp_path / "model"), device="cpu")
    assert vlm.max_prompt_tokens == 4 * SWITCH
    assert (vlm.lengths.alone_beyond, vlm.lengths.switches) == (SWITCH, ())
    assert vlm.lengths.band(SWITCH - MARGIN - 1) == ALONE + 1
    assert vlm.lengths.band(SWITCH + 1) == ALONE


@pytest.mark.exhaustive
def test_short_rows_do_not_ask_for_the_longest_of_the_call(tmp_path: Path) -> None:
    """So that a step can be a graph; a row after a long one gets the initial frequencies again."""
    vlm = loaded(build_dynamic(tmp_path / "model"))
    seen: list[tuple[Tensor, str]] = []
    [rotary] = [module for module in vlm.model.modules() if hasattr(module, "rope_type")]

    def note(module: Any, _args: Any, options: dict[str, Tensor]) -> None:
        seen.append((options["position_ids"].clone(), module.rope_type))

    rotary.register_forward_pre_hook(note, with_kwargs=True)
    rows = [row("long", SWITCH), row("short", 1), row("other", 5)]
    expected = {sample.id: reference(sample, vlm, SPEC) for sample in rows}
    seen.clear()
    found = [item for piece in run_session(rows, vlm, SPEC, rows=2, size=1) for item in piece]
    assert {item.sample.id for item in found} == set(expected)
    for item in found:
        assert isinstance(item, Capture)
        assert_same(item, expected[item.sample.id])
    kinds = {(int(positions.max()) >= SWITCH, kind) for positions, kind in seen}
    assert kinds == {(True, "dynamic"), (False, "default")}
    assert rotary.rope_type == "dynamic"


@pytest.mark.exhaustive
def test_short_questions_about_one_image_share_their_beginning(tmp_path: Path) -> None:
    vlm = loaded(build_dynamic(tmp_path / "model"))
    image = make_image(70, 40, 0)
    texts = ("Why?", "Is there a cat?", "How many " + "cats " * 9)
    rows = [Sample(f"{i}", image, text) for i, text in enumerate(texts)]
    [batch], _ = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    assert batch.prefix is not None
    for item in capture(rows, vlm, SPEC, batch_size=3):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_positions_that_are_not_counted_by_token(tmp_path: Path) -> None:
    """Qwen-VL gives an image fewer positions than tokens: beyond the switch its rows go alone."""
    vlm = loaded(with_longrope("qwen2_vl", tmp_path / "model"))
    assert (vlm.lengths.alone_beyond, vlm.lengths.switches) == (SWITCH, ())
    rows = (row("short", 1), row("long", 60), row("other", 30), Sample("image", THIRD, "Why?"))
    for item in capture(rows, vlm, SPEC, batch_size=4):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.exhaustive
def test_positions_of_images_where_the_configuration_omits_the_sections(tmp_path: Path) -> None:
    """Qwen3-VL has a default for them; five images are more tokens than the switch, not so long."""
    vlm = loaded(with_longrope("qwen3_vl", tmp_path / "model", omit="mrope_section"))
    assert (vlm.lengths.alone_beyond, vlm.lengths.switches) == (SWITCH, ())
    images = [tuple(make_image(400, 410, seed + i) for i in range(5)) for seed in (0, 5)]
    rows = (Sample("short", images[0], "Why?"), Sample("long", images[1], "Is it? " + "cat " * 70))
    assert all(tokens_of(vlm, sample) > SWITCH + MARGIN for sample in rows)
    for item in capture(rows, vlm, SPEC, batch_size=2):
        assert_same(item, reference(item.sample, vlm, SPEC))


def with_longrope(name: str, folder: Path, *, omit: str = "") -> Path:
    """Write a family's checkpoint with a switch, and without one of the parameters."""
    build(name, folder)
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    rope = config["text_config"]["rope_parameters"] | LONGROPE
    config["text_config"]["rope_parameters"] = {k: v for k, v in rope.items() if k != omit}
    path.write_text(json.dumps(config))
    return folder


def test_settings_as_an_older_transformers_wrote_them(tmp_path: Path) -> None:
    path = build_phi3(tmp_path / "model") / "config.json"
    config = json.loads(path.read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"] |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {
            "type": "longrope",
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        },
    }
    path.write_text(json.dumps(config))
    assert load_model(path.parent, device="cpu").lengths.switches == (SWITCH,)
