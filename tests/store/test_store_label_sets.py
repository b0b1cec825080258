"""Label sets of a run by name: each is a file of its own, and no name leads anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlmscope.errors import InputError, StoreError
from vlmscope.schema import Score
from vlmscope.store import (
    DEFAULT,
    label_sets,
    label_settings,
    labels_file,
    open_run,
    read_labels,
    write_labels,
)

MINE = [Score("question_comb_1", True, "yesno", "says no, truth yes")]
HUMAN = [Score("question_comb_1", False, "file", "by_hand.csv says faithful")]

HOSTILE = (
    "", ".", "..", "a/b", "/etc/passwd", "../labels", "a\\b", "a\0b", "a\nb", "a b", "-x", "a.b",
    "x" * 65, "é", "\ud800", "%2e%2e", "labels.parquet", "CON:", "*", "a" * 5000,
)  # fmt: skip


def test_sets_do_not_touch_each_other(run: Path) -> None:
    assert label_sets(run) == ()
    write_labels(run, MINE, {"scorer": "auto"})
    default = (run / "labels.parquet").read_bytes()
    path = write_labels(run, HUMAN, {"scorer": "file"}, "human")
    assert path == run / "labels-human.parquet"
    assert (run / "labels.parquet").read_bytes() == default
    assert label_sets(run) == (DEFAULT, "human")
    assert list(read_labels(run).values()) == MINE
    assert list(read_labels(str(run), "human").values()) == HUMAN
    assert label_settings(run, "human")["settings"] == {"scorer": "file"}
    assert labels_file(DEFAULT) == "labels.parquet"


def test_a_named_set_needs_no_default_one(run: Path) -> None:
    write_labels(run, HUMAN, {}, "b")
    write_labels(run, HUMAN, {}, "a_1-x")
    (run / "labels-.parquet").touch()
    (run / "labels-not a name.parquet").touch()
    (run / "labels-default.parquet").touch()  # no other name of the default set
    assert label_sets(run) == ("a_1-x", "b")
    with pytest.raises(InputError, match="no labels yet, there are label sets a_1-x, b; run"):
        read_labels(run)
    with pytest.raises(InputError, match=r"no label set 'c' yet, .*vlmscope label .* --name c'"):
        read_labels(run, "c")


@pytest.mark.first(6)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_in_one_short_line(run: Path, name: str) -> None:
    before = sorted(run.parent.rglob("*"))
    for use in (
        lambda: write_labels(run, MINE, {}, name),
        lambda: read_labels(run, name),
        lambda: label_settings(run, name),
        lambda: open_run(run).labels(name),
    ):
        with pytest.raises(InputError, match="expected 1 to 64 letters") as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 300
    assert sorted(run.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["labels-human.parquet", "probes-human"])
def test_a_named_file_or_folder_that_leads_out_of_the_run(
    run: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").mkdir()
    (run / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="is a symbolic link"):
        open_run(run)


def test_a_named_set_that_is_a_pipe(run: Path) -> None:
    """Whoever opens one waits for ever."""
    os.mkfifo(run / "labels-human.parquet")
    with pytest.raises(StoreError, match="is a pipe"):
        open_run(run)
