"""LoRA adapters: the states are peft's own, and what does not fit is refused in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapter_folder import write_adapter
from checkpoint_identity import identify, split, weights_hash
from families.checkpoints import BUILDERS
from material import make_image
from tools.standin import build_standin
from vlmscope import capture
from vlmscope.errors import ModelError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.prompt import encode, render
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

pytestmark = [  # what peft says to the tests themselves
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
]

FAMILIES = ("mllama", "llava", "qwen2_5_vl")

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Path]]:
    """Family → a checkpoint and an adapter for it."""
    root = tmp_path_factory.mktemp("adapters")
    builders = BUILDERS | {"mllama": build_standin}
    made = {family: builders[family](root / family) for family in FAMILIES}
    return {
        family: (folder, write_adapter(folder, root / f"{family} adapter"))
        for family, folder in made.items()
    }


@pytest.fixture
def adapter(folders: Mapping[str, tuple[Path, Path]], tmp_path: Path) -> Path:
    """A copy of LLaVA's adapter."""
    return Path(shutil.copytree(folders["llava"][1], tmp_path / "adapter"))


def load(checkpoint: Path, adapter: Path | None = None) -> VisionLanguageModel:
    return load_model(checkpoint, device="cpu", dtype="float32", adapter=adapter)


def states(model: Any, vlm: VisionLanguageModel) -> Tensor:
    """Hidden states of every layer for a question about an image, ``[layers, length, width]``."""
    inputs = encode(vlm.processor, [render(vlm.processor, "What is it?")], [[make_image("four")]])
    with torch.inference_mode():
        return torch.cat(model(**inputs, output_hidden_states=True).hidden_states)


def of_peft(checkpoint: Path, adapter: Path, vlm: VisionLanguageModel) -> Tensor:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(checkpoint)
    return states(PeftModel.from_pretrained(base, adapter).eval(), vlm)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.first(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_of_peft_and_not_of_the_base(
    folders: Mapping[str, tuple[Path, Path]], family: str
) -> None:
    checkpoint, adapter = folders[family]
    base, vlm = load(checkpoint), load(checkpoint, adapter)
    assert (base.adapter, vlm.adapter) == (None, str(adapter))
    found = states(vlm.model, vlm)
    assert distance(found, of_peft(checkpoint, adapter, vlm)) <= 1e-5
    assert distance(found, states(base.model, base)) > 0.1


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_keeps_its_place(
    folders: Mapping[str, tuple[Path, Path]], family: str
) -> None:
    checkpoint, adapter = folders[family]
    base, vlm = load(checkpoint), load(checkpoint, adapter)
    names = {name for name, _ in vlm.model.named_modules()}
    assert {name for name, _ in base.model.named_modules()} < names
    assert vlm.family == base.family
    assert vlm.vision_size == base.vision_size
    assert vlm.model.get_decoder() is vlm.model.get_submodule(vlm.family.decoder)
    assert type(vlm.layers[0]) is type(base.layers[0])
    assert not vlm.model.training


@pytest.mark.exhaustive
@pytest.mark.parametrize("family", FAMILIES)
def test_the_capture_is_the_reference(
    folders: Mapping[str, tuple[Path, Path]], family: str
) -> None:
    vlm = load(*folders[family])
    spec = CaptureSpec(layers="all", max_new_tokens=4)
    samples = [
        Sample(id=name, image=make_image(name), question=question)
        for name, question in [("one", "What is it?"), ("four", "Is there a cat, or a rocket?")]
    ]
    for found in capture(samples, vlm, spec, batch_size=2):
        expected = reference(found.sample, vlm, spec)
        assert found.answer == expected.answer
        for name, vector in expected.vectors.items():
            error = np.linalg.norm(found.vectors[name] - vector) / np.linalg.norm(vector)
            assert error <= 1e-5, name


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"use_rslora": True, "target_modules": "all-linear"},
        {"modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
    ],
    ids=lambda options: "+".join(options),
)
def test_forms_of_lora(
    folders: Mapping[str, tuple[Path, Path]], tmp_path: Path, options: Mapping[str, Any]
) -> None:
    checkpoint, _ = folders["llava"]
    adapter = write_adapter(checkpoint, tmp_path / "adapter", **options)
    vlm = load(checkpoint, adapter)
    assert distance(states(vlm.model, vlm), of_peft(checkpoint, adapter, vlm)) <= 1e-5


@pytest.mark.exhaustive
def test_names_from_before_transformers_5(
    folders: Mapping[str, tuple[Path, Path]], adapter: Path
) -> None:
    checkpoint, original = folders["llava"]
    edit_tensors(adapter, lambda all_: {
        name.replace("model.model.language_model", "model.language_model.model"): tensor
        for name, tensor in all_.items()
    })  # fmt: skip
    vlm = load(checkpoint, adapter)
    assert distance(states(vlm.model, vlm), of_peft(checkpoint, original, vlm)) <= 1e-5


def edit_tensors(adapter: Path, change: Callable[[Tensors], Tensors]) -> None:
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def edit_config(adapter: Path, **change: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def pickle(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")


def cut(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def add_a_layer(tensors: Tensors) -> Tensors:
    name = next(iter(tensors))
    return tensors | {name.replace("layers.0", "layers.99"): tensors[name].clone()}


@pytest.mark.first(7)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda a: (a / "adapter_config.json").unlink(), r"no adapter_config\.json; give"),
        (lambda a: (a / "adapter_config.json").write_text("{"), r"adapter_config\.json cannot be"),
        (lambda a: (a / "adapter_config.json").write_text("[]"), r"adapter_config\.json cannot be"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors; s"),
        (pickle, r"only adapter_model\.bin, a pickle.*save it as safetensors"),
        (cut, r"damaged adapter_model\.safetensors"),
        (lambda a: edit_config(a, peft_type="PROMPT_TUNING"), "type PROMPT_TUNING; only LORA"),
        (lambda a: edit_config(a, alora_invocation_tokens=[5]), "activated LoRA"),
        (lambda a: edit_config(a, target_modules="nothing"), "does not fit.*nothing not found"),
        (lambda a: edit_config(a, r=8), "does not fit .*size mismatch.* model"),
        (lambda a: edit_config(a, target_modules=["q_proj", "v_proj", "k_proj"]), "it lacks .*k_p"),
        (lambda a: edit_tensors(a, add_a_layer), r"no module for .*layers\.99"),
        (
            lambda a: edit_tensors(a, lambda all_: {n: t * torch.nan for n, t in all_.items()}),
            "not a number",
        ),
    ],
)
def test_an_adapter_that_cannot_be_used(
    folders: Mapping[str, tuple[Path, Path]],
    adapter: Path,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    spoil(adapter)
    with pytest.raises(ModelError, match=message) as caught:
        load(folders["llava"][0], adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", ["mllama", "qwen2_5_vl"])
def test_the_adapter_of_another_model(folders: Mapping[str, tuple[Path, Path]], other: str) -> None:
    with pytest.raises(ModelError, match=f"{other} adapter: does not fit .*llava: .*size mismatch"):
        load(folders["llava"][0], folders[other][1])


def test_peft_is_asked_for_before_the_model_is_loaded(
    adapter: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"needs peft.*pip install peft"):
        load(checkpoint, adapter)


def test_the_hash_is_of_tensors_and_of_how_they_are_applied(
    folders: Mapping[str, tuple[Path, Path]], adapter: Path
) -> None:
    checkpoint, _ = folders["llava"]
    original = weights_hash(checkpoint, adapter)
    edit_config(adapter, base_model_name_or_path="/elsewhere")
    (adapter / "training_args.bin").write_bytes(b"of the trainer")
    assert weights_hash(checkpoint, adapter) == original
    edit_config(adapter, lora_alpha=9)
    stronger = weights_hash(checkpoint, adapter)
    edit_tensors(adapter, lambda all_: {name: tensor + 1e-3 for name, tensor in all_.items()})
    assert len({original, stronger, weights_hash(checkpoint, adapter)}) == 3


def test_no_file_of_a_checkpoint_hides_the_adapters(
    folders: Mapping[str, tuple[Path, Path]], adapter: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["llava"][0], tmp_path / "copy"))
    split(copy, ("adapter/adapter_model.safetensors", "two.safetensors"))
    assert len(identify(copy).weight_files) == 2
    assert len(identify(copy, adapter).weight_files) == 3


def hash_of(vlm: VisionLanguageModel) -> str:
    assert vlm.identity is not None
    return vlm.identity.weights_hash


def test_the_weights_of_a_model_with_an_adapter_are_others(
    folders: Mapping[str, tuple[Path, Path]], adapter: Path
) -> None:
    checkpoint, original = folders["llava"]
    assert hash_of(load(checkpoint)) == weights_hash(checkpoint)
    with_it = hash_of(load(checkpoint, original))
    assert hash_of(load(checkpoint, adapter)) == with_it != weights_hash(checkpoint)
    edit_config(adapter, lora_alpha=9)
    assert hash_of(load(checkpoint, adapter)) != with_it
