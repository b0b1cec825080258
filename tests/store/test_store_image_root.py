"""Which folder of images ``run.json`` names after several sessions and writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from store_support import make_bare, make_captures, make_manifest
from vlmscope.schema import Failure
from vlmscope.store import Manifest, RunWriter, as_path, open_run, read_manifest
from vlmscope.store import writer as writer_module

FAILED = Failure("question_comb_9", "image", "not found")


def at(images: str | None, **data: Any) -> Manifest:
    return make_manifest(data={"images": images, **data})


def start(run: Path, manifest: Manifest, *numbers: int) -> None:
    """Run a session that captures these rows, and in which one fails."""
    with RunWriter(run, manifest) as writer:
        writer.add([FAILED, *make_captures(numbers)])


@pytest.mark.parametrize("remote", [False, True])
def test_it_is_the_one_that_rows_were_last_captured_from(tmp_path: Path, remote: bool) -> None:
    run = as_path(f"memory://root/{tmp_path.name}" if remote else tmp_path / "run")
    start(run, at(None))
    first = read_manifest(run)
    start(run, at("/a"))
    assert read_manifest(run) == first, "no row was captured"
    start(run, at("/a", path="/moved/questions.csv"), 0, 1)
    now = read_manifest(run).data
    assert (now.images, now.path) == ("/a", "/moved/questions.csv")
    start(run, at("/b"))
    assert read_manifest(run).data == now
    with RunWriter(run, at("/b")) as writer:
        writer.add([make_bare(5)])
        assert read_manifest(run).data == now, "a question without an image is found anywhere"
        writer.add(make_captures([2]))
    assert read_manifest(run).data.images == "/b"
    assert len(open_run(run)) == 4


def test_nothing_else_follows(tmp_path: Path) -> None:
    start(tmp_path, at(None))
    first = read_manifest(tmp_path)
    other = make_manifest(run_id="6f" * 16, device="cuda", data={"images": "/a"})
    start(tmp_path, other, 0)
    now = read_manifest(tmp_path)
    assert make_manifest(data={"images": "/a"}) == now
    assert first == make_manifest()


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "e" * 64, "several_tables": True},
        {"fields": {"id": "number"}},
        {"text_only": True},
    ],
)
def test_of_several_writers_none_undoes_what_another_records(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """A rank of the earlier table, which began first, captures its first row last."""
    start(tmp_path, at("/a"))
    with RunWriter(tmp_path, at("/b"), "rank_000_of_002") as slow:
        with RunWriter(tmp_path, at("/c", **changed), "rank_001_of_002") as other:
            other.add(make_captures([0]))
        before = read_manifest(tmp_path).data
        slow.add(make_captures([1]))
    now = read_manifest(tmp_path).data
    for name, value in changed.items():
        assert getattr(now, name) == value == getattr(before, name)
    assert now.images == ("/b" if "text_only" in changed else "/c")


def test_a_kill_before_the_first_row_leaves_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path, at(None))

    class Killed(BaseException):
        pass

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "publish", kill)
        with pytest.raises(Killed):
            start(tmp_path, at("/a"), 0)
    assert not len(open_run(tmp_path))
    start(tmp_path, at("/b"), 0)
    assert read_manifest(tmp_path).data.images == "/b"
