"""``vlmscope detect`` as a user meets it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detected_runs import WIDER, bare, detected_run, label, truth_of, widened, without_trees
from vlmscope.detectors.missing import ALL_SIGNALS
from vlmscope.store import open_run

pytestmark = pytest.mark.usefixtures("columns_only")

Command = Callable[..., Any]
QUICK = (
    "--draws",
    100,
    "--repeats",
    1,
    "--folds",
    3,
    "--detectors",
    "perplexity,haloscope_last_prompt_token",
)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with without_trees():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detected_run(tmp_path_factory.mktemp("detect") / "run", truth_of(90)).path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it to write into."""
    return shutil.copytree(made, tmp_path / "run")


def test_it_shows_the_table_and_the_findings(vlmscope: Command, run: Path) -> None:
    done = vlmscope("detect", run, *QUICK)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    for shown in ("Best detector:", "perplexity of the answer", "the question's category",
                  "HaloScope, last prompt token", "corrected for all comparisons"):  # fmt: skip
        assert shown in text, shown
    assert (run / "detectors" / "detectors.json").is_file()
    assert "next: " in done.err
    assert "report" in done.err


@pytest.mark.exhaustive
def test_what_the_run_lacks_is_a_line_for_each_option(
    vlmscope: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    done = vlmscope("detect", run, *QUICK[:-1], "perplexity,attention,samples,asked")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Not evaluated: 15 detectors."))
    things = [line[2:].split("  ")[0] for line in lines[at:] if re.match(r"  \S", line)]
    assert things == ["--signals attention", "--samples 5", "--signals p_true",
                      "a column verbalised_confidence in the table",
                      "has no value for 90 of 90 rows"]  # fmt: skip
    text = " ".join(done.out.split())
    assert "attention on the image, last prompt token; " in text
    start = f"One run with all of these options: vlmscope extract ... {ALL_SIGNALS} --positions "
    [line] = [line for line in lines if line.startswith(start)]
    assert len(line) > 110, "an option that is copied must not be broken into lines"


def test_none_that_can_be_evaluated_is_an_error_with_the_options(
    vlmscope: Command, run: Path
) -> None:
    done = vlmscope("detect", run, *QUICK[:-1], "asked")
    assert done.code == 2
    message = " ".join(done.err.split())
    assert message.endswith("; name others, or extract a run with --signals p_true"), message


@pytest.fixture(scope="module")
def textual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose questions have no image."""
    folder = tmp_path_factory.mktemp("detect") / "textual"
    return detected_run(folder, truth_of(60), change=bare).path


@pytest.mark.exhaustive
def test_a_run_without_images_is_told_only_what_it_can_have(
    vlmscope: Command, textual: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(textual, tmp_path / "run")
    done = vlmscope("detect", run, *QUICK[:-1], "perplexity,states,samples,lens")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    missing = text[text.index("Not evaluated:") :]
    assert "image_token" not in missing
    assert "image_mean" not in missing
    assert "similarity" not in missing, "GLSim and the contextual lens compare with image tokens"
    assert "it reads images, and no question of the run has one" in missing
    assert "--positions last_answer_token" in missing
    assert "--samples 5" in missing
    options = missing[missing.index("vlmscope extract ... ") :]
    assert "--positions last_prompt_token,last_question_token,first_answer_token," in options
    assert "it reads images" in (run / "detectors" / "detectors.json").read_text()


@pytest.mark.parametrize(
    ("detectors", "ending"),
    [
        ("halp_image_mean_linear", "(it reads images, and no question of the run has one); name "
         "others"),
        ("contextual_lens,p_true", "and 1 other for similar reasons; name others, or extract a "
         "run with --signals p_true"),
    ],
)  # fmt: skip
def test_none_that_can_be_evaluated_without_images(
    vlmscope: Command, textual: Path, detectors: str, ending: str
) -> None:
    done = vlmscope("detect", textual, *QUICK[:-1], detectors)
    assert done.code == 2
    assert " ".join(done.err.split()).endswith(ending)


@pytest.mark.exhaustive
def test_the_report_has_a_section_until_it_is_stale(vlmscope: Command, run: Path) -> None:
    page = run / "report.html"
    assert vlmscope("detect", run, *QUICK).code == 0
    assert vlmscope("report", run).code == 0
    text = page.read_text()
    assert 'id="detectors"' in text
    assert "perplexity of the answer" in text
    assert "Ren et al. 2023" in text
    assert (run / "plots" / "detectors_by_cost.svg").is_file()
    label(run, open_run(run).ids, ~truth_of(90))
    done = vlmscope("report", run)
    assert "The saved detectors are left out" in " ".join(done.out.split())
    assert 'id="detectors"' not in page.read_text()
    assert not (run / "plots" / "detectors_by_cost.svg").exists()
    (run / "detectors" / "detectors.json").write_text("{")
    done = vlmscope("report", run)
    assert done.code == 0
    assert "not JSON" in done.out


@pytest.mark.exhaustive
def test_it_tests_on_other_runs(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    detected_run(tmp_path / "other", truth_of(60, seed=3), first=500, prefix="o")
    done = vlmscope("detect", run, *QUICK, "--test", tmp_path / "other")
    assert done.code == 0, done.err
    assert "test 1: " in done.out
    assert "the same model, 60 answers" in " ".join(done.out.split())
    document = json.loads((run / "detectors" / "detectors.json").read_text())
    [there] = document["transfer"]
    assert there["rows"] == 60
    assert {row["name"] for row in there["results"]} >= {"perplexity", "question_words"}
    assert vlmscope("report", run).code == 0
    assert "the same model, 60 answers" in (run / "report.html").read_text()


@pytest.mark.exhaustive
def test_what_is_not_tested_on_a_wider_model_is_one_line(
    vlmscope: Command, run: Path, tmp_path: Path
) -> None:
    detected_run(
        tmp_path / "wide", truth_of(60, seed=3), first=500, prefix="o", change=widened, model=WIDER
    )
    done = vlmscope("detect", run, *QUICK, "--test", tmp_path / "wide")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert (
        "not tested on test 1: HaloScope, last prompt token: query_token_representation: its width "
        "is 10 in the test run, 8 in training" in text
    )
    assert text.count("not tested on test 1") == 1
    assert "another model (wider), 60 answers" in text


@pytest.mark.exhaustive
def test_a_selection_keeps_what_others_found(vlmscope: Command, run: Path) -> None:
    assert vlmscope("detect", run, *QUICK).code == 0
    files = [run / "detectors" / name for name in ("detectors.json", "risks.parquet")]
    before = [path.read_bytes() for path in files]
    done = vlmscope("detect", run, *QUICK[:-1], "svar")
    assert done.code == 2
    assert "(SVAR) (the run has no signals/attention_answer); name others" in done.err
    assert len(done.err.strip().splitlines()) == 1
    done = vlmscope("detect", run, *QUICK[:-1], "mean_logprob", "--json")
    assert done.code == 0, done.err
    assert "mean_logprob" in {row["name"] for row in json.loads(done.out)["results"]}
    assert (run / "detectors" / "selected" / "risks.parquet").is_file()
    done = vlmscope("detect", run, *QUICK[:-1], "mean_logprob")
    shown = "".join(done.out.split())
    assert f"{run}/detectors/selected" in shown
    assert f"{run}/detectorshastheresultsofmoredetectors,whichareunchanged" in shown
    assert "next: " not in done.err
    assert [path.read_bytes() for path in files] == before


@pytest.mark.exhaustive
def test_categories_are_left_out_and_results_are_printed_as_json(
    vlmscope: Command, run: Path
) -> None:
    done = vlmscope("detect", run, *QUICK, "--leave-category-out", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document == json.loads((run / "detectors" / "detectors.json").read_text())
    assert {row["name"] for row in document["results"]} >= {"perplexity", "category"}
    assert document["settings"]["group_by"] == "category"
    assert document["groups"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--detectors", "nothing"), "'nothing' is not a detector"),
        (("--leave-category-out", "--group-by", "question"), "give one of them"),
        (("--labels", "human"), "no label set of that name"),
        (("--nli", "missing"), "config.json"),
        (("--test", "missing"), "missing"),
    ],
)
def test_what_cannot_work_is_refused(
    vlmscope: Command, run: Path, options: tuple[str, ...], words: str
) -> None:
    done = vlmscope("detect", run, *QUICK, *options)
    assert done.code in (1, 2)
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (run / "detectors").exists()


@pytest.mark.first(1)
@pytest.mark.parametrize("wrong", ["itself", "unlabelled", "twice"])
def test_an_unusable_test_run_is_refused_before_anything_is_trained(
    vlmscope: Command,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    def trained(*_: object, **__: object) -> None:
        raise AssertionError("detectors were trained")

    monkeypatch.setattr("vlmscope.detectors.detect", trained)
    other = run if wrong == "itself" else tmp_path / "other"
    if wrong != "itself":
        detected_run(other, truth_of(60, seed=3), first=500, prefix="o")
    if wrong == "unlabelled":
        (other / "labels.parquet").unlink()
    tests = ("--test", other) * (2 if wrong == "twice" else 1)
    done = vlmscope("detect", run, *QUICK, *tests)
    assert done.code == 2, done.err
    assert {"itself": "is the training run", "unlabelled": "no labels yet",
            "twice": "given twice"}[wrong] in done.err  # fmt: skip
    assert not (run / "detectors").exists()


@pytest.mark.exhaustive
def test_the_demo_evaluates_detectors(vlmscope: Command, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = vlmscope("demo", "--out", out, "--limit", 80, "--detectors")
    assert done.code == 0, done.err
    assert "Best detector:" in " ".join(done.out.split())
    document = json.loads((out / "detectors" / "detectors.json").read_text())
    names = {row["name"] for row in document["results"]}
    assert {"semantic_entropy", "eigenscore", "svar", "internal_confidence", "saplma_mlp"} <= names
    assert 'id="detectors"' in (out / "report.html").read_text()


@pytest.mark.exhaustive
def test_it_writes_elsewhere(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    done = vlmscope("detect", run, *QUICK, "--out", tmp_path / "results")
    assert done.code == 0, done.err
    assert (tmp_path / "results" / "detectors.parquet").is_file()
    assert not (run / "detectors").exists()
    assert vlmscope("detect", run, *QUICK, "--out", run / "shards").code == 2
    assert np.all([path.suffix == ".h5" for path in (run / "shards").glob("[!.]*")])
