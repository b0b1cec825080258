"""What ``vlmscope extract`` says of rows that failed, beside their number."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from material import make_image
from vlmscope.cli import main
from vlmscope.store import open_run

Command = Callable[..., Any]

HEADER = "question_id,image_name,question,gt_answer\n"


@pytest.fixture
def write(tmp_path: Path, table: Path) -> Callable[[str, dict[str, str]], Path]:
    """Write a table of id → image name beside the images."""

    def written(name: str, images: dict[str, str]) -> Path:
        path = tmp_path / name
        rows = (f"{id_},{image},What is it?,Yes\n" for id_, image in images.items())
        path.write_text(HEADER + "".join(rows))
        return path

    return written


def test_the_most_frequent_reason_is_said_with_what_to_do(extract: Command, write: Any) -> None:
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "gone.png", "d": ""})
    said = extract(data=data).err
    assert "3 rows failed" in said
    assert "most often (2 of 3): no image in column 'image_name'" in said
    assert "pass --text-only for questions without an image" in said


def test_reasons_that_differ_in_a_name_are_one(extract: Command, write: Any) -> None:
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "1.mp4", "d": "two.mp4"})
    said = extract(data=data).err
    assert "most often (2 of 3): for example, the image '1.mp4' is a video" in said
    assert "extract a frame" in said


def test_reasons_that_all_differ_are_listed(extract: Command, write: Any) -> None:
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "1.mp4", "d": "http://x.org/a.png"})
    said = extract(data=data).err
    assert "most often" not in said
    for kind in ("no image in column", "the image '1.mp4' is a video", "is a URL"):
        [line] = [line for line in said.splitlines() if kind in line]
        assert line.startswith("1 of 3: ")


def test_only_failures_of_this_session_count(extract: Command, write: Any) -> None:
    """The file keeps those of the session before."""
    data = write("t.csv", {"a": "one_0.png", "b": "", "c": "new.png", "d": "newer.png"})
    first = extract(data=data)
    assert "most often (2 of 3): for example, image" in first.err
    for name in ("new.png", "newer.png"):
        make_image("one", 5).save(data.parent / name)
    again = extract(data=data)
    assert "1 row failed" in again.err
    assert "reason: no image in column 'image_name'" in again.err


@pytest.mark.first(1)
@pytest.mark.parametrize("line", ['{"id": "b", "sta', "7", "[" * 5000, '{"id": 3}', "\ud83d"])
def test_lines_that_are_no_failures_hide_no_reason(
    extract: Command, write: Any, tmp_path: Path, line: str
) -> None:
    """A kill tore one, or somebody else wrote it."""
    data = write("t.csv", {"a": "one_0.png", "b": ""})
    extract(data=data)
    [log] = tmp_path.rglob("failures.jsonl")
    log.write_bytes(log.read_bytes() + line.encode("utf-8", "surrogatepass"))
    assert "reason: no image in column 'image_name'" in extract(data=data).err


@pytest.mark.exhaustive
def test_nothing_is_said_where_nothing_failed(extract: Command) -> None:
    done = extract()
    assert done.code == 0
    assert "most often" not in done.err


@pytest.mark.exhaustive
def test_one_cell_that_no_run_can_hold_stops_no_other_row(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    """From extract to report; and the same command tries the rows again."""
    deep: Any = 1
    for _ in range(240):
        deep = {"a": [deep]}
    plain = {"image": "one_0.png", "question": "What is it?", "answer": "Yes"}
    rows = [
        {"id": "first", **plain, "category": "\ud800x", "\udfff\n": 1},
        {"id": "deep", **plain, "tags": deep},
        {"id": "deep truth", **plain, "answer": deep},
        {"id": "last", **plain, "category": [["a"], "\ud800"]},
    ]
    data = table.parent / "t.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for attempt in (1, 2):
        done = extract(data=data)
        assert done.code == 3
        assert "2 rows failed" in done.err
        run = open_run(tmp_path / "run")
        assert run.ids == ("first", "last")
        assert {id_: failed.attempt for id_, failed in run.failures.items()} == {
            "deep": attempt, "deep truth": attempt
        }  # fmt: skip
        assert all("nests deeper than 64 levels" in f.error for f in run.failures.values())
    labelled = vlmscope("label", tmp_path / "run")
    assert labelled.code == 0, labelled.err
    assert "\ufffdx" in labelled.out
    labelled.out.encode()
    wrong = vlmscope("label", tmp_path / "run", "--column", "none")
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)
    for command in ("info", "verify", "report"):
        assert vlmscope(command, tmp_path / "run").code == 0
    assert vlmscope("export", tmp_path / "run", tmp_path / "out.parquet").code == 0


@pytest.mark.exhaustive
def test_a_terminal_that_lacks_a_sign_stops_nothing(
    extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(out="café")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    monkeypatch.setattr(sys, "argv", ["vlmscope", "info", str(tmp_path / "café")])
    with pytest.raises(SystemExit):
        main()
    assert b"caf\\u00e9: 10 rows" in written.getvalue()


@pytest.mark.exhaustive
def test_in_an_object_store_too_the_place_and_the_reason_are_said(
    vlmscope: Command, write: Any, checkpoint: Path, bucket: str
) -> None:
    images = {"a": "one_0.png", "b": "", **{f"c{i}": "gone.png" for i in range(5)}}
    data, out = write("t.csv", images), f"{bucket}/run"
    command = ("extract", data, "--model", checkpoint, "--out", out, "--max-new-tokens", 0)
    first = vlmscope(*command)
    assert f"6 rows failed: see {out}/failures-*.jsonl; " in first.err
    assert "most often (5 of 6): " in first.err
    assert f"… all in {out}/failures-*.jsonl" in vlmscope("info", out).out
    make_image("one", 5).save(data.parent / "gone.png")
    again = vlmscope(*command)  # in an object of its own
    assert "reason: no image in column 'image_name'" in again.err
    assert "failures.jsonl" not in first.err + again.err
