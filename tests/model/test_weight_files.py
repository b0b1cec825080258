"""What identifies a checkpoint is what is loaded from it: these files and all their bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from safetensors import safe_open
from safetensors.torch import load_file

from adapter_folder import write_adapter
from checkpoint_identity import (
    COMMIT,
    identify,
    put_into_hub_cache,
    split,
    weights_hash,
    write_index,
)
from vlmscope.errors import ModelError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.loading import load

pytestmark = pytest.mark.filterwarnings(  # peft, called by transformers
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of weights that transformers has opened."""
    found: list[Path] = []
    load = torch.load

    def opens(file: str, *arguments: Any, **options: Any) -> Any:
        found.append(Path(file).resolve())
        return safe_open(file, *arguments, **options)

    def unpickles(file: str, *arguments: Any, **options: Any) -> Any:
        found.append(Path(file).resolve())
        return load(file, *arguments, **options)

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", opens)
    monkeypatch.setattr(torch, "load", unpickles)
    return found


def single(folder: Path) -> None:
    """As it is, beside files that nobody reads."""
    (folder / "optimizer.bin").write_bytes(b"of the trainer")
    (folder / "other.safetensors").write_bytes(b"of somebody")


def both(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    split(folder)
    (folder / "model.safetensors").write_bytes(whole)


def in_subfolders(folder: Path) -> None:
    split(folder, ("weights/one.safetensors", "weights/more/two.safetensors"))


def with_two_spellings(folder: Path) -> None:
    files = split(folder)
    first = next(iter(files))
    write_index(folder, files | {first: f".//{files[first]}"})


def named_by_the_configuration(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["transformers_weights"] = "weights.safetensors"
    (folder / "config.json").write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickled_in_parts(folder: Path) -> None:
    split(folder, ("one.bin", "two.bin"), kind="pytorch_model.bin")


def pickled_in_the_index_of_safetensors(folder: Path) -> None:
    split(folder, ("one.bin", "two.safetensors"))


def with_an_adapter_beside(folder: Path) -> None:
    adapter = write_adapter(folder, folder.with_name("adapter"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(adapter / name, folder)


def linked(folder: Path) -> None:
    store = folder.with_name("store")
    store.mkdir()
    (folder / "model.safetensors").rename(store / "0001")
    (folder / "model.safetensors").symlink_to(store / "0001")


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("lay_out", "count"),
    [
        (single, 1),
        (both, 1),
        (split, 2),
        (in_subfolders, 2),
        (with_two_spellings, 2),
        (named_by_the_configuration, 1),
        (pickled, 1),
        (pickled_in_parts, 2),
        (pickled_in_the_index_of_safetensors, 2),
        (with_an_adapter_beside, 2),
        (linked, 1),
    ],
)
def test_what_is_loaded_is_what_is_hashed(
    copy: Path, opened: list[Path], lay_out: Callable[[Path], object], count: int
) -> None:
    lay_out(copy)
    opened.clear()
    vlm = load_model(copy, device="cpu", allow_pickle_weights=True)
    assert vlm.identity is not None
    hashed = {(copy / name).resolve() for name in vlm.identity.weight_files}
    assert set(opened) == hashed
    assert len(hashed) == count
    assert vlm.identity == identify(copy, pickles=True)


def zero_the_middle(data: bytearray) -> None:
    begin = len(data) // 2
    data[begin : begin + 1000] = bytes(1000)


def flip_the_last_but_one(data: bytearray) -> None:
    data[-2] ^= 1


@pytest.mark.first(1)
@pytest.mark.parametrize("change", [zero_the_middle, flip_the_last_but_one])
@pytest.mark.parametrize("lay_out", [single, in_subfolders])
def test_any_byte_counts(
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lay_out: Callable[[Path], object],
    change: Callable[[bytearray], None],
) -> None:
    monkeypatch.setenv("VLMSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vlmscope.model.loading.checksums.SETTLED", 0.0)
    lay_out(copy)
    before = identify(copy)
    assert list((tmp_path / "cache" / "checksums").glob("*.json"))
    path = copy / sorted(before.weight_files)[-1]
    times = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = identify(copy)
    assert after.weights_hash != before.weights_hash
    differing = {n for n, sha256 in after.weight_files.items() if before.weight_files[n] != sha256}
    assert differing == {path.relative_to(copy).as_posix()}


def test_files_that_change_places_are_noticed(copy: Path) -> None:
    split(copy)
    before = weights_hash(copy)
    (copy / "one.safetensors").rename(copy / "three")
    (copy / "two.safetensors").rename(copy / "one.safetensors")
    (copy / "three").rename(copy / "two.safetensors")
    assert weights_hash(copy) != before


def test_where_a_checkpoint_lies_does_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    def copied(name: str, copy: Callable[[str, str], object]) -> Path:
        return Path(shutil.copytree(checkpoint, tmp_path / name, copy_function=copy))

    found = {
        weights_hash(checkpoint),
        weights_hash(copied("copy", shutil.copyfile)),
        weights_hash(copied("hard", os.link)),
        weights_hash(copied("soft", os.symlink)),
        weights_hash(put_into_hub_cache(checkpoint, tmp_path / "hub")),
    }
    (tmp_path / "link").symlink_to(checkpoint)
    assert found == {weights_hash(tmp_path / "link")}


def test_one_file_under_two_names(copy: Path) -> None:
    files = split(copy)
    os.link(copy / "one.safetensors", copy / "three.safetensors")
    write_index(copy, files | {"more": "three.safetensors"})
    found = identify(copy).weight_files
    assert sorted(found) == ["one.safetensors", "three.safetensors", "two.safetensors"]
    assert found["one.safetensors"] == found["three.safetensors"]


def test_an_adapter_beside_counts_only_where_peft_adds_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = weights_hash(copy)
    with_an_adapter_beside(copy)
    added = weights_hash(copy)
    assert added != plain
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9}))
    assert weights_hash(copy) not in {plain, added}
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    assert weights_hash(copy) == plain


@pytest.fixture
def snapshot(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot of ``owner/name`` in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return put_into_hub_cache(checkpoint, tmp_path / "hub")


def test_a_model_of_the_hub_is_pinned_to_its_commit(
    snapshot: Path, vlm: VisionLanguageModel
) -> None:
    found = load_model("owner/name", device="cpu")
    assert found.revision == COMMIT
    assert found.identity == vlm.identity


@pytest.mark.parametrize("by_id", [True, False])
def test_a_download_that_is_not_what_the_hub_has(snapshot: Path, *, by_id: bool) -> None:
    blob = (snapshot / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(
        ModelError, match=rf"differs from the hub's file: .* remove {blob} and load"
    ):
        load_model("owner/name" if by_id else snapshot, device="cpu")


def test_a_blob_may_be_a_link_to_one_of_another_name(
    snapshot: Path, vlm: VisionLanguageModel
) -> None:
    blob = (snapshot / "model.safetensors").resolve()
    blob.rename(blob.with_name("f" * 64))
    blob.symlink_to("f" * 64)
    assert load_model("owner/name", device="cpu").identity == vlm.identity


@pytest.mark.first(2)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_changes_while_the_model_is_loaded(
    copy: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    original = load.load_weights

    def replaced(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options) if when == "after" else None
        other = copy / "other"
        shutil.copy(copy / name, other)
        other.replace(copy / name)
        return model or original(*arguments, **options)

    monkeypatch.setattr(load, "load_weights", replaced)
    with pytest.raises(ModelError, match=rf"{name}: was changed while the model was being loaded"):
        load_model(copy, device="cpu")


def test_a_repository_that_is_an_adapter_of_another(
    snapshot: Path, checkpoint: Path, opened: list[Path]
) -> None:
    adapter = write_adapter(checkpoint, snapshot.parent / "adapter")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(adapter / name, snapshot)
    opened.clear()
    with pytest.raises(ModelError, match=f"is an adapter of {checkpoint}; give model"):
        load_model("owner/name", device="cpu")
    assert not opened


@pytest.mark.first(4)
@pytest.mark.parametrize("text", ["{}", "[]", "{", "null", "[" * 100_000, '{"peft_type": "IA3"}'])
@pytest.mark.parametrize("by_id", [True, False])
def test_settings_of_an_adapter_beside_that_are_none(
    snapshot: Path, text: str, *, by_id: bool
) -> None:
    (snapshot / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json cannot be read|is an adapter of type"):
        load_model("owner/name" if by_id else snapshot, device="cpu")


def test_an_adapter_beside_may_not_import_modules(copy: Path) -> None:
    with_an_adapter_beside(copy)
    config = json.loads((copy / "adapter_config.json").read_text())
    config |= {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    (copy / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"the adapter in it: is made for Megatron"):
        load_model(copy, device="cpu")
