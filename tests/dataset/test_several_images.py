"""Questions about several images and about none, and cells that hold no image at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlmscope.dataset import load_image, open_table, read_samples
from vlmscope.errors import InputError
from vlmscope.schema import FieldSpec, Sample

from .images import refusal
from .tables import ROWS, WRITERS, around, failure, one, write_csv, write_jsonl, write_parquet

NAMES = ["a.png", "b.png"]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(image: Any, **more: Any) -> dict[str, Any]:
    return {"id": 7, "image": image, "question": "?", **more}


def fingerprint(path: Path, **options: Any) -> str:
    return open_table(path, **options).scan().fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_a_json_list_of_names_in_text(tmp_path: Path, name: str) -> None:
    sample = one(WRITERS[name](tmp_path / name, [row(json.dumps(NAMES))]))
    assert sample.image == sample.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert sample.image_id == "a.png, b.png"
    assert sample.metadata == {}


@pytest.mark.parametrize("name", [n for n in WRITERS if not n.endswith("sv")])
def test_a_list_is_the_same_as_its_text(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [row(NAMES)])
    sample = one(path)
    assert (sample.images, sample.image_id) == (
        (tmp_path / "a.png", tmp_path / "b.png"),
        "a.png, b.png",
    )
    text = write_csv(tmp_path / "text.csv", [row(json.dumps(NAMES))])
    assert fingerprint(path) == fingerprint(text)


@pytest.mark.parametrize(
    "text", ["[a].png", '["a.png"', "[1, 2]", '["a", 1]', '[["a"]]', "[" * 9999]
)
def test_other_text_is_one_name(tmp_path: Path, text: str) -> None:
    sample = one(write_csv(tmp_path / "t.csv", [row(text)]))
    assert (sample.image, sample.image_id) == (tmp_path / text, text)


@pytest.mark.parametrize("names", [NAMES, ["it's.png", "b c.png"], ["one/a.png"] * 99])
def test_a_list_as_python_prints_it(tmp_path: Path, names: list[str]) -> None:
    """Written as pandas does; the last one is longer than any file's name."""
    sample = one(write_csv(tmp_path / "t.csv", [row(str(names))]))
    assert sample.images == tuple(tmp_path / name for name in names)


def test_a_list_that_is_none_is_told_how_to_be(tmp_path: Path) -> None:
    sample = one(write_csv(tmp_path / "t.csv", [row("[a.png, b.png]")]))
    assert refusal(sample.image).endswith(
        ": not found; correct the path, or pass --images DIR; several images are written as "
        'JSON, ["a.png", "b.png"]'
    )
    assert "JSON" not in refusal(tmp_path / "a[1].png")


@pytest.mark.parametrize("image", [["a.png"], '["a.png"]', [{"path": "a.png", "bytes": None}]])
def test_a_list_of_one_is_one(tmp_path: Path, image: Any) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [row(image)])
    sample = one(path)
    assert (sample.image, sample.image_id) == (tmp_path / "a.png", "a.png")
    assert fingerprint(path) == fingerprint(write_csv(tmp_path / "t.csv", [row("a.png")]))


def test_bytes_and_structs_in_lists(tmp_path: Path) -> None:
    assert one(write_parquet(tmp_path / "b.parquet", [row([b"one", b"two"])])).images == (
        b"one",
        b"two",
    )
    structs = [{"bytes": b"one", "path": "x.png"}, {"bytes": None, "path": "y.png"}]
    sample = one(write_parquet(tmp_path / "s.parquet", [row(structs)]))
    assert sample.images == (b"one", tmp_path / "y.png")
    assert sample.image_id == "x.png, y.png"


def test_names_of_another_column_where_there_is_one_for_each(tmp_path: Path) -> None:
    named = row([b"one", b"two"], image_id=json.dumps(NAMES))
    sample = one(write_parquet(tmp_path / "t.parquet", [named]))
    assert (sample.images, sample.image_id, sample.metadata) == (
        (b"one", b"two"),
        "a.png, b.png",
        {},
    )
    scene = row([b"one", b"two"], image_id="scene")
    sample = one(write_parquet(tmp_path / "t.parquet", [scene]))
    assert (sample.images, sample.image_id) == ((b"one", b"two"), "7")
    assert sample.metadata == {"image_id": "scene"}


def test_sequences_of_the_datasets_library(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict(
        {
            "id": [1, 2],
            "question": ["a?", "b?"],
            "image": [
                [{"bytes": png("red"), "path": "r.png"}, {"bytes": png("blue"), "path": "b.png"}],
                [],
            ],
        },
        features=datasets.Features(
            id=datasets.Value("int64"),
            question=datasets.Value("string"),
            image=datasets.Sequence(datasets.Image()),
        ),
    )
    table.save_to_disk(tmp_path / "saved")
    table.to_parquet(tmp_path / "t.parquet")
    for path in (tmp_path / "saved", tmp_path / "t.parquet"):
        first, second = read_samples(path, text_only=True)
        colours = [load_image(image).getpixel((0, 0)) for image in first.images]
        assert colours == [(255, 0, 0), (0, 0, 255)]
        assert first.image_id == "r.png, b.png"
        assert (second.image, second.image_id) == (None, "")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (["a.png", "../x.png"], "the image path '../x.png' leaves the image folder"),
        (["a.png", "http://x/y.png"], "is a URL"),
        (["a.png", None], "image 2 of 2 in the list is empty; write a path"),
        ([None], "image 1 of 1 in the list is empty"),
        (
            [NAMES],
            "image 1 of 1 in the list is a list; write a path, or the bytes of an image file",
        ),
        (["a.png", []], "image 2 of 2 in the list is a list"),
        (["a.png", "\0"], "the image name contains a NUL"),
    ],
)
def test_each_image_is_checked(tmp_path: Path, image: Any, said: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", around({"image": image}))
    assert said in failure(path).error


def test_the_fingerprint_covers_every_image(tmp_path: Path) -> None:
    cells = [NAMES, NAMES[::-1], ["a.png"], ["a.png", "c.png"], ["a.png, b.png"], [], ["a.png"] * 2]
    found = {fingerprint(write_jsonl(tmp_path / "t.jsonl", [row(cell)])) for cell in cells}
    assert len(found) == len(cells)
    sizes = [[b"1", b"22"], [b"1", b"333"]]
    found = {fingerprint(write_parquet(tmp_path / "t.parquet", [row(cell)])) for cell in sizes}
    assert len(found) == 2


def test_the_fingerprint_of_single_images_is_that_of_before(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [*ROWS, {**ROWS[0], "question_id": "q3", "image": ""}])
    for text_only in (False, True):
        assert fingerprint(path, text_only=text_only) == (
            "cce99ff1b4d2a5b296cacd02d2f8966f9427b71ef5fbe9b17893bd96a89d0c16"
        )
    rows = [row({"bytes": b"abc", "path": "x"}, id=8)]
    assert fingerprint(write_parquet(tmp_path / "t.parquet", rows)) == (
        "9c4be0fd9eb562d1371ff21686b7b49419cb7c4ac44b6854a43c03f95338da6a"
    )


@pytest.mark.parametrize("image", [None, "", " ", [], "[]"])
def test_text_only_takes_rows_without_an_image(tmp_path: Path, image: Any) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", around({"image": image}))
    samples = list(read_samples(path, text_only=True))
    assert [(s.id, s.images == (), s.image_id) for s in samples][1] == ("bad", True, "")
    assert (samples[1].image, samples[1].metadata) == (None, {})
    assert "pass --text-only for" in failure(path).error
    scan = open_table(path, text_only=True).scan()
    assert scan == open_table(path).scan()
    assert (scan.without_image, open_table(path, limit=1).scan().without_image) == (1, 0)


def test_text_only_needs_no_image_column(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", [{"id": 1, "question": "?", "topic": "t"}])
    sample = one(path, text_only=True)
    assert (sample.image, sample.metadata) == (None, {"topic": "t"})
    assert open_table(path, text_only=True).scan().without_image == 1
    with pytest.raises(InputError, match=r"--map image=COLUMN .or --image-pattern, --text-only."):
        open_table(path)
    with pytest.raises(InputError, match="no column 'photo' for the image"):
        open_table(path, fields=FieldSpec(image="photo"), text_only=True)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("clip.MP4", "the image 'clip.MP4' is a video; vlmscope reads images only: extract a"),
        (["a.png", "b.webm"], "the image 'b.webm' is a video; "),
        ({"bytes": None, "path": "x/talk.flac"}, "the image 'x/talk.flac' is a sound; vlmscope"),
        ({"array": [0.5], "sampling_rate": 16000, "path": None}, "the image is a sound; "),
    ],
)
def test_videos_and_sounds_are_refused(tmp_path: Path, image: Any, said: str) -> None:
    failed = failure(write_jsonl(tmp_path / "t.jsonl", around({"image": image})))
    assert f"t.jsonl line 2: {said}" in failed.error


def test_a_frame_may_be_named_after_its_video(tmp_path: Path) -> None:
    sample = one(write_parquet(tmp_path / "t.parquet", [row(b"frame", image_id="clip.mp4")]))
    assert (sample.image, sample.image_id) == (b"frame", "clip.mp4")


def test_a_column_of_videos_is_metadata(tmp_path: Path) -> None:
    sample = one(write_csv(tmp_path / "t.csv", [row("a.png", video="clip.mp4")]))
    assert sample.metadata == {"video": "clip.mp4"}


@pytest.mark.parametrize(
    ("feature", "kind"),
    [
        (datasets.Video(), "videos (Video)"),
        (datasets.Audio(), "sounds (Audio)"),
        (datasets.Sequence(datasets.Video()), "videos (Video)"),
    ],
)
def test_a_declared_column_is_refused_at_once(tmp_path: Path, feature: Any, kind: str) -> None:
    cell: Any = {"bytes": b"x", "path": None}
    clip = [cell] if isinstance(feature, type(datasets.Sequence(datasets.Video()))) else cell
    features = datasets.Features(
        id=datasets.Value("int64"),
        question=datasets.Value("string"),
        image=datasets.Value("string"),
        clip=feature,
    )
    storage = pa.table(
        {"id": [1], "question": ["?"], "image": ["a.png"], "clip": [clip]},
        schema=features.arrow_schema,
    )
    datasets.Dataset(storage).save_to_disk(tmp_path / "saved")
    pq.write_table(storage, tmp_path / "t.parquet")
    for path in (tmp_path / "saved", tmp_path / "t.parquet"):
        assert isinstance(next(read_samples(path)), Sample)
        with pytest.raises(InputError) as caught:
            open_table(path, fields=FieldSpec(image="clip"))
        assert str(caught.value) == (
            f"{path.name}: column 'clip' contains {kind}, and vlmscope reads images only; name a "
            "column of images with --map image=COLUMN"
        )
