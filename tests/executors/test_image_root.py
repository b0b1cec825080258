"""What a user is told if a run continues with another folder of images, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from executors.continuing import Sessions, rows, sessions_at, write_csv
from vlmscope.dataset import folder_of_images
from vlmscope.dataset.tables.opening import absolute_data, open_source
from vlmscope.store import read_manifest

BEFORE = rows(*range(4))


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """Sessions of a run in an object store in memory."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return sessions_at(tmp_path, f"memory://roots/{tmp_path.name}", monkeypatch)


def test_nothing_is_said_of_earlier_rows_if_there_are_none(
    sessions: Sessions, tmp_path: Path
) -> None:
    sessions.unreadable = {f"q{i}" for i in range(4)}
    assert sessions.start(BEFORE).failed == 4
    assert sessions.plan(images=str(tmp_path / "a")).notes == ()


def test_both_are_folders_in_the_note(sessions: Sessions, tmp_path: Path) -> None:
    sessions.unreadable = {"q1"}
    sessions.start(BEFORE)
    assert sessions.plan(images=str(tmp_path)).notes == (), "the same folder, named"
    [note] = sessions.plan(images=str(tmp_path / "a")).notes
    assert note.startswith(
        f"images of earlier rows came from {tmp_path}, now they come from {tmp_path / 'a'}: "
    )


def test_a_folder_without_the_images_does_not_become_the_record(
    sessions: Sessions, tmp_path: Path
) -> None:
    sessions.unreadable = {"q1"}
    sessions.start(BEFORE, images=str(tmp_path / "a"))
    first = read_manifest(sessions.out)
    sessions.start(images=str(tmp_path / "b"))
    assert read_manifest(sessions.out) == first, "no image was found there"
    sessions.unreadable = set()
    sessions.start(images=str(tmp_path / "a"))
    [note] = sessions.plan().notes
    assert note == (
        f"images of the rows came from {tmp_path / 'a'}, and no row is left to capture from "
        f"{tmp_path}; 'vlmscope verify RUN --images {tmp_path}' checks whether the images there "
        "are the same"
    )
    sessions.start()
    assert read_manifest(sessions.out) == first


def test_rows_of_another_folder_are_recorded_with_it(sessions: Sessions, tmp_path: Path) -> None:
    sessions.start(BEFORE, images=str(tmp_path / "a"), limit=2)
    sessions.start(images=str(tmp_path / "b"))
    assert read_manifest(sessions.out).data.images == str(tmp_path / "b")
    assert sessions.plan(images=str(tmp_path / "b")).notes == ()


def test_the_default_folder_is_known_without_opening_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    for name in ("x/one/test-0.csv", "x/two/test-1.csv", "x/test-2.csv", "x/test-3.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_csv(tmp_path / name, BEFORE)
    datasets.Dataset.from_list(BEFORE).save_to_disk(tmp_path / "x/saved")
    names = (
        "x/test-2.csv", "x/one", "x:test", "x/*.csv", "x/*/*.csv", "x/**/*.csv", "x/saved",
        ["x/test-2.csv"], ["x/one/test-0.csv", "x/two/*.csv"], ["x/test-2.csv", "x/test-3.csv"],
    )  # fmt: skip
    for name in names:
        data = absolute_data(name)
        found = folder_of_images(data)
        assert found == open_source(data)[1].absolute(), name
    assert folder_of_images("owner/name:test") == tmp_path
    assert folder_of_images("/gone/t.csv") == folder_of_images("/gone/*/t.csv") == Path("/gone")
