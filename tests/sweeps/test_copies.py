"""Near-copies in a labelled run: which rows are one group, and the option that decides."""

from __future__ import annotations

import csv
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import vlmscope
from store_support import make_capture, make_manifest
from vlmscope.dataset import (
    Thumbnails,
    difference_hash,
    hash_image,
    image_thumbnail,
    read_thumbnails,
)
from vlmscope.errors import InputError
from vlmscope.probes import FoldError, image_groups
from vlmscope.schema import Capture, Score
from vlmscope.store import (
    Run,
    RunWriter,
    export_run,
    open_halp_files,
    open_run,
    read_labels,
    write_labels,
)
from vlmscope.sweeps import (
    LabelTable,
    SweepSpec,
    compare,
    compare_labels,
    grouping,
    probe_data,
    sweep,
)
from vlmscope.sweeps.halp_files import research_data
from vlmscope.sweeps.splitting import split_rows
from vlmscope.sweeps.transfer.targets import overlap_of

EASY = Path(__file__).parents[1] / "easy-vqa"
PHOTO = Path(__file__).parents[2] / "benchmarks/photos/coffee.jpg"
ROWS = 60


def about(i: int, image: Image.Image) -> Capture:
    return make_capture(
        i,
        image_sha256=hash_image(image),
        image_dhash=difference_hash(image),
        image_thumbnail=image_thumbnail(image),
    )


def labelled(
    folder: Path, rows: Sequence[Capture], among: Container[int] = range(9999), **changes: str
) -> Run:
    """Write a run. Every third of some rows is hallucinated."""
    with RunWriter(folder, make_manifest(**changes)) as writer:
        writer.add(rows)
    marks = [
        Score(row.sample.id, i % 3 == 0 and i in among, "column", "") for i, row in enumerate(rows)
    ]
    write_labels(folder, marks, {})
    return open_run(folder)


@pytest.fixture(scope="module")
def easy_rows() -> list[Capture]:
    """Rows about the images of easy-VQA, as its table asks about them."""
    with (EASY / "questions.csv").open(newline="") as file:
        names = [line["image_id"] for line in csv.DictReader(file)][:ROWS]
    images = {n: Image.open(EASY / "images" / n).convert("RGB") for n in dict.fromkeys(names)}
    about_each = {name: about(0, image) for name, image in images.items()}
    fields = ("image_sha256", "image_dhash", "image_thumbnail")
    return [
        make_capture(i, **{field: getattr(about_each[name], field) for field in fields})
        for i, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def easy_run(easy_rows: list[Capture], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return labelled(tmp_path_factory.mktemp("easy") / "run", easy_rows)


@pytest.fixture(scope="module")
def earlier_run(easy_rows: list[Capture], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same rows as an earlier version wrote them, hallucinated where hashes see one image."""
    rows = [replace(row, image_thumbnail="") for row in easy_rows]
    alike = image_groups(list(map(str, range(ROWS))), [int(r.image_dhash, 16) for r in rows])
    largest = np.flatnonzero(alike == np.bincount(alike).argmax()).tolist()
    return labelled(tmp_path_factory.mktemp("earlier") / "run", rows, largest)


def test_images_of_one_shape_each_can_be_probed(easy_rows: list[Capture], easy_run: Run) -> None:
    """By their hashes all look alike, and the answers were refused: positives in two groups."""
    data = probe_data(easy_run)
    assert data.grouped_by == "content and near-copies"
    assert data.grouping.images == len({row.image_sha256 for row in easy_rows})
    assert len(np.unique(data.groups)) >= data.grouping.images - 1
    assert len(split_rows(data, 5, 0)) == 5


def test_a_run_without_thumbnails_goes_by_hashes_and_the_refusal_names_the_option(
    earlier_run: Run,
) -> None:
    data = probe_data(earlier_run)
    assert data.grouped_by == "content and likeness"
    images = data.grouping.images
    with pytest.raises(FoldError, match=r"with copies='exact', .* there are \d+") as caught:
        split_rows(data, 5, 0)
    assert "\n" not in str(caught.value)
    exact = probe_data(earlier_run, "exact")
    assert exact.grouped_by == "content"
    assert len(np.unique(exact.groups)) == images
    assert len(split_rows(exact, 5, 0)) == 5


def test_one_row_without_a_thumbnail_takes_all_by_hashes(
    easy_rows: list[Capture], tmp_path: Path
) -> None:
    rows = [replace(easy_rows[0], image_thumbnail=""), *easy_rows[1:40]]
    assert probe_data(labelled(tmp_path / "run", rows)).grouped_by == "content and likeness"


def test_copies_are_one_group_and_are_told_in_words(tmp_path: Path) -> None:
    photo = Image.open(PHOTO).convert("RGB").resize((300, 200))
    small = photo.resize((150, 100))
    mirrored = ImageOps.mirror(photo)
    others = [Image.open(p).convert("RGB") for p in sorted((EASY / "images").iterdir())[:5]]
    rows = [about(i, image) for i, image in enumerate([photo, small, mirrored, *others])]
    together = {
        name: f"{getattr(rows[3], name)}+{getattr(rows[4], name)}"
        for name in ("image_sha256", "image_dhash", "image_thumbnail")
    }
    rows.append(make_capture(8, **together))
    run = labelled(tmp_path / "run", rows)
    data, exact = probe_data(run), probe_data(run, "exact")
    groups = dict(zip(data.ids, data.groups.tolist(), strict=True))
    found = [groups[row.sample.id] for row in rows]
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4] == found[8]
    assert len(set(found)) == 5
    assert data.grouping.phrase == (
        "about 8 images in 5 groups (near-copies, or shown in one question)"
    )
    assert exact.grouping.phrase == "about 8 images in 7 groups (shown in one question)"


def test_near_copies_are_no_excuse_where_others_are_lacking(tmp_path: Path) -> None:
    photo = Image.open(PHOTO).convert("RGB").resize((300, 200))
    rows = [replace(about(0, photo), sample=make_capture(i).sample) for i in range(30)]
    with pytest.raises(FoldError) as caught:
        split_rows(probe_data(labelled(tmp_path / "run", rows)), 5, 0)
    assert "copies exact" not in str(caught.value)


@pytest.mark.exhaustive
def test_an_export_keeps_thumbnails(easy_run: Run, tmp_path: Path) -> None:
    files = open_halp_files(export_run(easy_run, tmp_path / "rows.h5"))
    marks = {id_: i % 3 == 0 for i, id_ in enumerate(easy_run.ids)}
    table = LabelTable(Path("labels.csv"), marks, {})
    assert research_data(files, table).grouped_by == "content and near-copies"
    assert research_data(files, table, "exact").grouped_by == "content"


@pytest.mark.first(1)
@pytest.mark.parametrize("text", ["damaged", "A" * 943, "é"])
def test_a_damaged_thumbnail_is_said(text: str, easy_rows: list[Capture], tmp_path: Path) -> None:
    rows = [*easy_rows[:20], make_capture(20, image_thumbnail=text)]
    run = labelled(tmp_path / "run", rows)
    with pytest.raises(InputError, match=r"image_thumbnail: .*copies='exact'"):
        probe_data(run)
    assert len(probe_data(run, "exact").ids) == 21


def overlap(run: Run, other: Run) -> object:
    data = probe_data(run, "exact")
    return overlap_of(run, data, other, probe_data(other, "exact"))


@pytest.mark.parametrize(
    "work",
    [
        lambda run, _: probe_data(run),
        lambda run, _: vlmscope.open_run(run).Xy("last_prompt_token", layer=2),
        lambda run, _: compare_labels(run, "default", "other", draws=100),
        lambda run, other: compare(run, other, draws=100),
        overlap,
    ],
    ids=["probe", "Xy", "agreement", "compare", "transfer"],
)
def test_whatever_groups_images_reads_their_thumbnails(
    work: Callable[[Run, Run], object],
    easy_rows: list[Capture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without them only hashes are left, and nothing is said."""
    runs = [labelled(tmp_path / name, easy_rows[:20], run_id=name * 32) for name in "ab"]
    write_labels(runs[0].path, list(read_labels(runs[0].path).values()), {}, "other")
    read: list[int] = []

    def counted(texts: Sequence[str]) -> Thumbnails:
        read.append(len(texts))
        return read_thumbnails(texts)

    monkeypatch.setattr(grouping, "read_thumbnails", counted)
    work(*runs)
    assert read
    assert min(read) > 5


def test_the_option_is_a_setting() -> None:
    assert asdict(SweepSpec())["copies"] == "near"
    assert asdict(SweepSpec(copies="exact"))["copies"] == "exact"
    with pytest.raises(InputError, match=r"^copies likeness: choose from near, exact"):
        SweepSpec(copies="likeness")


def test_the_option_reaches_the_groups(earlier_run: Run) -> None:
    with pytest.raises(FoldError, match="with copies='exact'"):
        sweep(earlier_run, SweepSpec())
    told: list[str] = []

    def stop(doing: str) -> None:
        told.append(doing)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(earlier_run, SweepSpec(copies="exact"), progress=stop)
    assert told, "past the folds"
