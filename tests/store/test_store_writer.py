"""Writing: parts, packs, resuming, and all that may come between."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_support import assert_same, leave_parts, make_capture, make_captures, make_manifest
from vlmscope.errors import InputError, RunBusyError, RunMismatchError, StoreError
from vlmscope.schema import Failure
from vlmscope.store import RunWriter, RunWriterProcess, check_free, open_run
from vlmscope.store import writer as writer_module
from vlmscope.store.catalog import scan
from vlmscope.store.format import checksums

HERE = Path(__file__).parent


def shard_names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "shards").iterdir())


def test_parts_become_one_pack(run: Path) -> None:
    assert shard_names(run) == ["pack-000-000003.h5"]
    with h5py.File(run / "shards/pack-000-000003.h5") as file:
        names = [f"part-000-{i:06d}.h5" for i in range(3)]
        assert file.attrs["supersedes"].tolist() == names
    for i, capture in enumerate(open_run(run)):
        assert_same(capture, make_capture(i))


def test_a_single_part_becomes_the_pack_as_it_is(tmp_path: Path) -> None:
    """Merging it alone would read and write every row again."""
    run = tmp_path / "run"
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
        [part] = (run / "shards").iterdir()
        written = part.read_bytes()
    [pack] = (run / "shards").iterdir()
    assert (part.name, pack.name) == ("part-000-000000.h5", "pack-000-000001.h5")
    assert pack.read_bytes() == written
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures([3]))
    assert shard_names(run) == ["pack-000-000001.h5", "pack-000-000003.h5"]
    assert [capture.sample.id for capture in open_run(run)] == [
        f"question_comb_{i}" for i in range(4)
    ]
    assert open_run(run).check() == []


def test_a_part_of_an_earlier_session_is_read_before_it_is_a_pack(tmp_path: Path) -> None:
    """So that its damage is found."""
    run = tmp_path / "run"
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
        writer.release()
    [part] = (run / "shards").iterdir()
    data = bytearray(part.read_bytes())
    with h5py.File(part) as file:
        data[file["_columns/query_token_representation/layer_2"].id.get_offset() + 5] ^= 1
    part.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), RunWriter(run, make_manifest()):
        pass
    assert shard_names(run) == [part.name]


@pytest.mark.parametrize("limits", [{"pack_rows": 4}, {"pack_bytes": 100}])
def test_packs_are_made_on_the_way(tmp_path: Path, limits: dict[str, int]) -> None:
    with RunWriter(tmp_path, make_manifest(), **limits) as writer:
        for i in range(0, 8, 4):
            writer.add(make_captures(range(i, i + 4)))
            assert all(name.startswith("pack") for name in shard_names(tmp_path))
    assert shard_names(tmp_path) == ["pack-000-000001.h5", "pack-000-000003.h5"]
    assert len(open_run(tmp_path)) == 8


@pytest.mark.exhaustive
def test_the_fewer_rows_are_to_come_the_smaller_the_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that little is left to pack at the end; rows that fail are not to come any more either."""
    monkeypatch.setattr(writer_module, "FEWEST_ROWS", 2)
    with RunWriter(tmp_path, make_manifest(), expected=20, pack_rows=6) as writer:
        for i in range(18):
            writer.add(make_captures([i]))
        writer.add([Failure("failed", "capture", "an error")])
        writer.add(make_captures([18]))
        assert shard_names(tmp_path)[-1].startswith("part")
    sizes = [len(shard) for shard in scan(tmp_path)[0]]
    assert sizes == [6, 6, 4, 2, 1]
    for i, capture in enumerate(open_run(tmp_path)):
        assert_same(capture, make_capture(i))


@pytest.mark.exhaustive
def test_more_rows_than_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that grew."""
    monkeypatch.setattr(writer_module, "FEWEST_ROWS", 2)
    with RunWriter(tmp_path, make_manifest(), expected=1) as writer:
        for i in range(5):
            writer.add(make_captures([i]))
    assert [len(shard) for shard in scan(tmp_path)[0]] == [2, 2, 1]


@pytest.mark.parametrize("opened", [RunWriter, RunWriterProcess])
def test_a_writer_is_closed_or_released_once(tmp_path: Path, opened: Any) -> None:
    """Whether it writes here or in another process."""
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), opened(run, make_manifest()) as rows:  # noqa: PT012
        rows.add(make_captures(range(2)))
        raise ZeroDivisionError
    assert [path.name[:4] for path in (run / "shards").glob("*.h5")] == ["part"]
    with opened(run, make_manifest()) as rows:
        rows.add(make_captures(range(2, 4)))
        rows.close()
        check_free(run, "000")
    assert [path.name[:4] for path in (run / "shards").glob("*.h5")] == ["pack"]
    assert len(open_run(run)) == 4


@pytest.mark.exhaustive
def test_nothing_is_remembered_of_parts_that_were_packed(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest(), pack_rows=4) as writer:
        for start in range(0, 8, 2):
            writer.add(make_captures(range(start, start + 2)))
        assert not [path for path in checksums._INTACT if path.startswith(str(tmp_path))]


def test_packs_equal_parts(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        run = tmp_path / dtype
        captures = make_captures(range(6))
        captures[3].vectors["vision_only_representation"][0] = 1e5  # stays float32 when packed
        with RunWriter(run, make_manifest(store_dtype=dtype)) as writer:
            writer.add(captures[:2])
            writer.add(captures[2:])
            before = list(open_run(run))
        after = list(open_run(run))
        for left, right in zip(after, before, strict=True):
            assert_same(left, right)
        assert after[3].vectors["vision_only_representation"][0] == 1e5
        assert open_run(run).check() == []


def test_resuming(tmp_path: Path) -> None:
    leave_parts(tmp_path, range(5))
    assert len(open_run(tmp_path)) == 5
    with RunWriter(tmp_path, make_manifest(run_id="new", device="cuda")) as writer:
        assert writer.done_ids == {f"question_comb_{i}" for i in range(5)}
        assert writer.manifest == make_manifest()
        writer.add(make_captures(range(5, 7)))
    assert shard_names(tmp_path) == ["pack-000-000004.h5"]
    assert [capture.sample.id for capture in open_run(tmp_path)] == [
        f"question_comb_{i}" for i in range(7)
    ]


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    for i in range(3):
        leave_parts(tmp_path, range(i, i + 1))
        with RunWriter(tmp_path, make_manifest()):
            pass
    assert shard_names(tmp_path) == [f"pack-000-{i:06d}.h5" for i in (1, 3, 5)]


def test_other_settings_are_refused(run: Path) -> None:
    before = shard_names(run)
    with (
        pytest.raises(RunMismatchError, match="dtype"),
        RunWriter(run, make_manifest(dtype="bfloat16")),
    ):
        pass
    assert shard_names(run) == before
    with RunWriter(run, make_manifest()):
        pass  # the lock was let go


def test_rows_without_a_manifest_are_not_mixed_with_others(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(StoreError, match=r"no run\.json"), RunWriter(run, make_manifest()):
        pass


@pytest.mark.exhaustive
def test_writers_in_several_threads(tmp_path: Path) -> None:
    def work(number: int) -> None:
        with RunWriter(
            tmp_path, make_manifest(), f"rank_{number:03d}_of_004", pack_rows=6
        ) as writer:
            for start in range(number * 100, number * 100 + 12, 3):
                writer.add(make_captures(range(start, start + 3)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(open_run(tmp_path)) == 48
    assert open_run(tmp_path).check() == []
    with h5py.File(tmp_path / "index.h5") as index:
        assert index.attrs["num_samples"] == 48


SESSIONS = st.lists(
    st.tuples(st.lists(st.integers(1, 4), max_size=4), st.booleans(), st.integers(1, 6)), max_size=4
)


@pytest.mark.exhaustive
@given(SESSIONS)
@settings(max_examples=12, deadline=None)
def test_any_sessions_give_every_row_once(sessions: list[tuple[list[int], bool, int]]) -> None:
    """Batches of any size, sessions closed or abandoned, packs of any size."""
    with tempfile.TemporaryDirectory() as folder:
        run, start = Path(folder), 0
        for sizes, closed, pack_rows in [*sessions, ([1], True, 3)]:
            try:
                with RunWriter(run, make_manifest(), pack_rows=pack_rows) as writer:
                    assert len(writer.done_ids) == start
                    for size in sizes:
                        writer.add(make_captures(range(start, start + size)))
                        start += size
                    if not closed:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                pass
            assert open_run(run).ids == tuple(f"question_comb_{i}" for i in range(start))
        for i, capture in enumerate(open_run(run)):
            assert_same(capture, make_capture(i))


def test_a_kill_between_pack_and_removal(tmp_path: Path) -> None:
    leave_parts(tmp_path / "run", range(4))
    shutil.copytree(tmp_path / "run/shards", tmp_path / "parts")
    with RunWriter(tmp_path / "run", make_manifest()):
        pass
    shutil.copytree(tmp_path / "parts", tmp_path / "run/shards", dirs_exist_ok=True)
    assert len(shard_names(tmp_path / "run")) == 3
    assert len(open_run(tmp_path / "run")) == 4
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        assert len(writer.done_ids) == 4
        assert shard_names(tmp_path / "run") == ["pack-000-000002.h5"]


def test_leftovers_of_this_writer_are_removed(run: Path) -> None:
    for name in (".part-000-000009.h5.tmp", ".pack-000-000009.h5.tmp", ".part-001-000000.h5.tmp"):
        (run / "shards" / name).write_bytes(b"half")
    assert len(open_run(run)) == 10
    with RunWriter(run, make_manifest()):
        assert shard_names(run) == [".part-001-000000.h5.tmp", "pack-000-000003.h5"]


def test_an_id_is_stored_once(run: Path) -> None:
    with RunWriter(run, make_manifest()) as writer:
        with pytest.raises(StoreError, match="question_comb_3"):
            writer.add(make_captures([3]))
        with pytest.raises(StoreError, match="question_comb_20"):
            writer.add(make_captures([20, 20]))
        with pytest.raises(InputError, match="NUL"):
            writer.add([make_capture(21, "a\0")])
        writer.add([])
        writer.add(make_captures([20]))
    assert len(open_run(run)) == 11


def test_two_writers_of_one_name(run: Path) -> None:
    with RunWriter(run, make_manifest()):
        with (
            pytest.raises(RunBusyError, match="another vlmscope"),
            RunWriter(run, make_manifest()),
        ):
            pass
        with pytest.raises(RunBusyError, match="another vlmscope"):
            check_free(run)


def test_writers_of_one_team_write_at_once_and_others_stay_out(run: Path) -> None:
    with RunWriter(run, make_manifest(), "rank_000_of_002") as first:
        with RunWriter(run, make_manifest(), "rank_001_of_002") as second:
            second.add(make_captures([30]))
        for other in ("000", "rank_000_of_002", "rank_001_of_003"):
            with pytest.raises(RunBusyError, match=r"another vlmscope .* \(as rank_000_of_002\)"):
                check_free(run, other)
            with (
                pytest.raises(RunBusyError, match="as rank_000_of_002"),
                RunWriter(run, make_manifest(), other),
            ):
                pass
        check_free(run, "rank_001_of_002")
        assert open_run(run).ids[-1] == "question_comb_30"
        with h5py.File(run / "index.h5") as index:
            assert len(index) == 11  # the last one to end makes it anew
        first.add(make_captures([31]))
    with h5py.File(run / "index.h5") as index:
        assert len(index) == 13
    with (
        RunWriter(run, make_manifest()),
        pytest.raises(RunBusyError, match="another vlmscope is writing this run; wait"),
    ):
        check_free(run, "rank_000_of_002")


def test_what_a_killed_writer_left_is_packed_by_whoever_ends_last(tmp_path: Path) -> None:
    killed = RunWriter(tmp_path, make_manifest(), "rank_001_of_002")
    killed.__enter__()
    killed.add(make_captures([1, 2]))
    killed.add(make_captures([3]))
    (tmp_path / "shards" / ".part-rank_001_of_002-000002.h5.tmp").write_bytes(b"half")
    killed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with RunWriter(tmp_path, make_manifest()) as writer:
        assert len(writer.done_ids) == 3
        writer.add(make_captures([4]))
    assert shard_names(tmp_path) == ["pack-000-000001.h5", "pack-000-000002.h5"]
    with h5py.File(tmp_path / "index.h5") as index:
        assert index.attrs["num_samples"] == 4
    assert [path.name for path in tmp_path.glob(".lock-*_of_*")] == []
    assert open_run(tmp_path).check() == []


@pytest.mark.exhaustive
def test_a_reader_sees_the_rows_of_many_that_pack_meanwhile(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with RunWriter(tmp_path, make_manifest(), f"rank_{number:03d}_of_004") as writer:
            for start in range(number * 100, number * 100 + 3):
                writer.add(make_captures([start]))
                writer._pack()

    seen = [0]
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(write, number) for number in range(4)]
        while not all(task.done() for task in tasks):
            if (tmp_path / "run.json").exists():
                seen.append(len(open_run(tmp_path)))
        assert [task.result() for task in tasks] == [None] * 4
    assert seen == sorted(seen)
    assert len(open_run(tmp_path)) == 12
    with h5py.File(tmp_path / "index.h5") as index:
        assert index.attrs["num_samples"] == 12


def test_a_question_given_to_two_writers_counts_once(tmp_path: Path) -> None:
    with (
        RunWriter(tmp_path, make_manifest(), "rank_000_of_002") as first,
        RunWriter(tmp_path, make_manifest(), "rank_001_of_002") as second,
    ):
        first.add(make_captures([0, 1, 2]))
        second.add(make_captures([3, 1, 4]))
    run = open_run(tmp_path)
    assert run.ids == tuple(f"question_comb_{i}" for i in range(5))
    for i, capture in enumerate(run):
        assert_same(capture, make_capture(i))
        assert_same(run[capture.sample.id], make_capture(i))
    matrix = run.matrix("query_token_representation", 2)
    with h5py.File(tmp_path / "index.h5") as index:
        assert index.attrs["num_samples"] == 5
        assert (index["_columns/query_token_representation/layer_2"][:] == matrix).all()
        assert index["_columns/question_id"].asstr()[:].tolist() == list(run.ids)


def test_opened_in_one_thread_used_in_another(tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest()) as writer:

        def work() -> None:
            writer.add(make_captures(range(3)))
            writer.close()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(open_run(tmp_path)) == 3


def test_a_failed_publication_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add(make_captures([0]))

        def refuse(*args: object, **options: object) -> None:
            raise StoreError("full")

        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "publish", refuse)
            with pytest.raises(StoreError):
                writer.add(make_captures([1]))
        assert writer.done_ids == {"question_comb_0"}
        writer.add(make_captures([1]))
    assert len(open_run(tmp_path)) == 2


FULL = """
import resource, signal, sys
from pathlib import Path
from store_support import make_captures, make_manifest
from vlmscope.errors import RunBusyError, StoreError
from vlmscope.store import FailureLog, RunWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Path(sys.argv[1])
try:
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
        limit = next((run / "shards").glob("part-*")).stat().st_size + 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        writer.add(make_captures(range(3, 6)))
        writer.add(make_captures(range(6, 40)))
except StoreError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.exhaustive
def test_a_full_disk(tmp_path: Path) -> None:
    """A real refusal of the system: files may not grow beyond a limit."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    for word in ("part-000-000002.h5", "File too large", "is safe", "run the same command again"):
        assert word in done.stdout
    assert shard_names(tmp_path) == ["part-000-000000.h5", "part-000-000001.h5"]
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add(make_captures(range(6, 40)))
    assert len(open_run(tmp_path)) == 40


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match="cannot be written"),
        RunWriter(tmp_path / "file", make_manifest()),
    ):
        pass


def test_an_index_that_is_up_to_date_is_not_made_again(run: Path) -> None:
    index = run / "index.h5"

    def written() -> tuple[int, int]:  # not the time of the last access: it is read
        found = index.stat()
        return found.st_ino, found.st_mtime_ns

    before = written()
    with RunWriter(run, make_manifest()):
        pass
    assert written() == before
    with RunWriter(run, make_manifest()) as writer:
        writer.add(make_captures([20]))
    with h5py.File(index) as file:
        assert file.attrs["num_samples"] == 11
    index.write_bytes(b"no HDF5")
    with RunWriter(run, make_manifest()):
        pass
    with h5py.File(index) as file:
        assert file.attrs["num_samples"] == 11


def test_an_index_made_of_a_lost_pack_is_made_again(run: Path) -> None:
    """Its name came again, and no session of then lived to make the index."""
    stale = (run / "index.h5").read_bytes()
    [pack] = (run / "shards").iterdir()
    pack.unlink()
    with RunWriter(run, make_manifest()) as writer:
        for i in (9, 4, 7):
            writer.add(make_captures([i]))
    assert shard_names(run) == [pack.name]
    (run / "index.h5").write_bytes(stale)
    with RunWriter(run, make_manifest()):
        pass
    with h5py.File(run / "index.h5") as file:
        assert file.attrs["num_samples"] == 3
