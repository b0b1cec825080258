"""A run that goes on with another version of its table: what is done, refused, and said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from executors.continuing import Sessions, rows, sessions_at, write_csv
from store.store_support import assert_same
from vlmscope.dataset import Share
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.executors import local
from vlmscope.labelling import label
from vlmscope.row_identity import write_ground_truths
from vlmscope.schema import FieldSpec
from vlmscope.score import Exact
from vlmscope.store import (
    Run,
    are_stale,
    export_run,
    find_damage,
    open_run,
    read_failures,
    read_manifest,
)
from vlmscope.store.format.checksums import SEAL_SIZE, seal_of

BEFORE = rows(*range(6))


@pytest.fixture
def local_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Sessions of a run in a folder."""
    return sessions_at(tmp_path, tmp_path / "run", monkeypatch)


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Sessions of a run in an object store in memory, which is faster than a folder."""
    return sessions_at(tmp_path, f"memory://continued/{tmp_path.name}", monkeypatch)


@pytest.fixture(params=["local_sessions", pytest.param("sessions", marks=pytest.mark.exhaustive)])
def any_sessions(request: pytest.FixtureRequest) -> Sessions:
    found: Sessions = request.getfixturevalue(request.param)
    return found


def assert_equal(found: Run, expected: Run) -> None:
    """Compare all rows of two runs, bit for bit."""
    assert sorted(found.ids) == sorted(expected.ids)
    for id_ in expected.ids:
        wanted = expected[id_]
        sample = replace(wanted.sample, image=f"/{wanted.sample.image_id}")
        assert_same(found[id_], replace(wanted, sample=sample))
    assert not find_damage(found.path)


@pytest.mark.usefixtures("row_groups")
@pytest.mark.first(1)
@pytest.mark.parametrize("limit", [2, None])
def test_appended_and_reordered_rows_go_on_and_equal_one_run(
    any_sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    any_sessions.start(BEFORE, limit=limit)
    after = rows(8, 3, 7, 0, 5, 1, 6, 4, 2)
    summary = any_sessions.start(after)
    assert summary.total == 9
    assert summary.already_done == (limit or 6)
    assert sorted(any_sessions.captured) == [f"q{i}" for i in range(limit or 6, 9)]
    whole = sessions_at(tmp_path, tmp_path / "whole", monkeypatch)
    whole.start(after)
    assert_equal(any_sessions.run, whole.run)
    assert whole.plan().todo == 0


@pytest.mark.exhaustive
def test_the_order_may_change_while_a_limit_is_on(sessions: Sessions) -> None:
    sessions.start(BEFORE, limit=2)
    summary = sessions.start(BEFORE[::-1], limit=5)
    assert (summary.total, summary.already_done, summary.captured) == (5, 1, 4)
    assert sessions.start(BEFORE[::-1]).captured == 0
    assert len(sessions.run) == 6


@pytest.mark.first(1)
@pytest.mark.parametrize("what", ["question", "image"])
def test_a_row_that_is_another_question_now_is_refused_before_the_model_is_loaded(
    sessions: Sessions, what: str
) -> None:
    sessions.start(BEFORE)
    sessions.loads = 0
    cells = {"question": {"question": "Is it so?"}, "image": {"image": "new.png"}}[what]
    after = [*BEFORE[:2], *rows(2, 4, **cells), BEFORE[3], *rows(5, 6)]
    for limit in (None, 1):  # a limit hides nothing
        with pytest.raises(RunMismatchError) as caught:
            sessions.plan(after, limit=limit)
        message = str(caught.value)
        assert f"2 rows of this run are other questions in t.csv: 'q2' ({what})" in message
        assert f"'q4' ({what}); restore them, give changed questions new ids" in message
        assert "\n" not in message
    assert sessions.loads == 0
    assert sessions.start(BEFORE).captured == 0, "nothing was changed by the attempt"
    renamed = [
        row | {"id": f"{row['id']}b"} if row in rows(2, 4, **cells) else row for row in after
    ]
    assert sessions.start(renamed).captured == 3
    assert set(sessions.run.ids) == {*(f"q{i}" for i in range(7)), "q2b", "q4b"}


@pytest.mark.exhaustive
def test_many_changed_rows_are_counted(sessions: Sessions) -> None:
    sessions.start(rows(*range(20)))
    with pytest.raises(RunMismatchError, match=r"20 rows .* \(question\) and 10 more; restore"):
        sessions.plan(rows(*range(20), question="?"))


@pytest.mark.first(1)
@pytest.mark.parametrize("question", ["", "a\0b"])
def test_a_stored_row_that_is_not_in_order_any_more_is_another_question(
    sessions: Sessions, question: str
) -> None:
    sessions.start(BEFORE)
    with pytest.raises(RunMismatchError, match=r"'q2' \(question\)"):
        sessions.plan([*BEFORE[:2], *rows(2, question=question), *BEFORE[3:]])


@pytest.mark.exhaustive
def test_rows_that_failed_may_change_and_are_tried_as_they_are_now(sessions: Sessions) -> None:
    sessions.unreadable = {"q1", "q2"}
    assert sessions.start(BEFORE).failed == 2
    sessions.unreadable = {"q2"}
    after = [
        BEFORE[0],
        *rows(1, image="mended.png", question="Is it 1 now?"),
        *BEFORE[2:],
        *rows(6),
    ]
    summary = sessions.start(after)
    assert (summary.captured, summary.failed) == (2, 1)
    assert sessions.run["q1"].sample.image_id == "mended.png"
    sessions.unreadable.clear()
    assert sessions.start(after).captured == 1
    assert not sessions.run.failures
    assert {id_: f.attempt for id_, f in read_failures(sessions.out).items()} == {"q1": 1, "q2": 2}


def test_rows_that_are_gone_stay_and_are_said(any_sessions: Sessions) -> None:
    any_sessions.start(BEFORE)
    kept = list(any_sessions.run)
    for round_ in range(2):  # as long as they are gone
        plan = any_sessions.plan([*BEFORE[:2], *BEFORE[4:], *rows(6)])
        [note] = [note for note in plan.notes if "no longer in the table" in note]
        assert "2 rows ('q2', 'q3')" in note
        assert {"q2", "q3"}.isdisjoint(plan.done)
        assert len(plan.done) == 4 + round_
        local.run_plan(plan)
    for before in kept:
        found = any_sessions.run[before.sample.id]
        assert_same(found, replace(before, sample=replace(before.sample, image="x")))
    plan = any_sessions.plan([*BEFORE, *rows(6)])
    assert not any("not in the table" in note for note in plan.notes)
    assert plan.todo == 0


def test_what_goes_and_comes_back_as_another_question_is_refused(sessions: Sessions) -> None:
    """The table of the last session does not have the row: what is stored of it still counts."""
    sessions.start(BEFORE)
    sessions.start(BEFORE[1:])
    with pytest.raises(RunMismatchError, match=r"'q0' \(question\)"):
        sessions.plan([*rows(0, question="Is it zero?"), *BEFORE[1:]])


@pytest.mark.parametrize(
    ("ids", "shown"),
    [(("7.0", "8.0"), "'7.0', '8.0'"), (("other", "another"), "'other', 'another'")],
)
def test_a_table_that_has_none_of_the_rows_is_refused(
    sessions: Sessions, ids: tuple[str, str], shown: str
) -> None:
    """As when a gap in a column of numbers made pandas write 7 as 7.0."""
    sessions.start([*rows(7, id="7"), *rows(8, id="8")])
    with pytest.raises(RunMismatchError) as caught:
        sessions.plan([*rows(7, id=ids[0]), *rows(8, id=ids[1])])
    assert f"the run has the ids '7', '8', the table {shown}" in str(caught.value)
    assert "another out" in str(caught.value)


def test_ids_of_another_type_are_the_same_text(local_sessions: Sessions, tmp_path: Path) -> None:
    local_sessions.start([*rows(7, id="7"), *rows(8, id="8")])
    data = tmp_path / "t.jsonl"
    lines = [*rows(8, id=8), *rows(7, id=7), *rows(9, id=9)]
    data.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    assert local_sessions.start(data=data).captured == 1
    assert local_sessions.run.ids == ("7", "8", "9")


def test_a_row_that_is_appended_twice_is_refused(sessions: Sessions) -> None:
    sessions.start(BEFORE)
    with pytest.raises(InputError, match="'q2' \\(lines 4, 8\\)"):
        sessions.plan([*BEFORE, *rows(2)])


@pytest.mark.exhaustive
def test_other_columns_and_metadata_are_no_other_rows(sessions: Sessions) -> None:
    sessions.start(rows(*range(6), topic="a", source="b"))
    plan = sessions.plan(rows(*range(7), topic="c", extra="d"))
    assert (plan.todo, plan.comparison.removed, plan.comparison.changed_ground_truths) == (
        1,
        (),
        (),
    )
    local.run_plan(plan)
    assert sessions.run["q0"].sample.metadata == {"topic": "a", "source": "b"}, "as it was captured"
    assert sessions.run["q6"].sample.metadata == {"topic": "c", "extra": "d"}


def test_columns_may_have_other_names(sessions: Sessions) -> None:
    sessions.start(BEFORE)
    renamed = [{"key": row["id"], "ask": row["question"], "image": row["image"]} for row in BEFORE]
    fields = FieldSpec(id="key", question="ask")
    assert sessions.start(renamed, fields=fields).captured == 0
    record = read_manifest(sessions.out).data
    assert record.fields["question"] == "ask", "whoever reads the table again needs the new names"


@pytest.mark.exhaustive
def test_the_table_that_was_read_last_is_on_record(
    local_sessions: Sessions, tmp_path: Path
) -> None:
    local_sessions.start(BEFORE)
    first = read_manifest(local_sessions.out)
    copy = write_csv(tmp_path / "copy.csv", BEFORE)
    local_sessions.start(data=copy)
    assert read_manifest(local_sessions.out) == first, "the same table somewhere else"
    longer = tmp_path / "longer.csv"
    local_sessions.start(rows(*range(9)), data=longer)
    now = read_manifest(local_sessions.out)
    assert now.data.path == str(longer)
    assert now.data.several_tables
    assert replace(now, data=first.data) == first


def test_a_run_of_an_earlier_version_goes_on(local_sessions: Sessions) -> None:
    local_sessions.start(BEFORE)
    path = local_sessions.out / "run.json"
    record = json.loads(path.read_text())
    del record["data"]["several_tables"]
    path.write_text(json.dumps(record))
    assert local_sessions.start().captured == 0
    assert "several_tables" not in path.read_text(), "nothing changed, nothing is written"
    with pytest.raises(RunMismatchError, match="'q0'"):
        local_sessions.plan(rows(*range(6), question="?"))
    assert local_sessions.start(rows(*range(7))).captured == 1
    assert read_manifest(local_sessions.out).data.several_tables


def test_rows_without_an_image_may_not_get_one(sessions: Sessions) -> None:
    bare = rows(0, 1, image="")
    sessions.start([*bare, *rows(2)], text_only=True)
    assert sessions.start([*bare[::-1], *rows(2, 3)], text_only=True).captured == 1
    with pytest.raises(RunMismatchError, match=r"'q1' \(image\)"):
        sessions.plan([bare[0], *rows(1, 2, 3)], text_only=True)


@pytest.mark.exhaustive
def test_which_of_two_columns_names_the_image_may_depend_on_the_files(
    local_sessions: Sessions, tmp_path: Path
) -> None:
    """As in POPE: a number in one column, a file's name in the other."""
    for i in range(4):
        (tmp_path / f"{i}.png").touch()
    table = [{"image_id": str(548880 + i)} | row for i, row in enumerate(BEFORE)]
    local_sessions.start(table)
    assert local_sessions.run["q0"].sample.image_id == "0.png"
    (tmp_path / "0.png").rename(tmp_path / "away.png")
    more = [*table[::-1], *rows(6, image_id="548890")]
    assert local_sessions.start(more).captured == 1
    with pytest.raises(RunMismatchError, match=r"1 row .* 'q0' \(image\)"):
        local_sessions.plan([{**table[0], "image": "new.png"}, *more[:-2]])


# Ranks


@pytest.mark.exhaustive
def test_ranks_take_their_share_of_the_longer_table(sessions: Sessions) -> None:
    for i in range(2):
        sessions.start(BEFORE, shard=Share(i, 2))
    captured = sum(sessions.start(rows(*range(12)), shard=Share(i, 2)).captured for i in range(2))
    assert captured == 6
    assert len(sessions.run) == 12


@pytest.mark.exhaustive
def test_a_rank_that_read_the_older_table_adds_nothing(
    local_sessions: Sessions, tmp_path: Path
) -> None:
    """It was planned before the table changed, and would write after another rank went on."""
    images = {"image": "same.png"}
    table = rows(*range(4), **images)
    local_sessions.start(table, limit=1)
    older = local_sessions.plan(data=write_csv(tmp_path / "older.csv", table))
    newer = [*table[:3], *rows(3, question="Is it three?", **images)]
    assert local_sessions.start(newer, limit=3).captured == 2
    with pytest.raises(RunMismatchError, match=r"another process .* run the same command again"):
        local.run_plan(older)
    assert local_sessions.start(newer).captured == 1
    assert local_sessions.run["q3"].sample.question == "Is it three?"


def test_ranks_that_begin_a_run_from_two_tables_do_not_mix_them(
    local_sessions: Sessions, tmp_path: Path
) -> None:
    other = rows(*range(6), question="Is it another?")
    one = local_sessions.plan(BEFORE, shard=Share(0, 2))
    two = local_sessions.plan(data=write_csv(tmp_path / "other.csv", other), shard=Share(1, 2))
    assert local.run_plan(one).captured
    with pytest.raises(RunMismatchError, match=r"another version of the table"):
        local.run_plan(two)
    assert {item.sample.question for item in local_sessions.run}.isdisjoint({"Is it another?"})


@pytest.mark.exhaustive
def test_labels_are_of_the_truths_that_were_read(local_sessions: Sessions) -> None:
    local_sessions.start(BEFORE)
    opened = local_sessions.run
    assert next(iter(opened.answers())).target == "Yes"
    local_sessions.start([*rows(0, answer="No"), *BEFORE[1:]])
    label(opened, Exact())
    assert are_stale(local_sessions.out), "judged by the truths of before"
    label(local_sessions.run, Exact())
    assert not are_stale(local_sessions.out)


# Truths


def test_another_truth_is_taken_and_labels_of_the_old_one_are_said_to_be_stale(
    any_sessions: Sessions, tmp_path: Path
) -> None:
    any_sessions.start(BEFORE)
    label(any_sessions.run, Exact())
    label(any_sessions.run, Exact(), name="read", settings={"scorer": "file"})
    assert not are_stale(any_sessions.out)
    plan = any_sessions.plan([*rows(0, 1, answer="No"), *BEFORE[2:], *rows(6, answer="Maybe")])
    [note] = [note for note in plan.notes if "ground truth changed" in note]
    assert "2 rows ('q0', 'q1'); label sets default were made from the old ground truth" in note
    assert any_sessions.run["q0"].sample.target == "Yes", "a plan changes nothing"
    local.run_plan(plan)
    truths = {row.id: row.target for row in any_sessions.run.answers()}
    assert truths == dict.fromkeys(("q2", "q3", "q4", "q5"), "Yes") | {
        "q0": "No", "q1": "No", "q6": "Maybe"
    }  # fmt: skip
    assert any_sessions.run["q0"].sample.target == "No"
    assert {item.sample.id: item.sample.target for item in any_sessions.run} == truths
    frame = any_sessions.run.to_pandas()
    assert dict(zip(frame["question_id"], frame["ground_truth_answer"], strict=True)) == truths
    exported = export_run(any_sessions.run, tmp_path / "export.parquet")
    assert (
        pd.read_parquet(exported or tmp_path / "export.parquet")["ground_truth_answer"][0] == "No"
    )
    assert are_stale(any_sessions.out)
    assert not are_stale(any_sessions.out, "read")
    label(any_sessions.run, Exact())
    assert not are_stale(any_sessions.out)
    assert not any("ground truth changed" in note for note in any_sessions.plan().notes)
    assert any_sessions.start([*BEFORE, *rows(6, answer="Maybe")]).captured == 0
    assert any_sessions.run["q0"].sample.target == "Yes", "back again"
    assert not any_sessions.run.changed_ground_truths


def test_a_truth_that_is_mapped_afterwards_is_taken(sessions: Sessions) -> None:
    gold = [{k: v for k, v in row.items() if k != "answer"} | {"gold": "No"} for row in BEFORE]
    sessions.start(gold, limit=3)
    assert sessions.run["q0"].sample.target == ""
    fields = FieldSpec(target="gold")
    summary = sessions.start(fields=fields)
    assert (summary.already_done, summary.captured) == (3, 3)
    assert {row.target for row in sessions.run.answers()} == {"No"}
    assert read_manifest(sessions.out).data.fields["target"] == "gold"


@pytest.mark.exhaustive
def test_a_table_without_truths_takes_none_away(sessions: Sessions) -> None:
    sessions.start(BEFORE)
    sessions.start([*rows(0, answer="No"), *BEFORE[1:]])
    bare = [{k: v for k, v in row.items() if k != "answer"} for row in rows(*range(7))]
    plan = sessions.plan(bare)
    assert not any("truth" in note for note in plan.notes)
    local.run_plan(plan)
    truths = [row.target for row in sessions.run.answers()]
    assert sorted(truths) == ["", "No", *["Yes"] * 5]


def test_truths_of_rows_that_are_gone_stay(sessions: Sessions) -> None:
    sessions.start(BEFORE)
    sessions.start([*rows(0, answer="No"), *BEFORE[1:]])
    sessions.start(BEFORE[1:])
    assert sessions.run["q0"].sample.target == "No"


def test_a_kill_before_the_truths_are_written_is_made_good(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.start(BEFORE)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "write_ground_truths", killed)
    with pytest.raises(KeyboardInterrupt):
        sessions.start(rows(*range(6), answer="No"))
    monkeypatch.setattr(local, "write_ground_truths", write_ground_truths)
    assert {row.target for row in sessions.run.answers()} == {"Yes"}
    sessions.start()
    assert {row.target for row in sessions.run.answers()} == {"No"}


def test_damaged_truths_are_said_in_a_line(local_sessions: Sessions) -> None:
    local_sessions.start(BEFORE)
    (local_sessions.out / "truths.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"truths\.parquet: cannot be read: .*; remove it"):
        list(local_sessions.run.answers())


# Images in the table


def png(colour: int) -> bytes:
    """Return images of the same size in bytes."""
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(file, "bmp")
    return file.getvalue()


@pytest.fixture
def hashed_sessions(local_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Sessions that keep the hash of each image, as a model does."""
    from vlmscope.dataset import hash_image, load_image

    original = local_sessions.capture_batch

    def hashed(batch: Any, *rest: Any) -> Any:
        return [
            replace(item, image_sha256=hash_image(load_image(item.sample.images[0])))
            for item in original(batch, *rest)
        ]

    monkeypatch.setattr("vlmscope.executors.runner.capture_batch", hashed)
    return local_sessions


def embedded(data: Path, *colours: int) -> Path:
    """Write a table that holds images of equal size without names."""
    images = [{"bytes": png(colour), "path": None} for colour in colours]
    frame = pd.DataFrame({"id": [f"q{i}" for i in range(len(colours))], "image": images})
    frame.assign(question="?").to_parquet(data)
    return data


@pytest.mark.exhaustive
def test_images_in_the_table_without_a_name_are_told_apart_by_their_pixels(
    hashed_sessions: Sessions, tmp_path: Path
) -> None:
    data = tmp_path / "t.parquet"
    hashed_sessions.start(data=embedded(data, 0, 10, 20))
    with pytest.raises(RunMismatchError, match=r"1 row .* 'q1' \(image\);"):
        hashed_sessions.plan(data=embedded(data, 0, 11, 20))
    assert hashed_sessions.start(data=embedded(data, 0, 10, 20, 30)).captured == 1
    with pytest.raises(RunMismatchError, match=r"1 row .* 'q1' \(image\);"):
        hashed_sessions.plan(data=embedded(data, 0, 11, 20, 30, 40))


@pytest.mark.exhaustive
def test_a_run_whose_fingerprint_counts_embedded_images_by_size_goes_on(
    hashed_sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "t.parquet"
    with monkeypatch.context() as earlier:
        earlier.setattr("vlmscope.dataset.images.cells._hash", len)
        hashed_sessions.start(data=embedded(data, 0, 10, 20))
        fingerprint = read_manifest(hashed_sessions.out).data.fingerprint
    with pytest.raises(RunMismatchError, match=r"1 row .* 'q1' \(image\);"):
        hashed_sessions.plan(data=embedded(data, 0, 11, 20))
    assert hashed_sessions.start(data=embedded(data, 0, 10, 20)).captured == 0
    assert hashed_sessions.start(data=embedded(data, 0, 10, 20, 30)).captured == 1
    assert read_manifest(hashed_sessions.out).data.fingerprint != fingerprint


# Damage


@pytest.mark.exhaustive
@pytest.mark.usefixtures("row_groups")
def test_damaged_rows_do_not_keep_a_changed_table_from_being_compared(
    local_sessions: Sessions,
) -> None:
    local_sessions.start(BEFORE)
    local_sessions.start(rows(*range(8)))
    first = min((local_sessions.out / "shards").iterdir())
    data = bytearray(first.read_bytes())
    start = data.index(b"Is it 3?")
    data[start : start + 8] = b"Is it X?"
    first.write_bytes(data)
    open_run(local_sessions.out)
    with pytest.raises(StoreError, match="damaged"):
        local_sessions.plan(rows(*range(9)))
    assert local_sessions.start(rows(*range(9)), redo_damaged=True).captured == 7
    assert len(local_sessions.run) == 9


@pytest.mark.usefixtures("row_groups")
def test_rows_of_an_earlier_version_with_other_arrays_are_left_alone(
    local_sessions: Sessions,
) -> None:
    local_sessions.start(BEFORE, batch_size=6)
    [shard] = (local_sessions.out / "shards").iterdir()
    with h5py.File(shard, "r+") as file:
        del file["_columns/query_token_representation/layer_2"]
    rest = shard.read_bytes()[SEAL_SIZE:]
    shard.write_bytes(seal_of(rest) + rest)
    before = shard.read_bytes()
    for options in ({}, {"redo_damaged": True}):
        with pytest.raises(RunMismatchError, match=r"lack query_token.*layer_2, an earlier"):
            local_sessions.plan(rows(*range(9)), **options)
    assert list(shard.parent.iterdir()) == [shard]
    assert shard.read_bytes() == before


def test_another_column_as_the_category_is_said(local_sessions: Sessions) -> None:
    table = [row | {"kind": "colour", "topic": "food"} for row in BEFORE]
    kind, topic = FieldSpec(category="kind"), FieldSpec(category="topic")
    assert local_sessions.plan(table, fields=kind).notes == (), "there are no rows yet"
    local_sessions.start(table, fields=kind, limit=4)
    assert local_sessions.plan(fields=kind).notes == ()
    [note] = local_sessions.plan(fields=topic).notes
    assert note == (
        "the 4 rows in the run were captured with --map category=kind, this command is with --map "
        "category=topic: stored rows keep their categories, and new ones have others; to have the "
        "same in all rows, run it with --map category=kind"
    )
    [note] = local_sessions.plan().notes
    assert "this command is without --map category" in note, "forgotten"
    local_sessions.start()
    [note] = local_sessions.plan(fields=kind).notes
    assert "captured without --map category" in note, "given too late"
