"""Transfer on runs whose signal, images and questions are known, because they were planted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from labelled_runs import OTHER_MODEL, QUERY, WIDTH, HeldRun, label, labelled_run, planted
from store_support import make_bare, make_capture, make_manifest
from vlmscope.errors import InputError, StoreError
from vlmscope.metrics import Platt
from vlmscope.probes import LogisticProbe, load_probe
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.store import Run, RunWriter, open_run
from vlmscope.sweeps import (
    SavedSweep,
    SweepResult,
    SweepSpec,
    TransferResult,
    save_sweep,
    save_transfer,
    sweep,
    transfer,
)
from vlmscope.sweeps.data import LeftOut
from vlmscope.sweeps.transfer.fits import concatenate_inputs, take_rows
from vlmscope.sweeps.transfer.run import TransferTest
from vlmscope.sweeps.transfer.save import transfer_document
from vlmscope.sweeps.transfer.targets import targets
from vlmscope.sweeps.transfer.verdict import relation_phrase, transfer_verdict

ROWS = 180
SPEC = SweepSpec(folds=3, draws=50, repeats=1, permutations=100)
PLANTED = f"{QUERY}/layer_3"
ALONG = np.eye(WIDTH)[0]
ACROSS = np.eye(WIDTH)[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, SweepResult]:
    """A run with two questions an image, and its sweep."""
    truth, vectors = planted(np.random.default_rng(1), ROWS, ALONG)
    folder = tmp_path_factory.mktemp("transfer") / "A"
    kinds = [f"c{i % 3}" for i in range(ROWS)]
    run = labelled_run(
        folder, truth, vectors, np.arange(ROWS) // 2, categories=kinds, noise=1, on_disk=True
    )
    return run, sweep(run, SPEC)


@pytest.fixture(scope="module")
def shared(
    source: tuple[Run, SweepResult], tmp_path_factory: pytest.TempPathFactory
) -> TransferResult:
    """The transfer to a run of other images in which the same direction knows."""
    folder = tmp_path_factory.mktemp("shared") / "B"
    run = other(folder, categories=[f"c{i % 4}" for i in range(ROWS)])
    return transfer(source[0], [run], SPEC, result=source[1])


def other(
    folder: Path, direction: np.ndarray = ALONG, *, first_image: int = 10_000, **options: Any
) -> Run:
    """A run of other questions, about images from a number on."""
    rng = np.random.default_rng(options.pop("seed", 2))
    truth, vectors = planted(rng, options.pop("rows", ROWS), direction)
    images = first_image + np.arange(len(truth)) // 2
    return labelled_run(folder, truth, vectors, images, noise=2, **options)


def true_auroc(run: Run, result: SweepResult) -> float:
    """AUROC of the very fit of the planted layer on fresh rows: those of two normal distributions
    whose means are 2 apart, along a direction that lies at some angle to the right one."""
    data = result.data
    probe = LogisticProbe().fit(run.matrix(QUERY, 3), data.truth, groups=data.groups)
    weights = probe.coef_[0] / probe.scale_
    return float(0.5 * (1 + erf(2.0 * weights[0] / np.linalg.norm(weights) / 2)))


def found(source: tuple[Run, SweepResult], test: Run) -> TransferTest:
    [result] = transfer(source[0], [test], SPEC, result=source[1]).tests
    return result


@pytest.mark.exhaustive
def test_a_direction_that_both_share_carries_over(
    source: tuple[Run, SweepResult], shared: TransferResult
) -> None:
    [test] = shared.tests
    row = test["selected"]
    assert test.chosen == (PLANTED,)
    true = true_auroc(*source)
    assert 0.85 < true < 0.922
    assert row.auroc_low <= true <= row.auroc_high
    assert row.source_auroc == source[1]["selected"].auroc
    assert abs(row.own_auroc - true) < 0.12
    assert row.above_own is not None
    assert row.above_own_low < 0.02
    assert row.above_joint is not None
    assert row.above_joint_low > 0.2
    assert row.ece < 0.12
    assert {"category", "question_words", "first_token", "joint"} <= test.risks.keys()
    assert not test.target.paired
    text = " ".join(transfer_verdict(test))
    assert "other questions on the same model" in text
    assert "no tested image was in training" in text
    assert "better than chance" in text
    assert "the probe is better, +0." in text
    joint = test["joint"]
    numbers = {"joint": 0.50049, "selected": 0.75051}  # shown as 0.500 and 0.751
    rows = tuple(
        replace(each, auroc=numbers[each.name]) if each.name in numbers else each
        for each in test.rows
    )
    assert "the probe is better, +0.251 (" in " ".join(transfer_verdict(replace(test, rows=rows)))
    rows = tuple(
        replace(joint, found_nothing=True) if each is joint else each for each in test.rows
    )
    [line] = [line for line in transfer_verdict(replace(test, rows=rows)) if "transferred" in line]
    assert line.endswith("transferred in the same way, has a constant risk."), (
        "no difference to nothing"
    )


@pytest.mark.exhaustive
def test_a_direction_that_is_another_there_does_not(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    test = found(source, other(tmp_path / "B", ACROSS))
    row = test["selected"]
    assert 0.38 < row.auroc < 0.62
    assert row.own_auroc > 0.85
    assert row.above_own is not None
    assert row.above_own_high < -0.2
    text = " ".join(transfer_verdict(test))
    assert "it is not significantly better than chance there" in text
    assert "the transfer loses, -0." in text


@pytest.mark.exhaustive
def test_a_direction_that_is_turned_round_is_told_to_be_worse(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    test = found(source, other(tmp_path / "B", -ALONG))
    assert test["selected"].auroc < 0.2
    assert "its direction is reversed" in " ".join(transfer_verdict(test))


def test_the_risk_is_that_of_the_saved_probe(
    source: tuple[Run, SweepResult], shared: TransferResult, tmp_path: Path
) -> None:
    """What is told of a transfer is told of the probe that ``vlmscope score`` uses."""
    folder = save_sweep(source[0], source[1], tmp_path / "saved")
    probe, info = load_probe(folder / PLANTED.replace("/", "-"))
    assert info.calibration is not None
    [test] = shared.tests
    logit = probe.decision_function(test.target.run.matrix(QUERY, 3))
    assert np.allclose(Platt(*info.calibration).apply(logit), test.risks["selected"])


def test_rows_about_images_of_the_training_run_are_left_out(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    """Whatever their ids and names are: 40 of 90 images are known, by their content."""
    run = other(tmp_path / "B", first_image=ROWS // 2 - 40, ids=[f"other_{i}" for i in range(ROWS)])
    [target] = targets(source[0], [run])
    assert not target.paired
    assert len(target.kept) == ROWS - 80
    assert target.left_out == (LeftOut("row", 80, "the training run has the image too"),)


def test_a_near_copy_is_the_same_image(source: tuple[Run, SweepResult], tmp_path: Path) -> None:
    """Other bytes, and a likeness that differs in three bits: 2 rows are about it."""
    dhash = int(next(iter(source[0])).image_dhash, 16) ^ 0b1011
    truth, vectors = planted(np.random.default_rng(3), ROWS, ALONG)
    images = 20_000 + np.arange(ROWS) // 2
    run = labelled_run(tmp_path / "B", truth, vectors, images, noise=2)
    assert isinstance(run, HeldRun)
    copies = {"image_sha256": "e" * 64, "image_dhash": f"{dhash:016x}"}
    rows = [replace(row, **copies) if i in (5, 9) else row for i, row in enumerate(run.rows)]
    [target] = targets(source[0], [HeldRun(run.path, run.manifest, rows)])
    assert target.overlap.by == "content and likeness"
    assert np.flatnonzero(target.overlap.shared).tolist() == [5, 9]
    assert len(target.kept) == ROWS - 2


def leaky(folder: Path, mood: np.ndarray, faces: np.ndarray, noise: int, **options: Any) -> Run:
    """Vectors that tell the image and nothing else; labels are the image's."""
    rng = np.random.default_rng(noise)
    images = np.repeat(np.arange(len(mood)), 4)
    vectors = faces[images] + 0.1 * rng.standard_normal((len(images), faces.shape[1]))
    questions = [f"what is number {i}?" for i in range(len(images))]
    return labelled_run(
        folder, mood[images], vectors, images, questions=questions, noise=noise, **options
    )


@pytest.mark.exhaustive
def test_the_same_questions_on_another_model_are_judged_without_their_images(
    tmp_path: Path,
) -> None:
    """Both models know an image by its face: a fit on all images would recognise every one."""
    rng = np.random.default_rng(5)
    mood, faces = rng.random(60) < 0.4, rng.standard_normal((60, 80))
    one = leaky(tmp_path / "A", mood, faces, 1)
    two = leaky(tmp_path / "B", mood, faces, 2, model=OTHER_MODEL)
    [test] = transfer(one, [two], SPEC).tests
    naive = LogisticProbe().fit(one.matrix(QUERY, 3), mood.repeat(4), groups=np.arange(240) // 4)
    leaked = roc_auc_score(mood.repeat(4), naive.decision_function(two.matrix(QUERY, 3)))
    assert leaked > 0.9, "the test can fail"
    assert test.target.paired
    assert len(test.target.kept) == 240
    assert 0.3 < test[PLANTED].auroc < 0.62
    assert test["selected"].auroc < 0.62
    for part in np.unique(test.part_of):  # an image is judged by one fit
        images = set(test.target.groups[test.part_of == part])
        assert not images & set(test.target.groups[test.part_of != part])
    text = " ".join(transfer_verdict(test))
    assert "the same questions on another model (other)" in text
    assert "paired by image: no tested image was in training" in text
    assert "Baselines do without the first token" in text
    assert "first_token" not in test.risks


@pytest.mark.exhaustive
def test_a_signal_is_carried_over_to_another_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    images, questions = np.arange(ROWS) // 2, [f"number {i}?" for i in range(ROWS)]
    truth, vectors = planted(rng, ROWS, ALONG)
    one = labelled_run(tmp_path / "A", truth, vectors, images, questions=questions, noise=1)
    truth, vectors = planted(rng, ROWS, ALONG)
    two = labelled_run(
        tmp_path / "B", truth, vectors, images, questions=questions, noise=2, model=OTHER_MODEL
    )
    [test] = transfer(one, [two], SPEC).tests
    assert test.target.paired
    assert 0.7 < test["selected"].auroc_low < 0.91 < test["selected"].auroc_high


@pytest.mark.exhaustive
def test_images_that_only_the_test_run_has_are_judged_too_where_it_is_paired(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    """POPE's tables: two thirds of the images are the training run's, asked about anew."""
    kinds = ["c1"] * ROWS
    test = found(source, other(tmp_path / "B", first_image=30, categories=kinds))
    assert test.target.paired
    assert len(test.target.kept) == ROWS
    assert set(np.unique(test.part_of)) == {0, 1, 2}
    text = " ".join(transfer_verdict(test))
    assert "other questions on the same model" in text
    assert "are left out" not in text


def test_a_question_about_several_images_is_about_each_of_them(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    """One of its two images is known, and so it joins two groups of the test run to it."""
    run = other(tmp_path / "B")
    assert isinstance(run, HeldRun)
    known = next(iter(source[0]))
    both = {
        name: f"{getattr(run.rows[7], name)}+{getattr(known, name)}"
        for name in ("image_sha256", "image_dhash")
    }
    rows = [replace(row, **both) if i == 7 else row for i, row in enumerate(run.rows)]
    [target] = targets(source[0], [HeldRun(run.path, run.manifest, rows)])
    assert np.flatnonzero(target.overlap.shared).tolist() == [6, 7], "6 shows the same image as 7"


@pytest.mark.exhaustive
def test_questions_without_an_image_are_told_apart_by_their_words(tmp_path: Path) -> None:
    asked = [f"why {i}?" for i in range(ROWS)]
    runs = []
    for noise, (name, words) in enumerate(
        {
            "A": asked,
            "B": asked,
            "C": [*[f" Why  {i}? " for i in range(30)], *[f"how {i}?" for i in range(ROWS - 30)]],
        }.items()
    ):
        truth, vectors = planted(np.random.default_rng(noise), ROWS, ALONG)
        runs.append(
            labelled_run(
                tmp_path / name, truth, vectors, range(ROWS), questions=words, noise=noise,
                bare=True, model=OTHER_MODEL if name == "B" else None,
            )
        )  # fmt: skip
    same, some = targets(runs[0], runs[1:], SPEC)
    assert same.paired
    assert same.overlap.by == "question"
    assert len(some.kept) == ROWS - 30
    assert some.left_out == (LeftOut("row", 30, "the training run has the question too"),)
    [test, _] = transfer(runs[0], [same, some], SPEC).tests
    assert test["selected"].auroc > 0.7
    text = " ".join(transfer_verdict(test))
    assert f"{ROWS} answers in {ROWS} different questions" in text
    assert "paired by question: no tested question was in training" in text
    imaged = other(tmp_path / "D")
    [target] = targets(runs[0], [imaged])
    assert not target.overlap.shared.any()
    assert all(place[0] == QUERY for place in target.layers)


def test_runs_that_hang_together_by_their_images_are_refused_before_anything_is_trained(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    """One question of the test run shows every image of the training run."""
    run = other(tmp_path / "B", first_image=40)
    assert isinstance(run, HeldRun)
    every = {
        name: "+".join(dict.fromkeys(getattr(row, name) for row in source[0]))
        for name in ("image_sha256", "image_dhash")
    }
    rows = [replace(run.rows[0], **every), *run.rows[1:]]
    with pytest.raises(InputError, match=r"^test .*cannot be split by image: folds: label"):
        targets(source[0], [HeldRun(run.path, run.manifest, rows)])


@pytest.mark.exhaustive
def test_vectors_that_say_nothing_are_told_to_say_nothing(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    run = other(tmp_path / "B")
    assert isinstance(run, HeldRun)
    same = np.ones(WIDTH, np.float32)
    rows = [replace(row, vectors={**row.vectors, PLANTED: same}) for row in run.rows]
    test = found(source, HeldRun(run.path, run.manifest, rows))
    assert test["selected"].found_nothing
    assert np.isnan(test[PLANTED].own_auroc)
    assert test[PLANTED].above_own is None
    text = " ".join(transfer_verdict(test))
    assert "gives most answers there the same risk, so there is no AUROC" in text
    assert "the probe is" not in text


@pytest.mark.exhaustive
def test_same_words_are_said_and_not_left_out(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    asked = [item.sample.question for item in source[0]]
    test = found(
        source, other(tmp_path / "B", questions=[*asked[:50], *["What else?"] * (ROWS - 50)])
    )
    assert len(test.target.kept) == ROWS
    assert f"50 of the {ROWS} tested questions are asked in the training run too" in " ".join(
        transfer_verdict(test)
    )


@pytest.mark.exhaustive
def test_widths_that_differ_are_one_line(source: tuple[Run, SweepResult], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth, vectors = planted(rng, ROWS, np.eye(WIDTH + 1)[0])
    images = 10_000 + np.arange(ROWS)
    run = labelled_run(tmp_path / "B", truth, vectors, images, noise=2, model=OTHER_MODEL)
    test = found(source, run)
    lines = [line for line in transfer_verdict(test) if "width" in line]
    assert lines == [
        f"{QUERY}/layer_2 and 1 more: left out, its width differs (8 numbers in training, 9 in "
        "the test run)."
    ]
    assert test.chosen == ("vision_only_representation",)
    assert np.isnan(test["selected"].source_auroc), "the sweep chose among other layers"
    none = labelled_run(
        tmp_path / "C", truth, vectors, images, noise=2, model={**OTHER_MODEL, "vision_size": 9}
    )
    with pytest.raises(InputError, match=r"no vector that a probe of .* can read .*width differs"):
        found(source, none)


@pytest.mark.exhaustive
def test_layers_that_one_side_lacks_are_left_out(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    run = other(tmp_path / "B", capture={"layers": (1, 3)})
    test = found(source, run)
    text = " ".join(transfer_verdict(test))
    assert f"{QUERY}/layer_2: left out, the test run has no such vector." in text
    assert f"{QUERY}/layer_1: left out, the training run has no such vector." in text
    assert test["selected"].auroc > 0.8
    assert test["selected"].source_auroc == source[1]["selected"].auroc
    halp = other(tmp_path / "C", capture={"layer_k": "hidden_states[k]", "compat": "halp"})
    with pytest.raises(InputError, match="they are not the same vectors"):
        found(source, halp)


def test_what_cannot_be_judged_is_refused_in_a_line(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    run = source[0]
    unlabelled = other(tmp_path / "B", labelled=False)
    with pytest.raises(InputError, match=f"run 'vlmscope label {unlabelled.path}' first"):
        found(source, unlabelled)
    with pytest.raises(InputError, match="is the training run"):
        found(source, run)
    good = other(tmp_path / "C", on_disk=True)
    with pytest.raises(InputError, match="given twice"):
        transfer(run, [good, good.path], SPEC, result=source[1])
    # 3 of 60 rows are about other images than those that are trained on: too few of a kind.
    truth, vectors = planted(np.random.default_rng(2), 60, ALONG)
    truth[:] = np.arange(60) % 30 == 0
    few = labelled_run(tmp_path / "D", truth, vectors, 50_000 + np.arange(60), noise=2)
    with pytest.raises(
        InputError, match="image groups with hallucinated answers: 2, with faithful ones: 58"
    ):
        found(source, few)


def test_nothing_left_after_leaving_out_is_refused(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    """The hallucinated ones are all about images of the training run."""
    truth, vectors = planted(np.random.default_rng(2), 100, ALONG)
    truth[:] = np.arange(100) < 40
    images = np.where(truth, np.arange(100), 50_000 + np.arange(100))
    run = labelled_run(tmp_path / "B", truth, vectors, images, noise=2)
    with pytest.raises(
        InputError, match="60 rows can be tested, 40 more are about training images"
    ):
        found(source, run)


@pytest.mark.exhaustive
def test_a_test_run_too_small_to_learn_from_is_judged_all_the_same(
    source: tuple[Run, SweepResult], tmp_path: Path
) -> None:
    truth, vectors = planted(np.random.default_rng(4), 40, ALONG)
    images = 50_000 + np.arange(40) // 10  # four images
    truth[:] = np.arange(40) % 10 < 4
    vectors[:, 0] += 2 * truth
    test = found(source, labelled_run(tmp_path / "B", truth, vectors, images, noise=2))
    assert test["selected"].auroc > 0.6
    result = transfer(
        source[0], [test.target], SweepSpec(folds=5, draws=50), result=source[1]
    ).tests[0]
    assert result["selected"].above_own is None
    assert np.isnan(result["selected"].own_auroc)
    text = " ".join(transfer_verdict(result))
    assert "The AUROC of training within the test run is unknown: folds:" in text
    assert "little data" in text


@pytest.mark.exhaustive
def test_what_is_saved(source: tuple[Run, SweepResult], tmp_path: Path) -> None:
    """Beside the sweep, which stays byte for byte what it was."""
    folder = save_sweep(source[0], source[1], tmp_path / "out")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    tests = [other(tmp_path / "B"), other(tmp_path / "C", model=OTHER_MODEL, seed=7)]
    result = transfer(source[0], tests, SPEC, result=source[1])
    document = json.loads(save_transfer(result, folder).read_text())
    assert {p: p.read_bytes() for p in before} == before
    assert document == json.loads(json.dumps(transfer_document(result, folder)))
    assert document["kind"] == "vlmscope transfer"
    assert [each["run_id"] for each in document["tests"]] == [t.manifest.run_id for t in tests]
    assert [each["same_model"] for each in document["tests"]] == [True, False]
    rows = {row["name"]: row for row in document["tests"][0]["results"]}
    assert rows["selected"]["auroc"] == result.tests[0]["selected"].auroc
    assert rows["joint"]["above_joint"] is None
    predictions = pd.read_parquet(folder / "transfer_predictions.parquet")
    assert len(predictions) == 2 * ROWS
    mine = predictions[predictions["run_id"] == tests[1].manifest.run_id]
    assert mine["risk/first_token"].isna().all()
    assert np.array_equal(mine["risk/selected"], result.tests[1].risks["selected"])
    assert save_transfer(result, folder).exists(), "a transfer may be made anew"


def test_results_are_found_by_name(source: tuple[Run, SweepResult], shared: TransferResult) -> None:
    swept, [test] = source[1], shared.tests
    saved = SavedSweep({}, swept.rows, pd.DataFrame(), "")
    for result, rows in ((swept, swept.rows), (test, test.rows), (saved, saved.results)):
        assert tuple(result) == rows
        assert PLANTED in result
        assert "layer_3" not in result
        with pytest.raises(InputError, match="'joined': no result has that name; did you mean"):
            result["joined"]


def test_each_label_set_has_its_own_folder(
    source: tuple[Run, SweepResult], shared: TransferResult, tmp_path: Path
) -> None:
    """Files there without a document, as a killed save leaves them, are replaced."""
    run = open_run(shutil.copytree(source[0].path, tmp_path / "A"))
    data = replace(source[1].data, origin={**source[1].data.origin, "label_set": "human"})
    swept = replace(source[1], data=data)
    found = replace(shared, source=run, result=swept)
    (tmp_path / "A" / "probes-human").mkdir()
    for name in ("predictions.parquet", "transfer_predictions.parquet"):
        (tmp_path / "A" / "probes-human" / name).write_text("half")
    assert save_sweep(run, swept) == tmp_path / "A" / "probes-human"
    assert save_transfer(found) == tmp_path / "A" / "probes-human" / "transfer.json"
    assert not (tmp_path / "A" / "probes").exists()
    with pytest.raises(InputError, match="contains the probes of the label set 'human'"):
        save_transfer(replace(found, result=source[1]), save_sweep(run, swept, tmp_path / "out"))


HOSTILE = ['{"kind": "mine"}', "my notes", "[" * 10_000, "[]"]


@pytest.mark.parametrize("text", HOSTILE, ids=["other", "text", "deep", "list"])
def test_a_file_of_somebody_elses_is_not_replaced(
    shared: TransferResult, tmp_path: Path, text: str
) -> None:
    result, folder = shared, tmp_path / "out"
    folder.mkdir()
    (folder / "transfer.json").write_text(text)
    with pytest.raises(
        InputError, match="is not a transfer of vlmscope probe; give another folder"
    ):
        save_transfer(result, folder)
    (folder / "transfer.json").unlink()
    (folder / "transfer_predictions.parquet").write_text("mine")
    with pytest.raises(InputError, match="exists without a transfer in the same folder"):
        save_transfer(result, folder)
    assert (folder / "transfer_predictions.parquet").read_text() == "mine"


@pytest.mark.exhaustive
def test_links_are_replaced_or_refused_and_never_written_through(
    source: tuple[Run, SweepResult], shared: TransferResult, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    run = open_run(shutil.copytree(source[0].path, home / "A"))
    moved = replace(shared, source=run)
    probes = save_sweep(run, source[1])
    for name in ("transfer.json", "transfer_predictions.parquet"):
        (probes / name).symlink_to("../../thesis.txt")
    document = save_transfer(moved)
    assert (home / "thesis.txt").read_text() == "mine"
    assert not document.is_symlink()
    shutil.rmtree(probes)
    (home / "elsewhere").mkdir()
    probes.symlink_to("../elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link, where a folder is expected"):
        save_transfer(moved)
    assert not list((home / "elsewhere").iterdir())


def test_columns_are_known_on_both_sides_or_left_out() -> None:
    """Columns of the training table that the test table lacks are no facts of the baseline."""
    rows = np.arange(4)
    one = BaselineInputs(
        question=list("abcd"), category=None, answer_type=None, first_token_entropy=None,
        first_token_logprob=None, num_answer_tokens=None, mean_answer_logprob=None,
        columns={"source": list("xxyy"), "domain": list("ppqq")},
    )  # fmt: skip
    other = replace(one, columns={"source": list("zzxx")})
    taken = take_rows(one, rows[[0, 3]])
    assert taken.columns == {"source": ["x", "y"], "domain": ["p", "q"]}
    both, lacking = concatenate_inputs(taken, other, same_tokens=True)
    assert both.columns == {"source": ["x", "y", "z", "z", "x", "x"]}
    assert any("the column domain" in each for each in lacking)


@pytest.mark.parametrize("bare", ["training", "test"])
def test_runs_of_which_one_has_images_are_told_apart(tmp_path: Path, bare: str) -> None:
    """The prompts differ in kind, whatever the AUROC is."""
    runs = []
    for number, name in enumerate(("training", "test")):
        folder = tmp_path / name
        make = make_bare if name == bare else partial(make_capture, image_dhash="")
        rows = [make(100 * number + i) for i in range(30)]
        with RunWriter(folder, make_manifest(run_id=str(number) * 32)) as writer:
            writer.add(rows)
        label(folder, [row.sample.id for row in rows], [i % 3 == 0 for i in range(30)])
        runs.append(open_run(folder))
    [target] = targets(runs[0], runs[1:], SPEC)
    said = relation_phrase(target)
    other = "without images (the training run has images)"
    if bare == "training":
        other = "with images (the training run has none)"
    assert said == f"other questions on the same model, {other}"
    [same] = targets(runs[0], [_again(runs[0], tmp_path / "again")], SPEC)
    assert relation_phrase(same) == "the same questions on the same model"


def _again(run: Run, folder: Path) -> Run:
    """The rows and labels of a run in another one."""
    with RunWriter(folder, make_manifest(run_id="9" * 32)) as writer:
        writer.add(list(run))
    label(folder, run.ids, [i % 3 == 0 for i in range(len(run))])
    return open_run(folder)
