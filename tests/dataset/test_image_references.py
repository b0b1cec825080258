"""Image cells that name another row: by its ``index``, whatever column is the id."""

from __future__ import annotations

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmscope.dataset import open_table, parse_mapping
from vlmscope.schema import Failure, Sample

from .tables import write_csv, write_jsonl


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, BLUE, GREEN = (png(colour) for colour in ("red", "blue", "green"))
R, B, G = (base64.b64encode(data).decode() for data in (RED, BLUE, GREEN))


def row(image: str, **cells: Any) -> dict[str, Any]:
    return {**cells, "image": image, "question": f"Is it {image[-9:]}?"}


def read(path: Path, *maps: str, **options: Any) -> list[Any]:
    table = open_table(path, fields=parse_mapping(maps, **options))
    table.scan()
    rows = list(pickle.loads(pickle.dumps(table)).rows())  # noqa: S301  our own bytes
    return [each.error if isinstance(each, Failure) else each.images[0] for each in rows]


@pytest.mark.parametrize(
    ("maps", "options"),
    [
        ([], {}),
        (["id=index"], {}),
        (["id=index,question"], {}),
        (["id=question_id,question"], {}),
        ([], {"number_rows": True}),
    ],
)
@pytest.mark.parametrize("column", ["index", "Index"])
def test_the_index_counts_whatever_the_id_is(
    tmp_path: Path, maps: list[str], options: dict[str, Any], column: str
) -> None:
    rows = [row(image, **{column: n, "question_id": n + 1}) for n, image in enumerate((R, B, "1"))]
    maps = [item.replace("index", column) for item in maps]
    path = write_csv(tmp_path / "t.tsv", rows, "\t")
    assert read(path, *maps, **options) == [RED, BLUE, BLUE]
    assert read(write_jsonl(tmp_path / "t.jsonl", rows), *maps, **options) == [RED, BLUE, BLUE]


def test_what_is_no_index_is_no_reference(tmp_path: Path) -> None:
    rows = [row(image, index=n, id=n + 1) for n, image in enumerate((R, B, "3"))]
    assert read(write_csv(tmp_path / "t.tsv", rows, "\t"))[2] == tmp_path / "3"


@pytest.mark.parametrize("options", [{}, {"number_rows": True}])
def test_two_columns_of_ids_that_lead_to_different_images(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    cells = (R, B, "1", "0", "3")
    rows = [row(image, question_id=n, id=n + 1) for n, image in enumerate(cells)]
    path = write_csv(tmp_path / "t.tsv", rows, "\t")
    found = read(path, **options)
    assert found[:2] == [RED, BLUE]
    assert (
        "the image refers to row '1', and by 'question_id' and 'id' these are rows with" in found[2]
    )
    assert "rename the column with these values to 'index'" in found[2]
    assert found[3] == RED, "only one column has it"
    assert found[4] == RED, "both chains lead to it"
    same = [row(image, question_id=n, id=n + 1) for n, image in enumerate((R, R, "1"))]
    assert read(write_csv(path, same, "\t"), **options) == [RED, RED, RED]


def test_rows_of_one_index_with_different_images(tmp_path: Path) -> None:
    """As where two tables were joined; where they hold the same image, it is that."""
    rows = [row(image, index=index) for index, image in ((0, R), (0, B), (1, G), (1, G))]
    rows += [row("0", index=2), row("1", index=3)]
    found = read(write_csv(tmp_path / "t.tsv", rows, "\t"), number_rows=True)
    assert found[:4] == [RED, BLUE, GREEN, GREEN]
    assert (
        "refers to row '0', and several rows with that 'index' contain different images" in found[4]
    )
    assert found[5] == GREEN


def test_a_row_that_holds_its_image_names_no_other(tmp_path: Path) -> None:
    """A number in another column is what the image is called."""
    rows = [
        {"id": n, "index": n, "image_id": name, "image": image, "question": "?"}
        for n, (name, image) in enumerate(((1, R), (0, B), (7, "0")))
    ]
    path = write_csv(tmp_path / "t.tsv", rows, "\t")
    assert read(path) == [RED, BLUE, RED]
    samples = [each for each in open_table(path).rows() if isinstance(each, Sample)]
    assert [sample.image_id for sample in samples] == ["1", "0", "7"]
