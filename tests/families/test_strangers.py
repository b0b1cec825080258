"""Architectures that vlmscope has no description of: by convention, or by a few lines of TOML."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from families import strangers
from families.checkpoints import BUILDERS
from families.conformance import NONE, ONE_IMAGE, SEVERAL
from families.decoders import WIDTH
from families.test_conformance import assert_same
from tools.standin import build_standin
from vlmscope.engine import capture, prepare
from vlmscope.errors import InputError, ModelError
from vlmscope.model import FAMILIES, VisionLanguageModel, load_model, resolve_spec
from vlmscope.model.loading import batching
from vlmscope.model.loading.checks import is_monotonic_in, relative_error, scaled_like
from vlmscope.model.loading.discovery import with_found_parts
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

SPEC = CaptureSpec(layers="all", positions=("last_image_token", "last_prompt_token"),
                   max_new_tokens=4)  # fmt: skip

DESCRIBED = """
vision_encoder = "eyes.left"
decoder = "mind"
layers = "steps"
final_norm = "last"
image_token = "image_token"
"""


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    strangers.register()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known")
    BUILDERS["llava"](folder / "llava")
    BUILDERS["llava_next"](folder / "llava_next")
    return folder


@pytest.fixture(scope="module")
def odd(known: Path) -> Path:
    return strangers.build_odd(known / "llava", known / "odd")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def assert_exact(vlm: VisionLanguageModel) -> None:
    """Also with several images and none, beside questions about one."""
    rows = [*ONE_IMAGE, *SEVERAL, *NONE, *ONE_IMAGE[:1]]
    for item in capture(rows, vlm, SPEC, batch_size=8):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("like", "model_type", "rule"),
    [
        ("llava", "acme", "image tokens"),
        ("llava_next", "acme_tiles", "tiles"),
        ("llava", "acme_backwards", "whole"),
        ("llava", "acme_steps", "whole"),
    ],
)
def test_a_stranger_that_follows_the_conventions(
    known: Path, tmp_path: Path, like: str, model_type: str, rule: str
) -> None:
    """It needs no description; the proof finds out how it may be batched."""
    folder = strangers.rename(known / like, tmp_path / model_type, model_type)
    vlm = load_model(folder, device="cpu")
    assert vlm.family.title == model_type
    assert vlm.family.vision_rows == rule
    assert_exact(vlm)


@pytest.mark.exhaustive
def test_one_question_at_a_time_where_the_order_is_unknown(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_backwards")
    vlm = load_model(folder, device="cpu")
    batches, failures = prepare([*ONE_IMAGE, *SEVERAL], vlm, resolve_spec(SPEC, vlm))
    assert not failures
    assert [len(batch.samples) for batch in batches] == [1] * (len(ONE_IMAGE) + len(SEVERAL))


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("vision_encoder", r'no vision encoder.*vision_encoder = "path"'),
        ("decoder", r'no decoder.*decoder = "path"'),
        ("layers", r"layers.*adding-a-model"),
        ("image_token", r"image_token_id.*adding-a-model"),
    ],
)
def test_a_convention_that_is_not_followed_is_named(
    odd: Path, tmp_path: Path, missing: str, message: str
) -> None:
    lines = [line for line in DESCRIBED.splitlines() if not line.startswith(missing)]
    family = write(tmp_path / "family.toml", "\n".join(lines))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(odd, device="cpu", family=family)
    assert "\n" not in str(caught.value)


def test_without_any_description_the_first_thing_missing_is_named(odd: Path) -> None:
    with pytest.raises(ModelError, match=r"odd: no .*describe it with .* = \"path\""):
        load_model(odd, device="cpu")


def test_a_few_lines_describe_it(odd: Path, tmp_path: Path) -> None:
    vlm = load_model(odd, device="cpu", family=write(tmp_path / "family.toml", DESCRIBED))
    assert vlm.family.vision_rows == "image tokens"
    assert_exact(vlm)


@pytest.mark.exhaustive
def test_the_final_norm_is_found_by_what_it_returns(odd: Path, tmp_path: Path) -> None:
    lines = [line for line in DESCRIBED.splitlines() if not line.startswith("final_norm")]
    vlm = load_model(odd, device="cpu", family=write(tmp_path / "odd.toml", "\n".join(lines)))
    assert vlm.family.final_norm == "last"
    assert_exact(vlm)


def test_a_norm_that_is_described_is_not_looked_for(odd: Path, tmp_path: Path) -> None:
    text = DESCRIBED.replace('final_norm = "last"', 'final_norm = "steps.0.input_layernorm"')
    with pytest.raises(ModelError, match="final_norm is not hidden_states"):
        load_model(odd, device="cpu", family=write(tmp_path / "family.toml", text))


@pytest.mark.exhaustive
def test_a_norm_of_the_usual_name_that_is_another_one(odd: Path, tmp_path: Path) -> None:
    """The last hidden state decides, not the name."""
    lines = [line for line in DESCRIBED.splitlines() if not line.startswith("final_norm")]
    vlm = load_model(odd, device="cpu", family=write(tmp_path / "odd.toml", "\n".join(lines)))
    vlm.decoder.norm = vlm.decoder.steps[0].input_layernorm
    usual = dataclasses.replace(vlm.family, final_norm="norm")
    assert with_found_parts(dataclasses.replace(vlm, family=usual)).family.final_norm == "last"


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("own", [False, True])
def test_a_decoder_with_a_head_is_entered(known: Path, tmp_path: Path, own: bool) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_headed")
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", json.dumps({**config, "own_decoder": own}))
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.family.decoder == "model.language_model"
    assert_exact(vlm)


@pytest.mark.exhaustive
def test_an_encoder_is_read_before_its_merger(tmp_path: Path) -> None:
    folder = strangers.rename(
        BUILDERS["glm4v"](tmp_path / "known"), tmp_path / "copy", "acme_merger"
    )
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.family.vision_encoder == FAMILIES["glm4v"].vision_encoder
    assert vlm.family.vision_rows == "image tokens"
    assert_exact(vlm)


@pytest.mark.exhaustive
def test_a_merger_of_the_same_width_is_known_by_its_positions(tmp_path: Path) -> None:
    folder = strangers.redraw(
        BUILDERS["glm4v"](tmp_path / "known"), tmp_path / "copy", "acme_merger",
        hidden_size=WIDTH, num_heads=7,
    )  # fmt: skip
    vlm = load_model(folder, device="cpu", dtype="float32")
    assert vlm.family.vision_encoder == FAMILIES["glm4v"].vision_encoder
    assert_exact(vlm)


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("cap", [5.0, None])
def test_logits_that_are_scaled_and_capped(known: Path, tmp_path: Path, cap: float | None) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_scaled")
    config = json.loads((folder / "config.json").read_text())
    if cap is not None:
        config["text_config"]["final_logit_softcapping"] = cap
    write(folder / "config.json", json.dumps(config))
    assert_exact(load_model(folder, device="cpu", dtype="float32"))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_logits_of_another_head_are_no_scaled_ones(cap: float | None) -> None:
    rng = torch.Generator().manual_seed(0)
    raw, other = torch.randn(2, 200, generator=rng)
    scaled = 0.25 * raw if cap is None else cap * torch.tanh(0.25 * raw / cap)
    assert relative_error(scaled_like(raw, scaled, cap), scaled) < 1e-6
    assert relative_error(scaled_like(raw, other.clamp(-1.9, 1.9), cap), other) > 0.5
    assert is_monotonic_in(raw[None], scaled[None] - 7)
    assert not is_monotonic_in(raw[None], other[None])
    assert not is_monotonic_in(raw[None], torch.zeros_like(other)[None])


def test_an_encoder_that_runs_twice_for_tiles_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """A blank image of one tile does not show it."""
    known = BUILDERS["internvl"](tmp_path / "known")
    folder = strangers.rename(known, tmp_path / "copy", "acme_twice")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    write(folder / "preprocessor_config.json", json.dumps({**settings, "max_patches": 2}))
    with pytest.raises(ModelError, match=r"ran 2 times for one image of \d+x\d+") as caught:
        load_model(folder, device="cpu", dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.first(1)
@pytest.mark.parametrize("error", [IndexError, ZeroDivisionError, StopIteration])
@pytest.mark.parametrize("name", ["forward", "generate"])
def test_no_error_of_a_model_comes_out_of_its_proof_as_it_is(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("two\nlines")

    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme")
    monkeypatch.setattr(strangers.Acme, name, fail)
    with pytest.raises(ModelError, match=error.__name__) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_batches_are_tried_with_images_that_tile(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a processor that makes tiles of large images only, as DeepSeek-OCR's does."""
    sizes: list[tuple[int, int]] = []

    def encode(_processor: object, _texts: object, images: list[list[Image]]) -> dict[str, Tensor]:
        [[image]] = images
        sizes.append(image.size)
        tiles = 1 if max(image.size) <= 1200 else 7
        return {"input_ids": torch.tensor([[5] * 9 * tiles]), "pixel_values": torch.zeros(tiles, 3)}

    vlm = load_model(known / "llava", device="cpu")
    monkeypatch.setattr(batching, "encode", encode)
    assert [image.size for image in batching._tiling_images(vlm)] == [
        (64, 48),
        (480, 1920),
        (2160, 672),
    ]
    assert (40, 160) in sizes


@pytest.mark.exhaustive
def test_a_description_without_a_rule_is_as_free_as_none(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava_next", tmp_path / "copy", "acme_tiles")
    vlm = load_model(folder, device="cpu", family={"title": "Mine"})
    assert vlm.family.vision_rows == "tiles"
    assert vlm.family.title == "Mine"
    kept = load_model(known / "llava_next", device="cpu", family={"title": "Mine"})
    assert kept.family.vision_rows == "tiles"


@pytest.mark.exhaustive
def test_a_stranger_that_fills_up_to_the_most_images(tmp_path: Path) -> None:
    """Mllama under another name: questions about one and about two may not share a batch."""
    folder = strangers.rename(build_standin(tmp_path / "known"), tmp_path / "copy", "acme_mllama")
    vlm = load_model(folder, device="cpu")
    spec = dataclasses.replace(SPEC, signals="attention")
    for item in capture([*SEVERAL, *ONE_IMAGE], vlm, spec, batch_size=8):
        assert_same(item, reference(item.sample, vlm, spec))
    [note] = resolve_spec(spec, vlm).notes
    assert "no attention of layers 1, 3, 6" in note


@pytest.mark.first(1)
@pytest.mark.parametrize("part", ["vision_encoder", "decoder", "layers", "projector"])
def test_a_path_that_leads_nowhere(odd: Path, tmp_path: Path, part: str) -> None:
    lines = [line for line in DESCRIBED.splitlines() if not line.startswith(part)]
    family = write(tmp_path / "family.toml", "\n".join([*lines, f'{part} = "model.nope"']))
    with pytest.raises(ModelError, match="nope") as caught:
        load_model(odd, device="cpu", family=family)
    assert "\n" not in str(caught.value)


@pytest.mark.exhaustive
def test_a_description_that_promises_too_much(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_backwards")
    family = write(tmp_path / "family.toml", 'vision_rows = "image tokens"')
    with pytest.raises(ModelError, match=re.escape('vision_rows = "whole"')):
        load_model(folder, device="cpu", family=family)


@pytest.mark.exhaustive
def test_a_description_of_whole_images(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_backwards")
    assert_exact(load_model(folder, family=write(tmp_path / "whole.toml", 'vision_rows = "whole"')))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decoder = ", "cannot be read as TOML"),
        ('decodr = "mind"', "unknown key 'decodr'; choose from title"),
        ("decoder = 3", "decoder is 3, expected a str"),
        ('vision_rows = "tokens"', "choose from 'image tokens'"),
        ('text_only = "no"', "expected a bool"),
        ('encoder_inputs = ["pixel_values"]', "unknown key 'encoder_inputs'"),
    ],
)
def test_a_description_that_cannot_be_read(
    odd: Path, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_model(odd, device="cpu", family=write(tmp_path / "family.toml", text))


def test_a_description_that_is_not_there(odd: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_model(odd, device="cpu", family=tmp_path / "none.toml")
