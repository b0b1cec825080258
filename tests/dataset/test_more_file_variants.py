"""More variants: read right or refused in one line, where a value might go wrong silently."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmscope import demo
from vlmscope.dataset import load_image, open_table, parse_mapping, table_notes
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Failure, Sample

from .tables import write_csv, write_json, write_parquet

IMAGES = Path(demo.__file__).parent / "images"
NAME = "demo_0000.jpg"
DATA = (IMAGES / NAME).read_bytes()
BASE64 = base64.b64encode(DATA).decode()
ROWS = [
    {"question_id": 1, "image": NAME, "question": "Is it?", "answer": "no"},
    {"question_id": 2, "image": "demo_0001.jpg", "question": "Why?", "answer": "so"},
]
LINES = "\n".join(map(json.dumps, ROWS))
CSV = "question_id,image,question\n1,demo_0000.jpg,Is it?\n"


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path: Any, *maps: str, images: Path = IMAGES, **options: Any) -> list[Sample | Failure]:
    text_only = options.pop("text_only", False)
    fields = parse_mapping(maps, **options)
    table = open_table(path, images=images, fields=fields, text_only=text_only)
    return list(table.as_scanned(table.scan()).rows())


def ids(path: Any) -> list[str]:
    return [row.id for row in read(path)]


def refusal(path: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error(row: Sample | Failure) -> str:
    assert isinstance(row, Failure), row
    assert "\n" not in row.error
    return row.error


def one(tmp_path: Path, cell: Any, **options: Any) -> Sample | Failure:
    [row] = read(write_json(tmp_path / "t.json", [{**ROWS[0], "image": cell}]), **options)
    return row


def sizes(row: Sample | Failure) -> list[tuple[int, int]]:
    assert isinstance(row, Sample), row
    return [load_image(image).size for image in row.images]


# --- files


def test_byte_order_marks_that_stand_twice_or_in_the_middle(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "t.csv", "\ufeff\ufeff" + CSV)) == ["1"]
    marked = "\n".join("\ufeff" + line for line in LINES.splitlines())
    assert ids(write(tmp_path / "t.jsonl", marked)) == ["1", "2"]
    assert ids(write(tmp_path / "u.json", "\ufeff\ufeff" + json.dumps(ROWS))) == ["1", "2"]


def test_compressed_twice_or_as_a_whole(tmp_path: Path) -> None:
    twice = gzip.compress(gzip.compress(CSV.encode()))
    assert "is compressed twice; expand it once" in refusal(write(tmp_path / "t.csv.gz", twice))
    parquet = write_parquet(tmp_path / "t.parquet", ROWS).read_bytes()
    path = write(tmp_path / "t.parquet.gz", gzip.compress(parquet))
    assert "is a compressed file; decompress it once" in refusal(path)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "is an old Excel workbook"),
        (b"PAR1" + b"\x15\x04\xcc" * 99, "is a Parquet file; give it the extension .parquet"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "is an HDF5 file"),
        (b"%PDF-1.4\n\xe2\xe3", "is a PDF document"),
        (b"\n <!DOCTYPE html><html>404</html>", "is a web page, not a table; fetch the file"),
        (b"/annex/objects/SHA256E-s1--abc.csv\n", "is a git-annex pointer"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.csv.gz"])
def test_what_is_no_table_is_called_by_its_name(
    tmp_path: Path, head: bytes, said: str, name: str
) -> None:
    data = gzip.compress(head) if name.endswith(".gz") else head
    assert said in refusal(write(tmp_path / name, data))


def test_json_that_is_called_csv(tmp_path: Path) -> None:
    for text in (LINES, json.dumps(ROWS)):
        assert "begins like JSON" in refusal(write(tmp_path / "t.csv", text))


def test_blanks_are_no_header(tmp_path: Path) -> None:
    assert "is empty, 0 rows" in refusal(write(tmp_path / "t.csv", "\n  \n\n"))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Of two values ``json`` takes the last, of two records of one id too."""
    twice = '{"id": 1, "image": "a.png", "question": "a?", "question": "b?"}'
    said = "the key 'question' appears twice in one object"
    assert f"t.jsonl line 1: {said}" in refusal(write(tmp_path / "t.jsonl", twice))
    assert said in refusal(write(tmp_path / "t.json", f"[{twice}]"))
    record = json.dumps({"question": "?", "image": NAME})
    by_id = f'{{"7": {record}, "7": {record}}}'
    assert "the key '7' appears twice" in refusal(write(tmp_path / "u.json", by_id))


def test_shards_with_a_hash_behind_their_numbers(tmp_path: Path) -> None:
    """As older versions of the library named them: splits stay apart, and none may be missing."""
    for split in ("adversarial", "popular"):
        for n in range(2):
            row = {**ROWS[0], "question_id": f"{split}{n}"}
            name = f"{split}-0000{n}-of-00002-a1b2c3d4e5f6a7b{n}.parquet"
            (tmp_path / "data").mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data" / name)
    assert "Found adversarial, popular" in refusal(tmp_path)
    assert ids(f"{tmp_path}:popular") == ["popular0", "popular1"]
    next((tmp_path / "data").glob("popular-00001*")).unlink()
    assert "missing popular-00001-of-00002" in refusal(f"{tmp_path}:popular")


def test_lock_files_of_office_programs_are_no_tables(tmp_path: Path) -> None:
    write(tmp_path / "part.csv", CSV)
    write(tmp_path / "~$part.csv", "x")
    assert ids(tmp_path) == ["1"]


# --- cells


def test_a_question_that_is_nan_is_a_gap(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"id,image,question\n1,{NAME},nan\n")
    assert "the question in column 'question' is empty" in error(read(path)[0])


@pytest.mark.parametrize("text_only", [False, True])
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"bytes": [255, 216], "path": None}, "is a list instead of the bytes of a file"),
        ("data:image/jpeg;base64,", "is a data URI without data"),
        ("data:image/png;base64, ", "is a data URI without data"),
    ],
)
def test_what_should_hold_an_image_is_not_taken_for_none(
    tmp_path: Path, cell: Any, said: str, text_only: bool
) -> None:
    assert said in error(one(tmp_path, cell, text_only=text_only))


@pytest.mark.parametrize(
    "cell",
    [
        f"data:image/jpeg,{BASE64}",
        f"data:image/jpeg;charset=utf-8;base64,{BASE64}",
        "\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76)),
        f"{{'bytes': None, 'path': '{NAME}'}}",
        f'{{"bytes": null, "path": "{NAME}"}}',
        {"bytes": "", "path": NAME},
    ],
)
def test_images_in_odd_cells(tmp_path: Path, cell: Any) -> None:
    assert sizes(one(tmp_path, cell)) == [(99, 210)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("['cup' 'boat']", "A. cup\nB. boat"),
        ("['a cup'\n 'a \"boat\"']", 'A. a cup\nB. a "boat"'),
        ("[\"it's\" 'so']", "A. it's\nB. so"),
        ("['it''s']", "A. it\nB. s"),
        ("['cup', 'boat', None, None]", "A. cup\nB. boat"),
    ],
)
def test_options_as_numpy_prints_them(tmp_path: Path, options: str, expected: str) -> None:
    """Python itself makes one text of two that touch."""
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "options": options}])
    [row] = read(path, question_template="{options:A}")
    assert isinstance(row, Sample)
    assert row.question == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("['a' 'b', 'c']", "expected a list of at most 26 options"),
        ("['cup' None]", "expected a list of at most 26 options"),
        ("['cup', None, 'boat']", "is a list with a gap at 2, expected text"),
        ("[['a'], ['b']]", "is a list with a list at 1, expected text"),
    ],
)
def test_options_that_cannot_be_told_are_refused(tmp_path: Path, options: str, said: str) -> None:
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "options": options}])
    assert said in error(read(path, question_template="{question} {options:A}")[0])


def test_images_as_numpy_prints_them(tmp_path: Path) -> None:
    assert sizes(one(tmp_path, f"['{NAME}' 'demo_0001.jpg']")) == [(99, 210), (109, 102)]


@pytest.mark.parametrize("number", ["1_0", "0x1", "1e1", "1.5", "--1"])
def test_numbers_that_only_python_reads_are_refused(tmp_path: Path, number: str) -> None:
    path = write_csv(tmp_path / "t.csv", [{**ROWS[0], "n": number}])
    assert "expected a whole number" in error(read(path, image_pattern="demo_{n:04d}.jpg")[0])


def test_links_that_lead_nowhere_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    (tmp_path / "b.jpg").symlink_to(".git/annex/objects/xx/SHA256E-s1--b.jpg")
    with pytest.raises(RowError, match=r"a symbolic link to 'gone\.jpg', which is not there"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(RowError, match="a git-annex link whose file was not fetched; run"):
        load_image(tmp_path / "b.jpg")


def test_numbered_images_beside_a_column_image_are_said(tmp_path: Path) -> None:
    row = {**ROWS[0], "image_1": "demo_0001.jpg", "image_2": "demo_0002.jpg"}
    table = open_table(write_json(tmp_path / "t.json", [row]), images=IMAGES)
    [note] = table_notes(table, table.scan())
    assert note.startswith("image_1, image_2 are not used: images are taken from image;")
    assert "pass --map image=image,image_1,image_2" in note
    assert len(sizes(read(tmp_path / "t.json", "image=image,image_1,image_2")[0])) == 3


# --- placeholders


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is <image 1> it?", "numbered"),
        ("Is <Image  1 > it?", "numbered"),
        ("Is <img_1> it?", "numbered"),
        ("Is <|image_1|> it?", "numbered"),
        ("Is <image_1></image_1> it?", "nameless"),
        ("Is <image> it?", "nameless"),
        ("Is <image 1> or <image>?", "nameless"),
        ("Is <image \u0661> it?", "nameless"),
        ("Is <image 0> it?", "missing"),
        ("Is <image 1> or <image 2>?", "missing"),
        ("Is [image 1] or (image 2) or <image1.png>?", ""),
    ],
)
def test_kinds_of_placeholders(tmp_path: Path, question: str, kind: str) -> None:
    path = write_json(tmp_path / "t.json", [{**ROWS[0], "question": question}])
    marks = open_table(path, images=IMAGES).scan().marks
    found = {name: getattr(marks, name) for name in ("numbered", "nameless", "missing")}
    assert found == {name: int(name == kind) for name in found}
