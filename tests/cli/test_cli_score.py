"""``vlmscope score`` as a user meets it: one question, a table of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe_on_disk import save
from vlmscope import demo
from vlmscope.cli.output import stderr, stdout
from vlmscope.engine import capture
from vlmscope.model import VisionLanguageModel
from vlmscope.schema import CaptureSpec, Sample, Score
from vlmscope.store import read_labels, write_labels

pytestmark = pytest.mark.usefixtures("columns_only")

Command = Callable[..., Any]

PICTURE = str(Path(demo.__file__).parent / "images" / "demo_0449.jpg")


@pytest.fixture(scope="module")
def probe(
    tmp_path_factory: pytest.TempPathFactory, vlm: VisionLanguageModel, samples: list[Sample]
) -> Path:
    """A probe of the tiny model with all its numbers."""
    folder = tmp_path_factory.mktemp("score") / "probe"
    spec = CaptureSpec(layers="2", max_new_tokens=0)
    numbers = {"auroc": 0.8, "prevalence": 0.5, "recall": 0.4, "false_alarms": 0.05}
    save(folder, vlm, list(capture(samples, vlm, spec)), metrics=numbers)
    return folder


@pytest.fixture
def score(vlmscope: Command, checkpoint: Path, probe: Path) -> Command:
    """``vlmscope score`` with the arguments every call needs."""
    common = ("--model", checkpoint, "--probe", probe, "--device", "cpu")
    return lambda *arguments: vlmscope("score", *arguments, *common)


def test_one_question(score: Command, table: Path, samples: list[Sample]) -> None:
    image = table.parent / samples[0].image_id
    done = score(image, samples[0].question)
    assert done.code == 0, done.err
    assert "flagged (threshold 45.0%)" in done.out
    assert "the threshold flags 40% of the hallucinated and 5% of the faithful" in done.out
    record = json.loads(score(image, samples[0].question, "--json", "--threshold", 0.9).out)
    assert record["threshold"] == 0.9
    assert record["flagged"] == (record["risk"] > 0.9)


def test_a_question_about_several_images(
    score: Command, table: Path, samples: list[Sample], tmp_path: Path
) -> None:
    names = [samples[0].image_id, samples[2].image_id]
    rows = tmp_path / "several.jsonl"
    rows.write_text(json.dumps({"id": "a", "question": "Which one?", "image": names}), "utf-8")
    [line] = score("--data", rows, "--images", table.parent).out.splitlines()
    asked = ("Which one?", "--json", "--images", table.parent)
    done = score(json.dumps(names), *asked)
    assert done.code == 0, done.err
    found = json.loads(done.out)["risk"]
    assert found == pytest.approx(json.loads(line)["risk"], abs=2e-5)
    whole = json.dumps([str(table.parent / name) for name in names])
    assert json.loads(score(whole, "Which one?", "--json").out)["risk"] == found
    assert json.loads(score(names[0], *asked).out)["risk"] != found


def test_a_question_about_no_image(score: Command, tmp_path: Path) -> None:
    question = "Why is the sky blue? " * 20
    rows = tmp_path / "none.jsonl"
    rows.write_text(json.dumps({"id": "a", "question": question}), "utf-8")
    [line] = score("--data", rows, "--text-only").out.splitlines()
    for arguments in ([question], ["", question], ["[]", question]):
        done = score(*arguments, "--text-only", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["risk"] == pytest.approx(json.loads(line)["risk"], abs=2e-5)


def test_paths_start_where_the_user_is(
    score: Command, table: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    (table.parent / "below").mkdir()
    monkeypatch.chdir(table.parent / "below")
    done = score(f"../{samples[0].image_id}", "What?")
    assert done.code == 0, done.err
    done = score(samples[0].image_id, "What?", "--text-only", "--images", table.parent)
    assert done.code == 0, done.err
    monkeypatch.chdir(table.parent)
    assert "a QUESTION is missing" in score(samples[0].image_id, "--text-only").err


def test_a_table_of_questions(score: Command, table: Path, samples: list[Sample]) -> None:
    (table.parent / samples[1].image_id).unlink()
    out = table.parent / "risks.parquet"
    done = score("--data", table, "--out", out)
    assert done.code == 3, "a row failed"
    found = pd.read_parquet(out)
    assert list(found["id"]) == [sample.id for sample in samples]
    gone = [sample.image_id == samples[1].image_id for sample in samples]
    assert list(found["error"].notna()) == gone
    assert list(found["risk"].isna()) == gone
    assert found["risk"].dropna().between(0, 1).all()
    assert samples[1].image_id in found["error"].dropna().iloc[0]
    lines = [json.loads(line) for line in score("--data", table, "--limit", 1).out.splitlines()]
    assert [line["id"] for line in lines] == [samples[0].id]
    assert lines[0]["risk"] == pytest.approx(found["risk"][0], abs=2e-5)


@pytest.mark.parametrize(
    ("images", "refused", "note"),
    [("all", ["b", "d"], "note: 2 rows have no image and no risk: the probe was trained on "
      "questions with an image only"),
     ("none", ["a", "c"], "note: 2 rows have an image and no risk: the probe was trained on "
      "questions without an image only"),
     (None, [], "")],
)  # fmt: skip
def test_questions_unlike_those_of_the_training_have_no_risk(
    images: Any, refused: list[str], note: str, vlmscope: Command, checkpoint: Path, table: Path,
    tmp_path: Path, vlm: VisionLanguageModel, samples: list[Sample],
) -> None:  # fmt: skip
    captures = list(capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0)))
    save(tmp_path / "kind", vlm, captures, images=images)
    rows = table.parent / "rows.csv"
    lines = ["id,image,question", f"a,{samples[0].image_id},What?", "b,,What?", "c,gone.png,What?"]
    rows.write_text("\n".join([*lines, "d,,Why?"]), "utf-8")
    common = ("--model", checkpoint, "--probe", tmp_path / "kind", "--device", "cpu")
    done = vlmscope("score", "--data", rows, "--text-only", *common)
    assert done.code == 3
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in found] == ["a", "b", "c", "d"]
    assert [row["id"] for row in found if "trained on" in (row["error"] or "")] == refused
    assert {row["id"] for row in found if row["risk"] is None} == {*refused, "c"}, "c is not found"
    assert (note in " ".join(done.err.split())) if note else ("note:" not in done.err)


def test_what_risks_mean_is_said_before_them(
    score: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = StringIO()
    for console in (stdout, stderr):
        monkeypatch.setattr(console, "_file", both)
    assert score("--data", table, "--limit", 2).code == 0
    lines = both.getvalue().splitlines()
    risks = [number for number, line in enumerate(lines) if line.startswith('{"id"')]
    [meaning] = [number for number, line in enumerate(lines) if line.startswith("probe: ")]
    assert meaning < risks[0]
    assert lines[risks[-1] + 1].startswith("2 questions scored")


def test_an_output_never_replaces_what_is_read(score: Command, table: Path, tmp_path: Path) -> None:
    own = table.with_suffix(".parquet")
    pd.DataFrame({"id": ["a"], "image": ["one_0.png"], "question": ["What?"]}).to_parquet(own)
    before = own.read_bytes()
    assert "is the table itself" in score("--data", own, "--out", own).err
    assert own.read_bytes() == before
    (tmp_path / "run").mkdir()
    for name in ("run.json", "labels.parquet"):
        (tmp_path / "run" / name).write_text("{}")
    done = score("--data", table, "--out", tmp_path / "run" / "labels.parquet")
    assert "is a part of a run" in done.err


def test_an_empty_question_has_no_risk(score: Command, table: Path, samples: list[Sample]) -> None:
    done = score(table.parent / samples[0].image_id, "  ")
    assert done.code == 2
    assert "the question is empty" in done.err


def test_ids_come_out_as_they_went_in(score: Command, table: Path) -> None:
    text = table.read_text("utf-8").replace("question_comb_0,", "coco:cat:[b]1,")
    table.write_text(text, "utf-8")
    [line] = score("--data", table, "--limit", 1).out.splitlines()
    assert json.loads(line)["id"] == "coco:cat:[b]1"


def test_a_probe_that_learnt_nothing_says_so(
    vlmscope: Command, checkpoint: Path, table: Path, tmp_path: Path, vlm: VisionLanguageModel,
    samples: list[Sample],
) -> None:  # fmt: skip
    captures = list(capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0)))
    numbers = {"auroc_of_best_layer": 0.55}
    save(tmp_path / "flat", vlm, captures, calibration=(0.0, -1.0), metrics=numbers)
    source = (table.parent / samples[0].image_id, "What?")
    common = ("--model", checkpoint, "--probe", tmp_path / "flat", "--device", "cpu")
    done = vlmscope("score", *source, *common)
    assert "every question gets the same risk" in done.out
    assert "AUROC 0.550, of the best of its layers" in done.out


def test_another_dtype_is_said(score: Command, table: Path, samples: list[Sample]) -> None:
    done = score(table.parent / samples[0].image_id, "What?", "--dtype", "bfloat16")
    assert done.code == 0, done.err
    assert "trained on vectors in float32, the model computes in bfloat16" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give an IMAGE and a QUESTION, or --data"),
        (["x.png"], "a QUESTION is missing; put it in quotes after the IMAGE, or pass --text-only"),
        (
            ["", "What?"],
            "the IMAGE is empty; write a path, or pass --text-only and only the QUESTION",
        ),
        (["clip.mp4", "What?"], "'clip.mp4' is a video; vlmscope reads images only: extract a"),
        (['["x.png", "a.wav"]', "What?"], "score: the image 'a.wav' is a sound"),
        (['["x.png", ""]', "What?"], "score: image 2 of 2 in the list is empty; write a path"),
        (["http://x/y.png", "What?"], "is a URL, which is not fetched; write a path there"),
        (["../x.png", "What?", "--images", "."], "leaves the image folder"),
        (["x.png", "What?", "--images", "gone"], "gone: no such image folder"),
        (["['a.png', 'b.png']", "What?"], "image a.png: not found"),
        (["x.png", "What?", "--data", "t.csv"], "give an IMAGE and a QUESTION, or --data"),
        (["x.png", "What?", "--out", "r.parquet"], "--out: is for --data"),
        (["--data", "t.csv", "--out", "r.csv"], "name it .parquet"),
        (["x.png", "What?"], "x.png"),
        (["--data", "t.csv"], "t.csv: no such file"),
        (["--data", "t.csv", "--out", "nowhere/r.parquet"], "nowhere does not exist; make it"),
        ([PICTURE, "What?", "--batch-size", "0"], "--batch-size 0: give 1 or more, or auto"),
        ([PICTURE, "What?", "--threshold", "7"], "--threshold 7: give a risk from 0 to 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(
    score: Command, arguments: list[str], message: str
) -> None:
    done = score(*arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_missing_probe_costs_no_loading(vlmscope: Command, tmp_path: Path) -> None:
    done = vlmscope("score", PICTURE, "What?", "--model", "nowhere", "--probe", tmp_path / "none")
    assert done.code == 2
    assert "is not a probe" in done.err


def test_a_missing_image_costs_no_loading(vlmscope: Command, probe: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image", "utf-8")
    common = ("--model", "nowhere", "--probe", probe)
    for asked, said in (
        ("gone.png", "image gone.png: not found"),
        (f'["{PICTURE}", "gone.png"]', "image gone.png: not found"),
        (tmp_path / "text.png", "is not an image of a known format"),
    ):
        done = vlmscope("score", asked, "What?", *common)
        assert done.code == 2
        assert said in done.err
        assert "nowhere" not in done.err
    assert "nowhere" in vlmscope("score", PICTURE, "What?", *common).err


@pytest.mark.parametrize(
    ("images", "asked"), [("all", ("What?", "--text-only")), ("none", (PICTURE, "What?"))]
)
def test_a_question_of_the_other_kind_costs_no_loading(
    images: Any, asked: tuple[str, ...], vlmscope: Command, tmp_path: Path,
    vlm: VisionLanguageModel, samples: list[Sample],
) -> None:  # fmt: skip
    captures = list(capture(samples, vlm, CaptureSpec(layers="2", max_new_tokens=0)))
    save(tmp_path / "kind", vlm, captures, images=images)
    done = vlmscope("score", *asked, "--model", "nowhere", "--probe", tmp_path / "kind")
    assert done.code == 2
    assert "trained on" in done.err
    assert "nowhere" not in done.err


@pytest.mark.exhaustive
def test_probes_of_older_labels_are_said(vlmscope: Command, demo_run: Path, tmp_path: Path) -> None:
    run, bundled = shutil.copytree(demo_run, tmp_path / "run"), Path(demo.__file__).parent
    vlmscope("label", run)
    assert vlmscope("probe", run, "--draws", 100).code == 0
    asked = (bundled / "images" / "demo_0449.jpg", "What colour is the tree?")
    common = ("--model", bundled / "model", "--probe", run, "--device", "cpu")
    assert vlmscope("score", *asked, *common).err == ""
    turned = [
        Score(id_, score.hallucinated is not True, "column", "")
        for id_, score in read_labels(run).items()
    ]
    write_labels(run, turned, {})
    done = vlmscope("score", *asked, *common)
    assert done.code == 0
    assert "its probes are out of date: 80 of 80 rows have another label now" in done.err
