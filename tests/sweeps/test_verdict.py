"""The form of a verdict: main sentences and details, numbers that add up, or no number at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import calibration_of_verdicts as benchmark
from vlmscope.metrics import Abstention, Interval
from vlmscope.probes.baselines import JOINT
from vlmscope.shown import distinct_names, plain, rounded_difference
from vlmscope.sweeps import SweepResult, SweepSpec
from vlmscope.sweeps.abstaining import abstaining_sentence
from vlmscope.sweeps.evaluation import JOINT_AND_PROBE, QUESTION_ONLY
from vlmscope.sweeps.run import sweep_rows
from vlmscope.sweeps.verdict import verdict, verdict_document, verdict_in, verdict_of


@pytest.fixture(scope="module")
def result() -> SweepResult:
    made = benchmark.made_for("signal, 40 images × 15", 0)
    spec = SweepSpec(repeats=1, permutations=100, draws=100)
    data = benchmark.probe_data_of(made)
    return sweep_rows(data, lambda _, layer: made.vectors if layer else made.noise, spec)


def changed(result: SweepResult, names: Sequence[str], **changes: object) -> SweepResult:
    """The result with other values in some rows."""
    rows = (replace(row, **changes) if row.name in names else row for row in result.rows)  # type: ignore[arg-type]
    return replace(result, rows=tuple(rows))


def with_auroc(result: SweepResult, name: str, auroc: float) -> SweepResult:
    return changed(result, [name], auroc=auroc)


def test_three_sentences_come_first_and_nothing_is_lost(result: SweepResult) -> None:
    found = verdict_of(result)
    said = [sentence for sentence in found.main if not sentence.startswith("Warning: ")]
    assert said == list(found.main[:3])
    for sentence, start in zip(
        said,
        ("Before the answer is written, ", "Joint baseline, ", "Within categories "),
        strict=True,
    ):
        assert sentence.startswith(start)
    assert "; abstaining from the riskiest 10% " in said[2]
    assert "; chosen inside training: " in said[0]
    assert verdict(result) == [*found.main, *found.details]
    details = " ".join(found.details)
    for part in (
        "Adding the probe to the joint baseline", "Best single baseline", "The question's words",
        "Within categories, the joint baseline", "Within categories, adding the probe",
        "Permutation test", "Differences are corrected for the ", "These numbers are of new",
    ):  # fmt: skip
        assert part in details
    for sentence in verdict(result):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert not sentence.startswith("There "), "of what?"


def test_warnings_are_no_details(result: SweepResult) -> None:
    groups = np.arange(len(result.data.truth)) // 20
    few = replace(result.data, grouping=replace(result.data.grouping, groups=groups))
    found = verdict_of(replace(result, data=few))
    assert any("are little data" in sentence for sentence in found.main)
    assert not any(sentence.startswith("Warning") for sentence in found.details)


def test_a_saved_verdict_is_read_back_in_its_parts(result: SweepResult) -> None:
    found = verdict_of(result)
    document = verdict_document(found)
    assert document["verdict"] == verdict(result), "a list, as it always was"
    assert verdict_in(document) == found
    for main in (None, "3", -1, 10**9):
        assert verdict_in({**document, "verdict_main": main}).sentences == found.sentences


@pytest.mark.parametrize("name", [JOINT, "best", QUESTION_ONLY])
def test_no_number_is_told_of_a_baseline_that_found_nothing(result: SweepResult, name: str) -> None:
    name = result.best_baseline if name == "best" else name
    other = with_auroc(changed(result, [name], found_nothing=True), name, 0.354)
    lines = verdict(other)
    assert not any("0.354" in line for line in lines)
    starts = {JOINT: "Joint baseline, ", QUESTION_ONLY: "The question's words alone: "}
    [line] = [line for line in lines if line.startswith(starts.get(name, "Best single baseline "))]
    assert line.endswith(": constant risk."), "no difference either"
    joint = [line for line in lines if "joint baseline" in line]
    assert (joint == ["Within categories, the joint baseline: constant risk."]) == (name == JOINT)
    if name == JOINT:
        assert not any("everything known 0" in line for line in lines)
        gain = with_auroc(other, JOINT_AND_PROBE, 0.987)
        assert not any("0.633" in line for line in verdict(gain))


def test_no_number_is_told_of_a_probe_that_found_nothing(result: SweepResult) -> None:
    other = with_auroc(changed(result, ["selected"], found_nothing=True), "selected", 0.354)
    lines = verdict(other)
    assert "predicts a constant risk" in lines[0]
    assert [line for line in verdict_of(other).main if not line.startswith("Warning")] == lines[:2]
    text = " ".join(lines)
    assert "0.354" not in text
    for word in ("Abstaining", "abstaining", "Within categories", "by column", "corrected for the"):
        assert word not in text.replace("corrected for their", ""), word
    assert "0.354" not in repr(other)
    assert "constant risk" in repr(other)


def test_shown_numbers_add_up(result: SweepResult) -> None:
    """0.8826 and 0.9344 differ by 0.052, but 0.883 and 0.934 by 0.051."""
    other = with_auroc(with_auroc(result, "selected", 0.8826), JOINT, 0.9344)
    gap = {"above_joint": -0.0518, "above_joint_low": -0.09, "above_joint_high": -0.01}
    line = verdict(changed(other, ["selected"], **gap))[1]
    assert "AUROC 0.934; the probe is worse by 0.051 (95% interval 0.010 to 0.090)" in line
    text = " ".join(verdict(other))
    assert "an AUROC of 0.883 " in text
    best, words = (other[name].auroc for name in (other.best_baseline, QUESTION_ONLY))
    for start, rival in (("Best single baseline", best), ("The question's words", words)):
        [line] = [line for line in verdict(other) if line.startswith(start)]
        found = re.search(r"AUROC (\d\.\d{3}); .*? ([+-]?\d\.\d{3}) \(95%", line)
        assert found is not None, line
        assert found[1] == f"{rival:.3f}"
        assert abs(float(found[2])) == pytest.approx(abs(0.883 - float(found[1])), abs=1e-9)


def test_shares_and_their_change_add_up() -> None:
    found = Abstention(0.1, 0.1253, 0.0757, -0.0496, Interval(-0.063, -0.037))
    assert "from 12.5% to 7.6%, by 4.9 points (95% interval 3.7 to 6.3)" in abstaining_sentence(
        found
    )
    unsure = replace(found, interval=Interval(-0.063, 0.001))
    assert "from 12.5% to 7.6%, -4.9 points" in abstaining_sentence(unsure)


@pytest.mark.parametrize(("value", "other"), [(0.8826, 0.9344), (0.5, 0.5), (0.0004, 0.0006)])
def test_a_rounded_difference_is_that_of_what_is_shown(value: float, other: float) -> None:
    expected = float(f"{value:.3f}") - float(f"{other:.3f}")
    found = rounded_difference(value, other)
    assert found == pytest.approx(expected, abs=1e-12)
    assert f"{found:+.3f}" == f"{expected + 0.0:+.3f}".replace("-0.000", "+0.000")
    assert np.isnan(rounded_difference(float("nan"), other))


def test_a_zero_has_no_sign() -> None:
    assert [plain(value, 2) for value in (-0.0, -0.004, 0.004, -0.006)] == [
        "0.00", "0.00", "0.00", "-0.01",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/demo/model", "/a/demo/model"], ["demo/model", "demo/model"]),
        (["/a/demo/model", "/b/demo/model"], ["a/demo/model", "b/demo/model"]),
        (["org/x", "other/y"], ["x", "y"]),
        (["runs/one/", "runs/two"], ["one", "two"]),
        (["x", "a/x"], ["x", "a/x"]),
        (["/x", "x"], ["/x", "x"]),
        (["s3://bucket/a/run", "s3://bucket/b/run"], ["a/run", "b/run"]),
        (["model"], ["model"]),
        ([""], [""]),
    ],
)
def test_names_are_as_long_as_it_takes(paths: list[str], names: list[str]) -> None:
    assert distinct_names(paths) == names
