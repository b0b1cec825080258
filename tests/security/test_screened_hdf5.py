"""HDF5 files that HDF5 itself does not withstand: refused in one line, whoever reads them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from heap_patches import CASES, Patch, endless, endless_root, longer_than_the_file, replace

import vlmscope
from research_support import research_row, write_part
from store_support import make_captures, make_manifest
from threads import Worker
from vlmscope.cli import main
from vlmscope.errors import StoreError, VlmscopeError
from vlmscope.store import (
    RunWriter,
    describe,
    find_damage,
    open_halp_files,
    open_run,
    rebuild_index,
)
from vlmscope.store.format import hdf5_screening, shard
from vlmscope.store.storage.paths import as_path

KNOWN = Path(vlmscope.__file__).parents[2] / "fuzz"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what never ends."""
    monkeypatch.setattr(hdf5_screening, "SECONDS", 0.3)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Begin without a process and without memory of files."""
    children: list[Any] = []
    monkeypatch.setattr(hdf5_screening, "_CHILD", children)
    monkeypatch.setattr(hdf5_screening, "_KNOWN", {})
    yield children
    hdf5_screening._end()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    return folder


@pytest.fixture
def pack(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return next((tmp_path / "run" / "shards").iterdir())


def read_run(run: Path) -> None:
    opened = open_run(run)
    opened.to_pandas()
    opened.matrix("query_token_representation", 2)


@pytest.mark.first(1)
@pytest.mark.parametrize(("harm", "found"), CASES)
def test_a_shard_is_refused_by_every_reader(pack: Path, harm: Patch, found: str) -> None:
    harm(pack)
    run = pack.parent.parent
    expected = f"{pack.name}: damaged or malicious, HDF5 .*{found}.*; get a complete copy"
    for read in (read_run, describe, rebuild_index):
        with pytest.raises(StoreError, match=expected):
            read(run)
    (damage,) = find_damage(run)
    assert damage.ids == ("question_comb_0", "question_comb_1", "question_comb_2")  # by the index
    assert damage.path == pack


@pytest.mark.exhaustive
@pytest.mark.parametrize(("harm", "found"), CASES)
def test_a_file_in_the_halp_layout_is_refused(tmp_path: Path, harm: Patch, found: str) -> None:
    path = write_part(tmp_path / "x_part_001.h5", [research_row(i) for i in range(3)])
    harm(path)
    with pytest.raises(VlmscopeError, match=found):
        open_halp_files(path)
    with pytest.raises(VlmscopeError, match=found):
        describe(path)


def test_what_is_not_read_may_be_anything(tmp_path: Path) -> None:
    """Other people keep other things beside their rows: attention maps of gigabytes, packed."""
    path = write_part(tmp_path / "x_part_001.h5", [research_row(i) for i in range(3)])
    with h5py.File(path, "a") as file:
        for group in (file, file["question_comb_001"]):
            maps = group.create_dataset("attention", (2**29,), "f4", chunks=(2**18,))
            maps[: 3 * 2**18] = np.random.default_rng(0).random(3 * 2**18)
    assert len(open_halp_files(path)) == 3


@pytest.mark.exhaustive
def test_a_window_of_a_column_that_is_endless(pack: Path) -> None:
    """A column may show another part of its file, which lies where no column does."""
    with h5py.File(pack, "a") as file:
        texts = file.create_dataset("hidden", data=["T" * 5000] * 3, dtype=h5py.string_dtype())
        del file["_columns/answer"]
        layout = h5py.VirtualLayout((3,), texts.dtype)
        layout[:] = h5py.VirtualSource(".", "hidden", (3,), texts.dtype)
        file["_columns"].create_virtual_dataset("answer", layout)
    endless(pack, b"T" * 5000)
    with pytest.raises(StoreError, match="takes too much time"):
        read_run(pack.parent.parent)


@pytest.mark.exhaustive
def test_a_group_with_another_name_in_a_row_that_is_screened_before(tmp_path: Path) -> None:
    """Under the first name nothing in it is read; a reader may take the rows in another order."""
    path = write_part(tmp_path / "x_part_001.h5", [research_row(i) for i in range(3)])
    with h5py.File(path, "a") as file:
        vectors = file["question_comb_001/query_token_representation"]
        vectors["layer_0"].attrs["note"] = "N" * 5000
        file["question_comb_000/attention"] = vectors
    endless(path, b"N" * 5000)
    with pytest.raises(StoreError, match="takes too much time"):
        hdf5_screening.screen(path, "all")


def test_values_that_cannot_lie_in_the_file(tmp_path: Path) -> None:
    """HDF5 2.0 refuses them itself."""
    path = write_part(tmp_path / "x_part_001.h5", [research_row(i) for i in range(3)])
    longer_than_the_file(path)
    with pytest.raises(VlmscopeError, match=r"bytes of values in|likely file corruption"):
        open_halp_files(path)


@pytest.mark.exhaustive
def test_an_index_is_refused_and_made_anew(pack: Path) -> None:
    index = pack.parent.parent / "index.h5"
    endless_root(index)
    with pytest.raises(VlmscopeError, match="takes too much time"):
        open_halp_files(index)
    with pytest.raises(VlmscopeError, match="takes too much time"):
        describe(index)
    with RunWriter(pack.parent.parent, make_manifest()) as writer:
        writer.add(make_captures(range(3, 5)))
    assert len(open_halp_files(index)) == 5


@pytest.mark.first(1)
@pytest.mark.parametrize(
    "name",
    [
        "corpus/shard/shard-attributes-hang.h5",
        "corpus/shard/shard-hdf5-hangs.h5",
        "corpus/research/research-hdf5-hangs.h5",
    ],
)
def test_what_fuzzing_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file_part_001.h5"
    path.write_bytes((KNOWN / name).read_bytes())
    with pytest.raises(VlmscopeError, match="takes too much time"):
        open_halp_files(path)


def test_the_command_says_it_in_one_line(
    pack: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless_root(pack)
    monkeypatch.setattr(sys, "argv", ["vlmscope", "info", str(pack.parent.parent)])
    with pytest.raises(SystemExit, match="1"):
        main()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "HDF5 takes too much time; get a complete copy, or remove it" in told


def test_what_was_found_is_remembered(pack: Path, alone: list[Any]) -> None:
    endless_root(pack)
    with pytest.raises(StoreError, match="too much time"):
        open_run(pack.parent.parent)
    assert not alone
    with pytest.raises(StoreError, match="too much time"):
        open_run(pack.parent.parent)
    assert not alone  # nothing was started again


def test_a_file_that_this_process_wrote_is_not_screened(tmp_path: Path, alone: list[Any]) -> None:
    with RunWriter(tmp_path / "new", make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    read_run(tmp_path / "new")
    assert not alone
    (path,) = (tmp_path / "new" / "shards").iterdir()
    replace(path, path.read_bytes())
    read_run(tmp_path / "new")
    assert alone


def test_a_file_that_is_replaced_once_it_was_screened(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = hdf5_screening.screen

    def and_replace(path: Path, depth: Any) -> Any:
        found = screen(path, depth)
        replace(path, path.read_bytes())
        return found

    monkeypatch.setattr(shard, "screen", and_replace)
    replace(pack, pack.read_bytes())
    with pytest.raises(StoreError, match="is being replaced while it is read"):
        open_run(pack.parent.parent)


READY = "print('{\"ready\": true}', flush=True)"
SCRIPTS = {
    "no h5py": ("import nothing_of_this_name", "ended without an answer; .* can import h5py"),
    "crash": ("import os; os.abort()", r"crashes \(SIGABRT\); get a complete copy"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "ended without an answer; free some memory"),
}


@pytest.mark.parametrize("how", SCRIPTS)
def test_a_process_that_dies(
    pack: Path, alone: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    code, found = SCRIPTS[how]
    script = tmp_path / "script.py"
    script.write_text(f"{READY}; import sys; sys.stdin.readline()\n{code}\n")
    monkeypatch.setattr(hdf5_screening, "_SCRIPT", script)
    replace(pack, pack.read_bytes())
    with pytest.raises(StoreError, match=found):
        open_run(pack.parent.parent)
    assert not alone


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("prints", "found"),
    [
        ("", r"does not answer; check that .* is a Python interpreter"),
        ("usage: file -I", r"does not answer; check that .* is a Python interpreter"),
        ('\\xff{"rea', r"does not answer; check that .* is a Python interpreter"),
        ("7", r"does not answer; check that .* is a Python interpreter"),
        ('{"ready": true}\\nusage: file -I', r"answers 'usage: file -I', expected a JSON object"),
        ('{"ready": true}\\n[]', r"answers '\[\]', expected a JSON object"),
    ],
)
def test_a_program_that_is_no_interpreter(
    pack: Path,
    alone: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    prints: str,
    found: str,
) -> None:
    line = f"sys.stdout.buffer.write(b'{prints}' + b\"\\n\"), sys.stdout.flush()"
    script = tmp_path / "script.py"
    script.write_text(f"import sys\n{line if prints else ''}\nsys.stdin.read()")
    monkeypatch.setattr(hdf5_screening, "_SCRIPT", script)
    if not prints:
        monkeypatch.setattr(hdf5_screening, "START_SECONDS", 0.1)
    replace(pack, pack.read_bytes())
    with pytest.raises(StoreError, match=found):
        open_run(pack.parent.parent)
    assert not alone


def test_a_process_that_was_killed_in_between_is_started_anew(pack: Path, alone: list[Any]) -> None:
    replace(pack, pack.read_bytes())
    open_run(pack.parent.parent)
    os.kill(alone[0]._process.pid, signal.SIGKILL)
    read_run(pack.parent.parent)


@pytest.mark.parametrize("executable", ["/nowhere/python", "", None])
def test_no_process_can_be_started(
    pack: Path, alone: list[Any], monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    replace(pack, pack.read_bytes())
    with pytest.raises(StoreError, match="cannot be started: "):
        open_run(pack.parent.parent)
    assert not alone


@pytest.mark.exhaustive
def test_memory_is_limited(
    tmp_path: Path, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_part(tmp_path / "x_part_001.h5", [research_row(0)])
    with h5py.File(path, "a") as file:
        del file["question_comb_000/answer"]
        file["question_comb_000/answer"] = "T" * 2**27
    open_halp_files(path)
    monkeypatch.setattr(hdf5_screening, "MEMORY", 2**28)
    hdf5_screening._KNOWN.clear()
    with pytest.raises(StoreError, match="takes too much memory"):
        open_halp_files(path)


def test_a_large_file_has_time_for_its_size(
    pack: Path, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file of 100 GB: the time for its bytes is beyond the limit for sparse files."""
    monkeypatch.setattr(hdf5_screening, "SECONDS", 0.0)
    monkeypatch.setattr(hdf5_screening, "_SPARSE_SECONDS", 1e-6)
    monkeypatch.setattr(hdf5_screening, "_SECONDS_PER_BYTE", 20 / pack.stat().st_size)
    replace(pack, pack.read_bytes())
    read_run(pack.parent.parent)
    assert alone


@pytest.mark.exhaustive
def test_a_sparse_file_has_no_time_for_what_it_does_not_hold(
    pack: Path, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless_root(pack)
    monkeypatch.setattr(hdf5_screening, "_SPARSE_SECONDS", 0.3)
    os.truncate(pack, 2**40)
    with pytest.raises(StoreError, match="takes too much time"):
        open_run(pack.parent.parent)


def test_threads_share_the_process(pack: Path, alone: list[Any]) -> None:
    replace(pack, pack.read_bytes())
    workers = [Worker(lambda: len(open_run(pack.parent.parent).to_pandas())) for _ in range(8)]
    assert [worker.result() for worker in workers] == [3] * 8
    assert len(alone) == 1


def _len_of(run: Path, sent: Any) -> None:
    sent.send(len(open_run(run).to_pandas()))


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemonic_process_reads_a_run(pack: Path, alone: list[Any], method: str) -> None:
    replace(pack, pack.read_bytes())
    open_run(pack.parent.parent)
    context: Any = multiprocessing.get_context(method)
    received, sent = context.Pipe(duplex=False)
    process = context.Process(target=_len_of, args=(pack.parent.parent, sent), daemon=True)
    process.start()
    assert received.poll(60)
    assert received.recv() == 3
    process.join(60)
    read_run(pack.parent.parent)  # our own process answers still
    assert len(alone) == 1


WITHOUT_A_GUARD = """
import sys
from vlmscope.store import open_run
print(len(open_run(sys.argv[1]).to_pandas()))
"""


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_script_without_a_guard_and_without_streams(
    pack: Path, tmp_path: Path, streams: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_A_GUARD)
    command = f'exec "{sys.executable}" "{script}" "{pack.parent.parent}" {streams}'
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"3\n"


@pytest.mark.exhaustive
def test_an_object_is_screened_too(pack: Path, alone: list[Any]) -> None:
    run = as_path("memory://screened")
    for harm, found in ((None, ""), (endless_root, "takes too much time")):
        if harm:
            harm(pack)
        for path in (pack.parent.parent / "run.json", pack):
            target: Any = run / path.relative_to(pack.parent.parent)
            target.write_bytes(path.read_bytes())
        if found:
            with pytest.raises(StoreError, match=found):
                read_run(run)
        else:
            read_run(run)
            assert alone
