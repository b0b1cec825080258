"""A run never goes on with another model: not with other bytes, nor with files being rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmscope import extract
from vlmscope.errors import ModelChangedError, RunMismatchError
from vlmscope.executors.writing import WritingThread
from vlmscope.model import load_model
from vlmscope.schema import CaptureSpec
from vlmscope.store import Run, open_run


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture
def run_once(table: Path, tmp_path: Path) -> Callable[..., Run]:
    def run(model: Path, **options: Any) -> Run:
        settings = {"spec": CaptureSpec(max_new_tokens=0), "device": "cpu", "batch_size": 2}
        return extract(table, model=model, out=tmp_path / "run", **(settings | options))

    return run


def zero_behind_the_first_pages(path: Path) -> None:
    """Leave the header and 4 KiB of every tensor, as a download does that was not finished."""
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + length])
    zeroed = 0
    for name, tensor in tensors.items():
        if name != "__metadata__":
            begin, end = (8 + length + at for at in tensor["data_offsets"])
            if begin + 4096 < end:
                data[begin + 4096 : end] = bytes(end - begin - 4096)
                zeroed += end - begin - 4096
    assert zeroed > 500_000
    path.write_bytes(data)


@pytest.mark.exhaustive
def test_a_checkpoint_that_was_zeroed_in_part_is_not_taken_for_the_same(
    run_once: Callable[..., Run], copy: Path
) -> None:
    run_once(copy, limit=2)
    zero_behind_the_first_pages(copy / "model.safetensors")
    with pytest.raises(
        RunMismatchError,
        match=r"has other weights \(model.weights_hash\): other bytes in 'model.safetensors';",
    ):
        run_once(copy)


@pytest.mark.exhaustive
def test_a_run_goes_on_with_a_copy_of_its_model(
    run_once: Callable[..., Run], copy: Path, checkpoint: Path
) -> None:
    assert len(run_once(copy, limit=2).ids) == 2
    assert len(run_once(checkpoint, batch_size=8).ids) == 10
    assert open_run(copy.parent / "run").manifest.model.weight_files is not None


def rewrite(path: Path) -> bytes:
    """Write zeros into a file that is open elsewhere, and return what there was."""
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(before) // 2)
        file.write(bytes(len(before) // 4))
    return before


def test_a_model_that_is_rewritten_while_it_computes(
    run_once: Callable[..., Run], copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, before = WritingThread._record, []

    def then_rewrite(self: WritingThread, begun: Any, results: Any) -> None:
        record(self, begun, results)
        if not before:
            before.append(rewrite(copy / "model.safetensors"))

    monkeypatch.setattr(WritingThread, "_record", then_rewrite)
    with pytest.raises(ModelChangedError, match=r"model.safetensors: was changed while"):
        run_once(copy)
    recorded = open_run(tmp_path / "run").ids
    assert 0 < len(recorded) < 10
    with pytest.raises(RunMismatchError, match="has other weights"):
        run_once(copy)
    (copy / "model.safetensors").write_bytes(before[0])
    assert len(run_once(copy, batch_size=8).ids) == 10


def test_files_that_are_replaced_or_removed_do_not_matter_to_a_loaded_model(copy: Path) -> None:
    vlm = load_model(copy, device="cpu")
    path = copy / "model.safetensors"
    (copy / "other").write_bytes(b"another file")
    (copy / "other").rename(path)
    vlm.check_files()
    path.unlink()
    vlm.check_files()


def test_a_rewritten_file_is_noticed_where_the_model_computes_with_it(copy: Path) -> None:
    vlm = load_model(copy, device="cpu", dtype="float32")
    parameters = dict(vlm.model.named_parameters())
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    vlm.check_files()
    rewrite(copy / "model.safetensors")
    assert any(not before[name].equal(parameter) for name, parameter in parameters.items()), (
        "PyTorch reads weights into memory now: check_files is not needed any more"
    )
    with pytest.raises(ModelChangedError, match="restore the file and run the same command again"):
        vlm.check_files()
