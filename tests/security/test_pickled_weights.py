"""Weights that are pickles: refused however a checkpoint names them, read when asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmscope.errors import ModelError
from vlmscope.model import load_model

REFUSED = r"is a pickle; a pickle may run code .* pass allow_pickle_weights=True"


@pytest.fixture
def pickled(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint with its weights as PyTorch's own format."""
    copy = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


def test_a_folder_of_pickles(pickled: Path) -> None:
    with pytest.raises(ModelError, match=f"pytorch_model.bin {REFUSED}"):
        load_model(pickled, device="cpu")
    assert load_model(pickled, device="cpu", allow_pickle_weights=True).num_layers == 8


def test_a_pickle_that_the_index_of_safetensors_names(pickled: Path) -> None:
    names = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (pickled / "model.safetensors.index.json").write_text(json.dumps(index))
    (pickled / "other.safetensors").write_bytes(b"")
    before = torch.load
    with pytest.raises(ModelError, match=f"pytorch_model.bin {REFUSED}"):
        load_model(pickled, device="cpu")
    assert torch.load is before


def test_a_pickle_beside_whole_weights_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "both"))
    (copy / "pytorch_model.bin").write_bytes(b"whatever")
    assert load_model(copy, device="cpu").num_layers == 8


def test_a_checkpoint_that_brings_code(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "code"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="code of its own, which is never run"):
        load_model(copy, device="cpu")
    assert not (tmp_path / "ran").exists()
