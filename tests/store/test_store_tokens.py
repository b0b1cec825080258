"""States of several tokens of each row on disk: another number of tokens in each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from store_support import HIDDEN, LAYERS, make_bare, make_capture, make_manifest
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.schema import Capture
from vlmscope.signals import TOKEN_STATES, TOKEN_STATISTICS
from vlmscope.store import (
    Manifest,
    RunWriter,
    bytes_per_row,
    describe,
    export_run,
    open_run,
    write_manifest,
)
from vlmscope.store.format.batch import block_of
from vlmscope.store.format.checksums import SEAL_SIZE, digest, seal_of
from vlmscope.store.format.shard import build_shard
from vlmscope.store.format.token_rows import concatenated, token_rows

SIGNALS = ("entropy", *TOKEN_STATES)
WIDTHS = {f"{name}/layer_{layer}": HIDDEN for name in TOKEN_STATES for layer in LAYERS}
RECORD: dict[str, Any] = {"signals": SIGNALS, "signal_widths": WIDTHS}
NAMES = tuple(WIDTHS)
IMAGE = tuple(name for name in NAMES if name.startswith("image"))


def with_tokens(capture: Capture, scale: float = 1) -> Capture:
    """Return a row with states of its tokens: 3 to 6 of the image, those of its answer."""
    rng = np.random.default_rng(int(capture.num_prompt_tokens))
    assert capture.answer_token_ids is not None
    count = len(capture.answer_token_ids)
    images = 3 + capture.num_prompt_tokens % 4
    signals: dict[str, Any] = {n: rng.random(count, np.float32) for n in TOKEN_STATISTICS}
    for name, width in WIDTHS.items():
        if capture.image_sha256 or name not in IMAGE:
            tokens = images if name in IMAGE else count
            signals[name] = scale * rng.standard_normal((tokens, width), np.float32)
    return replace(capture, signals=signals)


def manifest_of(dtype: Any = "float16", **changes: Any) -> Manifest:
    return make_manifest(capture={**RECORD, **changes}, states_dtype=dtype)


@pytest.fixture(scope="module")
def rows() -> list[Capture]:
    """Rows with answers of 0 to 4 tokens; one has no image."""
    return [with_tokens((make_bare if i == 3 else make_capture)(i)) for i in range(6)]


@pytest.fixture(
    scope="module", params=["float16", pytest.param("float32", marks=pytest.mark.exhaustive)]
)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rows: list[Capture]
) -> Path:
    """A pack of two parts, a part that was left by a killed session, and what came after it."""
    path = tmp_path_factory.mktemp("run") / "run"
    manifest = manifest_of(request.param)
    killed = RunWriter(path, manifest, pack_rows=4)
    writer = killed.__enter__()  # and nothing packs or closes it
    for some in (rows[:2], rows[2:4], rows[4:5]):
        writer.add(some)
    killed.release()
    assert sorted(p.name[:4] for p in (path / "shards").iterdir()) == ["pack", "part"]
    with RunWriter(path, manifest) as writer:
        writer.add(rows[5:])
    return path


def stored(array: np.ndarray, run: Path) -> np.ndarray:
    """Return an array as it is stored."""
    return array.astype(open_run(run).manifest.states_dtype)


def test_rows_come_back_as_they_were(run: Path, rows: list[Capture]) -> None:
    opened = open_run(run)
    assert not opened.check()
    for found, row in zip(opened, rows, strict=True):
        for one in (found, opened[row.sample.id]):
            assert one.signals.keys() == row.signals.keys()
            for name in WIDTHS.keys() & row.signals:
                assert one.signals[name].dtype == np.float32
                np.testing.assert_array_equal(one.signals[name], stored(row.signals[name], run))
    picked = opened.iloc[[5, 0]]
    for one, row in zip(picked, (rows[5], rows[0]), strict=True):
        np.testing.assert_array_equal(one.signals[NAMES[0]], stored(row.signals[NAMES[0]], run))


def test_one_array_of_all_rows(run: Path, rows: list[Capture]) -> None:
    opened = open_run(run)
    assert opened.signals == (*TOKEN_STATISTICS, *NAMES)
    for name in NAMES:
        for one, row in zip(opened.signal(name), rows, strict=True):
            missing = np.zeros((0, HIDDEN), np.float32)
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, stored(row.signals.get(name, missing), run))
    with pytest.raises(InputError, match="no signal 'image_tokens/layer_1'") as caught:
        opened.signal("image_tokens/layer_1")
    several = [name for name in NAMES if name.startswith("image_tokens/layer_")]
    assert len(several) > 1
    assert str(caught.value).count("image_tokens/") == 2
    assert f"image_tokens/layer_k of layers {several[0].removeprefix('image_tokens/layer_')}, " in (
        str(caught.value)
    )


def test_plain_h5py_reads_them(run: Path, rows: list[Capture], tmp_path: Path) -> None:
    export_run(run, tmp_path / "run.h5")
    for path in (run / "index.h5", tmp_path / "run.h5"):
        with h5py.File(path) as file:
            for row in rows:
                group = file[row.sample.id]["signals"]
                for name in NAMES:
                    assert (name in group) == (name in row.signals)
                    if name in row.signals:
                        wanted = stored(row.signals[name], run)
                        assert group[name].dtype == wanted.dtype
                        assert group[name].shape == wanted.shape
                        np.testing.assert_array_equal(group[name][()], wanted)
                assert ("image_tokens" in group) == bool(row.image_sha256)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_part_that_becomes_the_pack_shows_the_type_that_is_stored(
    rows: list[Capture], tmp_path: Path, dtype: str
) -> None:
    with RunWriter(tmp_path / "run", manifest_of(dtype)) as writer:
        writer.add(rows)
    for path in (*files_of(tmp_path / "run"), tmp_path / "run" / "index.h5"):
        with h5py.File(path) as file:
            for name in NAMES:
                shown = file[rows[1].sample.id][f"signals/{name}"]
                assert shown.dtype == dtype
                np.testing.assert_array_equal(shown[()], rows[1].signals[name].astype(dtype))


@pytest.mark.first(1)
def test_exports_have_them(run: Path, rows: list[Capture], tmp_path: Path) -> None:
    export_run(run, tmp_path / "run.parquet")
    table = pq.read_table(tmp_path / "run.parquet")  # type: ignore[no-untyped-call]
    export_run(run, tmp_path / "run.npz")
    arrays = np.load(tmp_path / "run.npz")
    for name in NAMES:
        column = table[f"signals.{name.replace('/', '.')}"].to_pylist()
        offsets = arrays["image_token_offsets" if name in IMAGE else "answer_offsets"]
        values = arrays[f"signals/{name}"]
        assert len(values) == offsets[-1]
        for i, row in enumerate(rows):
            own = values[offsets[i] : offsets[i + 1]]
            if name not in row.signals:
                assert column[i] is None
                assert not len(own)
                continue
            wanted = stored(row.signals[name], run)
            assert own.dtype == wanted.dtype
            np.testing.assert_array_equal(own, wanted)
            np.testing.assert_array_equal(np.reshape(column[i], (-1, HIDDEN)), wanted)


def test_info_describes_them(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "run.h5")
    for path in (run, tmp_path / "run.h5"):
        found = describe(path).signals
        assert {name: found[name] for name in NAMES} == dict.fromkeys(NAMES, (-1, HIDDEN))


def files_of(run: Path) -> Iterator[Path]:
    yield from sorted((run / "shards").glob("*.h5"))


@pytest.mark.parametrize("which", ["image_tokens/layer_2", "answer_tokens/offsets"])
def test_a_changed_byte_is_found(rows: list[Capture], tmp_path: Path, which: str) -> None:
    path = tmp_path / "run"
    with RunWriter(path, manifest_of()) as writer:
        writer.add(rows)
    [pack] = files_of(path)
    with h5py.File(pack) as file:
        at = file[f"_tokens/signals/{which}"].id.get_offset() + 9
    data = bytearray(pack.read_bytes())
    data[at] ^= 4
    pack.write_bytes(data)
    opened = open_run(path)
    [found] = opened.check()
    assert f"column signals/{which} is damaged" in found
    with pytest.raises(StoreError, match=r"signals/\w+/\w+ is damaged"):
        opened[rows[1].sample.id]
    with pytest.raises(StoreError, match="damaged"):
        opened.signal(which.replace("offsets", "layer_0"))
    vector = rows[0].vectors["query_token_representation/layer_2"]
    np.testing.assert_array_equal(opened.matrix("last_prompt_token", 2)[0], vector)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    "offsets",
    [
        [0, 2],
        [1, 2, 3, 4, 5, 6, 27],
        [0, 9, 3, 12, 15, 18, 22],
        [0, 2**63 - 1, -2, -2, -2, -2, 25],  # their differences overflow to positive numbers
        [0] * 7,
        [0.0] * 7,
        None,
    ],
)
def test_offsets_of_others_are_refused(
    rows: list[Capture], tmp_path: Path, offsets: list[Any] | None
) -> None:
    path = tmp_path / "run"
    with RunWriter(path, manifest_of()) as writer:
        writer.add(rows)
    [pack] = files_of(path)
    with h5py.File(pack, "r+") as file:
        group = file["_tokens/signals/image_tokens"]
        del group["offsets"]
        if offsets is not None:
            data = np.array(offsets)
            group.create_dataset("offsets", data=data).attrs["sha256"] = digest(data)
    image = pack.read_bytes()[SEAL_SIZE:]
    pack.write_bytes(seal_of(image) + image)
    with pytest.raises(StoreError, match="damaged"):
        open_run(path)[rows[0].sample.id]
    found = open_run(path).check()
    assert any("signals/image_tokens" in each for each in found), "every checksum is correct"


@pytest.mark.parametrize("which", ["_tokens", "_columns"])
def test_a_dataset_in_place_of_the_group_is_refused(
    rows: list[Capture], tmp_path: Path, which: str
) -> None:
    with RunWriter(tmp_path / "run", manifest_of()) as writer:
        writer.add(rows)
    [pack] = files_of(tmp_path / "run")
    with h5py.File(pack, "r+") as file:
        del file[which]
        file[which] = np.zeros(3)
    with pytest.raises(StoreError, match=r"damaged"):
        list(open_run(tmp_path / "run"))


@pytest.mark.first(1)
@pytest.mark.parametrize("which", ["_tokens", "_columns/query_token_representation"])
@pytest.mark.parametrize("damaged", [0, 1])
def test_shards_that_lack_a_column_are_not_merged(
    rows: list[Capture], tmp_path: Path, which: str, damaged: int
) -> None:
    path = tmp_path / "run"
    killed = RunWriter(path, manifest_of())
    writer = killed.__enter__()  # and nothing packs or closes it
    writer.add(rows[:2])
    writer.add(rows[2:4])
    killed.release()
    with h5py.File(sorted(files_of(path))[damaged], "r+") as file:
        del file[which]
    with pytest.raises(StoreError, match=r"is not in all of them.*redo.damaged"):
        list(open_run(path))
    with pytest.raises(StoreError, match="is not in all of them"):
        export_run(path, tmp_path / "run.parquet")
    with pytest.raises(StoreError, match="is not in all of them"), RunWriter(path, manifest_of()):
        pass  # packs what is left
    assert len(list(files_of(path))) == 2


def test_values_in_another_file_are_refused(rows: list[Capture], tmp_path: Path) -> None:
    path, secret = tmp_path / "run", tmp_path / "secret"
    secret.write_bytes(bytes(2 * 22 * HIDDEN))
    with RunWriter(path, manifest_of()) as writer:
        writer.add(rows)
    [pack] = files_of(path)
    with h5py.File(pack, "r+") as file:
        group = file["_tokens/signals/image_tokens"]
        shape = group["layer_0"].shape
        del group["layer_0"]
        external = [(str(secret), 0, 2 * shape[0] * HIDDEN)]
        group.create_dataset("layer_0", shape, np.float16, external=external)
    with pytest.raises(StoreError, match="keeps its values in other files"):
        open_run(path)[rows[0].sample.id]
    with h5py.File(pack, "r+") as file:
        del file["_tokens"]
        file["_tokens"] = h5py.ExternalLink("secret", "/")
    with pytest.raises(StoreError, match="has no signals/image_tokens/layer_0"):
        open_run(path).signal("image_tokens/layer_0")
    assert open_run(path).check()


def test_values_that_do_not_fit_into_half_precision(tmp_path: Path) -> None:
    large = with_tokens(make_capture(9), scale=1e5)
    rows = [with_tokens(make_capture(8)), large]
    with RunWriter(tmp_path / "run", manifest_of()) as writer:
        for row in rows:
            writer.add([row])
    for found, row in zip(open_run(tmp_path / "run"), rows, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(found.signals[name], row.signals[name], rtol=1e-3, atol=1e-7)


def test_rows_that_do_not_match_are_refused(rows: list[Capture], tmp_path: Path) -> None:
    good = with_tokens(make_capture(7))
    image, answer = NAMES[0], NAMES[-1]
    for name, array in (
        (image, None),
        (image, np.zeros((2, HIDDEN), np.float32)),
        (image, np.zeros((0, HIDDEN), np.float32)),
        (image, np.zeros((9, HIDDEN + 1), np.float32)),
        (answer, good.signals[answer][1:]),
        (answer, np.full_like(good.signals[answer], np.nan)),
        (answer, good.signals[answer].astype(np.float16)),
    ):
        signals = {n: a for n, a in good.signals.items() if n != name}
        bad = signals if array is None else {name: array, **signals}
        with (
            pytest.raises(StoreError, match=r"do not match the manifest|must be"),
            RunWriter(tmp_path / "run", manifest_of()) as writer,
        ):
            writer.add([replace(good, signals=bad)])
    bare = with_tokens(make_bare(3))
    more = {**bare.signals, image: np.zeros((2, HIDDEN), np.float32)}
    with (
        pytest.raises(StoreError, match="do not match the manifest"),
        RunWriter(tmp_path / "run", manifest_of()) as writer,
    ):
        writer.add([replace(bare, signals=more)])
    assert not len(open_run(tmp_path / "run"))


def test_rows_without_an_image_alone(tmp_path: Path) -> None:
    rows = [with_tokens(make_bare(i)) for i in range(3)]
    with RunWriter(tmp_path / "run", manifest_of()) as writer:
        writer.add(rows)
    opened = open_run(tmp_path / "run")
    assert [len(array) for array in opened.signal(IMAGE[0])] == [0, 0, 0]
    for suffix in ("h5", "npz", "parquet"):
        export_run(opened, tmp_path / f"run.{suffix}")
    assert np.load(tmp_path / "run.npz")[f"signals/{IMAGE[0]}"].shape == (0, HIDDEN)


def test_ranks_that_have_the_same_row(rows: list[Capture], tmp_path: Path) -> None:
    """The first one's row is used; the others of both are there."""
    other = [with_tokens(make_capture(1), scale=2), *rows[4:]]
    for writer_name, some in (("000_of_002", rows[:3]), ("001_of_002", other)):
        with RunWriter(tmp_path / "run", manifest_of(), writer_name) as writer:
            writer.done_ids.clear()
            writer.add(some)
    opened = open_run(tmp_path / "run")
    wanted = [*rows[:3], *rows[4:]]
    assert opened.ids == tuple(row.sample.id for row in wanted)
    for one, row in zip(opened.signal(NAMES[-1]), wanted, strict=True):
        np.testing.assert_array_equal(one, row.signals[NAMES[-1]].astype(np.float16))


def test_a_run_continues_with_the_same_type_only(run: Path) -> None:
    other = {"float16": "float32", "float32": "float16"}
    manifest = manifest_of(other[open_run(run).manifest.states_dtype])
    with pytest.raises(RunMismatchError, match="states_dtype is"), RunWriter(run, manifest):
        pass


def test_a_manifest_with_an_impossible_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write_manifest(tmp_path, manifest_of("int8"))
    with pytest.raises(StoreError, match="states_dtype is invalid"):
        open_run(tmp_path)


def test_a_large_batch_is_not_written_twice(rows: list[Capture], tmp_path: Path) -> None:
    """It becomes a pack at once, after the parts before it, so that the rows keep their order."""
    with RunWriter(tmp_path / "run", manifest_of(), pack_bytes=60_000) as writer:
        writer.add(rows[:1])
        writer.add([with_tokens(make_capture(i)) for i in range(10, 20)])
        names = [path.name for path in files_of(tmp_path / "run")]
        assert names == ["pack-000-000001.h5", "pack-000-000002.h5"]
        writer.add(rows[1:2])
    wanted = [0, *range(10, 20), 1]
    opened = open_run(tmp_path / "run")
    assert opened.ids == tuple(f"question_comb_{i}" for i in wanted)
    assert not opened.check()
    with h5py.File(tmp_path / "run" / "shards" / names[1]) as file:
        assert "supersedes" not in file.attrs
        assert file.userblock_size == 512


def test_nothing_is_added_without_them(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([make_capture(0)])
    [pack] = files_of(tmp_path / "run")
    with h5py.File(pack) as file:
        assert sorted(file) == ["_columns", "question_comb_0"]


@pytest.mark.first(1)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_size_of_a_row_is_about_right(dtype: Any) -> None:
    """With 100 to 130 image tokens of a hundred numbers, and 60 tokens of an answer."""
    layers, width = tuple(range(4)), 96
    widths = {f"{name}/layer_{k}": width for name in TOKEN_STATES for k in layers}
    manifest = make_manifest(
        capture={"signals": SIGNALS, "signal_widths": widths, "layers": layers},
        states_dtype=dtype,
        model={"num_layers": 4, "hidden_size": width, "vision_size": 64},
    )
    manifest = replace(manifest, capture=replace(manifest.capture, max_new_tokens=90))
    rng = np.random.default_rng(0)
    captures = [
        make_capture(
            i,
            vectors={path: rng.random(d, np.float32) for path, d in manifest.widths().items()},
            answer="word " * 50,
            answer_token_ids=np.arange(60),
            answer_logprobs=np.zeros(60, np.float32),
            signals={name: rng.random(60, np.float32) for name in TOKEN_STATISTICS}
            | {
                name: rng.random((100 + i if name.startswith("image") else 60, width), np.float32)
                for name in widths
            },
        )
        for i in range(31)
    ]
    block = block_of(captures, manifest.widths(), manifest.signals(), manifest.token_widths())
    found = sum(map(len, build_shard(block, manifest, writer="000"))) / len(captures)
    assert bytes_per_row(manifest, 115) == pytest.approx(found, rel=0.05)


def test_rows_are_joined_and_taken() -> None:
    arrays = [np.full((n, 2), n, np.float32) for n in (1, 0, 3)]
    both = concatenated([token_rows(arrays, 2), token_rows([], 2), token_rows(arrays[:1], 2)])
    assert [len(both.row(i)) for i in range(len(both))] == [1, 0, 3, 1]
    taken = both.take([2, 1])
    assert taken.offsets.tolist() == [0, 3, 3]
    np.testing.assert_array_equal(taken.row(0), arrays[2])


def test_the_size_of_a_row_with_maps_is_about_right() -> None:
    """The attention to 200 to 230 image tokens in ten layers, and their boxes."""
    layers = tuple(range(10))
    maps = {f"attention_map/layer_{k}": 1 for k in layers}
    manifest = make_manifest(
        capture={"signals": ("entropy", "attention_map"), "signal_widths": maps, "layers": layers},
        model={"num_layers": 10, "hidden_size": 512, "vision_size": 768},
    )
    assert manifest.token_widths() == {**dict.fromkeys(maps, 2), "attention_map/boxes": 5}
    rng = np.random.default_rng(0)
    captures = [
        make_capture(
            i,
            vectors={path: rng.random(d, np.float32) for path, d in manifest.widths().items()},
            answer="word " * 50,
            answer_token_ids=np.arange(60),
            answer_logprobs=np.zeros(60, np.float32),
            signals={name: rng.random(60, np.float32) for name in TOKEN_STATISTICS}
            | {
                name: rng.random((200 + i, width), np.float32)
                for name, width in manifest.token_widths().items()
            },
        )
        for i in range(31)
    ]
    block = block_of(captures, manifest.widths(), manifest.signals(), manifest.token_widths())
    found = sum(map(len, build_shard(block, manifest, writer="000"))) / len(captures)
    assert bytes_per_row(manifest, 0, 215) == pytest.approx(found, rel=0.05)
