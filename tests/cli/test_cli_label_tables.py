"""``vlmscope label`` on answers that were made elsewhere: tables, and files of the research."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research_support import research_row, write_part
from store_support import make_capture, make_manifest
from vlmscope.errors import InputError
from vlmscope.labelling import read_answer_files, write_labelled
from vlmscope.schema import Score
from vlmscope.score import read_label_file
from vlmscope.store import RunWriter

Command = Callable[..., Any]

ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "Is it dark?", "truth": "Yes", "answer": "Yes, it is.", "level": 1},
    {"id": "b", "question": "Is it dark?", "truth": "No", "answer": "Yes", "level": 2},
    {"id": "c", "question": "Was, \"it\"?", "truth": "", "answer": "Yes", "level": None},
    {"id": "d", "question": "Is it ☕?", "truth": "Yes", "answer": "[Generation failed: x]",
     "level": 4},
]  # fmt: skip
WANTED = [False, True, None, None]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as what the extension says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("out", ["labelled.csv", "labelled.parquet"])
def test_a_table_of_any_kind(vlmscope: Command, tmp_path: Path, suffix: str, out: str) -> None:
    table = write(tmp_path / f"answers{suffix}", ROWS)
    before = table.read_bytes()
    done = vlmscope("label", table, "--out", tmp_path / out)
    assert done.code == 0, done.err
    assert table.read_bytes() == before
    found = read(tmp_path / out)
    assert [row["id"] for row in found] == ["a", "b", "c", "d"]
    assert [row["question"] for row in found] == [row["question"] for row in ROWS]
    assert [row["outcome"] for row in found] == [
        "faithful", "hallucinated", "unscorable", "unscorable",
    ]  # fmt: skip
    assert found[3]["evidence"] == "generation failed, there is no answer"
    if out.endswith(".csv"):  # what probe --labels takes for research files
        assert read_label_file(tmp_path / out) == dict(zip("abcd", WANTED, strict=True))
    else:
        assert [row["hallucinated"] for row in found] == WANTED
        kept = json.loads(pq.read_schema(tmp_path / out).metadata[b"vlmscope"])
        assert kept["settings"] == {"scorer": "auto"}


def test_json_names_the_file_and_the_counts(vlmscope: Command, tmp_path: Path) -> None:
    table = write(tmp_path / "answers.csv", ROWS)
    done = vlmscope("label", table, "--out", tmp_path / "o.csv", "--json")
    record = json.loads(done.out)
    assert record["labels"] == str(tmp_path / "o.csv")
    assert record["all"]["hallucinated"] == 1
    assert record["settings"] == {"scorer": "auto"}


def test_columns_of_other_names(vlmscope: Command, tmp_path: Path) -> None:
    rows = [{"Q": r["question"], "T": r["truth"], "said": r["answer"]} for r in ROWS]
    table, out = write(tmp_path / "t.csv", rows), tmp_path / "o.csv"
    done = vlmscope("label", table, "--out", out)
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert len(lines) == 1
    for text in ("the question (question)", "the target (", "the answer (", "found: Q, T, said",
                 "--map question=COLUMN --map target=COLUMN --map answer=COLUMN"):  # fmt: skip
        assert text in lines[0]
    maps = ("--map", "question=Q", "--map", "target=T", "--map", "answer=said")
    assert vlmscope("label", table, "--out", out, *maps).code == 0
    found = read(out)
    assert list(found[0])[:4] == ["question_id", "Q", "T", "said"]
    assert [row["question_id"] for row in found] == ["row_1", "row_2", "row_3", "row_4"]
    assert [row["outcome"] for row in found[:2]] == ["faithful", "hallucinated"]
    # The truth of another column, at label time.
    assert vlmscope("label", table, "--out", out, *maps[:2], *maps[4:], "--target", "T").code == 2
    done = vlmscope(
        "label", table, "--out", out, "--overwrite", *maps[:2], *maps[4:], "--target", "T", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["settings"]["target"] == "T"
    assert read(out) == found


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["image=x"], "one of the fields id, question, target, answer"),
        (["answer"], "expected field=column"),
        (["answer=a", "answer=b"], "already mapped"),
        (["answer=nothing"], "no column for the answer (nothing)"),
        (["id=nothing"], "no column for the id (nothing)"),
        (["category=answer"], "--map category=answer: this column is the answer"),
        (["category=truth"], "--map category=truth: this column is the target"),
    ],
)
def test_maps_that_are_wrong(
    vlmscope: Command, tmp_path: Path, maps: list[str], message: str
) -> None:
    table = write(tmp_path / "t.csv", ROWS)
    options = [part for item in maps for part in ("--map", item)]
    done = vlmscope("label", table, "--out", tmp_path / "o.csv", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "o.csv").exists()


def test_a_mapped_category_replaces_no_other(vlmscope: Command, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [row | {"category": "seen", "kind": "k"} for row in ROWS])
    args = "label", table, "--out", tmp_path / "o.csv", "--map"
    refused = vlmscope(*args, "category=kind")
    assert refused.code == 2
    assert "the table has a column 'category' too, which would be lost" in refused.err
    assert vlmscope(*args, "category=category").code == 0


def test_nothing_is_overwritten_unasked(vlmscope: Command, tmp_path: Path) -> None:
    table, out = write(tmp_path / "t.csv", ROWS), tmp_path / "mine.csv"
    out.write_text("my work")
    before = table.read_bytes()
    for path, message in (
        (out, "already exists; give --overwrite"),
        (table, "is the table itself"),
        (tmp_path / "x.txt", "name it .csv or .parquet"),
        (tmp_path / "no" / "x.csv", "does not exist; make it first"),
        (tmp_path, "name it .csv or .parquet"),
    ):
        done = vlmscope("label", table, "--out", path)
        assert done.code == 2, path
        assert message in done.err
    assert vlmscope("label", table, "--out", table, "--overwrite").code == 2
    (tmp_path / "link.csv").symlink_to(table)
    assert vlmscope("label", table, "--out", tmp_path / "link.csv", "--overwrite").code == 2
    assert (out.read_text(), table.read_bytes()) == ("my work", before)
    assert "give --out FILE" in vlmscope("label", table).err
    assert "--name: is for a run" in vlmscope("label", table, "--out", out, "--name", "x").err
    assert "no such file" in vlmscope("label", tmp_path / "none.csv", "--out", out).err
    with pytest.raises(InputError, match="is there already"):
        write_labelled(out, read_answer_files(table), [])
    assert vlmscope("label", table, "--out", out, "--overwrite").code == 0
    assert len(read(out)) == len(ROWS)


def test_labels_that_were_there_are_kept_beside(vlmscope: Command, tmp_path: Path) -> None:
    """A labelled table that is labelled again keeps what somebody said before."""
    rows = [{**row, "outcome": "mine", "hallucinated": i} for i, row in enumerate(ROWS)]
    table = write(tmp_path / "t.csv", rows)
    assert vlmscope("label", table, "--out", tmp_path / "1.csv").code == 0
    first = read(tmp_path / "1.csv")
    assert [row["input_outcome"] for row in first] == ["mine"] * 4
    assert [row["input_hallucinated"] for row in first] == ["0", "1", "2", "3"]
    assert first[1]["outcome"] == "hallucinated"
    assert vlmscope("label", tmp_path / "1.csv", "--out", tmp_path / "2.csv").code == 0
    second = read(tmp_path / "2.csv")
    assert second[0]["outcome"] == first[0]["outcome"]
    assert "mine" in second[0].values()
    assert len(set(second[0])) == len(second[0])


def test_ids_that_stand_twice_or_not_at_all(vlmscope: Command, tmp_path: Path) -> None:
    for change, message in (
        ({"id": "a"}, "line 3: the id 'a' is also in line 2"),
        ({"id": ""}, "line 3: the id in column 'id' is empty"),
    ):
        table = write(tmp_path / "t.csv", [ROWS[0], {**ROWS[1], **change}])
        done = vlmscope("label", table, "--out", tmp_path / "o.csv")
        assert done.code == 2
        assert message in done.err


def test_labels_of_a_column_and_of_a_file(vlmscope: Command, tmp_path: Path) -> None:
    rows = [{**row, "judged": i % 2} for i, row in enumerate(ROWS)]
    table, out = write(tmp_path / "t.jsonl", rows), tmp_path / "o.parquet"
    done = vlmscope("label", table, "--out", out, "--column", "judged")
    assert done.code == 0, done.err
    assert "read: judged = " in done.out
    assert "3 → " not in done.out
    (tmp_path / "l.csv").write_text("id,label\na,1\nzz,0\n")
    done = vlmscope("label", table, "--out", out, "--labels", tmp_path / "l.csv", "--overwrite")
    assert "read: label = 1 → hallucinated, 1 row; 1 question of the file not in" in done.out
    assert [row["hallucinated"] for row in read(out)] == [True, None, None, None]


def test_cells_of_mixed_types(tmp_path: Path) -> None:
    mixed = [1, "x", [1, {"é": 2}], None, True, 2.5, 10**30, "y"]
    rows = [{**ROWS[0], "id": str(i), "mixed": cell} for i, cell in enumerate(mixed)]
    table = read_answer_files(write(tmp_path / "t.json", rows))
    scores = [Score(id_, None, "s", "half \ud800") for id_ in table.ids]
    for name in ("o.csv", "o.parquet"):
        found = read(write_labelled(tmp_path / name, table, scores))
        assert [row["mixed"] or None for row in found] == [
            "1", "x", '[1, {"é": 2}]', None, "true", "2.5", str(10**30), "y",
        ]  # fmt: skip


def test_cells_and_names_that_no_file_holds(vlmscope: Command, tmp_path: Path) -> None:
    """Half a surrogate pair in a name or a cell is written as a file can hold it."""
    row = {**ROWS[0], "answer": "Yes \ud800", "odd\ud800": 1, "": 2}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    for name in ("o.csv", "o.parquet"):
        done = vlmscope("label", tmp_path / "t.jsonl", "--out", tmp_path / name)
        assert done.code == 0, done.err
        (found,) = read(tmp_path / name)
        assert found["outcome"] == "faithful"
        assert len(found) == len(row) + 5


@pytest.mark.parametrize(
    ("field", "cell", "message"),
    [
        ("answer", '["a"]', "the answer in column 'answer' is a list, expected text"),
        ("question", '{"a": 1}', "the question in column 'question' is a dict, expected text"),
        ("answer", "1" + "0" * 5000, "t.jsonl line 1"),
    ],
)
def test_cells_that_are_no_text(
    vlmscope: Command, tmp_path: Path, field: str, cell: str, message: str
) -> None:
    text = json.dumps({**ROWS[0], field: "CELL"}).replace('"CELL"', cell)
    (tmp_path / "t.jsonl").write_text(text + "\n", "utf-8")
    done = vlmscope("label", tmp_path / "t.jsonl", "--out", tmp_path / "o.csv")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert message in done.err
    assert not (tmp_path / "o.csv").exists()


def test_an_export_brings_the_columns_of_its_table(vlmscope: Command, tmp_path: Path) -> None:
    """The category too, which the probe's baselines need; older labels are not read as these."""
    rows = []
    for i in range(4):
        row = make_capture(i, answer="No.")
        metadata = {"category": f"kind {i}", "is_hallucinating": "1", "answer": {"a": 1}}
        target = "yes" if i % 2 else "no"
        rows.append(replace(row, sample=replace(row.sample, target=target, metadata=metadata)))
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(rows)
    out = tmp_path / "o.csv"
    assert vlmscope("export", tmp_path / "run", tmp_path / "all.h5").code == 0
    done = vlmscope("label", tmp_path / "all.h5", "--out", out)
    assert done.code == 0, done.err
    assert "kind 3" in done.out
    found = read(out)
    assert [row["category"] for row in found] == [f"kind {i}" for i in range(4)]
    assert [row["input_is_hallucinating"] for row in found] == ["1"] * 4
    assert [row["answer"] for row in found] == ["No."] * 4
    assert [row["metadata.answer"] for row in found] == ['{"a": 1}'] * 4
    assert list(read_label_file(out).values()) == [False, True, False, True]


def test_files_of_the_research(vlmscope: Command, tmp_path: Path) -> None:
    folder, out = tmp_path / "files", tmp_path / "o.csv"
    folder.mkdir()
    rows = [research_row(i, answer="No." if i % 2 else "Yes.", ground_truth_answer="No")
            for i in range(6)]  # fmt: skip
    rows[5]["answer"] = "[Generation failed: out of memory]"
    write_part(folder / "m_part_001.h5", rows[:4])
    write_part(folder / "m_part_002.h5", rows[4:])
    done = vlmscope("label", folder, "--out", out)
    assert done.code == 0, done.err
    found = read(out)
    assert [row["question_id"] for row in found] == [row["question_id"] for row in rows]
    assert [row["outcome"] for row in found] == [
        "hallucinated", "faithful", "hallucinated", "faithful", "hallucinated", "unscorable",
    ]  # fmt: skip
    assert read_label_file(out)["question_comb_000"] is True
    assert not list(folder.glob("labels*"))
    one = vlmscope("label", folder / "m_part_001.h5", "--out", tmp_path / "one.csv")
    assert one.code == 0
    assert len(read(tmp_path / "one.csv")) == 4
    refused = vlmscope("label", folder, "--out", tmp_path / "x.csv", "--map", "answer=a")
    assert "--map: is for a table" in refused.err


@pytest.mark.parametrize("kind", ["x.h5", "x.parquet"])
def test_our_own_export(vlmscope: Command, tmp_path: Path, kind: str) -> None:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([make_capture(i) for i in range(4)])
    assert vlmscope("export", tmp_path / "run", tmp_path / kind).code == 0
    done = vlmscope("label", tmp_path / kind, "--out", tmp_path / "o.csv")
    assert done.code == 0, done.err
    found = read(tmp_path / "o.csv")
    assert len(found) == 4
    assert not [name for name in found[0] if "representation" in name]


def answers(path: Path, rows: list[tuple[str, str, str, int]], times: int = 10) -> Path:
    """Write a table of question, truth, answer and a column ``score``, each row many times."""
    return write(path, [
        {"id": f"{i}_{n}", "question": question, "truth": truth, "answer": answer, "score": score}
        for n in range(times) for i, (question, truth, answer, score) in enumerate(rows)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("scorer", "warning"),
    [
        ("exact", "exact: 30 answers that auto reads as right are labelled hallucinated, "
                  "because they are worded differently from the ground truth; omit --scorer"),
        ("vqa", ""),
        ("yesno", ""),
        ("auto", ""),
    ],
)  # fmt: skip
def test_right_answers_that_a_scorer_calls_hallucinated_are_told(
    vlmscope: Command, tmp_path: Path, scorer: str, warning: str
) -> None:
    table = answers(tmp_path / "t.csv", [
        ("Is there a fork?", "No", "No, there is no fork.", 1),
        ("Is there a cup?", "Yes", "Yes, there is.", 1),
        ("What colour is it?", "red", "It is red.", 1),
        ("What colour is it?", "red", "blue", 0),
    ])  # fmt: skip
    done = vlmscope("label", table, "--out", tmp_path / "o.csv", "--scorer", scorer, "--json")
    assert done.code == 0, done.err
    lines = done.err.strip().splitlines()
    found = json.loads(done.out)["doubt"]
    if not warning:
        assert (lines, found) == ([], None)
        return
    [line] = lines
    assert f"warning: {warning}" in line
    assert found["text"] in line
    assert (f"{found['rows']} answers" in line, found["estimated"]) == (True, False)


def test_right_answers_are_estimated_in_a_large_table(
    vlmscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmscope.cli.label_doubts.LOOKED_AT", 7)
    table = answers(tmp_path / "t.csv", [("Is it?", "No", "No, it is not.", 1)], 40)
    done = vlmscope("label", table, "--out", tmp_path / "o.csv", "--scorer", "exact")
    assert "exact: about 40 answers that auto reads as right" in done.err


@pytest.mark.parametrize(("wrong_way", "times"), [(True, 10), (False, 10), (True, 4)])
def test_labels_the_other_way_round_are_told(
    vlmscope: Command, tmp_path: Path, wrong_way: bool, times: int
) -> None:
    """A column whose name says nothing: 1 is hallucinated, unless the rules say otherwise."""
    table = answers(tmp_path / "t.csv", [
        ("Is there a fork?", "No", "No", int(wrong_way)),
        ("Is there a cup?", "Yes", "Yes", int(wrong_way)),
        ("Is there a dog?", "Yes", "No", int(not wrong_way)),
        ("Is there a cat?", "Yes", "Perhaps.", 1),
    ], times)  # fmt: skip
    done = vlmscope("label", table, "--out", tmp_path / "o.csv", "--column", "score")
    assert done.code == 0, done.err
    told = f"the rules label {3 * times} of {3 * times} answers the opposite way"
    assert (told in done.err) == (wrong_way and times == 10)
    named = write(tmp_path / "n.csv", [
        {**row, "is_correct": row["score"]} for row in read(table)
    ])  # fmt: skip
    done = vlmscope("label", named, "--out", tmp_path / "n_out.csv", "--column", "is_correct")
    assert "1 → faithful" in done.out.partition("read: is_correct = ")[2]
    assert ("the opposite way" in done.err) == (not wrong_way)


OPTIONS = [
    {"id": "a", "question": "How many?", "choices": ["2", "3", "5"], "truth": 2, "answer": "C"},
    {"id": "b", "question": "How many?", "choices": ["2", "3", "5"], "truth": 2, "answer": "2"},
    {"id": "c", "question": "Which?", "choices": ["cup", "boat"], "truth": 0, "answer": "A"},
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", ".csv"])
def test_truths_that_are_numbers_of_options(vlmscope: Command, tmp_path: Path, suffix: str) -> None:
    table, out = write(tmp_path / f"answers{suffix}", OPTIONS), tmp_path / "o.csv"
    for template in ((), ("--question-template", r"{question}\n{choices:A}")):
        done = vlmscope("label", table, "--out", out, "--overwrite", *template)
        assert done.code == 0, done.err
        assert "read: truth 0 = the first of 'choices' in 3 rows" in done.out
        outcomes = ["faithful", "hallucinated", "faithful"]
        assert [row["outcome"] for row in read(out)] == outcomes
        assert [row["question"] for row in read(out)] == ["How many?", "How many?", "Which?"]


def test_a_question_made_of_other_columns(vlmscope: Command, tmp_path: Path) -> None:
    row = {"id": "a", "asked": "Which?", "A": "cup", "B": "boat", "truth": "B", "answer": "A. cup"}
    table, out = write(tmp_path / "t.csv", [row]), tmp_path / "o.csv"
    given = ("label", table, "--out", out, "--question-template")
    done = vlmscope(*given, r"{asked}\nA. {A}\nB. {B}")
    assert done.code == 0, done.err
    assert read(out)[0]["evidence"] == 'option a, truth "B"'
    assert "has no column 'other'" in vlmscope(*given, "{other}", "--overwrite").err
    done = vlmscope(*given, "{asked:A}", "--overwrite")
    assert "t.csv line 2: the value in column 'asked' is 'Which?', expected a list" in done.err
    assert "the --question-template" in done.err


def test_a_template_is_for_tables(vlmscope: Command, tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add([make_capture(1)])
    write_part(tmp_path / "part.h5", [research_row(1)])
    for path, out in (
        (tmp_path / "run", ()),
        (tmp_path / "part.h5", ("--out", tmp_path / "o.csv")),
    ):
        done = vlmscope("label", path, "--question-template", "{question}", *out)
        assert done.code == 2
        assert done.err.startswith("error: --question-template: is for a table")


def test_a_category_for_each_row_does_not_fill_the_terminal(
    vlmscope: Command, tmp_path: Path
) -> None:
    kinds = ["often"] * 3 + [f"kind {n}" for n in range(60)] + ["last"] * 2
    rows = [ROWS[0] | {"id": f"q{n}", "kind": kind} for n, kind in enumerate(kinds)]
    args = "label", write(tmp_path / "t.csv", rows), "--map", "category=kind", "--out"
    shown = vlmscope(*args, tmp_path / "shown.csv").out
    assert shown.count("\nkind ") == 48
    assert "\noften" in shown
    assert "\nlast" in shown
    assert "and 12 more categories, of as many rows or fewer; --json lists all" in shown
    found = json.loads(vlmscope(*args, tmp_path / "all.csv", "--json").out)
    assert len(found["categories"]) == 62
