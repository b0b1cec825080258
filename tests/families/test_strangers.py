"""Architectures that vlmscope has no description of: by convention, or by a few lines of TOML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from families import strangers
from families.checkpoints import BUILDERS
from families.conformance import NONE, ONE_PICTURE, SEVERAL
from families.test_conformance import assert_same
from vlmscope.demo.standin import build_standin
from vlmscope.engine import capture, prepare
from vlmscope.errors import InputError, ModelError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec

SPEC = CaptureSpec(layers="all", positions=("last_image_token", "last_prompt_token"),
                   max_new_tokens=4)  # fmt: skip

DESCRIBED = """
vision_encoder = "eyes.left"
decoder = "mind"
layers = "steps"
final_norm = "last"
image_token = "picture_token"
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
    """Also with several pictures and none, beside questions about one."""
    rows = [*ONE_PICTURE, *SEVERAL, *NONE, *ONE_PICTURE[:1]]
    for item in capture(rows, vlm, SPEC, batch_size=8):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.parametrize(
    ("like", "model_type", "rule"),
    [
        ("llava", "acme", "image tokens"),
        ("llava_next", "acme_tiles", "tiles"),
        ("llava", "acme_backwards", "whole"),
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


def test_one_question_at_a_time_where_the_order_is_unknown(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_backwards")
    vlm = load_model(folder, device="cpu")
    batches, failures = prepare([*ONE_PICTURE, *SEVERAL], vlm, SPEC)
    assert not failures
    assert [len(batch.samples) for batch in batches] == [1] * (len(ONE_PICTURE) + len(SEVERAL))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("vision_encoder", r'no vision encoder.*vision_encoder = "path"'),
        ("decoder", r'no decoder.*decoder = "path"'),
        ("layers", r"layers.*adding-a-model"),
        ("final_norm", r"norm.*adding-a-model"),
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


def test_a_stranger_that_fills_up_to_the_most_pictures(tmp_path: Path) -> None:
    """Mllama under another name: questions about one and about two may not share a batch."""
    folder = strangers.rename(build_standin(tmp_path / "known"), tmp_path / "copy", "acme_mllama")
    vlm = load_model(folder, device="cpu")
    for item in capture([*SEVERAL, *ONE_PICTURE], vlm, SPEC, batch_size=8):
        assert_same(item, reference(item.sample, vlm, SPEC))


@pytest.mark.parametrize("part", ["vision_encoder", "decoder", "layers", "projector"])
def test_a_path_that_leads_nowhere(odd: Path, tmp_path: Path, part: str) -> None:
    lines = [line for line in DESCRIBED.splitlines() if not line.startswith(part)]
    family = write(tmp_path / "family.toml", "\n".join([*lines, f'{part} = "model.nope"']))
    with pytest.raises(ModelError, match="nope") as caught:
        load_model(odd, device="cpu", family=family)
    assert "\n" not in str(caught.value)


def test_a_description_that_promises_too_much(known: Path, tmp_path: Path) -> None:
    folder = strangers.rename(known / "llava", tmp_path / "copy", "acme_backwards")
    family = write(tmp_path / "family.toml", 'vision_rows = "image tokens"')
    with pytest.raises(ModelError, match=re.escape('vision_rows = "whole"')):
        load_model(folder, device="cpu", family=family)
    assert_exact(load_model(folder, family=write(tmp_path / "whole.toml", 'vision_rows = "whole"')))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decoder = ", "cannot be read as TOML"),
        ('decodr = "mind"', "no description has 'decodr'; it may have title"),
        ("decoder = 3", "decoder is 3, expected a str"),
        ('vision_rows = "tokens"', "choose from 'image tokens'"),
        ('text_only = "no"', "expected a bool"),
        ('encoder_inputs = ["pixel_values"]', "no description has 'encoder_inputs'"),
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
