"""A run in an object store: the same rows, whole objects, two writers, a store that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import s3fs
from upath import UPath

from object_store import new_bucket, serving
from store_support import assert_same, make_capture, make_captures, make_manifest
from vlmscope.errors import InputError, RunBusyError, StoreError, UnreachableError
from vlmscope.schema import Failure, Score
from vlmscope.store import (
    FailureLog,
    RunWriter,
    RunWriterProcess,
    as_path,
    describe,
    failures_shown,
    find_damage,
    label_sets,
    last_failures,
    open_run,
    read_failures,
    read_labels,
    rebuild_index,
    set_aside,
    write_labels,
)
from vlmscope.store.storage.object_store import BLOCK, RemoteFile, put


@pytest.fixture
def run(bucket: str) -> str:
    """A closed run of 10 rows in three packs."""
    url = f"{bucket}/runs/first"
    with RunWriter(url, make_manifest(), pack_rows=4) as writer:
        for start in range(0, 10, 2):
            writer.add(make_captures(range(start, start + 2)))
    return url


def names(url: str) -> list[str]:
    path = as_path(url)
    return sorted(str(file)[len(url) + 1 :] for file in path.rglob("*") if file.is_file())


def test_it_has_the_same_rows_as_a_folder(run: str, tmp_path: Path) -> None:
    assert names(run) == [
        "run.json",
        "shards/pack-000-000002.h5",
        "shards/pack-000-000005.h5",
        "shards/pack-000-000007.h5",
    ]
    found = open_run(run)
    for i, capture in enumerate(found):
        assert_same(capture, make_capture(i))
        assert_same(found[capture.sample.id], make_capture(i))
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add(make_captures(range(10)))
    local = open_run(tmp_path)
    for representation in local.representations:
        for layer in local.layers(representation) or (None,):
            expected = local.matrix(representation, layer)
            np.testing.assert_array_equal(found.matrix(representation, layer), expected)
    assert found.to_pandas().equals(local.to_pandas())
    assert found.check() == []
    assert find_damage(as_path(run)) == []
    assert (describe(run).rows, describe(run).kind) == (10, "run")


@pytest.mark.exhaustive
def test_a_copy_of_it_is_a_run_for_plain_h5py(run: str, tmp_path: Path) -> None:
    s3fs.S3FileSystem().get(f"{run}/", f"{tmp_path}/copy/", recursive=True)
    rebuild_index(tmp_path / "copy")
    path = "query_token_representation/layer_2"
    with h5py.File(tmp_path / "copy" / "index.h5") as index:
        expected = make_capture(4).vectors[path]
        np.testing.assert_array_equal(index["question_comb_4"][path][:], expected)


def test_it_goes_on_where_it_was_left(bucket: str) -> None:
    url = f"{bucket}/run"
    writer = RunWriter(url, make_manifest())
    writer.__enter__()
    writer.add(make_captures([0, 1]))
    writer.add(make_captures([2]))  # and is never closed: killed
    with RunWriter(url, make_manifest()) as other:
        assert other.done_ids == {f"question_comb_{i}" for i in range(3)}
        other.add(make_captures([3]))
    assert names(url) == ["run.json", "shards/pack-000-000003.h5"]
    assert len(open_run(url)) == 4


def test_the_second_of_two_writers_is_refused_and_nothing_is_lost(bucket: str) -> None:
    url = f"{bucket}/run"
    with RunWriter(url, make_manifest()) as first:
        second = RunWriter(url, make_manifest()).__enter__()
        first.add(make_captures([0, 1]))
        with pytest.raises(RunBusyError, match=r"part-000-000000\.h5: already written by another"):
            second.add(make_captures([5]))
    assert list(open_run(url).ids) == ["question_comb_0", "question_comb_1"]


def test_an_object_that_was_put_by_the_request_that_seemed_lost_is_ours(run: str) -> None:
    shard = as_path(run) / "shards" / "pack-000-000002.h5"
    data = shard.read_bytes()
    put(shard, data, exclusive=True)
    with pytest.raises(RunBusyError):
        put(shard, data[:-1] + b"x", exclusive=True)
    assert shard.read_bytes() == data


@pytest.mark.exhaustive
def test_ranks_write_side_by_side(bucket: str) -> None:
    url = f"{bucket}/run"
    with (
        RunWriter(url, make_manifest(), "rank_000_of_002") as one,
        RunWriter(url, make_manifest(), "rank_001_of_002") as two,
    ):
        one.add(make_captures([0, 2]))
        two.add(make_captures([1, 3]))
    assert sorted(open_run(url).ids) == [f"question_comb_{i}" for i in range(4)]
    assert open_run(url).check() == []


@pytest.mark.exhaustive
def test_a_process_of_its_own_writes_it(bucket: str) -> None:
    url = f"{bucket}/run"
    with RunWriterProcess(as_path(url), make_manifest()) as recorder:
        recorder.add([*make_captures([0, 1]), Failure("bad", "image", "no such file")])
    assert len(open_run(url)) == 2
    assert set(open_run(url).failures) == {"bad"}


def test_failures_are_objects_of_so_many_lines(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmscope.store.failures._LINES", 3)
    path = as_path(f"{bucket}/run")
    log = FailureLog(path)
    for i in range(5):
        log.add(Failure(f"q{i}", "model", "boom"))
    assert len(list(path.glob("failures-*.jsonl"))) == 2
    again = FailureLog(path)
    assert again.add(Failure("q3", "model", "and again")).attempt == 2
    found = read_failures(path)
    assert sorted(found) == [f"q{i}" for i in range(5)]
    assert (found["q3"].error, found["q0"].error) == ("and again", "boom")
    last = last_failures(path, {"q1", "q3", "q4"}, 3)
    assert [(each.id, each.attempt) for each in last] == [("q3", 1), ("q4", 1), ("q3", 2)]
    assert str(failures_shown(path)) == f"{bucket}/run/failures-*.jsonl"


@pytest.mark.exhaustive
def test_labels(run: str) -> None:
    scores = [Score(f"question_comb_{i}", bool(i % 2), "yesno", "") for i in range(10)]
    write_labels(as_path(run), scores, {"scorer": "yesno"})
    assert list(read_labels(as_path(run)).values()) == scores
    write_labels(as_path(run), scores[:3], {}, "human")
    assert label_sets(as_path(run)) == ("default", "human")
    assert list(read_labels(run, "human").values()) == scores[:3]
    assert open_run(run).labels("human")["scorer"].tolist()[:3] == [s.scorer for s in scores[:3]]
    with pytest.raises(InputError, match="there are label sets default, human"):
        read_labels(run, "nobody")


@pytest.mark.exhaustive
def test_damage_is_found_and_set_aside(run: str) -> None:
    shard = as_path(run) / "shards" / "pack-000-000005.h5"
    data = bytearray(shard.read_bytes())
    place_of_column = data.find(
        make_capture(5).vectors["query_token_representation/layer_2"].tobytes()
    )
    data[place_of_column] ^= 1
    shard.write_bytes(bytes(data))
    [damage] = find_damage(as_path(run))
    assert damage.found == ("column query_token_representation/layer_2 is damaged",)
    with pytest.raises(StoreError, match="column query_token_representation/layer_2 is damaged"):
        open_run(run).matrix("query_token_representation", 2)
    [moved] = set_aside(as_path(run), [damage])
    assert str(moved) == f"{run}/damaged/pack-000-000005.h5"
    with RunWriter(run, make_manifest()) as writer:
        assert len(writer.done_ids) == 6
        writer.add(make_captures(range(4, 8)))
    assert open_run(run).check() == []
    assert len(open_run(run)) == 10


@pytest.fixture
def leaving() -> Iterator[Any]:
    """A server that a test may stop."""
    yield from serving()


@pytest.mark.exhaustive
def test_a_store_that_goes_away_is_not_called_damaged(
    leaving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{new_bucket()}/run"
    with RunWriter(url, make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    run = open_run(url)
    [pack] = (as_path(url) / "shards").iterdir()
    monkeypatch.setattr(s3fs.core, "S3_RETRYABLE_ERRORS", ())  # or it waits for half a minute
    leaving.stop()
    for read in (
        lambda: run.matrix("query_token_representation", 2),
        lambda: find_damage(as_path(url)),
        lambda: RemoteFile(pack),
        lambda: writer._publish_pieces("part", (b"", b"")),
    ):
        with pytest.raises(UnreachableError, match=r"s3://.* cannot be reached"):
            read()
    with pytest.raises(InputError, match=r"run\.json: cannot be reached"):
        open_run(url)


@pytest.mark.exhaustive
def test_a_store_that_goes_away_amid_a_file_is_not_called_damaged(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_run(run)
    [pack, *_] = sorted((as_path(run) / "shards").iterdir())
    answered: list[object] = []

    def fetch(*rest: Any, **options: Any) -> Any:
        answered.append(rest)
        if len(answered) % 4 == 0:  # thrice, and then the line is dead
            raise RuntimeError("the line is dead")
        return real(*rest, **options)

    store: Any = pack
    real = store.fs.cat_file
    monkeypatch.setattr("vlmscope.store.storage.object_store.BLOCK", 512)
    monkeypatch.setattr(store.fs, "cat_file", fetch)
    with pytest.raises(UnreachableError):
        found.matrix("query_token_representation", 2)
    with pytest.raises(UnreachableError):
        find_damage(as_path(run))
    assert pack.exists()


def test_a_file_is_read_like_any_other(bucket: str) -> None:
    data = np.random.default_rng(0).bytes(3 * BLOCK + 17)
    path = as_path(f"{bucket}/file")
    path.write_bytes(data)
    with RemoteFile(path) as file:
        for start, size in ((0, 10), (BLOCK - 3, 7), (5, 2 * BLOCK), (3 * BLOCK + 10, 100)):
            file.seek(start)
            assert file.read(size) == data[start : start + size]
        assert file.read() == b""


@pytest.mark.exhaustive
def test_files_are_told_apart_whatever_their_names(bucket: str) -> None:
    """Also those whose names HDF5 spells alike."""
    rows = {"é": [0, 1], "è": [2, 3, 4]}
    for name, numbers in rows.items():
        with RunWriter(f"{bucket}/{name}", make_manifest()) as writer:
            writer.add(make_captures(numbers))
    for name, numbers in rows.items():
        found = open_run(f"{bucket}/{name}")
        for capture, i in zip(found, numbers, strict=True):
            assert_same(capture, make_capture(i))


@pytest.mark.exhaustive
def test_a_part_that_could_not_be_removed_doubles_no_row(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError("no right to remove")

    url = f"{bucket}/run"
    monkeypatch.setattr(cast("Any", as_path(url)).fs, "rm_file", refuse)
    with RunWriter(url, make_manifest(), pack_rows=4) as writer:
        for start in range(0, 6, 2):
            writer.add(make_captures(range(start, start + 2)))
    assert any("part-" in name for name in names(url))
    assert list(open_run(url).ids) == [f"question_comb_{i}" for i in range(6)]
    assert find_damage(as_path(url)) == []
    with RunWriter(url, make_manifest()) as again:
        assert len(again.done_ids) == 6


def test_a_url_that_was_made_a_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"Path\(\) removes a slash from a URL"):
        open_run(Path("s3://bucket/run"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://x", "foo://x: Unsupported filesystem: 'foo'; give a folder, or a URL"),
        ("gs://bucket/run", r"pip install 'vlmscope\[gcs\]'"),
        ("memory://nowhere/run", "not a run folder"),
    ],
)
def test_urls_that_lead_nowhere(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_run(url)


@pytest.mark.exhaustive
def test_any_file_system_of_fsspec_will_do(tmp_path: Path) -> None:
    for url in ("memory://somewhere/run", f"file://{tmp_path}/run"):
        with RunWriter(as_path(url), make_manifest()) as writer:
            writer.add(make_captures([0, 1]))
        assert open_run(url).check() == []
        assert len(open_run(url)) == 2
    assert (tmp_path / "run" / "index.h5").exists()
    assert isinstance(as_path(url), Path)
    assert as_path(UPath("memory://somewhere/run")).name == "run"
