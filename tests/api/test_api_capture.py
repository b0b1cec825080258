"""``capture`` and ``RiskScorer``: tables, options, models and images in every form, or one line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import vlmscope
from probe_on_disk import save
from vlmscope.engine import capture as engine_capture
from vlmscope.engine import open_image
from vlmscope.errors import InputError, RowError
from vlmscope.model import VisionLanguageModel
from vlmscope.report.write import _with_model_name
from vlmscope.schema import Capture, CaptureSpec, Failure, FieldSpec, Sample

QUICK: dict[str, Any] = {"layers": 2, "max_new_tokens": 0}


@pytest.fixture(scope="module")
def captures(vlm: VisionLanguageModel, samples: list[Sample]) -> list[Capture]:
    return list(engine_capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0)))


@pytest.fixture(scope="module")
def probe(
    vlm: VisionLanguageModel, captures: list[Capture], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("probes") / "probe"
    save(folder, vlm, captures)
    return folder


@pytest.fixture(scope="module")
def scorer(vlm: VisionLanguageModel, probe: Path) -> vlmscope.RiskScorer:
    return vlmscope.RiskScorer(vlm, probe)


@pytest.fixture(scope="module")
def frame(samples: list[Sample]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"question_id": s.id, "image": s.image, "question": s.question} for s in samples[:3]]
    )


TABLES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "frame": lambda frame: frame,
    "dictionaries": lambda frame: frame.to_dict("records"),
    "generator": lambda frame: iter(frame.to_dict("records")),
    "dataset": lambda frame: datasets.Dataset.from_dict(frame.to_dict("list")),
}


@pytest.mark.first(2)
@pytest.mark.parametrize("form", TABLES)
def test_a_table_gives_what_its_samples_give(
    form: str, frame: pd.DataFrame, vlm: VisionLanguageModel, captures: list[Capture],
    scorer: vlmscope.RiskScorer, samples: list[Sample],
) -> None:  # fmt: skip
    found = list(vlmscope.capture(TABLES[form](frame), vlm, **QUICK))
    assert [each.sample.id for each in found] == list(frame["question_id"])
    for one, other in zip(found, captures, strict=False):
        path = "query_token_representation/layer_2"
        np.testing.assert_allclose(one.vectors[path], other.vectors[path], atol=1e-5)
    risks = [each.risk for each in scorer.score(TABLES[form](frame))]  # type: ignore[union-attr]
    expected = [each.risk for each in scorer.score(samples[:3])]  # type: ignore[union-attr]
    assert risks == pytest.approx(expected, abs=1e-5)


def test_a_table_on_disk(
    frame: pd.DataFrame, vlm: VisionLanguageModel, tmp_path: Path, scorer: vlmscope.RiskScorer
) -> None:
    (tmp_path / "pictures").mkdir()
    for row in frame.itertuples():
        row.image.save(tmp_path / "pictures" / f"{row.question_id}.png")
    named = frame.assign(image=[f"{id_}.png" for id_ in frame["question_id"]], note=["a", "b", "c"])
    named.rename(columns={"question": "said"}).to_csv(tmp_path / "t.csv", index=False)
    options: dict[str, Any] = {"images": tmp_path / "pictures", "map": {"question": "said"}}
    found = list(vlmscope.capture(tmp_path / "t.csv", vlm, **options, **QUICK))
    assert [each.sample.metadata["note"] for each in found] == ["a", "b", "c"]
    paths = [str(tmp_path / "t.csv")]
    assert len(list(vlmscope.capture(paths, vlm, **options, **QUICK))) == 3
    named.to_csv(tmp_path / "plain.csv", index=False)
    assert len(list(scorer.score(tmp_path / "plain.csv", images=tmp_path / "pictures"))) == 3


def test_samples_are_not_read_ahead(vlm: VisionLanguageModel, samples: list[Sample]) -> None:
    drawn: list[str] = []

    def rows() -> Iterator[Sample]:
        for sample in samples:
            drawn.append(sample.id)
            yield sample

    found = vlmscope.capture(rows(), vlm, batch_size=2, **QUICK)
    assert len(drawn) == 1, "the first tells what the rows are"
    assert next(found).sample is samples[0]
    assert len(drawn) == 2
    assert list(vlmscope.capture([], vlm, **QUICK)) == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "layers": ({"layers": "9x"}, r"^layers '9x'"),
    "positions": ({"positions": "nowhere"}, r"^positions: 'nowhere'"),
    "batch_size": ({"batch_size": "auto"}, r"^batch_size 'auto': expected a whole number"),
    "no rows": ({"batch_size": 0}, r"^batch_size 0: give 1 or more"),
    "both": ({"spec": CaptureSpec(layers=1)}, r"^spec: give it, or layers"),
    "model": ({"vlm": object()}, r"^vlm: found object, expected the folder of a checkpoint"),
    "sampled": ({"num_samples": -1}, r"^num_samples -1: give 0 or more"),
    "temperature": ({"temperature": 2}, r"^temperature 2: .*; add num_samples"),
    "number": ({"samples": 3}, r"^the table is an int"),
    "sample": ({"samples": Sample("q", None, "?")}, r"^the table is"),
    "texts and samples": ({"samples": [3, 4]}, r"^list\[0\] is an int"),
    "nothing first": ({"samples": [None, Sample("q", None, "?")]}, r"^list\[0\] is a NoneType"),
    "map": ({"map": {"id": "uid"}, "samples": [Sample("q", None, "?")]}, r"^map: samples have"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_said_at_once(
    name: str, vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    wrong, message = WRONG[name]
    options = {"samples": samples, "vlm": vlm, **QUICK, **wrong}
    with pytest.raises(InputError, match=message):
        vlmscope.capture(**options)  # nothing is drawn from it


def test_rows_that_are_none(vlm: VisionLanguageModel, samples: list[Sample]) -> None:
    with pytest.raises(InputError, match="a row is str, expected a Sample"):
        list(vlmscope.capture([samples[0], "q"], vlm, **QUICK))  # type: ignore[list-item]
    with pytest.raises(RowError, match="no question") as caught:
        list(vlmscope.capture([Failure("q", "input", "no question")], vlm, **QUICK))
    assert caught.value.stage == "input"
    broken = pd.DataFrame({"id": ["a"], "image": [None], "question": ["Is it?"]})
    with pytest.raises(RowError, match=r"^DataFrame\.iloc\[0\]: no image"):
        list(vlmscope.capture(broken, vlm, **QUICK))


@pytest.mark.first(1)
@pytest.mark.parametrize("bad", [Failure("q", "input", "no such row"), Sample("q", "no.png", "?")])
def test_rows_before_one_that_fails_come_first(
    bad: Any, vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """Whatever the batch size."""
    for size in (1, 2, 8):
        rows = vlmscope.capture([*samples[:3], bad, samples[4]], vlm, batch_size=size, **QUICK)
        assert [next(rows).sample for _ in range(3)] == samples[:3]
        with pytest.raises(RowError, match=r"no such row|no\.png"):
            next(rows)


def test_the_options_are_those_of_extract() -> None:
    theirs, ours = (
        inspect.signature(each).parameters for each in (vlmscope.extract, vlmscope.capture)
    )
    own = {"samples", "vlm", "num_samples"}
    assert set(ours) - own <= set(theirs)
    assert ours["num_samples"].default == theirs["samples"].default
    for name in set(ours) - own - {"batch_size"}:
        assert ours[name].default == theirs[name].default, name
    assert {"layers", "positions", "vision_pooling", "max_new_tokens", "compat"} <= set(ours)
    assert all(f"        {name}: " in (vlmscope.capture.__doc__ or "") for name in ours)
    assert FieldSpec() == FieldSpec(id=None)


QUESTIONS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "the question is NoneType, expected text"),
    "bytes": (b"Is it?", "the question is bytes, expected text"),
    "gap": (float("nan"), "the question is float, expected text"),
    "high half": ("Is it \ud83d?", r"half of a surrogate pair, '\\ud83d' at position 6"),
    "low half": ("\udc00", r"half of a surrogate pair, '\\udc00' at position 0"),
    "blank": (" \n", "the question is empty"),
}


@pytest.mark.first(3)
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_wrong_question_is_named(
    name: str, vlm: VisionLanguageModel, scorer: vlmscope.RiskScorer, samples: list[Sample]
) -> None:
    question, message = QUESTIONS[name]
    with pytest.raises(RowError, match=message) as caught:
        scorer.risk(samples[0].image, question)
    assert "resize" not in str(caught.value)
    rows = [samples[0], replace(samples[1], question=question)]
    with pytest.raises(RowError, match=message) as caught:
        list(vlmscope.capture(rows, vlm, **QUICK))
    assert "resize" not in str(caught.value)
    first, second = scorer.score(rows)
    assert isinstance(first, vlmscope.Risk)
    assert isinstance(second, Failure)
    assert second.stage == "prompt"


def test_a_whole_pair_is_a_character(scorer: vlmscope.RiskScorer, samples: list[Sample]) -> None:
    assert 0 <= scorer.risk(samples[0].image, "Is it 😀?") <= 1


def test_an_array_is_its_image(scorer: vlmscope.RiskScorer, samples: list[Sample]) -> None:
    image = samples[2].image
    assert isinstance(image, Image.Image)
    pixels = np.asarray(image)
    expected = scorer.risk(image, "Is it?")
    flipped = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    for same in (pixels, np.asfortranarray(pixels), flipped[:, ::-1]):
        assert scorer.risk(same, "Is it?") == expected
    assert scorer.risk([pixels], "Is it?") == expected
    grey = pixels[..., 0]
    assert scorer.risk(grey, "Is it?") == scorer.risk(Image.fromarray(grey), "Is it?")
    assert list(open_image(pixels[..., ::-1]).getpixel((0, 0))) == pixels[0, 0, ::-1].tolist()  # type: ignore[arg-type]
    assert open_image(bytearray(b"P5 1 1 255 \x07")).getpixel((0, 0)) == (7, 7, 7)


IMAGES: dict[str, tuple[Any, str]] = {
    "float": (np.zeros((4, 4, 3), np.float32), r"array of float32 of the shape \(4, 4, 3\)"),
    "channels first": (np.zeros((3, 4, 4), np.uint8), r"of the shape \(3, 4, 4\), expected uint8"),
    "transparent": (np.zeros((4, 4, 4), np.uint8), r"of the shape \(4, 4, 4\)"),
    "batch": (np.zeros((1, 4, 4, 3), np.uint8), r"of the shape \(1, 4, 4, 3\)"),
    "empty": (np.zeros((0, 4, 3), np.uint8), r"of the shape \(0, 4, 3\)"),
    "number": (3, "the image is int, expected the path"),
    "nested": ([[[1, 2, 3]]], "the image is list, expected the path"),
    "nothing in a list": ([None], "the image is NoneType, expected the path"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_no_image_is_one_line(
    name: str, vlm: VisionLanguageModel, scorer: vlmscope.RiskScorer
) -> None:
    image, message = IMAGES[name]
    with pytest.raises(RowError, match=message) as caught:
        scorer.risk(image, "Is it?")
    assert caught.value.stage == "image"
    with pytest.raises(RowError, match=message):
        list(vlmscope.capture([Sample("q", image, "Is it?")], vlm, **QUICK))


def test_a_scorer_takes_a_model_or_its_name(
    vlm: VisionLanguageModel, probe: Path, checkpoint: Path, samples: list[Sample],
    scorer: vlmscope.RiskScorer,
) -> None:  # fmt: skip
    expected = scorer.risk(samples[0].image, "Is it?")
    held = vlmscope.RiskScorer.load(vlm, probe)
    named = vlmscope.RiskScorer(checkpoint, probe)
    for each in (held, named):
        assert each.risk(samples[0].image, "Is it?") == pytest.approx(expected, abs=1e-5)
    assert named.dtype == "float32", "as the probe was trained"
    with pytest.raises(InputError, match=r"^device: the model is loaded already"):
        vlmscope.RiskScorer.load(vlm, probe, device="cpu")
    for make, argument in ((vlmscope.RiskScorer, "vlm"), (vlmscope.RiskScorer.load, "model")):
        for wrong in (None, vlm.model, 3):
            with pytest.raises(InputError, match=rf"^{argument}: found .*, expected the folder"):
                make(wrong, probe)
    for wrong in (None, vlm.model):
        with pytest.raises(InputError, match=r"^model: found .*, expected the folder"):
            vlmscope.load_model(wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^model: .* is loaded already; use it as it is"):
        vlmscope.load_model(vlm)  # type: ignore[arg-type]


def test_a_report_takes_a_model_that_is_loaded(vlm: VisionLanguageModel, checkpoint: Path) -> None:
    for model in (vlm, checkpoint, str(checkpoint)):
        spec = vlmscope.ReportSpec(model=model)  # type: ignore[arg-type]
        assert _with_model_name(spec).model == str(checkpoint)
    with pytest.raises(InputError, match=r"^model: found .*, expected the folder"):
        _with_model_name(vlmscope.ReportSpec(model=vlm.model))  # type: ignore[arg-type]


def test_capture_loads_a_model_that_is_named(checkpoint: Path, samples: list[Sample]) -> None:
    [found] = vlmscope.capture(samples[:1], str(checkpoint), **QUICK)
    assert found.sample is samples[0]
