"""The tables that benchmarks are published as, each read as a user would name it.

``cases`` holds one small file of each layout; docs/tables.md lists what happens with each. The
images are those of the demo.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from vlmscope import demo
from vlmscope.dataset import load_image, open_table, parse_mapping, read_answers, table_notes
from vlmscope.errors import InputError, ModelError, RowError, StoreError
from vlmscope.model.loading.weights import check_files
from vlmscope.schema import Failure, Sample
from vlmscope.score import read_label_file
from vlmscope.score.parsing.truth import read_truth
from vlmscope.store.format.shard import opened
from vlmscope.store.halp_rows import opened_halp

CASES = Path(__file__).parent / "cases"
IMAGES = Path(demo.__file__).parent / "images"
SIZES = {"demo_0000.jpg": (99, 210), "demo_0001.jpg": (109, 102), "demo_0002.jpg": (104, 110)}
FIRST, SECOND, THIRD = SIZES.values()


def read(name: str, *maps: str, text_only: bool = False, **options: Any) -> list[Sample | Failure]:
    table = open_table(
        CASES / name, images=IMAGES, fields=parse_mapping(maps, **options), text_only=text_only
    )
    scan = table.scan()
    return list(table.as_scanned(scan).rows())


def notes(name: str, *maps: str, **options: Any) -> str:
    table = open_table(CASES / name, images=IMAGES, fields=parse_mapping(maps, **options))
    return "\n".join(table_notes(table, table.scan()))


def ids(rows: list[Sample | Failure]) -> list[str]:
    return [row.id for row in rows]


def sizes(rows: list[Sample | Failure]) -> list[list[tuple[int, int]]]:
    return [[load_image(image).size for image in row.images] for row in samples(rows)]


def samples(rows: list[Sample | Failure]) -> list[Sample]:
    assert all(isinstance(row, Sample) for row in rows), rows
    return [row for row in rows if isinstance(row, Sample)]


def refusal(name: str, *maps: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(name, *maps, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pope_real.jsonl", "coco_pope_random.json"])
def test_pope(name: str) -> None:
    """JSON lines, the file's name beside a number, ``text`` and ``label``."""
    rows = samples(read(name))
    assert sizes(rows) == [[FIRST], [SECOND], [THIRD]]
    assert [(row.question[:9], row.target) for row in rows] == [
        ("Is there ", "yes"),
        ("Is there ", "no"),
        ("Is there ", "no"),
    ]
    assert rows[0].metadata["label"] == "yes", "vlmscope label --target label still works"


def test_text_and_label_alone_are_no_question_and_no_truth(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps({"id": 1, "image": "a.jpg", "text": "A cup.", "label": 3}))
    with pytest.raises(InputError, match="no column 'question' for the question"):
        open_table(path)
    path.write_text(json.dumps({"question_id": 1, "image": "a.jpg", "question": "?", "label": 3}))
    [row] = open_table(path).rows()
    assert isinstance(row, Sample)
    assert row.target == ""


def test_a_number_beside_a_file_name() -> None:
    rows = samples(read("okvqa.csv"))
    assert sizes(rows) == [[FIRST], [SECOND]]
    assert [row.metadata for row in rows] == [{"image_id": "262148"}, {"image_id": "262149"}]


def test_of_several_columns_the_one_whose_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,image_id,image_name,question\n"
        "1,gone.jpg,demo_0001.jpg,?\n2,demo_0000.jpg,gone.jpg,?\n3,gone.jpg,gone_too.jpg,?\n"
    )
    table = open_table(tmp_path / "t.csv", images=IMAGES)
    rows = samples(list(table.rows()))
    assert [row.image_id for row in rows] == ["demo_0001.jpg", "demo_0000.jpg", "gone.jpg"]
    elsewhere = open_table(tmp_path / "t.csv")
    assert table.scan().fingerprint == elsewhere.scan().fingerprint, "whatever the disk has"


@pytest.mark.parametrize("name", ["printed.csv", "printed.jsonl", "vqav2.parquet", "vizwiz.json"])
def test_votes_of_annotators(name: str) -> None:
    numbered = name == "vizwiz.json"
    assert "if it is 'answers', pass --map target=answers now" in notes(name, number_rows=numbered)
    rows = samples(read(name, "target=answers", number_rows=numbered))
    truths = [read_truth(row.target) for row in rows]
    assert all(truth.voted and truth.accepted for truth in truths)
    if numbered:
        assert ids(rows) == ["row_1", "row_2"]
        assert "--number-rows" in refusal(name)


def test_hallusion_bench() -> None:
    text = refusal("hallusion.json", "image=filename")
    assert "ids occur more than once" in text
    assert "--map id=" in text
    assert "--number-rows" in text
    columns = "id=category,subcategory,set_id,figure_id,question_id"
    rows = read("hallusion.json", columns, "image=filename")
    assert ids(rows)[::4] == ["VD_kitchen_0_0_0", "VS_map_1_0_0"]
    assert sizes(rows[:4]) == [[FIRST], [FIRST], [SECOND], [SECOND]]
    assert isinstance(rows[4], Failure)
    assert "no image in column 'filename'" in rows[4].error
    assert samples(rows[:1])[0].metadata["category"] == "VD", "a part of an id is metadata too"
    said = notes("hallusion.json", columns, "image=filename")
    assert "1 row has no image and will fail, of 5; pass --text-only" in said
    bare = samples(read("hallusion_uid.json", "id=uid", "image=filename", text_only=True))
    assert bare[4].images == ()


def test_images_in_base64() -> None:
    rows = samples(read("mmbench_like.tsv", "id=index"))
    assert sizes(rows) == [[FIRST], [SECOND], [FIRST]], "the last one names the first"
    assert "--map id=index" in refusal("mmbench_like.tsv")
    for name in ("pngb64.tsv", "datauri.jsonl"):
        rows = samples(read(name))
        assert sizes(rows) == [[FIRST]]
        assert rows[0].metadata == {}


def test_mmvp() -> None:
    text = refusal("mmvp_ok.csv")
    assert "--map id=Index --map image=COLUMN" in text
    assert "--map target='Correct Answer'" in text
    options = {
        "image_pattern": "demo_{Index:04d}.jpg",
        "question_template": "{Question} {Options}",
    }
    rows = samples(read("mmvp_ok.csv", "id=Index", "target=Correct Answer", **options))
    assert sizes(rows) == [[SECOND], [THIRD]]
    assert rows[0].question == "Are the cups next to a bottle? (a) Yes (b) No"
    assert rows[0].target == "(a)"


def test_several_columns_of_images() -> None:
    for maps in ((), ("image=image_1,image_2,image_3",)):
        rows = samples(read("mmmu.parquet", *maps, question_template="{question}\\n{options:A}"))
        assert sizes(rows) == [[FIRST, SECOND]]
        assert rows[0].question.endswith("?\nA. cup\nB. boat")
    assert "placeholder" not in notes("mmmu.parquet"), "the model decides"


def test_two_questions_with_one_id() -> None:
    assert "--map id=question_id,question, which differ in every row, or --number-rows" in refusal(
        "mme.parquet"
    )
    first, _ = read("mme.parquet", "id=question_id,question")
    assert first.id == "code_reasoning/0020.png_Is there a cup? Please answer yes or no."
    assert ids(read("mme.parquet", number_rows=True)) == ["row_1", "row_2"]


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((CASES / "shards" / "data").iterdir())
    whole = read("shards")
    assert ids(whole) == ["s0", "s1", "s2"]
    assert samples(whole)[1].origin == "test-00001-of-00003.parquet row 1"
    assert sizes(whole) == [[FIRST], [SECOND], [THIRD]]
    for data in (str(CASES / "shards/data/*.parquet"), f"{CASES / 'shards'}:test", files):
        table = open_table(data, images=IMAGES)
        assert table.scan().ids == ("s0", "s1", "s2")
    monkeypatch.chdir(CASES / "shards")
    assert open_table("data/test-*.parquet", limit=2).scan().ids == ("s0", "s1")


@pytest.mark.parametrize(
    ("name", "maps", "options", "expected"),
    [
        ("gqa.json", ["image=imageId"], {}, ["201307251"]),
        ("problems.json", [], {"image_pattern": "{id}/{image}"}, ["1"]),
        ("textvqa.json", [], {}, ["34602"]),
        ("v2_OpenEnded.json", [], {}, ["262148000"]),
        ("v2_OpenEnded.json", [], {"records": "questions"}, ["262148000"]),
        ("columns.json", [], {}, ["0", "1", "2"]),
    ],
)
def test_json_documents(
    name: str, maps: list[str], options: dict[str, str], expected: list[str]
) -> None:
    assert ids(read(name, *maps, **options)) == expected


def test_where_the_rows_stand_is_said() -> None:
    assert "the rows are those under 'data'" in notes("textvqa.json")
    assert "no key 'answers' there; there are info, task_type" in refusal(
        "v2_OpenEnded.json", records="answers"
    )


def test_a_number_that_a_file_name_ends_in(tmp_path: Path) -> None:
    (tmp_path / "COCO_val2014_000000262148.jpg").write_bytes(
        (IMAGES / "demo_0000.jpg").read_bytes()
    )
    table = open_table(CASES / "v2_OpenEnded.json", images=tmp_path)
    [row] = samples(list(table.rows()))
    pattern = "COCO_val2014_{image_id:012d}.jpg"
    with pytest.raises(RowError, match="ends in this number") as caught:
        load_image(row.images[0])
    assert f"pass --image-pattern '{pattern}'" in str(caught.value)
    fields = parse_mapping([], image_pattern=pattern)
    assert sizes(
        list(open_table(CASES / "v2_OpenEnded.json", images=tmp_path, fields=fields).rows())
    )


def test_amber_and_llava() -> None:
    assert refusal("amber_query.json").startswith(
        "amber_query.json: no column 'question' for the question: give --map question=query; "
    )
    assert sizes(read("amber_query.json", "question=query")) == [[FIRST], [SECOND]]
    assert "column 'conversations' contains dialogues" in refusal("llava.json")


def test_a_tsv_without_quoting() -> None:
    rows = samples(read("barequotes2.tsv"))
    assert [row.question for row in rows] == [
        'What does "Stop" mean?',
        '"Is there a cup?',
        'Is there a fork?"',
    ]
    assert "quotation marks in it are read as text" in notes("barequotes2.tsv")


def test_unicode_text_of_excel() -> None:
    assert sizes(read("utf16.tsv")) == [[FIRST]]


def test_names_of_files_from_windows() -> None:
    rows = read("winpath.csv")
    assert [row.images[0].name for row in samples(rows)] == [f"demo_000{n}.jpg" for n in range(4)]  # type: ignore[union-attr]
    said = notes("winpath.csv")
    assert "4 image names are not exact paths; the only matching file is used, such as" in said
    assert r"'demo_0000.jpg' for 'img\\demo_0000.jpg'" in said


@pytest.mark.parametrize("column", ["", "1", "Unnamed: 0"])
def test_a_column_without_a_name(column: str) -> None:
    assert ids(read("unnamed_id.csv", f"id={column}")) == ["0", "1"]
    text = refusal("unnamed_id.csv")
    assert "--map id=''" in text
    assert "--map id=1 for the column without a name" in text


def test_git_lfs_pointers(tmp_path: Path) -> None:
    lfs = CASES / "lfs"
    said = "is a Git LFS pointer, not the file itself: run 'git lfs pull'"
    for name in ("table.csv", "image.jpg"):
        assert said in refusal(f"lfs/{name}")
    pointer = (lfs / "table.csv").read_bytes()
    for suffix in ("tsv", "json", "jsonl", "parquet", "csv.gz"):
        (tmp_path / f"t.{suffix}").write_bytes(pointer)
        with pytest.raises(InputError, match=said):
            open_table(tmp_path / f"t.{suffix}")
    with pytest.raises(RowError, match=r"is a Git LFS pointer; .* run 'git lfs pull'"):
        load_image(lfs / "image.jpg")
    with pytest.raises(StoreError, match=said), opened(lfs / "part_001.h5"):
        pass
    with pytest.raises(InputError, match=said), opened_halp(lfs / "part_001.h5"):
        pass
    with pytest.raises(InputError, match=said):
        read_label_file(lfs / "labels.csv")
    with pytest.raises(InputError, match=said):
        read_answers(lfs / "labels.csv")
    with pytest.raises(ModelError, match=rf"model\.safetensors: {said}"):
        check_files(lfs)


def test_no_message_and_no_metadata_holds_a_long_cell(tmp_path: Path) -> None:
    """Whatever a cell holds in place of an image, at most 200 characters of it are repeated."""
    image = base64.b64encode((IMAGES / "demo_0000.jpg").read_bytes()).decode()
    cells = [
        "x y" * 300,
        "a/" * 300,
        "http://" + "u" * 500,
        "../" + "u" * 500,
        "/" + "v" * 220 + "/a.jpg",
        image[:501],
        image[:500] + "*" + image[501:],
        f"data:text/plain;base64,{image}",
        f"data:image/png;base64,{image[:301]}",
        repr({"bytes": b"\xff\xd8" * 300})[:-9],
        "z" * 300 + ".mp4",
        "n" * 300 + "\0",
    ]
    path = tmp_path / "t.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "id": n,
                    "image": cell,
                    "question": "?",
                    "other": [image, f"data:image/png;base64,{image}"],
                }
            )
            for n, cell in enumerate(cells)
        )
    )
    table = open_table(path, images=IMAGES)
    messages = [*table_notes(table, table.scan())]
    for row in table.rows():
        if isinstance(row, Failure):
            messages.append(row.error)
            continue
        assert row.metadata == {"other": []}
        with pytest.raises(RowError) as caught:
            load_image(row.images[0])
        messages.append(str(caught.value))
    assert len(messages) >= len(cells)
    for message in messages:
        for cell in cells:
            assert not any(cell[at : at + 201] in message for at in range(len(cell) - 200))
