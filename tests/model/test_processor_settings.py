"""Processors whose files leave out what the model's configuration says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from families.conformance import ONE_IMAGE, build
from vlmscope.engine import capture
from vlmscope.errors import ModelError
from vlmscope.model import load_model
from vlmscope.model.loading.processors import SETTINGS
from vlmscope.schema import CaptureSpec

SPEC = CaptureSpec(layers="all", max_new_tokens=2)


def without(folder: Path, *keys: str, file: str = "processor_config.json") -> Path:
    """Take keys out of a file of a checkpoint; of the processor's own all but its class."""
    content = json.loads((folder / file).read_text())
    for key in keys:
        del content[key]
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("llava", ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")),
        ("llava", ("patch_size",)),
        ("llava_next", ("patch_size", "num_additional_image_tokens")),
        ("llava_onevision", ("num_image_tokens", "vision_feature_select_strategy")),
    ],
)
def test_what_is_missing_is_taken_from_the_configuration(
    tmp_path: Path, family: str, keys: tuple[str, ...]
) -> None:
    """The same inputs as with the whole file: a class token is counted, SigLIP has none."""
    folder = build(family, tmp_path / family)
    whole = list(capture(ONE_IMAGE[:2], load_model(folder, device="cpu"), SPEC))
    found = list(capture(ONE_IMAGE[:2], load_model(without(folder, *keys), device="cpu"), SPEC))
    for item, expected in zip(found, whole, strict=True):
        assert item.boundaries == expected.boundaries
        assert item.num_prompt_tokens == expected.num_prompt_tokens
        assert all((item.vectors[n] == expected.vectors[n]).all() for n in expected.vectors)


@pytest.mark.parametrize("kind", [int, list])
def test_a_square_may_be_given_by_both_of_its_sides(kind: type) -> None:
    """As by the configurations of InternVL's encoder, which LLaVA's class may wrap."""
    sides: tuple[Any, Any] = (14, 42) if kind is int else ([14, 14], [42, 42])
    vision = SimpleNamespace(patch_size=sides[0], image_size=sides[1])
    config = SimpleNamespace(vision_config=vision)
    assert (SETTINGS["patch_size"](config), SETTINGS["num_image_tokens"](config)) == (14, 9)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    folder = build("llava", tmp_path / "model")
    whole = load_model(folder, device="cpu").processor
    (folder / "processor_config.json").unlink()
    found = load_model(folder, device="cpu").processor
    for name in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        assert getattr(found, name) == getattr(whole, name)


def test_what_neither_file_says_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = without(build("llava", tmp_path / "model"), "patch_size")

    def silent(_config: Any) -> int:
        raise AttributeError("no patch_size")

    monkeypatch.setitem(SETTINGS, "patch_size", silent)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"processor_config.json has no 'patch_size'.*add it"):
        load_model(folder, device="cpu")


def test_a_number_that_the_library_assumes_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    """InternVL's processor takes 256 tokens a tile where its file does not say otherwise."""
    folder = without(build("internvl", tmp_path / "model"), "image_seq_length")
    message = r"blank image: .*does not give image_seq_length \(using 256\)"
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_processor_that_cannot_be_loaded_is_said_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needy(*_: object) -> None:
        raise ModelError("its processor needs torchvision")

    folder = build("llava", tmp_path / "model")
    monkeypatch.setattr("vlmscope.model.loading.load.load_processor", needy)
    monkeypatch.setattr(
        "vlmscope.model.loading.load.load_weights", lambda *_, **__: pytest.fail("read")
    )
    with pytest.raises(ModelError, match="needs torchvision"):
        load_model(folder, device="cpu")
