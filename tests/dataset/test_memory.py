"""Tables in memory: rows as those of files, images by their content, anything else refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlmscope.api import extracting
from vlmscope.dataset import (
    InMemory,
    hash_image,
    in_memory,
    load_image,
    open_table,
    read_samples,
    table_notes,
)
from vlmscope.errors import InputError, RowError, TableChangedError
from vlmscope.schema import Failure, FieldSpec, Sample

RED, BLUE = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def records(**changes: Any) -> list[dict[str, Any]]:
    rows = [
        {"question_id": "a", "image": RED, "question": "What?", "answer": "Yes", "n": 1},
        {"question_id": "b", "image": png(BLUE), "question": "Why?", "answer": None, "n": 2},
        {"question_id": "c", "image": [RED, BLUE], "question": "Who?", "answer": "No", "n": 3},
        {"question_id": "d", "image": "x/a.png", "question": "How?", "answer": "No", "n": 4},
    ]
    return [{**row, **changes} for row in rows]


def fingerprint(data: Any, **options: Any) -> str:
    return open_table(data, **options).scan().fingerprint


def samples(data: Any, **options: Any) -> list[Sample]:
    return list(read_samples(data, **options))


def test_every_kind_of_table_gives_the_same_rows() -> None:
    rows = records()
    expected = samples(rows)
    assert [row.id for row in expected] == ["a", "b", "c", "d"]
    assert expected[0].image is RED
    assert expected[1].image == rows[1]["image"]
    assert expected[2].images == (RED, BLUE)
    assert expected[3].image == Path.cwd() / "x/a.png"
    assert [row.target for row in expected] == ["Yes", "", "No", "No"]
    assert expected[0].metadata == {"n": 1}
    kinds = {
        "frame": pd.DataFrame(rows),
        "frame by id": pd.DataFrame(rows).set_index("question_id"),
        "tuple": tuple(rows),
        "generator": (row for row in rows),
        "samples": expected,
        "generator of samples": iter(expected),
    }
    for kind, data in kinds.items():
        table = in_memory(data)
        assert table is not None
        found = samples(table)
        assert [(s.id, s.images, s.question, s.target) for s in found] == [
            (s.id, s.images, s.question, s.target) for s in expected
        ], kind
        assert [dict(s.metadata) for s in found] == [dict(s.metadata) for s in expected], kind
        assert fingerprint(table) == fingerprint(rows), kind


def test_rows_with_paths_are_those_of_their_file(tmp_path: Path) -> None:
    rows = records(image="a.png", answer="Yes")
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    assert fingerprint(rows, images=tmp_path) == fingerprint(tmp_path / "t.csv")
    assert fingerprint(pd.read_csv(tmp_path / "t.csv")) == fingerprint(tmp_path / "t.csv")
    assert fingerprint(records(image=Path("a.png"), answer="Yes")) == fingerprint(rows)


def test_a_dataset_is_read_as_it_is_saved(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict(
        {"question_id": ["a", "b", "c"], "question": ["?", "!", "."], "image": [RED, BLUE, RED],
         "label": [0, 1, -1]},
        features=datasets.Features(
            {"question_id": datasets.Value("string"), "question": datasets.Value("string"),
             "image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])}
        ),
    )  # fmt: skip
    dataset.save_to_disk(tmp_path / "saved")
    assert fingerprint(dataset) == fingerprint(tmp_path / "saved")
    found = samples(dataset.select([2, 0]).with_format("numpy"))
    assert [row.id for row in found] == ["c", "a"]
    assert found[0].metadata["label"] is None
    assert found[1].metadata["label"] == "no"
    with pytest.raises(
        InputError, match=r"DatasetDict: has several splits, found test, train; give one"
    ):
        open_table(datasets.DatasetDict({"test": dataset, "train": dataset}))
    streamed = samples(dataset.to_iterable_dataset())
    assert isinstance(streamed[0].image, Image.Image)


def test_pixels_tell_images_apart_whatever_they_are_called() -> None:
    named = records(image_id="same.png")
    for other in (png(RED), RED.copy(), Image.new("RGB", (8, 6), "green"), Image.new("L", (8, 6))):
        changed = records(image_id="same.png")
        changed[0]["image"] = other
        same = isinstance(other, Image.Image) and other.mode == "RGB" and other == RED
        assert (fingerprint(changed) == fingerprint(named)) == same
    assert samples(named)[0].image_id == "same.png"


def test_values_of_pandas_and_numpy_are_plain() -> None:
    table = pd.DataFrame(
        {
            "id": np.array([7, 8], np.int32),
            "image": [np.str_("a.png"), bytearray(png(RED))],
            "question": ["?", "!"],
            "answer": pd.array(["Yes", pd.NA], dtype="string"),
            "when": pd.to_datetime(["2024-05-01", None]),
            "kind": pd.Categorical(["x", None]),
            "flag": pd.array([True, None], dtype="boolean"),
            "tags": [np.array(["a", "b"]), (np.int64(1), pd.NaT)],
            "score": np.array([0.5, np.nan], np.float32),
            "thumbnail": [RED, BLUE],
        }
    )
    first, second = samples(table)
    assert (first.id, second.id) == ("7", "8")
    assert second.image == png(RED)
    assert (first.target, second.target) == ("Yes", "")
    assert first.metadata == {
        "when": "2024-05-01T00:00:00", "kind": "x", "flag": True, "tags": ["a", "b"], "score": 0.5,
    }  # fmt: skip
    assert second.metadata == {
        "when": None, "kind": None, "flag": None, "tags": [1, None], "score": None,
    }  # fmt: skip


def test_samples_keep_what_they_are() -> None:
    made = [
        Sample("q1", ["/else/where/a.png", RED], "?", "Yes", {"id": 3, "target": "x", "n": 1}),
        Sample("q2", "b.png", "?", image_id="b", origin="t.csv line 3"),
        Sample("q3", None, "?"),
    ]
    found = [row for row in open_table(made).rows() if isinstance(row, Sample)]
    assert [row.id for row in found] == ["q1", "q2"]
    assert found[0].images == (Path("/else/where/a.png"), RED), "who made it chose the path"
    assert found[0].metadata == made[0].metadata, "also of keys that are names of our fields"
    assert (found[1].image, found[1].image_id) == (Path("b.png"), "b")
    assert found[1].origin == "t.csv line 3"
    [bare] = [row for row in open_table(made).rows() if isinstance(row, Failure)]
    assert "list of samples[2]: no image" in bare.error
    assert samples(made, text_only=True)[2] == Sample("q3", None, "?", origin="list of samples[2]")
    with pytest.raises(
        InputError, match="--map: list of samples are samples, whose fields need no"
    ):
        open_table(made, fields=FieldSpec(id="id"))


def test_a_read_table_given_as_samples_is_the_same_table(tmp_path: Path) -> None:
    pd.DataFrame(records(image="a.png", answer="Yes")).to_csv(tmp_path / "t.csv", index=False)
    assert fingerprint(read_samples(tmp_path / "t.csv")) == fingerprint(tmp_path / "t.csv")


def test_a_row_that_changes_while_it_is_read_is_noticed() -> None:
    rows = records()
    table = open_table(rows)
    table = table.as_scanned(table.scan())
    assert len(list(table.rows())) == 4
    rows[2]["question"] = "another"
    with pytest.raises(TableChangedError, match=r"list\[2\]: question 'c' has changed"):
        list(table.rows())


def test_a_broken_image_fails_its_own_row(tmp_path: Path) -> None:
    whole = png(Image.effect_noise((64, 64), 80).convert("RGB"))
    cut = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    found = open_table([records()[0], {**records()[1], "image": cut}])
    assert len(found.scan().ids) == 2
    _, row = found.rows()
    assert isinstance(row, Sample)
    with pytest.raises(RowError, match="cannot be decoded"):
        load_image(row.image)  # type: ignore[arg-type]


@pytest.mark.parametrize("grey", [False, True])
def test_an_array_of_pixels_is_an_image(grey: bool) -> None:
    image = RED.convert("L") if grey else RED
    pixels = np.asarray(image)
    own = {**records()[0], "image": pixels}
    tables: dict[str, Any] = {
        "records": [own],
        "frame": pd.DataFrame([own]),
        "not contiguous": [{**own, "image": pixels[:, ::-1]}],
        "several": [{**own, "image": [pixels, pixels]}],
        "sample": [Sample("a", pixels, "?")],  # type: ignore[arg-type]
        "several of a sample": [Sample("a", [pixels, RED], "?", image_id="x")],  # type: ignore[list-item]
    }  # fmt: skip
    for name, data in tables.items():
        [row] = samples(data)
        for found in row.images:
            assert hash_image(load_image(found)) in (hash_image(load_image(image)), hash_image(RED))
        assert len(row.images) == 1 + ("several" in name)
    other = pixels.copy()
    other[0, 0] = 7
    assert fingerprint([own]) == fingerprint([own])
    assert fingerprint([own]) != fingerprint([{**own, "image": other}])


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 5, 3)), np.zeros((4, 5, 4), np.uint8), np.zeros((2, 4, 5, 3), np.uint8),
     np.zeros((0, 3), np.uint8), np.array([["a.png"]])],
)  # fmt: skip
def test_an_array_that_is_no_image_fails_its_row(pixels: Any) -> None:
    for data in ([{**records()[0], "image": pixels}], [Sample("a", pixels, "?")]):
        [row] = open_table(data).rows()
        assert isinstance(row, Failure)
        found = f"the image is an array of {pixels.dtype} of the shape {pixels.shape}, expected "
        assert found in row.error


def test_arrays_in_other_cells() -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    rows = [{**records()[0], "image": {"bytes": pixels}}, records()[1]]
    failed, _ = open_table(rows).rows()
    assert isinstance(failed, Failure)
    assert "is a ndarray instead of the bytes of a file" in failed.error
    torch = pytest.importorskip("torch")
    [row] = samples([{**records()[0], "answer": np.array(["a", "b"]), "n": torch.arange(3)}])
    assert (row.target, row.metadata) == ('["a", "b"]', {"n": [0, 1, 2]})


def test_a_path_that_is_not_utf_8_is_told_in_text_that_is() -> None:
    for name in ("x\udcff.png", "x\ud83d.png"):
        with pytest.raises(RowError, match=r"^image x\?\.png: not found") as caught:
            load_image(name)
        assert str(caught.value).encode()


def test_a_large_array_that_changed_is_another_row() -> None:
    """Its text leaves out the middle."""
    numbers = np.zeros((40, 50))
    table = open_table([{**records()[0], "n": numbers}])
    table = table.as_scanned(table.scan())
    assert [type(row) for row in table.rows()] == [Sample]
    numbers[20, 20] = 1
    with pytest.raises(TableChangedError):
        list(table.rows())


@pytest.mark.parametrize("image", [3.5j, [[RED]], {"pixels": RED}, object()])
def test_what_is_no_image_fails_its_row(image: Any) -> None:
    row, _ = open_table([{**records()[0], "image": image}, records()[1]]).rows()
    assert isinstance(row, Failure)
    assert "list[0]: image 1 of 1 in the list is " in row.error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "the table is an int, expected a path, a pandas.DataFrame"),
        (None, "the table is a NoneType"),
        (RED, "the table is an Image"),
        ({"question_id": ["a"], "question": ["?"]}, "the table is a dict"),
        (Sample("a", None, "?"), "the table is a Sample"),
        ([], "list: 0 rows; expected at least one"),
        (iter(()), "rows: 0 rows"),
        ([1, 2], r"list\[0\] is an int; expected .* all rows of one kind"),
        ([{"id": "a"}, "t.csv"], r"list\[1\] is a str; expected"),
        (["t.csv", {"id": "a"}], r"list\[1\] is a dict; expected"),
        ([Sample("a", None, "?"), {"id": "b"}], r"list\[1\] is a dict"),
        (pd.DataFrame(), "DataFrame: "),
        (pd.DataFrame({"id": []}), "DataFrame: no column"),
        (pd.DataFrame([["a", "b"]], columns=["id", "id"]), "DataFrame: its columns have several"),
        (pd.DataFrame({("a", "b"): [1]}), "DataFrame: its columns have several levels"),
        (pd.Series(["a"]), r"rows\[0\] is a str|no such file"),
        (InMemory("DataFrame"), "DataFrame: is in the memory of another process"),
        (records(question_id="twice"), r"'twice' \(positions 0, 1, 2, 3\); give every row its"),
    ],
)
def test_what_is_no_table_is_refused_in_a_line(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_table(data).scan()
    assert "\n" not in str(caught.value)


def test_an_iterator_of_paths_is_read_once(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"id,question,image\n{name},Why?,x.png\n")
    assert sorted(row.id for row in open_table(tmp_path.glob("*.csv")).rows()) == ["a", "b"]
    paths: Any = extracting._table(tmp_path.glob("*.csv"))
    assert len(paths) == 2
    rows = extracting._table(iter([{"id": "a", "question": "Why?"}]))
    assert isinstance(rows, InMemory)
    assert rows.name == "rows"


def test_paths_in_a_table_in_memory_stay_in_the_image_folder(tmp_path: Path) -> None:
    rows = records(image=str(tmp_path / "a.png"))
    row = next(open_table(rows).rows())
    assert isinstance(row, Failure)
    assert "lies outside the image folder" in row.error
    assert samples(rows, images=tmp_path)[0].image == tmp_path / "a.png"
    assert samples(rows, allow_absolute_paths=True)[0].image == tmp_path / "a.png"


def test_notes_and_columns_are_those_of_any_table() -> None:
    table = open_table([{**row, "uid": row["question_id"]} for row in records()],
                       fields=FieldSpec(id="uid", target="n"))  # fmt: skip
    assert [s.target for s in table.rows() if isinstance(s, Sample)] == ["1", "2", "3", "4"]
    notes = list(table_notes(table, table.scan()))
    assert len(notes) == 1
    assert "1 image of 4 rows is not in" in notes[0]
    numbered = open_table(records(), fields=FieldSpec(number_rows=True))
    assert numbered.scan().ids == ("row_1", "row_2", "row_3", "row_4")
