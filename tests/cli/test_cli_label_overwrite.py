"""Labels that somebody made by hand are not replaced unless that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store_support import make_capture, make_manifest
from vlmscope.errors import InputError, RunBusyError, UnreachableError
from vlmscope.labelling import label
from vlmscope.schema import Answered, Score
from vlmscope.score import Column, LabelFile, YesNo
from vlmscope.store import RunWriter, alone, label_settings, open_run, read_labels

Command = Callable[..., Any]

ROWS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("labels") / "run"
    with RunWriter(run, make_manifest()) as writer:
        rows = [make_capture(i) for i in range(ROWS)]
        writer.add([
            replace(
                row,
                answer="Yes",
                sample=replace(row.sample, target="Yes", metadata={"by_hand": i % 2 == 0}),
            )
            for i, row in enumerate(rows)
        ])  # fmt: skip
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A file with two labels and four gaps."""
    return write(tmp_path / "by_hand.csv", [True, True, None, None, None, None])


def write(path: Path, labels: Iterable[bool | None]) -> Path:
    lines = ["question_id,is_hallucinating_manual"]
    lines += [
        f"question_comb_{i},{'' if found is None else found}" for i, found in enumerate(labels)
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def state(run: Path) -> bytes:
    return (run / "labels.parquet").read_bytes()


RULES = {
    "auto": (), "yesno": ("--scorer", "yesno"), "vqa": ("--scorer", "vqa"),
    "exact": ("--scorer", "exact"), "column": ("--column", "by_hand"),
    "judge": ("--judge-model", "m", "--judge-url", "http://127.0.0.1:1", "--yes"),
}  # fmt: skip


@pytest.mark.first(1)
@pytest.mark.parametrize("rule", RULES)
def test_labels_of_a_file_are_kept(vlmscope: Command, run: Path, by_hand: Path, rule: str) -> None:
    assert vlmscope("label", run, "--labels", by_hand).code == 0
    before = state(run)
    done = vlmscope("label", run, *RULES[rule])
    assert done.code == 2
    # Of the column's labels the first is the file's too.
    count = "1 label" if rule == "column" else "2 labels"
    assert done.err == (
        f"error: {run}: {count} read from {by_hand} would be lost; give --overwrite to replace "
        "them\n"
    )
    assert state(run) == before
    if rule != "judge":
        assert vlmscope("label", run, *RULES[rule], "--overwrite").code == 0
        assert state(run) != before


@pytest.mark.first(1)
@pytest.mark.parametrize("rule", ["auto", "yesno"])
def test_labels_of_a_column_are_kept(vlmscope: Command, run: Path, rule: str) -> None:
    assert vlmscope("label", run, "--column", "by_hand").code == 0
    before = state(run)
    done = vlmscope("label", run, *RULES[rule])
    assert done.code == 2
    assert "6 labels read from the column 'by_hand' would be lost; give --overwrite" in done.err
    assert state(run) == before


@pytest.mark.exhaustive
def test_labels_that_were_made_here_are_replaced_as_ever(
    vlmscope: Command, run: Path, by_hand: Path
) -> None:
    for rule in ("auto", "exact", "vqa", "yesno", "auto"):
        assert vlmscope("label", run, *RULES[rule]).code == 0
    assert vlmscope("label", run, "--labels", by_hand).code == 0
    assert label_settings(run)["settings"]["scorer"] == "file"


def test_the_same_file_again(vlmscope: Command, run: Path, tmp_path: Path, by_hand: Path) -> None:
    """Nothing is lost by more labels, by the rest of the rows, or by another file that agrees."""
    assert vlmscope("label", run, "--labels", by_hand).code == 0
    assert vlmscope("label", run, "--labels", by_hand).code == 0
    more = write(tmp_path / "more.csv", [True, True, True, None, False, None])
    assert vlmscope("label", run, "--labels", more).code == 0
    before = state(run)
    for name, labels in {
        "changed": [False, True, True, None, False, None],
        "fewer": [True, True, True],
        "emptied": [True, None, True, None, False, None],
    }.items():
        done = vlmscope("label", run, "--labels", write(tmp_path / f"{name}.csv", labels))
        assert done.code == 2, name
        assert f"1 label read from {more} would be lost" in done.err, name
        assert state(run) == before
    assert vlmscope("label", run, "--labels", tmp_path / "changed.csv", "--overwrite").code == 0
    assert read_labels(run)["question_comb_0"].hallucinated is False


def test_a_file_without_a_label_is_nobodys_work(
    vlmscope: Command, run: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "none.csv", [None] * ROWS)
    assert vlmscope("label", run, "--labels", path).code == 0
    assert vlmscope("label", run).code == 0


@pytest.mark.first(1)
@pytest.mark.parametrize("damage", ["cut", "empty", "another table", "no record"])
def test_labels_of_which_nobody_knows_who_made_them(
    vlmscope: Command, run: Path, by_hand: Path, damage: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert vlmscope("label", run, "--labels", by_hand).code == 0
    path = run / "labels.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another table":
        pq.write_table(pa.table({"id": ["question_comb_0"], "mine": [True]}), path)
    else:
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    before = state(run)
    for arguments in ((), ("--labels", by_hand), ("--column", "by_hand")):
        done = vlmscope("label", run, *arguments)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
        assert "they may be a person's: give --overwrite" in done.err
        assert state(run) == before
    assert vlmscope("label", run, "--overwrite").code == 0
    assert len(read_labels(run)) == ROWS


def test_from_python(run: Path, by_hand: Path) -> None:
    opened = open_run(run)
    label(opened, LabelFile(by_hand))
    for scorer in (None, YesNo(), Column("by_hand")):
        with pytest.raises(InputError, match="would be lost; give overwrite=True"):
            label(opened, scorer)
    assert len(label(opened, YesNo(), overwrite=True)) == ROWS
    label(opened)


class Own:
    """A scorer of a Python user's."""

    def __init__(self, name: str, hallucinated: bool) -> None:
        self.name, self.hallucinated = name, hallucinated

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        return (Score(row.id, self.hallucinated, self.name, "mine") for row in rows)


def test_labels_of_a_scorer_that_is_not_known_here(vlmscope: Command, run: Path) -> None:
    """It may replace its own; whether a rule can make them again, nobody knows."""
    opened = open_run(run)
    label(opened, Own("mine", True))
    label(opened, Own("mine", False))
    done = vlmscope("label", run)
    assert done.code == 2
    assert "6 labels read from 'mine' would be lost" in done.err
    with pytest.raises(InputError):
        label(opened, Own("theirs", False))


def test_labels_that_come_while_a_judge_is_at_work(run: Path, by_hand: Path) -> None:
    """The last look is taken under the lock that the labels are written under."""
    opened = open_run(run)

    class Slow(Own):
        def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
            label(opened, LabelFile(by_hand))
            return super().__call__(rows)

    with pytest.raises(InputError, match="2 labels read from 'file' would be lost"):
        label(opened, Slow("judge", True))
    with alone(run, "labels", "labelling"), pytest.raises(RunBusyError, match="labelling this run"):
        label(opened, LabelFile(by_hand))


def test_a_store_that_does_not_answer_is_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnreachableError("cannot be reached")

    monkeypatch.setattr("vlmscope.labelling.writing.read_labels", fail)
    with pytest.raises(UnreachableError):
        label(open_run(run))


def test_probe_takes_no_labels_for_a_run(vlmscope: Command, run: Path, by_hand: Path) -> None:
    assert vlmscope("label", run, "--column", "by_hand").code == 0
    before = state(run)
    assert vlmscope("probe", run, "--labels", by_hand).code == 2
    assert state(run) == before
    export = run.parent / "files" / "research.h5"
    export.parent.mkdir()
    assert vlmscope("export", run, export).code == 0
    shutil.copy(run / "labels.parquet", export.parent)
    vlmscope("probe", export.parent, "--labels", by_hand, "--draws", 100, "--folds", 3)
    assert state(export.parent) == before


@pytest.mark.parametrize(
    "options", [(), ("--json",), ("--labels", "by_hand.csv"), ("--column", "x"), ("--name", "b")]
)
def test_a_run_without_rows_gets_no_label_set(
    vlmscope: Command, tmp_path: Path, by_hand: Path, options: tuple[str, ...]
) -> None:
    with RunWriter(tmp_path / "empty", make_manifest()):
        pass
    before = sorted(tmp_path.rglob("*"))
    given = (str(by_hand) if option == by_hand.name else option for option in options)
    done = vlmscope("label", tmp_path / "empty", *given)
    assert done.code == 2
    assert "empty: has no rows to label; run vlmscope extract first" in " ".join(done.err.split())
    assert len(done.err.strip().splitlines()) == 1
    with pytest.raises(InputError, match="has no rows to label"):
        label(tmp_path / "empty")
    assert sorted(tmp_path.rglob("*")) == before
