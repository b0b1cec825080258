"""Checkpoints whose files are none, or lie elsewhere: refused in one line, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_identity import split, write_index
from vlmscope.errors import ModelError
from vlmscope.model import load_model

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "other.safetensors").write_bytes(b"of somebody")


def indexed(content: object) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / INDEX).write_text(text, "utf-8")

    return lay_out


def naming(*names: object) -> Callable[[Path], None]:
    files = {f"tensor_{number}": name for number, name in enumerate(names)}
    return indexed({"metadata": {}, "weight_map": files})


def named(name: object) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        shutil.copy(folder / WEIGHTS, folder.parent / WEIGHTS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))

    return lay_out


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def lay_out(folder: Path) -> None:
        if name != WEIGHTS and name.endswith(".safetensors"):
            split(folder, ("one.safetensors", name))
        if name == INDEX:
            (folder / WEIGHTS).unlink()
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return lay_out


def outside(folder: Path) -> None:
    """An index that names files which are really there, as this very folder's and sound."""
    files = split(folder)
    write_index(folder, {key: f"../{folder.name}/{name}" for key, name in files.items()})


def outside_by_its_whole_path(folder: Path) -> None:
    files = split(folder)
    write_index(folder, {key: str(folder / name) for key, name in files.items()})


def distributed(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "shard-00001-model-00001-of-00001.safetensors")


ELSEWHERE = "as weights, which is not a file in the folder"

CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (without_weights, "has no weights, neither model.safetensors nor model"),
    "names ..": (outside, rf"index.json: names '\.\./copy/one.safetensors' {ELSEWHERE}"),
    "names a whole path": (outside_by_its_whole_path, f"/copy/one.safetensors' {ELSEWHERE}"),
    "names .. within": (naming("a/../../copy/x.safetensors"), ELSEWHERE),
    "names nothing": (indexed({"metadata": {}, "weight_map": {}}), "names no weight files"),
    "names null": (naming(None), f"names None {ELSEWHERE}"),
    "names a list": (naming(["a.safetensors"]), ELSEWHERE),
    "names itself": (naming("."), ELSEWHERE),
    "names a folder": (naming("one.safetensors/"), ELSEWHERE),
    "names a surrogate": (naming("\ud800.safetensors"), ELSEWHERE),
    "names two lines": (naming("a\nb.safetensors"), ELSEWHERE),
    "names a NUL": (naming("a\0.safetensors"), ELSEWHERE),
    "names what is missing": (
        naming("one.safetensors"),
        f"one.safetensors: not found, and {INDEX} names it; get the complete checkpoint",
    ),
    "names too long": (naming("a" * 5000 + ".safetensors"), "cannot be read: .*too long"),
    "names what is none": (naming("config.json"), "is not a .safetensors file"),
    "names a pickle": (naming("training_args.bin"), "training_args.bin is a pickle"),
    "no metadata": (indexed({"weight_map": {"a": "one.safetensors"}}), "damaged index"),
    "no index": (indexed("{"), "damaged index"),
    "deep index": (indexed("[" * 100_000), "damaged index"),
    "empty index": (indexed(""), f"{INDEX}: is empty"),
    "configuration names ..": (named("../model.safetensors"), f"config.json: names .*{ELSEWHERE}"),
    "configuration names a list": (named(["a"]), f"config.json: names .*{ELSEWHERE}"),
    "distributed": (distributed, "belongs to a distributed checkpoint"),
}
for _name in (WEIGHTS, INDEX, "two.safetensors", "config.json", "tokenizer.json"):
    CASES |= {
        f"{_name} a pipe": (
            in_place_of(_name, os.mkfifo),
            f"{_name}: is (not a regular file|a pipe|a device|a socket)",
        ),
        f"{_name} a device": (
            in_place_of(_name, lambda path: path.symlink_to("/dev/zero")),
            f"{_name}: is (not a regular file|a pipe|a device|a socket)",
        ),
        f"{_name} a folder": (
            in_place_of(_name, Path.mkdir),
            f"{_name}: is (not a regular file|a pipe|a device|a socket)",
        ),
        f"{_name} a link to nothing": (
            in_place_of(_name, lambda path: path.symlink_to("nowhere")),
            f"{_name}: is a symbolic link to a missing file",
        ),
        f"{_name} a link to itself": (
            in_place_of(_name, lambda path: path.symlink_to(path.name)),
            f"{_name}: cannot be read: .*symbolic links",
        ),
        f"{_name} empty": (in_place_of(_name, lambda path: path.touch()), f"{_name}: is empty"),
        f"{_name} of the kernel": (
            in_place_of(_name, lambda path: path.symlink_to("/proc/kmsg")),
            f"{_name}: is empty",
        ),
        f"{_name} in Git LFS": (
            in_place_of(_name, lambda path: path.write_text(POINTER)),
            f"{_name}: is a Git LFS pointer, not the file itself: run 'git lfs pull' in ",
        ),
    }


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_refused_in_one_line(copy: Path, case: str) -> None:
    lay_out, message = CASES[case]
    lay_out(copy)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(copy, device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    assert text.encode()
    assert str(copy) in text


def test_overlapping_and_missing_bytes_are_for_safetensors_to_refuse(copy: Path) -> None:
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    header = json.dumps({"a": tensor, "b": tensor | {"data_offsets": [8, 10**15]}}).encode()
    (copy / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    with pytest.raises(ModelError, match="damaged weight file"):
        load_model(copy, device="cpu")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text(POINTER)])
def test_an_adapter_that_is_no_file(
    checkpoint: Path, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    make(tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: is (not a|a Git LFS|a pipe)"):
        load_model(checkpoint, device="cpu", adapter=tmp_path)
