"""The HALP paper's protocol: its split and metrics, and why its numbers are optimistic."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from store_support import make_capture, make_manifest
from vlmscope.cli.halp import show_halp
from vlmscope.errors import InputError
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.probes.halp_network import HalpNetwork
from vlmscope.schema import Score
from vlmscope.store import RunWriter, open_run, write_labels
from vlmscope.sweeps import ProbeData, SweepSpec, save_sweep, sweep
from vlmscope.sweeps.grouping import Grouping
from vlmscope.sweeps.halp_protocol import (
    HalpReport,
    halp_protocol,
    halp_sentences,
    network_of,
    split_rows,
)
from vlmscope.sweeps.run import layer_title, sweep_rows
from vlmscope.sweeps.source import LayerKey
from vlmscope.sweeps.verdict import verdict

WIDTH = 16
QUICK = HalpNetwork(hidden=(32, 16, 8), learning_rate=0.005, epochs=20)
FIRST: LayerKey = ("query_token_representation", 0)
SECOND: LayerKey = ("query_token_representation", 1)
Matrix = Callable[[str, int | None], Any]


def rows_of(
    truth: np.ndarray, groups: np.ndarray, layer_keys: tuple[LayerKey, ...] = (FIRST, SECOND)
) -> ProbeData:
    """Rows of which nothing is known but label and image."""
    count = len(truth)
    nothing = dict.fromkeys(
        ("category", "answer_type", "first_token_entropy", "first_token_logprob",
         "num_answer_tokens", "mean_answer_logprob")
    )  # fmt: skip
    return ProbeData(
        rows=np.arange(count),
        ids=tuple(map(str, range(count))),
        truth=truth,
        grouping=Grouping(groups, "content", len(np.unique(groups))),
        baseline_inputs=BaselineInputs(question=["Is it there?"] * count, **nothing),
        categories=None,
        unscorable=0,
        layer_keys=layer_keys,
    )


def planted(images: int = 60, each: int = 4) -> tuple[ProbeData, Matrix]:
    """Rows of which the second layer knows the label, whatever the image."""
    rng = np.random.default_rng(1)
    truth = rng.random(images * each) < 0.4
    noise = rng.standard_normal((2, len(truth), WIDTH)).astype(np.float32)
    noise[1, :, 0] += 2.5 * truth
    return rows_of(truth, np.repeat(np.arange(images), each)), lambda _, layer: noise[layer or 0]


def run(data: ProbeData, matrix: Matrix, **options: Any) -> HalpReport:
    asked = {"title": layer_title, "draws": 100, "seed": 0} | options
    return halp_protocol(data, matrix, QUICK, **asked)


@pytest.fixture(scope="module")
def found() -> tuple[ProbeData, HalpReport]:
    data, matrix = planted()
    return data, run(data, matrix)


def test_the_split_is_the_published_one(found: tuple[ProbeData, HalpReport]) -> None:
    data, report = found
    labels = data.truth.astype(int)
    train, test, _, expected = train_test_split(
        np.arange(len(labels)), labels, test_size=0.2, random_state=42, stratify=labels
    )
    assert [part.tolist() for part in split_rows(data.truth, 42)] == [train.tolist(), test.tolist()]
    for row in report.results:
        assert (row.train_rows, row.test_rows, row.random_state) == (192, 48, 42)
        assert row.test_hallucinated == expected.sum()
        assert row.shared == np.isin(data.groups[test], data.groups[train]).mean() > 0.9


def test_a_planted_sign_is_found_where_it_is(found: tuple[ProbeData, HalpReport]) -> None:
    _, report = found
    noise, signal = report.results
    assert report.best is signal
    assert signal.auroc > 0.85
    assert 0.25 < noise.auroc < 0.75
    assert signal.interval.low < signal.auroc < signal.interval.high
    assert noise.train_auroc > noise.auroc, "fifty passes learn the training rows"
    assert [row.random_state for row in report.other_splits] == [43, 44]
    assert all(row.name == signal.name and row.auroc > 0.8 for row in report.other_splits)


def test_metrics_are_those_of_the_confusion_matrix(found: tuple[ProbeData, HalpReport]) -> None:
    for row in found[1].results:
        (tn, fp), (fn, tp) = row.confusion_matrix
        assert tn + fp + fn + tp == row.test_rows
        assert fn + tp == row.test_hallucinated
        assert row.accuracy == pytest.approx((tn + tp) / row.test_rows)
        assert row.recall == pytest.approx(tp / (tp + fn))
        assert row.precision == pytest.approx(tp / (tp + fp))
        assert row.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))


@pytest.mark.exhaustive
def test_a_seed_decides_everything_but_the_split(found: tuple[ProbeData, HalpReport]) -> None:
    data, matrix = planted()
    assert run(data, matrix) == found[1]
    other = run(data, matrix, seed=1)
    assert other.results[1].auroc != found[1].results[1].auroc
    assert other.results[1].test_hallucinated == found[1].results[1].test_hallucinated


@pytest.mark.exhaustive
def test_threads_change_nothing(
    found: tuple[ProbeData, HalpReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    blas = [{"user_api": "blas", "num_threads": 3}]
    monkeypatch.setattr("vlmscope.sweeps.halp_protocol.threadpool_info", lambda: blas)
    told: list[str] = []
    assert run(*planted(), progress=told.append) == found[1]
    assert told[0] == "HALP protocol, 1 to 2 of 2 networks"


@pytest.mark.exhaustive
def test_an_image_that_gives_the_label_away_looks_like_knowledge() -> None:
    """Vectors that only tell images apart: perfect on random rows, nothing on other images."""
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(50), 8)
    truth = (rng.random(50) < 0.4)[groups]
    vectors = rng.standard_normal((50, WIDTH)).astype(np.float32)[groups]
    data, matrix = rows_of(truth, groups, (SECOND,)), lambda *_: vectors
    optimistic = run(data, matrix)
    assert optimistic.best is not None
    assert optimistic.best.auroc > 0.95
    assert optimistic.best.shared == 1
    honest = sweep_rows(data, matrix, SweepSpec(repeats=1, permutations=100, draws=100))
    assert 0.3 < honest["selected"].auroc < 0.7
    first, _ = halp_sentences(optimistic, honest["selected"].auroc)
    assert first.startswith("HALP protocol (optimistic: not grouped by image; best layer chosen on")
    gap = optimistic.best.auroc - honest["selected"].auroc
    assert f"{gap:.3f} above the grouped protocol's" in first
    assert "100% of its test rows show an image that it was trained on" in first


def test_what_exists_after_the_answer_is_never_the_best() -> None:
    data, matrix = planted()
    late: LayerKey = ("last_answer_token_representation", 1)
    report = run(replace(data, layer_keys=(FIRST, late)), matrix)
    assert report.results[1].known == "after"
    assert report.results[1].auroc > report.results[0].auroc
    assert report.best is report.results[0]


def test_test_rows_of_one_class_have_no_auroc() -> None:
    truth = np.zeros(60, dtype=bool)
    truth[[3, 20]] = True  # the published split puts both into training
    _, test = split_rows(truth, 42)
    assert not truth[test].any()
    data = rows_of(truth, np.arange(60))
    noise = np.random.default_rng(0).standard_normal((60, WIDTH)).astype(np.float32)
    report = run(data, lambda *_: noise)
    assert report.best is None
    assert report.other_splits == ()
    assert np.isnan(report.results[0].auroc)
    assert next(halp_sentences(report, 0.6)).endswith("no network has an AUROC on its test rows.")


def test_one_risk_for_all_test_rows_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The AUROC of a constant is 0.500 by definition, or what rounding makes of it: no finding."""
    data = rows_of(np.arange(60) % 3 == 0, np.arange(60))
    report = run(data, lambda *_: np.ones((60, WIDTH), np.float32))
    assert all(row.found_nothing for row in report.results)
    assert report.document()["halp"][0]["found_nothing"] is True
    show_halp(report)
    told = capsys.readouterr().out
    assert told.count("constant risk") == 2
    assert not re.search(r"\d\.\d{3}–\d\.\d{3}", told)
    assert (report.best, report.other_splits) == (None, ())
    assert next(halp_sentences(report, 0.6)).endswith("no network distinguishes its test rows.")


def test_training_that_diverges_is_no_result() -> None:
    data, matrix = planted()
    huge = np.copysign(np.float32(3e38), matrix("", 1))
    report = run(data, lambda _, layer: huge if layer else matrix("", 0))
    assert np.isnan([report.results[1].auroc, report.results[1].f1]).all()
    assert report.best is report.results[0]


@pytest.mark.parametrize(
    ("model", "norm_first"),
    [
        ({"name": "meta-llama/Llama-3.2-11B-Vision-Instruct", "type": "mllama"}, True),
        ({"model_name": "microsoft/Phi-4-multimodal-instruct", "source": "research files"}, True),
        ({"name": "llava-hf/llama3-llava-next-8b-hf", "type": "llava_next"}, False),
        ({"name": "tiny", "type": "qwen2_5_vl"}, False),
        ({}, False),
    ],
)
def test_the_order_of_norm_and_rectifier_is_that_of_the_models_script(
    model: dict[str, str], norm_first: bool
) -> None:
    assert network_of(model).norm_first is norm_first


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halp") / "run"
    truth = np.random.default_rng(1).random(60) < 0.4
    captures = [make_capture(i, image_sha256=f"{i // 3:064x}", image_dhash="") for i in range(60)]
    with RunWriter(folder, make_manifest()) as writer:
        writer.add(captures)
    marks = zip(captures, truth, strict=True)
    write_labels(folder, [Score(c.sample.id, bool(t), "column", "") for c, t in marks], {})
    return folder


@pytest.mark.exhaustive
def test_a_sweep_keeps_it_beside_its_results(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(model: dict[str, Any]) -> HalpNetwork:
        return replace(QUICK, norm_first=network_of(model).norm_first)

    monkeypatch.setattr("vlmscope.sweeps.run.network_of", quick)
    source = open_run(labelled)
    both = sweep(source, SweepSpec(repeats=1, permutations=100, draws=100, protocol="halp"))
    assert both.halp is not None
    plain = replace(both, halp=None)
    assert [line for line in verdict(both) if line not in verdict(plain)] == list(
        halp_sentences(both.halp, both["selected"].auroc)
    )
    assert verdict(both)[0] == verdict(plain)[0], "it is no headline"
    assert sum("HALP protocol (optimistic" in line for line in verdict(both)) == 1
    summary = json.loads((save_sweep(source, both, tmp_path / "a") / "results.json").read_text())
    assert [row["name"] for row in summary["halp"]] == [
        row["name"] for row in summary["results"] if row["kind"] == "probe"
    ]
    for row in summary["halp"]:
        assert row["kind"] == "halp"
        assert row["note"] == "optimistic: not grouped by image; best layer chosen on the test set"
        assert "not grouped by image" in row["title"]
        assert row["interval"]["low"] <= row["auroc"] <= row["interval"]["high"]
        assert row.keys() >= {"representation", "layer", "accuracy", "precision", "recall", "f1"}
    protocol = summary["halp_protocol"]
    assert protocol["network"]["norm_first"] is True, "the run's model is an Mllama"
    assert protocol["random_state"] == 42
    assert len(protocol["best_on_other_splits"]) == 2
    assert all(row["kind"] != "halp" for row in summary["results"])
    without = json.loads((save_sweep(source, plain, tmp_path / "b") / "results.json").read_text())
    assert without["halp"] == []


def test_another_protocol_is_refused() -> None:
    with pytest.raises(InputError, match=r"^protocol: found 'honest', expected one of grouped, ha"):
        SweepSpec(protocol="honest")


def test_auroc_is_of_the_test_rows_only(found: tuple[ProbeData, HalpReport]) -> None:
    """Trained and judged again by hand."""
    from vlmscope.probes.halp_network import halp_risk

    data, report = found
    train, test = split_rows(data.truth, 42)
    risk = halp_risk(planted()[1]("", 1), data.truth, train, QUICK, (0, 42, 1))
    assert risk is not None
    assert report.results[1].auroc == pytest.approx(roc_auc_score(data.truth[test], risk[test]))
