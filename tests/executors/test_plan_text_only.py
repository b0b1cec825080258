"""What a plan says about rows without an image, and what the run remembers of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmscope.errors import InputError
from vlmscope.executors import Request, make_plan, plan
from vlmscope.model import VisionLanguageModel
from vlmscope.store import RunWriter, read_manifest


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, vlm: VisionLanguageModel) -> None:
    """Plans share the session's model instead of loading it again."""
    monkeypatch.setattr(plan, "load_with", lambda *_, **__: vlm)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A table of three questions, two of them about no image."""
    path = tmp_path / "mixed.csv"
    path.write_text("id,image,question\n1,a.png,What?\n2,,Why?\n3,[],How?\n")
    return path


def request(data: Path, checkpoint: Path, **options: object) -> Request:
    return Request(str(data), str(checkpoint), data.parent / "run", **options)  # type: ignore[arg-type]


def test_the_plan_counts_rows_without_an_image(mixed: Path, checkpoint: Path) -> None:
    made = make_plan(request(mixed, checkpoint, text_only=True))
    assert made.notes == ("2 of 3 rows have no image: no vision representations for them",)
    one = make_plan(request(mixed, checkpoint, text_only=True, limit=2))
    assert one.notes == ("1 of 2 rows has no image: no vision representations for them",)
    assert make_plan(request(mixed, checkpoint)).notes == ()


def test_a_run_may_go_on_with_text_only(mixed: Path, checkpoint: Path) -> None:
    before = make_plan(request(mixed, checkpoint))
    assert not before.manifest.data.text_only
    with RunWriter(before.request.out, before.manifest):
        pass
    after = make_plan(request(mixed, checkpoint, text_only=True))
    with RunWriter(after.request.out, after.manifest):
        pass
    assert read_manifest(after.request.out).data.text_only
    assert read_manifest(after.request.out).run_id == before.manifest.run_id


def test_a_table_without_images_needs_text_only(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "words.csv"
    path.write_text("id,question\n1,What?\n")
    with pytest.raises(InputError, match="text_only=True"):
        make_plan(request(path, checkpoint))
    assert make_plan(request(path, checkpoint, text_only=True)).todo == 1
