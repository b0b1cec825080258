"""Loading a checkpoint: what is taken, what is refused, and that it proves itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_identity import weights_hash
from families.checkpoints import BUILDERS
from tools.standin import TRUE, build_processor, build_standin
from vlmscope import capture
from vlmscope.errors import ModelError
from vlmscope.model import FAMILIES, VisionLanguageModel, load_model
from vlmscope.model.fingerprint import hash_processor
from vlmscope.model.loading.checks import check_model_parts
from vlmscope.prompt import encode, render
from vlmscope.schema import CaptureSpec, Sample


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_accessors(vlm: VisionLanguageModel) -> None:
    assert vlm.num_layers == len(vlm.layers) == 8
    assert vlm.hidden_size == 64
    assert vlm.vision_size == 96
    assert vlm.image_token_id == 896
    assert vlm.dtype == torch.float32
    assert vlm.device == torch.device("cpu")
    assert vlm.attention == "sdpa"
    assert not vlm.model.training


HERE = "; in the current folder did you mean 'models'?"
INSIDE = "; in models did you mean 'llava-1.5'?"
NEITHER = "no such folder, and not a hub id of the form owner/name"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "model '': give"),
        ("./modles/llava", NEITHER + HERE),
        ("modles/llava/7b", NEITHER + HERE),
        ("models", "no config.json"),
        ("modles", NEITHER + HERE),
        ("models/lava-1.5", "no such folder" + INSIDE),
        ("./models/lava-1.5", NEITHER + INSIDE),
        ("models/lava-1.5/x", NEITHER + INSIDE),
        ("models/lava-1.5/", NEITHER + INSIDE),
        ("empty/x", "no such folder; empty contains no folders; give the folder"),
        ("~/lava-1.5", NEITHER + "; in {home}/models did you mean 'llava-1.5'?"),
        ("~nobody-at-all/x", NEITHER + "; in the current folder there are 'empty', 'models'"),
        ("/nope/x", NEITHER + "; in / there are "),
        ("models/" + 300 * "x", "no such folder; in models there is 'llava-1.5'"),
    ],
)
def test_a_path_that_is_not_there_is_refused_without_the_hub(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "llava-1.5").mkdir(parents=True)
    (tmp_path / "models" / ".cache").mkdir()
    (tmp_path / "models" / "lava.txt").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "models"))
    monkeypatch.setattr("transformers.utils.cached_file", lambda *_, **__: pytest.fail("the hub"))
    with pytest.raises(ModelError) as caught:
        load_model(name, device="cpu")
    text = str(caught.value)
    assert message.replace("{home}", str(tmp_path)) in text
    assert "\n" not in text


def test_a_name_that_is_no_folder_is_told_as_such_without_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_model("owner/name", device="cpu")
    assert str(caught.value) == (
        "owner/name: no such folder; taken as a hub id: the hub cannot be reached, and "
        "its cache has no such model; give the folder of a checkpoint, or a hub id"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("owner/name is not a local folder and is not a valid model identifier listed on",
         "the hub has no such repository, or you have no access"),
        ("You are trying to access a gated repo.\nMake sure", "repository is gated; log in"),
        ("something\nelse", "taken as a hub id: something else; give the folder"),
    ],
)  # fmt: skip
def test_what_the_hub_says_of_a_name_that_is_no_folder(
    said: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(said)

    monkeypatch.setattr("transformers.utils.cached_file", refuse)
    with pytest.raises(
        ModelError, match=r"^owner/name: no such folder; taken as a hub id: "
    ) as caught:
        load_model("owner/name", device="cpu")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)


def test_a_file_is_no_folder(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(checkpoint / "config.json")


def test_weights_of_another_shape(copy: Path) -> None:
    edit(copy / "config.json", lambda config: config["text_config"].update(intermediate_size=128))
    with pytest.raises(ModelError, match="do not fit the configuration"):
        load_model(copy, device="cpu")


def test_weights_that_are_missing_are_not_filled_with_noise(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("layers.4.mlp.up_proj.weight"))]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*layers\.4\.mlp\.up_proj"):
        load_model(copy, device="cpu")


def test_a_weight_file_that_was_cut(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="copy: "):
        load_model(copy, device="cpu")


def test_a_checkpoint_without_a_chat_template(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="copy: the checkpoint has no chat template") as caught:
        load_model(copy, device="cpu")
    assert "adding-a-model" not in str(caught.value)


def test_a_chat_template_that_asks_for_chance(copy: Path) -> None:
    """It is refused before the weights are read: every prompt would be another one."""
    path = copy / "chat_template.jinja"
    path.write_text("{{ ['Hi. ', 'Hello. '] | random }}" + path.read_text())
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"copy: .*is random \(random\).*remove random"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("config.json", {"vision_config": {"patch_size": [14, 14]}}, "configuration: TypeError"),
        ("config.json", {"model_type": "falcon", "head_dim": 4}, "AttributeError"),
        ("tokenizer_config.json", {"pad_token": []}, "the processor: TypeError"),
        ("tokenizer_config.json", {"extra_special_tokens": 1.5}, "the processor: TypeError"),
    ],
)
def test_settings_of_another_type_are_said_in_a_line(
    copy: Path, file: str, settings: dict[str, Any], message: str
) -> None:
    """A class that meets values which it was not made for may raise anything."""
    found = json.loads((copy / file).read_text())
    for name, value in settings.items():
        found[name] = found[name] | value if isinstance(value, dict) else value
    (copy / file).write_text(json.dumps(found))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_processor(copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    with pytest.raises(ModelError, match="processor"):
        load_model(copy, device="cpu")


def remove_padding(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.pop("pad_token"))
    edit(folder / "generation_config.json", lambda config: config.pop("pad_token_id"))


def test_a_tokenizer_without_padding_pads_with_its_end(
    vlm: VisionLanguageModel, samples: list[Sample], copy: Path
) -> None:
    remove_padding(copy)
    found = load_model(copy, device="cpu", dtype="float32")
    tokenizer = found.processor.tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token != vlm.processor.tokenizer.pad_token
    spec = CaptureSpec(layers="all", max_new_tokens=6)
    pairs = zip(capture(samples, found, spec), capture(samples, vlm, spec), strict=True)
    for with_end, with_padding in pairs:
        assert with_end.answer_token_ids.tolist() == with_padding.answer_token_ids.tolist()
        for name, vector in with_padding.vectors.items():
            np.testing.assert_array_equal(with_end.vectors[name], vector)


def test_a_tokenizer_without_padding_and_end(copy: Path) -> None:
    remove_padding(copy)
    edit(copy / "tokenizer_config.json", lambda config: config.pop("eos_token"))
    with pytest.raises(ModelError, match="neither a padding nor an end-of-sequence token"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "bfloat16"),
        ({"device": "tpu9"}, "device "),
        ({"device": "cuda:7"}, "CUDA"),
        ({"device": "meta"}, "device "),
        ({"device": "xpu"}, "device "),
        ({"device": "cpu:7"}, "device "),
        ({"device": "spread"}, "two GPUs"),
    ],
)
def test_a_bad_option(checkpoint: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(checkpoint, **({"device": "cpu"} | options))


def test_the_proof_finds_a_wrong_description(vlm: VisionLanguageModel) -> None:
    def claim(**change: object) -> VisionLanguageModel:
        family = dataclasses.replace(FAMILIES["mllama"], **change)
        return dataclasses.replace(vlm, family=family)

    for wrong, message in [
        ({"vision_encoder": "model.vision_tower"}, "vision_tower"),
        ({"vision_encoder": "model.vision_model.transformer"}, "does not split"),
        ({"decoder": "model.vision_model.transformer"}, "norm"),
    ]:
        with pytest.raises(ModelError, match=message):
            check_model_parts(claim(**wrong))


def test_the_proof_finds_an_encoder_of_another_width(tmp_path: Path) -> None:
    llava = load_model(BUILDERS["llava"](tmp_path / "llava"), device="cpu", dtype="float32")
    inside = llava.family.vision_encoder + ".encoder.layers.0.mlp.fc1"
    family = dataclasses.replace(llava.family, vision_encoder=inside)
    with pytest.raises(ModelError, match="64 wide, the config gives 40"):
        check_model_parts(dataclasses.replace(llava, family=family))


def test_the_proof_finds_a_doubled_bos(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = vlm.processor.chat_template
    monkeypatch.setattr(vlm.processor, "chat_template", "{{- bos_token }}" + template)
    with pytest.raises(ModelError, match="BOS token 2 times"):
        check_model_parts(vlm)


def test_a_template_without_bos_gets_it_from_the_tokenizer(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from material import make_image

    template = vlm.processor.chat_template
    expected = encode(vlm.processor, [render(vlm.processor, "What is it?")], [[make_image("one")]])
    bare = template.replace("{{- bos_token }}", "")
    monkeypatch.setattr(vlm.processor, "chat_template", bare)
    text = render(vlm.processor, "What is it?")
    assert not text.startswith("<|begin_of_text|>")
    found = encode(vlm.processor, [text], [[make_image("one")]])
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()


def test_fingerprints_tell_models_apart(
    vlm: VisionLanguageModel, copy: Path, tmp_path: Path
) -> None:
    other = build_standin(tmp_path / "other", seed=1)
    again = build_standin(tmp_path / "again", seed=0)
    assert weights_hash(copy) == weights_hash(again) != weights_hash(other)
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    before = weights_hash(copy)
    weights[next(name for name in weights if "layers.4.mlp.up_proj" in name)] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert weights_hash(copy) != before
    moved = load_model(copy, device="cpu")
    assert moved.identity is not None
    assert vlm.identity is not None
    assert moved.identity.config_hash == vlm.identity.config_hash
    assert hash_processor(moved.processor) == hash_processor(vlm.processor)
    edit(
        copy / "processor_config.json", lambda c: c["image_processor"].update(image_mean=[0, 0, 0])
    )
    assert hash_processor(load_model(copy, device="cpu").processor) != hash_processor(vlm.processor)


@pytest.mark.exhaustive
def test_the_numbers_of_the_seed_at_true_size() -> None:
    """The tokenizer and the processor of the true size, without the 21 GB of weights."""
    from PIL import Image

    processor = build_processor(vocabulary=TRUE.vocabulary, tile=TRUE.tile)
    text = render(processor, "Is the forest lit by a full moon?")
    assert text == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
        "<|image|>Is the forest lit by a full moon?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    inputs = encode(processor, [text], [[Image.new("RGB", (400, 300))]])
    ids = inputs["input_ids"][0].tolist()
    assert ids[:2] == [128000, 128006]
    assert ids.index(128256) == 5
    assert ids[-2] == 128007
    assert inputs["pixel_values"].shape == (1, 1, 4, 3, 560, 560)
    assert inputs["aspect_ratio_ids"].tolist() == [[1]]
    assert inputs["aspect_ratio_mask"].tolist() == [[[1, 0, 0, 0]]]


def test_the_proof_finds_a_model_that_returns_nan(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights[next(name for name in weights if "layers.4.mlp.up_proj" in name)][:] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\[4\].*not a number"):
        load_model(copy, device="cpu")


def test_the_proof_says_so_where_the_model_fails_on_a_blank_image(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(vlm.model, "forward", fail)
    with pytest.raises(ModelError, match="blank image: OutOfMemoryError: CUDA out of memory"):
        check_model_parts(vlm)


@pytest.mark.parametrize("described", [False, True])
def test_a_transformers_that_computes_a_family_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: bool
) -> None:
    """MiniCPM-V 4.6 merged patches by the shape of the first slice; a description is no way out."""
    folder = BUILDERS["minicpmv4_6"](tmp_path / "model")
    (folder / "model.safetensors").unlink()  # said before weights are read
    monkeypatch.setattr("transformers.__version__", "5.18.1")
    family = {"title": "Mine", "vision_rows": "whole"} if described else None
    with pytest.raises(ModelError, match=r"computed wrongly by transformers 5\.18\.1") as caught:
        load_model(folder, device="cpu", family=family)
    assert "pip install 'transformers>=5.19'" in str(caught.value)
    assert "\n" not in str(caught.value)
