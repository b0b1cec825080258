"""Variants of the same kinds: other compressions, delimiters, nestings, encodings and spellings."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from vlmscope.dataset import (
    load_image,
    open_table,
    parse_mapping,
    read_samples,
    table_notes,
)
from vlmscope.dataset.images.finding import near_file
from vlmscope.dataset.rows.together import unique_together
from vlmscope.dataset.tables import text as text_files
from vlmscope.errors import InputError, RowError
from vlmscope.schema import Failure

RECORD = {"question": "Is it?", "image": "a.png", "answer": "no"}
ROWS = [{"question_id": n, **RECORD} for n in (1, 2)]
LINES = "\n".join(map(json.dumps, ROWS))


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def ids(data: Any, *maps: str, **options: Any) -> list[str]:
    return [row.id for row in open_table(data, fields=parse_mapping(maps, **options)).rows()]


def refusal(data: Any, *maps: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_table(data, fields=parse_mapping(maps, **options)).scan()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


# --- compression


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)],
)
@pytest.mark.parametrize("named", [True, False])
def test_compressed(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], named: bool
) -> None:
    last = suffix if named else ""
    assert ids(write(tmp_path / f"t.jsonl{last}", compress(LINES.encode()))) == ["1", "2"]
    assert ids(write(tmp_path / f"u.json{last}", compress(json.dumps(ROWS).encode()))) == ["1", "2"]
    table = "id,image,question\n1,a.png,Où?\n"
    [row] = read_samples(write(tmp_path / f"t.csv{last}", compress(table.encode("utf-16"))))
    assert row.question == "Où?"


def test_compression_that_is_damaged_or_expands_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"id,image,question\n" + b"1,a.png,x\n" * 1000
    for cut in (gzip.compress(data)[:-9], lzma.compress(data)[:-9], bz2.compress(data)[:-9]):
        assert "its compression is damaged or cut" in refusal(write(tmp_path / "t.csv.gz", cut))
    monkeypatch.setattr(text_files, "LEAST_EXPANDED", 5000)
    monkeypatch.setattr(text_files, "MOST_TIMES", 2)
    for bomb in (gzip.compress(data), zstd(data)):
        assert "expands to more than 5,000 bytes" in refusal(write(tmp_path / "b.csv.gz", bomb))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t.json.gz"])
def test_flipped_bytes_and_truncation_are_refused_in_one_line(
    tmp_path: Path, compress: Callable[[bytes], bytes], name: str
) -> None:
    rows = [{"question_id": n, **RECORD} for n in range(50)]
    plain = {
        "t.csv.gz": "id,image,question\n"
        + "".join(f"{n},a{n}.png,Is it {n}?\n" for n in range(50)),
        "t.jsonl.gz": "\n".join(map(json.dumps, rows)),
        "t.json.gz": json.dumps(rows),
    }[name]
    whole = compress(plain.encode())
    refused = []
    for at in range(4, len(whole), max(1, len(whole) // 20)):
        data = bytearray(whole)
        data[at] ^= 0xFF
        write(tmp_path / name, bytes(data))
        try:
            open_table(tmp_path / name).scan()  # a flipped byte of no meaning changes nothing
        except InputError as error:
            refused.append(str(error))
    assert "\n" not in "".join(refused)
    assert any("its compression is damaged or cut" in text for text in refused)
    for size in (len(whole) // 2, len(whole) - 1):
        assert "its compression is damaged or cut" in refusal(write(tmp_path / name, whole[:size]))


def test_a_delimiter_that_only_the_hint_names(tmp_path: Path) -> None:
    header = "sep=:\nid:image:question\n"
    path = write(tmp_path / "t.csv", f"{header}1:a.png:?\n")
    assert ids(path) == ["1"]
    text = refusal(write(path, f"{header}1:a.png:?:more\n"))
    assert "t.csv line 3: found 4 fields, expected 3" in text
    assert "likely a ':' in a text without quotes" in text
    assert "found 2 fields, expected 3" in refusal(write(path, f"{header}1:a.png\n"))


@pytest.mark.parametrize("mark", ['"', "\r"])
def test_a_hint_that_names_no_delimiter(tmp_path: Path, mark: str) -> None:
    assert "t.csv" in refusal(write(tmp_path / "t.csv", f"sep={mark}\nid,image,question\n1,a,?\n"))


def test_an_archive(tmp_path: Path) -> None:
    assert "is a ZIP archive or an Excel" in refusal(write(tmp_path / "t.csv", b"PK\x03\x04xx"))


# --- quotation marks


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ('1\ta.png\t"He said ""hi"""\n2\ta.png\t"a\tb"\n', ['He said "hi"', "a\tb"]),
        ('1\ta.png\t5" pipe\n2\ta.png\t"\n3\ta.png\t"\n', ['5" pipe', '"', '"']),
        ('1\ta.png\t"whole"\n', ["whole"]),
        ('1\ta.png\t"two\nlines"\n', ["two\nlines"]),
    ],
)
def test_tsv_with_and_without_quoting(tmp_path: Path, text: str, questions: list[str]) -> None:
    path = write(tmp_path / "t.tsv", f"id\timage\tquestion\n{text}")
    assert [row.question for row in read_samples(path)] == questions


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", '1,a1.png,"Is there a cup?,no\n2,a2.png,Is there a fork?",no\n'),
        ("t.csv", '1,a1.png,"Is there?,no\r\n2,a2.png,Is it?,no\r\n3,a3.png,Is it?",no\r\n'),
        ("t.tsv", '1\ta\t"Is it?\tno\n2\tb\tIs it?"\tno\n3\tb\t"a\tb"\tno\n'),
    ],
)
def test_rows_that_a_quotation_mark_would_swallow(tmp_path: Path, name: str, text: str) -> None:
    mark = "\t" if name.endswith("tsv") else ","
    header = mark.join(["id", "image", "question", "answer"])
    assert "a quotation mark opens on the first" in refusal(
        write(tmp_path / name, f"{header}\n{text}")
    )


def test_a_question_of_several_lines_is_no_such_row(tmp_path: Path) -> None:
    text = 'id,image,question\n1,a.png,"Look.\nIs it red, green, or blue?"\n'
    [row] = read_samples(write(tmp_path / "t.csv", text))
    assert row.question == "Look.\nIs it red, green, or blue?"


def test_excel(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'sep=;\r\nid;image;question;;\r\n1;a.png;"a; b, c";;\r\n')
    [row] = read_samples(path)
    assert (row.question, row.metadata) == ("a; b, c", {"Unnamed: 3": "", "Unnamed: 4": ""})


# --- JSON


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", f"\ufeff{LINES}".replace("\n", "\r\n\r\n") + "\n\n"),
        ("t.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("t.jsonl", json.dumps(ROWS, indent=1)),
        ("t.jsonl", json.dumps(ROWS)),
        ("t.json", json.dumps({"data": {"questions": ROWS}, "info": {"year": 1}})),
        ("t.json", json.dumps({"images": [{"id": 1, "file_name": "a"}], "annotations": ROWS})),
        ("t.json", json.dumps({"val": {"1": RECORD, "2": RECORD}})),
        ("t.json", json.dumps({n: {**RECORD, "semantic": [{"operation": "x"}]} for n in "12"})),
        ("t.json", json.dumps({"a": {**RECORD, "id": 1}, "b": {**RECORD, "id": 2}})),
        ("t.json", json.dumps({"columns": list(ROWS[0]), "data": [[*r.values()] for r in ROWS]})),
        ("t.json", json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]})),
        ("t.json", json.dumps({key: {n: ROWS[n][key] for n in (0, 1)} for key in ROWS[0]})),
        ("t.json", json.dumps([list(ROWS[0]), *(list(row.values()) for row in ROWS)])),
    ],
)
def test_json_layouts(tmp_path: Path, name: str, text: str) -> None:
    rows = list(read_samples(write(tmp_path / name, text)))
    assert [(row.id, row.question, row.image_id) for row in rows] == [
        ("1", "Is it?", "a.png"),
        ("2", "Is it?", "a.png"),
    ]


def test_json_of_one_row_and_of_none(tmp_path: Path) -> None:
    assert ids(write(tmp_path / "t.json", json.dumps(ROWS[0]))) == ["1"]
    for text in ("", "{}", "[]"):
        assert "0 rows" in refusal(write(tmp_path / "t.json", text))


def test_records_of_other_names(tmp_path: Path) -> None:
    records = {n: {"frage": "F", "bild": "a.png"} for n in "12"}
    path = write(tmp_path / "t.json", json.dumps(records))
    assert ids(path, "question=frage", "image=bild") == ["1", "2"]


def test_records_that_are_not_plain(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", json.dumps({"train": ROWS[:1], "val": ROWS[1:]}))
    assert "lists of records under train, val" in refusal(path)
    assert "--records train" in refusal(path)
    assert ids(path, records="val") == ["2"]
    assert "there are train, val" in refusal(path, records="dev")
    nested = write(tmp_path / "n.json", json.dumps({"a": {"b": 1, "d": ROWS}, "x.y": ROWS}))
    assert ids(nested, records="a.d") == ids(nested, records="x.y") == ["1", "2"]
    assert "has no records there" in refusal(nested, records="a.b")
    for other in (write(tmp_path / "t.jsonl", LINES), write(tmp_path / "t.csv", "id\n1\n")):
        assert "--records val" in refusal(other, records="val")


# --- several tables


def test_splits_of_a_folder(tmp_path: Path) -> None:
    for n in range(2):
        name = f"data/train-{n:05d}-of-00002.jsonl"
        write(tmp_path / "s" / name, json.dumps({**RECORD, "id": n}))
    write(tmp_path / "s/data/test-00000-of-00001.jsonl", json.dumps({**RECORD, "id": 9}))
    write(tmp_path / "s/README.md", "not a table")
    assert "has several splits. Found test, train; write" in refusal(tmp_path / "s")
    assert ids(f"{tmp_path / 's'}:train") == ["0", "1"]
    assert ids(f"{tmp_path / 's'}:test") == ["9"]
    assert "no split 'val'" in refusal(f"{tmp_path / 's'}:val")
    (tmp_path / "s/data/train-00000-of-00002.jsonl").unlink()
    assert "1 of 2 files are there, missing train-00000-of-00002" in refusal(
        f"{tmp_path / 's'}:train"
    )
    assert ids(str(tmp_path / "s/data/train-*")) == ["1"], "who names files means these"


def test_tables_that_are_not_one(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", "id,image,question,answer\n1,a.png,?,x\n")
    two = write(tmp_path / "b.csv", "id,image,question\n2,a.png,?\n")
    other = write(tmp_path / "c.jsonl", LINES)
    assert "do not have the same columns: answer in only one" in refusal([one, two])
    assert "are of different formats" in refusal([one, other])
    assert "is given twice" in refusal([one, one])
    assert "gone.csv: no such file" in refusal([one, tmp_path / "gone.csv"])
    assert "no file matches this pattern" in refusal(str(tmp_path / "*.parquet"))
    again = write(tmp_path / "d.csv", "id,image,question,answer\n1,a.png,?,x\n")
    assert "'1' (a.csv line 2, d.csv line 2)" in refusal([one, again])
    assert ids([one, again], number_rows=True) == ["row_1", "row_2"]


def test_several_tables_are_read_again_elsewhere(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.csv", f"id,image,question\n{n},a.png,?\n") for n in "ab"]
    table = open_table(files)
    scan = table.scan()
    copied = pickle.loads(pickle.dumps(table.as_scanned(scan)))  # noqa: S301  our own bytes
    assert [row.id for row in copied.rows()] == ["a", "b"]
    whole = write(tmp_path / "whole.csv", "id,image,question\na,a.png,?\nb,a.png,?\n")
    assert open_table(whole).scan().fingerprint == scan.fingerprint


# --- images in text


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    return encoded("JPEG")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(buffer, kind)
    return buffer.getvalue()


def base(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_base64_of_every_format(tmp_path: Path, kind: str) -> None:
    data = encoded(kind)
    path = write(tmp_path / "t.tsv", f"id\timage\tquestion\n1\t{base(data)}\t?\n")
    [row] = read_samples(path)
    assert row.images == (data,)


SPELLINGS: dict[str, Callable[[bytes], Any]] = {
    "without padding": lambda data: base(data).rstrip("="),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "charset": lambda data: f"data:image/jpeg;charset=utf-8;base64,{base(data)}",
    "no type": lambda data: f"DATA:;base64,{base(data)}",
    "escaped": lambda data: f"data:image/jpeg;base64,{base(data).replace('+', '%2B')}",
    "dict": lambda data: {"bytes": base(data), "path": None},
    "printed dict": lambda data: repr({"bytes": data, "path": None}),
    "printed bytes": lambda data: repr(data),
    "printed base64": lambda data: repr(base(data).encode()),
    "JSON in text": lambda data: json.dumps({"bytes": base(data), "path": None}),
    "list": lambda data: [base(data)],
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_images_in_text(tmp_path: Path, jpeg: bytes, how: str) -> None:
    row = {"id": 1, "image": SPELLINGS[how](jpeg), "question": "?"}
    [sample] = read_samples(write(tmp_path / "t.jsonl", json.dumps(row)))
    assert sample.images == (jpeg,)
    assert sample.metadata == {}
    assert load_image(sample.images[0]).size == (40, 30)


def test_two_images_in_text(tmp_path: Path, jpeg: bytes) -> None:
    for cell in ([base(jpeg)] * 2, str([base(jpeg)] * 2)):
        row = {"id": 1, "image": cell, "question": "?"}
        [sample] = read_samples(write(tmp_path / "t.jsonl", json.dumps(row)))
        assert sample.images == (jpeg, jpeg)


def test_rows_that_name_other_rows(tmp_path: Path, jpeg: bytes) -> None:
    """Forwards, backwards, in a chain; and one that names none."""
    cells = ["1", base(jpeg), "1", "2", "77"]
    lines = [f"{n}\t{cell}\t?" for n, cell in enumerate(cells)]
    path = write(tmp_path / "t.tsv", "\n".join(["index\timage\tquestion", *lines]))
    table = open_table(path, fields=parse_mapping(["id=index"]))
    rows = list(pickle.loads(pickle.dumps(table)).rows())  # noqa: S301  our own bytes
    assert [row.images == (jpeg,) for row in rows] == [True, True, True, True, False]
    assert rows[4].images == (tmp_path / "77",)


def test_base64_is_limited_like_a_file(
    tmp_path: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmscope.dataset.encoded.MAX_IMAGE_BYTES", len(jpeg) - 1)
    row = {"id": 1, "image": base(jpeg), "question": "?"}
    [failed] = open_table(write(tmp_path / "t.jsonl", json.dumps(row))).rows()
    assert isinstance(failed, Failure)
    assert "the limit is" in failed.error


# --- names of files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    names = (
        "a.jpg", "b.PNG", "Same.jpg", "same.JPG", "x.jpeg", "y.png", "y.jpg", "train/1.jpg",
        "val/1.jpg", unicodedata.normalize("NFD", "café.jpg"),
    )  # fmt: skip
    for name in names:
        write(folder / name, b"image")
    return folder


def found(folder: Path, *names: str) -> list[str]:
    """Return the file that is taken for each name, or what is said instead."""
    lines = [json.dumps({"id": n, "image": name, "question": "?"}) for n, name in enumerate(names)]
    table = open_table(write(folder.parent / "t.jsonl", "\n".join(lines)), images=folder)
    said = []
    for row in table.rows():
        if isinstance(row, Failure):
            said.append(row.error)
        elif (path := Path(row.images[0])).exists():  # type: ignore[arg-type]
            said.append(str(path.relative_to(folder)))
        else:
            with pytest.raises(RowError, match="not found") as caught:
                load_image(path)
            said.append(str(caught.value))
    return said


def test_names_that_one_file_fits(images: Path) -> None:
    names = ["A.JPG", " b.png", "Same.jpg", "x", "x.JPEG", "café.jpg", "CAFÉ"]
    composed = unicodedata.normalize("NFD", "café.jpg")
    assert found(images, *names) == [
        "a.jpg", "b.PNG", "Same.jpg", "x.jpeg", "x.jpeg", composed, composed,
    ]  # fmt: skip
    for whole in (r"C:\data\img\a.jpg", "C:/data/A.jpg", r"\data\a", "/home/u/a.jpg"):
        assert found(images, whole) == ["a.jpg"]


def test_names_that_several_files_fit(images: Path) -> None:
    for name, files in (("SAME.jpg", "Same.jpg, same.JPG"), ("y", "y.jpg, y.png")):
        [said] = found(images, name)
        assert f"it may be {files}: write the exact name" in said


def test_a_name_that_is_nearly_there(images: Path) -> None:
    assert "not found; there is 'x.jpeg': correct the path" in found(images, "x.jpg")[0]
    assert "not found; there is 'a.jpg': correct the path" in found(images, "aa.jpg")[0]


def test_folders_are_left_out_only_where_all_names_have_them(images: Path) -> None:
    split = ["train/1.jpg", "val/1.jpg"]
    assert found(images, "coco/train/1.jpg", "coco/val/1.jpg") == split
    assert found(images, r"TRAIN\1.jpg", r"val\1.jpg") == split
    said = found(images / "train", *split)
    assert all("not found" in each for each in said), "two names, one file"


def test_no_name_finds_a_file_outside_the_folder(images: Path) -> None:
    write(images.parent / "private/secret.jpg", b"image")
    (images / "Link.jpg").symlink_to(images.parent / "private/secret.jpg")
    (images / "Folder").symlink_to(images.parent / "private")
    names = ["LINK.jpg", "link", "folder/SECRET.jpg", r"..\private\secret.jpg", "FOLDER/secre.jpg"]
    said = found(images, *names)
    assert all("out of the image folder" in each for each in said[:2])
    assert all("not found; correct the path" in each for each in said[2:])


# --- columns


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "uid,img,query,label\n1,a.png,?,yes\n")
    text = refusal(path)
    options = "--map id=uid --map image=img --map question=query --map target=label"
    assert options in text
    maps = [item for item in options.split() if item != "--map"]
    [row] = read_samples(path, fields=parse_mapping(maps))
    assert (row.id, row.image_id, row.question, row.target) == ("1", "a.png", "?", "yes")


def test_ids_of_several_columns(tmp_path: Path) -> None:
    table = '"a,b",set,n,image,question\nx,s 1,1,a.png,?\nx,s 1,2,a.png,?\ny,,3,a.png,?\n'
    path = write(tmp_path / "t.csv", table)
    assert ids(path, "id=set, n") == ["s 1_1", "s 1_2", "_3"]
    assert ids(path, "id=2,3") == ["s 1_1", "s 1_2", "_3"]
    assert "no column 'm' for the id" in refusal(path, "id=set,m")
    assert "no column 'set,n' for the question" in refusal(path, "question=set,n", "id=n")
    text = refusal(path, "id=a,b")
    assert "--map id='a,b'" not in text
    assert "'x' (lines 2, 3)" in text
    assert "--map id is" not in text
    empty = write(tmp_path / "e.csv", "s,n,image,question\n,,a.png,?\n")
    assert "the id in columns 's', 'n' is empty" in refusal(empty, "id=s,n")


@pytest.mark.exhaustive
def test_columns_that_differ_together_are_found_without_keeping_rows(tmp_path: Path) -> None:
    """Embedded images would fill the memory; a column of them is never part of an id."""
    rows = [
        {"id": n // 2, "image": "A" * 100_000 + str(n), "extra": {"n": n}, "n": n % 2,
         "question": "?", "same": None}
        for n in range(100)
    ]  # fmt: skip
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    reader = open_table(path).reader
    del rows
    tracemalloc.start()
    try:
        assert unique_together(reader) == ("id", "n")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000, "one row at a time"
    finally:
        tracemalloc.stop()
    assert "pass --map id=id,n, which differ" in refusal(path)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{n", "a brace is not closed"),
        ("a.png", "names no column"),
        ("{m}.png", "has no column 'm'"),
        ("{n.__class__}.png", "has no column 'n.__class__'"),
        ("{n:>9999999999}", "is not a format"),
        ("{n!r}", "has no column 'n!r'"),
    ],
)
def test_patterns_that_are_none(tmp_path: Path, pattern: str, said: str) -> None:
    path = write(tmp_path / "t.csv", "id,n,question\n1,2,?\n")
    assert said in refusal(path, image_pattern=pattern)
    assert said in refusal(path, question_template=pattern, image_pattern="{id}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "a_007.png"), (7.0, "a_007.png"), ("007", "a_007.png"), ("7.0", "a_007.png")],
)
def test_numbers_in_a_pattern(tmp_path: Path, value: Any, expected: str) -> None:
    path = write(tmp_path / "t.jsonl", json.dumps({"id": 1, "n": value, "question": "?"}))
    for pattern in ("a_{n:03d}.png", "a_{n:03}.png"):
        [row] = read_samples(path, fields=parse_mapping([], image_pattern=pattern))
        assert row.image_id == expected


def test_a_pattern_leads_out_of_no_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", json.dumps({"id": 1, "n": "../../x", "question": "?"}))
    for pattern, said in (("{n}.png", "leaves the image folder"), ("/etc/{id}", "lies outside")):
        fields = parse_mapping([], image_pattern=pattern)
        [failed] = open_table(path, fields=fields).rows()
        assert isinstance(failed, Failure)
        assert said in failed.error


def test_values_that_a_pattern_cannot_take(tmp_path: Path) -> None:
    rows = [{"id": 1, "n": "x", "question": "?"}, {"id": 2, "n": None, "question": "?"}]
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    fields = parse_mapping([], image_pattern="{n:03d}.png")
    first, second = open_table(path, fields=fields).rows()
    assert isinstance(first, Failure)
    assert "in column 'n' is 'x', expected a whole number for '03d'" in first.error
    assert isinstance(second, Failure)
    assert "no image in column 'n'" in second.error


# --- what is said of names that lead to no image


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ("demo_0007.jpg", "demo_0057.jpg"),
        ("demo_0007.jpg", "demo_0070.jpg"),
        ("COCO_val2014_000000000042.jpg", "COCO_val2015_000000000042.jpg"),
        ("figure_12a.png", "figure_13a.png"),
        ("kitchen_a.png", "kitchen_b.png"),
        ("kitchen１.png", "kitchen２.png"),
        ("image1.jpg", "image.jpg"),
    ],
)
def test_no_name_with_another_number_is_suggested(tmp_path: Path, there: str, wanted: str) -> None:
    write(tmp_path / there, b"image")
    assert near_file(tmp_path / wanted) == ""
    write(tmp_path / f"{wanted[:-5]}x{wanted[-5:]}", b"image")
    assert there not in near_file(tmp_path / wanted)


def test_a_name_with_the_same_number_is(tmp_path: Path) -> None:
    write(tmp_path / "kitchen_0007.jpg", b"image")
    write(tmp_path / "kitchen_0008.jpg", b"image")
    for wanted in ("kitchn_0007.jpg", "kitchen_7.jpg", "kitchen-0007.jpg"):
        assert near_file(tmp_path / wanted) == "there is 'kitchen_0007.jpg': correct the path"


def test_only_files_that_are_not_there_are_counted_as_missing(images: Path) -> None:
    names = ["a.jpg", "gone.jpg", "https://x.org/a.jpg", "http://x.org/b.jpg",
             "../../../nowhere/passwd", "/nowhere/c.jpg", "film.mp4", "nul\0.jpg"]  # fmt: skip
    path = images / "t.jsonl"
    rows = ({"id": n, "image": name, "question": "?"} for n, name in enumerate(names))
    path.write_text("\n".join(map(json.dumps, rows)))
    table = open_table(path, images=images)
    said = [note for note in table_notes(table, table.scan()) if "image" in note]
    assert said == [
        f"1 image of 8 rows is not in {images}: 'gone.jpg'; correct --images or the path",
        "images of 8 rows that are not supported, and whose rows will fail: 2 URLs "
        "('https://x.org/a.jpg'), 2 paths out of the image folder ('../../../nowhere/passwd'), "
        "1 video ('film.mp4')",
    ]
    table = open_table(path, images=images, allow_absolute_paths=True)
    said = "".join(table_notes(table, table.scan()))
    assert f"2 images of 8 rows are not in {images}, the first of them 'gone.jpg'; " in said
