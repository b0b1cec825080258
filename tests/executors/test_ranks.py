"""``--shard``: which rows are whose, and what the environment says."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmscope.dataset import Share, open_table
from vlmscope.errors import InputError
from vlmscope.executors import share_of

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4"}
STEP = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}


def array(task: int, first: int, last: int, count: int, step: int = 1) -> dict[str, str]:
    found = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(number) for name, number in found.items()}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("0/1", {}, Share(0, 1)),
        ("7/8", TORCHRUN, Share(7, 8)),
        ("auto", TORCHRUN, Share(2, 4)),
        ("auto", TORCHRUN | array(0, 0, 7, 8) | STEP, Share(2, 4)),
        ("auto", array(3, 0, 7, 8), Share(3, 8)),
        ("auto", array(9, 1, 13, 4, 4), Share(2, 4)),
        ("auto", array(5, 5, 5, 1, 0), Share(0, 1)),
        ("auto", array(3, 0, 7, 8) | STEP, Share(3, 8)),
        ("auto", STEP, Share(5, 6)),
    ],
)
def test_the_rank_that_is_asked_for(
    text: str, environment: dict[str, str], expected: Share
) -> None:
    assert share_of(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("8/8", {}, "shard 8/8: there is no such rank"),
        ("0/0", {}, "shard 0/0: there is no such rank"),
        *((text, {}, "give I/N") for text in ("", "3", "-1/8", "1/-8", "a/b", "1/8/2", "1.5/8")),
        ("auto", {}, "RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID, or SLURM_PROCID and SLURM_NTASKS"),
        ("auto", {"RANK": "0"}, "WORLD_SIZE is not set"),
        ("auto", {"WORLD_SIZE": "2"} | STEP, "RANK is not set"),
        ("auto", {"RANK": "first", "WORLD_SIZE": "2"}, "RANK is 'first', not a number"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, "shard 2/2: there is no such rank"),
        ("auto", {"SLURM_PROCID": "0"}, "SLURM_NTASKS is not set"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_MIN is not set"),
        ("auto", array(5, 1, 7, 3), r"\(3 from 1 to 7\) have gaps"),
    ],
)
def test_what_is_no_rank(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        share_of(text, environment)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 questions about 100 images, most of which are not there, and 60 about none."""
    path = tmp_path / "many.csv"
    rows = [f"q{i},p{i % 100}.png,What is it?" for i in range(300)]
    bare = [f"b{i},,What is it?" for i in range(60)]
    path.write_text("\n".join(["id,image,question", *rows, *bare]))
    for i in range(0, 100, 9):
        (tmp_path / f"p{i}.png").touch()
    return path


def test_every_row_is_of_one_rank_and_questions_about_an_image_of_the_same(many: Path) -> None:
    shares = [open_table(many, text_only=True, share=Share(i, 5)) for i in range(5)]
    ids = [[row.id for row in table.rows()] for table in shares]
    assert [list(table.scan().ids) for table in shares] == ids
    assert sorted(id_ for share in ids for id_ in share) == sorted(open_table(many).scan().ids)
    assert all(50 < len(share) < 100 for share in ids)
    rank = {id_: number for number, share in enumerate(ids) for id_ in share}
    for i in range(100):
        assert rank[f"q{i}"] == rank[f"q{i + 100}"] == rank[f"q{i + 200}"]
    assert len({rank[f"b{i}"] for i in range(60)}) == 5
    # Another machine, another version of Python, another day: these may never change.
    assert [rank[f"q{i}"] for i in range(6)] == [2, 3, 3, 2, 3, 2]
    whole = open_table(many, text_only=True).scan()
    for table in shares:
        scan = table.scan()
        assert (scan.fingerprint, scan.rows, scan.without_image) == (whole.fingerprint, 360, 60)


def test_the_limit_is_the_tables_and_not_the_ranks(many: Path) -> None:
    shares = [open_table(many, limit=40, share=Share(i, 3)) for i in range(3)]
    assert sorted(id_ for table in shares for id_ in table.scan().ids) == sorted(
        f"q{i}" for i in range(40)
    )
    assert {table.scan().rows for table in shares} == {40}


def test_an_image_that_is_in_the_table_counts_by_its_name_or_bytes(tmp_path: Path) -> None:
    import pandas as pd

    images = [{"bytes": bytes([i % 9]) * 50, "path": None} for i in range(40)]
    frame = pd.DataFrame(
        {"id": [f"q{i}" for i in range(40)], "image": images, "question": "What is it?"}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    shares = [open_table(tmp_path / "t.parquet", share=Share(i, 2)) for i in range(2)]
    ids = [{row.id for row in table.rows()} for table in shares]
    assert ids[0] | ids[1] == set(frame["id"])
    assert ids[0]
    assert ids[1]
    for i in range(31):
        assert (f"q{i}" in ids[0]) == (f"q{i + 9}" in ids[0])
