"""Several labelled runs side by side, held against counts made by hand."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmscope
from labelled_runs import OTHER_MODEL, WIDTH, HeldRun, label, labelled_run, planted
from store_support import make_manifest
from vlmscope.errors import InputError
from vlmscope.metrics import holm, rate, rate_difference, resample_sides
from vlmscope.metrics.resampling import LabelledRisk
from vlmscope.store import Run, RunWriter
from vlmscope.sweeps import SweepSpec, compare_runs, read_sweep, save_sweep, sweep

ROWS = 90
QUESTIONS = [f"Is there a number {i}?" for i in range(ROWS)]
SPEC = SweepSpec(folds=3, draws=20, repeats=2, permutations=100)


def run_of(folder: Path, truth: list[bool | None], rows: range, **options: object) -> HeldRun:
    """A run of some of the questions, three about each image."""
    run = labelled_run(
        folder,
        [truth[i] for i in rows],
        np.random.default_rng(0).standard_normal((len(rows), WIDTH)),
        [i // 3 for i in rows],
        ids=[f"q{i}" for i in rows],
        questions=[QUESTIONS[i] for i in rows],
        **options,  # type: ignore[arg-type]
    )
    assert isinstance(run, HeldRun)
    return run


@pytest.fixture
def truths() -> list[list[bool | None]]:
    rng = np.random.default_rng(3)
    one = rng.random(ROWS) < 0.3
    two = one ^ (rng.random(ROWS) < 0.2)
    three = one | (rng.random(ROWS) < 0.5)
    found: list[list[bool | None]] = [each.tolist() for each in (one, two, three)]
    found[1][5] = None
    return found


def test_three_runs_of_different_questions(tmp_path: Path, truths: list[list[bool | None]]) -> None:
    rows = (range(ROWS), range(10, ROWS), range(60))
    runs = [
        run_of(tmp_path / name, truth, own)
        for name, truth, own in zip("ABC", truths, rows, strict=True)
    ]
    found = compare_runs(runs, draws=200)
    for run, summary, own, truth in zip(runs, found.runs, rows, truths, strict=True):
        known = [truth[i] for i in own if truth[i] is not None]
        assert (summary.run, summary.rows) == (str(run.path), len(own))
        assert summary.scorable == len(known)
        assert summary.hallucination_rate == pytest.approx(np.mean(known))
        assert summary.accuracy == pytest.approx(1 - np.mean(known))
        assert summary.hallucination_rate_low is not None
        assert summary.hallucination_rate_low < np.mean(known)
        assert summary.probe_note == "no probes yet"
    first = truths[0]
    for pair, truth, own in zip(found.pairs, truths[1:], rows[1:], strict=True):
        both = [(first[i], truth[i]) for i in own if truth[i] is not None]
        assert (pair.common, pair.other_questions, pair.compared) == (len(own), 0, len(both))
        assert pair.both_right == both.count((False, False))
        assert pair.only_first_right == both.count((False, True))
        assert pair.only_this_right == both.count((True, False))
        assert pair.both_wrong == both.count((True, True))
        gap = rate_difference(
            np.array([b for _, b in both]), np.array([a for a, _ in both]),
            [i // 3 for i in own if truth[i] is not None], draws=200,
        )  # fmt: skip
        assert pair.difference == pytest.approx(gap.value)
        assert pair.difference_p == pytest.approx(gap.p_value)
    plain = [pair.difference_p or 0.0 for pair in found.pairs]
    assert [pair.difference_p_holm for pair in found.pairs] == list(holm(plain))
    assert (found.pairs[1].difference_low or 0) > 0, "the third hallucinates more often"


def test_a_row_for_each_run_as_a_table(tmp_path: Path, truths: list[list[bool | None]]) -> None:
    runs = [run_of(tmp_path / name, truth, range(ROWS)) for name, truth in zip("AB", truths)]  # noqa: B905
    table = vlmscope.compare(*runs, draws=100)
    assert table["run"].tolist() == [str(run.path) for run in runs]
    assert table["run_id"].tolist() == [run.manifest.run_id for run in runs]
    assert np.isnan(table["difference"][0])
    assert table["unscorable"].tolist() == [0, 1]
    assert table["compared"][1] == ROWS - 1
    assert table.columns[:8].tolist() == [
        "run", "model", "compared", "accuracy", "difference", "difference_low", "difference_high",
        "difference_p_holm",
    ]  # fmt: skip
    told = compare_runs(runs, draws=100).rows()[1]
    assert set(table) == set(told)
    assert len(set(table)) == len(table.columns)
    assert table.iloc[1].to_dict() == pytest.approx(told, nan_ok=True)


def test_ids_that_mean_another_question_or_image_are_left_out(
    tmp_path: Path, truths: list[list[bool | None]]
) -> None:
    one = run_of(tmp_path / "A", truths[0], range(ROWS))
    two = run_of(tmp_path / "B", truths[2], range(ROWS))
    rows = [
        replace(row, sample=replace(row.sample, question="Another one?")) if i < 7 else row
        for i, row in enumerate(two.rows)
    ]
    rows[20] = replace(rows[20], image_sha256="e" * 64)
    [pair] = compare_runs([one, HeldRun(two.path, two.manifest, rows)], draws=100).pairs
    assert (pair.common, pair.other_questions, pair.compared) == (ROWS, 8, ROWS - 8)
    rows = [replace(row, sample=replace(row.sample, id=f"x{i}")) for i, row in enumerate(rows)]
    label(two.path, [row.sample.id for row in rows], truths[2])
    [pair] = compare_runs([one, HeldRun(two.path, two.manifest, rows)], draws=100).pairs
    assert (pair.common, pair.compared, pair.difference) == (0, 0, None)


def test_rows_after_the_labelling_are_counted(
    tmp_path: Path, truths: list[list[bool | None]]
) -> None:
    one = run_of(tmp_path / "A", truths[0], range(ROWS))
    two = run_of(tmp_path / "B", truths[1], range(ROWS))
    label(two.path, two.ids[:40], truths[1][:40])
    found = compare_runs([one, two], draws=100)
    assert (found.runs[1].unlabelled, found.runs[1].unscorable) == (ROWS - 40, 1)
    assert found.pairs[0].compared == 39


def probed(
    folder: Path, strength: float, seed: int, spec: SweepSpec = SPEC, **options: object
) -> Run:
    """A run of all questions whose planted layer knows, and its saved sweep."""
    truth, vectors = planted(np.random.default_rng(seed), ROWS, np.eye(WIDTH)[0], strength)
    run = labelled_run(
        folder, truth, vectors, np.arange(ROWS) // 2, questions=QUESTIONS, noise=seed,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
    save_sweep(run, sweep(run, spec))
    return run


@pytest.mark.exhaustive
def test_probes_are_compared_each_on_the_labels_of_its_own_model(weak: Run, tmp_path: Path) -> None:
    assert isinstance(weak, HeldRun)
    folder = shutil.copytree(weak.path, tmp_path / "A")  # damaged below
    weak = HeldRun(folder, weak.manifest, weak.rows)
    strong = probed(tmp_path / "B", 4.0, 2, model=OTHER_MODEL)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    found = compare_runs([weak, strong], draws=100)
    for run, summary in zip((weak, strong), found.runs, strict=True):
        saved = read_sweep(run)
        assert saved is not None
        assert summary.probe_auroc == saved["selected"].auroc
        assert summary.above_joint_low == saved["selected"].above_joint_low
        assert summary.probe_note == ""
    [pair] = found.pairs
    assert pair.probe_compared == ROWS
    one, two = (summary.probe_auroc for summary in found.runs)
    assert one is not None
    assert two is not None
    assert pair.probe_difference == pytest.approx(two - one)
    assert (pair.probe_difference_low or 0) > 0
    # Each probe is trained on labels of its own, which resamples of fixed fits do not show.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["vlmscope.sweeps.compare"], "TRAINED_APART", 1.0)
        [narrow] = compare_runs([weak, strong], draws=100).pairs
    errors = [(each.probe_difference_high or 0) - two + one for each in (pair, narrow)]
    assert errors[0] == pytest.approx(1.2 * errors[1])
    assert (pair.probe_difference_p or 0) > (narrow.probe_difference_p or 0)
    assert found.runs[1].model == "other"
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before, "nothing is written"
    # Of other labels the saved numbers say nothing.
    label(strong.path, strong.ids, [not t for t in np.arange(ROWS) % 3])
    found = compare_runs([weak, strong], draws=100)
    assert found.runs[1].probe_auroc is None
    assert "the saved probes are left out" in found.runs[1].probe_note
    assert found.pairs[0].probe_difference is None
    # Damage of one run is said, and the rest is told.
    (weak.path / "probes" / "results.json").write_text("[" * 5000)
    found = compare_runs([weak, strong], draws=100)
    assert "damaged" in found.runs[0].probe_note
    assert found.pairs[0].difference is not None
    shutil.rmtree(weak.path / "probes")
    assert compare_runs([weak, strong], draws=100).runs[0].probe_note == "no probes yet"


def judged(run: Run, folder: Path, change: Callable[[dict[str, Any]], None]) -> HeldRun:
    """Return a twin of a probed run, with its saved sweep as another command would have left it."""
    assert isinstance(run, HeldRun)
    shutil.copytree(run.path, folder)
    found = json.loads((folder / "probes" / "results.json").read_text())
    found["run_id"] = "9" * 32
    change(found)
    (folder / "probes" / "results.json").write_text(json.dumps(found))
    return HeldRun(folder, replace(run.manifest, run_id="9" * 32), run.rows)


SETTINGS: dict[str, Any] = {
    "group_by": "question", "copies": "exact", "estimators": ["logistic", "mlp"], "folds": 9,
}  # fmt: skip


def drop_vision(summary: dict[str, Any]) -> None:
    """As if the run had been swept without the vision encoder's vector."""
    kept = [r for r in summary["results"] if r["representation"] != "vision_only_representation"]
    summary["results"] = kept


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        *((lambda s, n=n, v=v: s["settings"].update({n: v}), n.split("_")[0])
          for n, v in SETTINGS.items()),
        (drop_vision, "layers chosen from query token and query token + vision only"),
    ],
    ids=[*SETTINGS, "representations"],
)  # fmt: skip
def test_probes_of_other_settings_are_not_told_better_or_worse(
    weak: Run, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    [same] = compare_runs([weak, judged(weak, tmp_path / "same", lambda _: None)], draws=50).pairs
    assert (same.probe_not_alike, same.probe_difference) == ("", 0)
    assert same.probe_difference_p is not None
    [pair] = compare_runs([weak, judged(weak, tmp_path / "twin", change)], draws=50).pairs
    assert pair.probe_not_alike.startswith(said), pair.probe_not_alike
    assert ";" not in pair.probe_not_alike
    assert (pair.probe_difference_p, pair.probe_difference_p_holm) == (None, None)
    assert pair.probe_difference == 0


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose probes know little; tests leave it as it is."""
    return probed(tmp_path_factory.mktemp("weak") / "A", 0.8, 1)


@pytest.mark.exhaustive
def test_probes_that_learnt_from_fewer_answers_are_not_told_worse(
    weak: Run, tmp_path: Path
) -> None:
    """Fewer rows, more folds and more splits change how many answers a probe learns from."""
    truth = [bool(t) if i % 3 else None for i, t in enumerate(np.arange(ROWS) % 2)]
    fewer = labelled_run(
        tmp_path / "B", truth, np.eye(WIDTH)[np.arange(ROWS) % 2], np.arange(ROWS) // 2,
        questions=QUESTIONS, noise=2, model=OTHER_MODEL,
    )  # fmt: skip
    save_sweep(fewer, sweep(fewer, replace(SPEC, repeats=1)))
    found = compare_runs([weak, fewer], draws=50)
    [pair] = found.pairs
    assert pair.probe_not_alike == ("trained on 40 answers and 60; splits into folds 1 and 2")
    assert pair.probe_difference is not None
    assert pair.probe_difference_p is None
    assert pair.difference_p is not None, "rates are of the questions that both have"
    assert [run.dtype for run in found.runs] == ["float32"] * 2


def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, truths: list[list[bool | None]]
) -> None:
    one = run_of(tmp_path / "A", truths[0], range(ROWS))
    with pytest.raises(InputError, match="give two or more"):
        compare_runs([one])
    with pytest.raises(InputError, match=r"is the same run as .*; give each once"):
        compare_runs([one, one])
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=f"^seed {seed}: give a number from 0 to 4294967295"):
            compare_runs([one, run_of(tmp_path / f"C{seed}", truths[1], range(ROWS))], seed=seed)
    two = run_of(tmp_path / "B", truths[0], range(ROWS), labelled=False)
    with pytest.raises(InputError, match=f"run 'vlmscope label {two.path}' first"):
        compare_runs([one, two])
    with RunWriter(tmp_path / "none", make_manifest()):
        pass
    with pytest.raises(InputError, match=r"none: has no rows to compare; run vlmscope extract"):
        compare_runs([one, tmp_path / "none"])


def test_sides_with_truths_of_their_own_are_resampled_by_the_same_images() -> None:
    """The same risk and truth on both sides differ by nothing, in every draw."""
    rng = np.random.default_rng(0)
    groups, truth, risk = np.arange(200) // 2, rng.random(200) < 0.4, rng.random(200)
    drawn = resample_sides(
        {
            "one": LabelledRisk(truth, risk), "same": LabelledRisk(truth, risk),
            "turned": LabelledRisk(~truth, risk),
        },
        groups, draws=50,
    )  # fmt: skip
    assert drawn.difference("one", "same").interval.high == 0
    assert np.allclose(drawn.drawn["one"]["auroc"], 1 - drawn.drawn["turned"]["auroc"])
    with pytest.raises(ValueError, match="groups must have shape"):
        resample_sides(
            {"one": LabelledRisk(truth, risk), "less": LabelledRisk(truth[:9], risk[:9])}, groups
        )


@pytest.mark.first(1)
@pytest.mark.parametrize(("images", "expected"), [(12, 55), (80, 53)])
def test_intervals_of_rates_hold_the_truth_as_often_as_they_say(images: int, expected: int) -> None:
    rates = gaps = wrong = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, images])
        groups = np.repeat(np.arange(images), 3)
        chance = np.clip(0.3 + 0.15 * rng.choice([-1, 1], images), 0, 1)[groups]
        one, two = rng.random(len(groups)) < chance, rng.random(len(groups)) < chance + 0.2
        also = rng.random(len(groups)) < chance
        found = rate(one, groups, draws=200, seed=seed).interval
        rates += found.low <= 0.3 <= found.high
        gap = rate_difference(two, one, groups, draws=200, seed=seed).interval
        gaps += gap.low <= 0.2 <= gap.high
        wrong += rate_difference(also, one, groups, draws=200, seed=seed).p_value < 0.05
    assert rates >= expected
    assert gaps >= expected
    assert wrong <= 7


def test_nothing_and_everything_have_a_width() -> None:
    groups = np.arange(30)
    for flags in (np.zeros(30, dtype=bool), np.ones(30, dtype=bool)):
        found = rate(flags, groups).interval
        assert 0.05 < found.high - found.low < 0.2
        same = rate_difference(flags, flags, groups)
        assert (same.value, same.p_value) == (0, 1)
        assert 0.05 < same.interval.high < 0.2
    all_apart = rate_difference(np.ones(30, dtype=bool), np.zeros(30, dtype=bool), groups)
    assert all_apart.interval.low < 1
    assert all_apart.p_value < 0.001
    with pytest.raises(ValueError, match="flags must be booleans"):
        rate(np.zeros(30), groups)
