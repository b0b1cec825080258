"""What processors and models raise on a row is said as the row's error, everywhere alike."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image, ImageFile

from families.checkpoints import BUILDERS
from vlmscope import FailedRowsWarning, extract
from vlmscope.cli import main
from vlmscope.dataset import load_image
from vlmscope.engine import capture, captures
from vlmscope.engine.row_errors import has_unusual_shape, row_error, row_errors
from vlmscope.errors import ModelChangedError, RowError
from vlmscope.executors import runner
from vlmscope.inspection import inspect_sample
from vlmscope.model import VisionLanguageModel, load_model, resolve_spec
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.shown_once import forget_shown, showing_once

SPEC = CaptureSpec(max_new_tokens=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Mistral 3, whose processor resizes thin images to a height of 0."""
    return BUILDERS["mistral3"](tmp_path_factory.mktemp("mistral3") / "model")


@pytest.fixture(scope="module")
def mistral(folder: Path) -> VisionLanguageModel:
    return load_model(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = BUILDERS["qwen2_vl"](tmp_path_factory.mktemp("qwen") / "model")
    return load_model(folder, device="cpu", dtype="float32")


def image(folder: Path, width: int, height: int) -> Path:
    path = folder / f"{width}x{height}.png"
    Image.new("RGB", (width, height), (200, 10, 10)).save(path)
    return path


ELONGATED = "pad or crop the image to a less elongated shape, or remove the row"


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("name", "size", "said", "remedy"),
    [
        ("qwen", (400, 1), "ValueError: absolute aspect ratio must be smaller than 200", ELONGATED),
        ("mistral", (1, 400), "ValueError: Size must contain 'height' and 'width'", ELONGATED),
    ],
)
def test_capture_and_inspect_name_row_image_size_and_remedy(
    name: str, size: tuple[int, int], said: str, remedy: str, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    vlm = request.getfixturevalue(name)
    path = image(tmp_path, *size)
    good = Sample("good", image(tmp_path, 40, 30), "Is it red?")
    bad = Sample("bad", path, "Is it red?", origin="t.csv line 3")
    rows = capture([good, bad], vlm, SPEC, batch_size=1)
    assert next(rows).sample.id == "good"
    with pytest.raises(RowError) as from_capture:
        next(rows)
    with pytest.raises(RowError) as from_inspect:
        inspect_sample(bad, vlm, resolve_spec(SPEC, vlm))
    for caught in (from_capture, from_inspect):
        message = str(caught.value)
        start = f"bad: t.csv line 3: image '{path.name}' of {size[0]} × {size[1]} pixels: {said}"
        assert message.startswith(start)
        assert remedy in message
        assert "\n" not in message
        assert caught.value.__cause__ is not None, "where it comes from is not lost"


@pytest.mark.parametrize(
    ("size", "remedy"), [((3, 5), "enlarge the image"), ((60, 40), "resize the image")]
)
def test_what_the_model_raises_is_said_alike(
    mistral: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int], remedy: str,
) -> None:  # fmt: skip
    def forward(*_: Any, **__: Any) -> Any:
        raise RuntimeError("split_with_sizes expects\nother sizes")

    monkeypatch.setattr(mistral.vision_encoder, "forward", forward)
    bad = Sample("bad", image(tmp_path, *size), "Is it red?")
    for run in (lambda: list(capture([bad], mistral, SPEC)), lambda: see(bad, mistral)):
        with pytest.raises(RowError) as caught:
            run()
        assert str(caught.value) == (
            f"bad: image '{size[0]}x{size[1]}.png' of {size[0]} × {size[1]} pixels: RuntimeError: "
            f"split_with_sizes expects other sizes; {remedy}, or remove the row"
        )


def see(sample: Sample, vlm: VisionLanguageModel) -> Any:
    return inspect_sample(sample, vlm, resolve_spec(SPEC, vlm))


def test_of_a_batch_the_row_to_blame_is_found(qwen: VisionLanguageModel, tmp_path: Path) -> None:
    good = [Sample(f"q{i}", image(tmp_path, 40 + i, 30), "Is it red?") for i in range(3)]
    bad = Sample("bad", image(tmp_path, 400, 1), "Is it red?")
    rows = capture([*good[:2], bad, good[2]], qwen, SPEC, batch_size=4)
    assert [next(rows).sample.id for _ in range(2)] == ["q0", "q1"]
    with pytest.raises(RowError, match=r"bad: image '400x1\.png' of 400 × 1 pixels: ValueError"):
        next(rows)


def test_rows_that_only_fail_together_are_done_alone(
    qwen: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a batch does not fit into the memory."""
    rows = [Sample(f"q{i}", image(tmp_path, 40 + i, 30), "Is it red?") for i in range(3)]
    expected = list(capture(rows, qwen, SPEC, batch_size=1))
    original = captures.prepare

    def small(samples: Any, *rest: Any) -> Any:
        if len(samples) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(samples, *rest)

    monkeypatch.setattr(captures, "prepare", small)
    found = list(capture(rows, qwen, SPEC, batch_size=3))
    assert [one.answer for one in found] == [other.answer for other in expected]
    monkeypatch.setattr(
        captures, "prepare", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("of memory"))
    )
    with pytest.raises(RowError, match="q0: out of memory on this row alone; try fewer"):
        list(capture(rows, qwen, SPEC, batch_size=3))


@pytest.mark.parametrize(
    "error", [ModelChangedError("was changed"), RuntimeError("CUDA error: device-side assert")]
)
def test_what_is_no_rows_error_stays_what_it_is(
    qwen: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(captures, "prepare", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error), match=str(error)):
        list(capture([Sample("q", None, "?"), Sample("r", None, "?")], qwen, SPEC))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    names = [image(tmp_path, *size).name for size in ((300, 1), (400, 1), (500, 1), (40, 30))]
    lines = [f"q{i},{name},Is it red?" for i, name in enumerate(names)]
    path.write_text("\n".join(["id,image,question", *lines]), "utf-8")
    return path


def test_rows_of_odd_images_at_the_start_are_recorded_and_no_bug(
    table: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.warns(FailedRowsWarning, match="3 rows failed, .*or remove the row; run.failures"):
        run = extract(
            table, model=folder, out=tmp_path / "run", spec=SPEC, batch_size=1, device="cpu"
        )
    assert run.ids == ("q3",)
    errors = [failure.error for failure in run.failures.values()]
    assert len(errors) == 3
    assert errors[1].startswith("t.csv line 3: image '400x1.png' of 400 × 1 pixels: ValueError: ")
    assert errors[1].endswith(ELONGATED)


def test_many_odd_images_that_end_alike_are_a_bug(
    table: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "UNUSUAL_ERRORS", 3)
    same = "\n".join(f"q{i},400x1.png,Is it red?" for i in range(4))
    table.write_text(f"id,image,question\n{same}", "utf-8")
    with pytest.raises(ValueError, match="Size must contain"):
        extract(table, model=folder, out=tmp_path / "run", spec=SPEC, batch_size=1, device="cpu")


def test_an_id_within_a_message_is_no_name_of_the_row() -> None:
    with pytest.raises(RowError, match=r"^7: .*1,725 tokens"), row_errors(Sample("7", None, "?")):
        raise RowError("prompt", "the prompt has 1,725 tokens")


@pytest.mark.first(1)
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_the_command_line_shows_one_line(
    command: str, table: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["inspect", str(table), "--id", "q1", "--model", str(folder)]
    if command == "verify":
        run = tmp_path / "run"
        with pytest.warns(FailedRowsWarning):
            extract(table, model=folder, out=run, spec=SPEC, batch_size=1, device="cpu")
        Image.new("RGB", (400, 1)).save(tmp_path / "40x30.png")
        arguments = ["verify", str(run)]
    monkeypatch.setattr(sys, "argv", ["vlmscope", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: q")
    assert ".png' of 400 × 1 pixels: ValueError: Size must contain" in line
    assert line.endswith(ELONGATED)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is shown of warnings and of the libraries' log, whatever the filters of the tests."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda message, *_, **__: found.append(str(message))
        )
        yield found
    logger.removeHandler(handler)


@pytest.mark.exhaustive
def test_what_a_library_repeats_is_said_once(
    vlm: VisionLanguageModel, samples: list[Sample], shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    original = type(vlm.processor.image_processor).preprocess

    def talkative(self: Any, *arguments: Any, **more: Any) -> Any:
        warnings.warn(f"an image of kind {len(shown)} is slow", UserWarning, stacklevel=2)
        logging.getLogger("transformers.image").error("a setting %d is old", len(shown))
        return original(self, *arguments, **more)

    monkeypatch.setattr(type(vlm.processor.image_processor), "preprocess", talkative)
    for _ in range(2):
        assert len(list(capture(samples[:3], vlm, SPEC, batch_size=1))) == 3
    ours = [text for text in shown if "is slow" in text or "is old" in text]
    assert ours == ["an image of kind 0 is slow", "a setting 1 is old"]
    warnings.warn("an image of kind 7 is slow", UserWarning, stacklevel=1)
    assert shown[-1] == "an image of kind 7 is slow", "what others say is not touched"


def test_another_model_says_it_again(shown: list[str]) -> None:
    for _ in range(2):
        forget_shown()
        with showing_once():
            for _ in range(2):
                warnings.warn("slow", UserWarning, stacklevel=1)
    assert shown == ["slow"] * 2


def test_other_threads_say_what_they_like(shown: list[str]) -> None:
    def others() -> None:
        for _ in range(2):
            warnings.warn("theirs", UserWarning, stacklevel=1)

    handler = logging.getLogger("transformers").handlers[0]
    before = list(handler.filters)
    with showing_once(), showing_once():
        for _ in range(2):
            warnings.warn("ours", UserWarning, stacklevel=1)
        thread = threading.Thread(target=others)
        thread.start()
        thread.join()
    assert shown == ["ours", "theirs", "theirs"]
    assert handler.filters == before
    assert not hasattr(warnings.showwarning, "__self__"), "what was there is put back"


FILES = ["a.png", "a.jpg", "turned.jpg", "turned.png", "a.webp", "turned.webp", "a.gif", "a.bmp",
         "turned.tiff", "a.ppm"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_no_image_is_decoded_for_the_size_in_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    saved = Image.new("RGB", (90, 4), (200, 10, 10))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    saved.save(path, **({"exif": exif} if name.startswith("turned") else {}))
    opened = load_image(path)
    assert opened.size == ((4, 90) if name.startswith("turned") else (90, 4))
    decoded: list[str] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda self: decoded.append(name) or load(self)
    )
    for given in (path, path.read_bytes()):
        sample = Sample("q1", given, "?", image_id=name)
        error = row_error(sample, ValueError("what a shape"))
        shown = (
            f"image '{name}' of {opened.width} × {opened.height} pixels: ValueError: what a shape"
        )
        assert str(error).startswith(shown)
        assert has_unusual_shape(sample)
    assert not decoded
    cut = Sample("q1", path.read_bytes()[:3], "?")
    assert str(row_error(cut, ValueError("no"))) == "ValueError: no; remove the row"
