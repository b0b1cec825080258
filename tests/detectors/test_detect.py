"""``detect`` on runs: what is evaluated, on which rows, and what is kept on disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from detected_runs import (
    CATEGORIES,
    WIDER,
    bare,
    detected_run,
    label,
    row_of,
    truth_of,
    widened,
    without_trees,
)
from store_support import make_manifest
from vlmscope.detectors import (
    DETECTORS,
    GROUPS,
    KNOWN,
    PASSES,
    Detection,
    Probe,
    Rows,
    Score,
    detect,
    detect_rows,
    read_detection,
    save_detection,
    transfer_detection,
)
from vlmscope.detectors.missing import missing_by_remedy
from vlmscope.detectors.registry import chosen
from vlmscope.detectors.results import METRICS, NO_IMAGES
from vlmscope.detectors.run import incomplete
from vlmscope.detectors.save import folder_of
from vlmscope.detectors.verdict import verdict
from vlmscope.errors import InputError, StoreError
from vlmscope.schema import Capture
from vlmscope.schema import Score as Label
from vlmscope.store import Run, RunWriter, open_run, write_labels
from vlmscope.sweeps import SweepSpec

SPEC = SweepSpec(folds=3, repeats=2, draws=24)
COUNT = 120
EMPTY = (5, 17)
QUICK = (
    "perplexity", "mean_logprob", "max_entropy", "halp_last_prompt_token_linear",
    "mahalanobis_last_prompt_token",
)  # fmt: skip
"""Detectors that take little time."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with without_trees():
        yield


@pytest.fixture
def plotted() -> None:
    """For a test of the plots beside the results."""


@pytest.fixture(autouse=True)
def seldom_plotted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of saving results."""
    if "plotted" not in request.fixturenames:
        monkeypatch.setattr("vlmscope.detectors.save.plot_files", lambda _: {})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return detected_run(tmp_path_factory.mktemp("detect") / "run", truth_of(COUNT), empty=EMPTY)


@pytest.fixture(scope="module")
def found(run: Run) -> Detection:
    return detect(run, QUICK, SPEC)


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Run:
    """A run of its own to write into."""
    return open_run(shutil.copytree(run.path, tmp_path / "run"))


def test_every_detector_is_described() -> None:
    assert len(DETECTORS) >= 44
    assert {each.group for each in DETECTORS.values()} == set(GROUPS)
    assert {each.known for each in DETECTORS.values()} == set(KNOWN)
    assert {each.passes for each in DETECTORS.values()} == set(PASSES)
    for each in DETECTORS.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", each.name)
        assert each.title
        assert each.formula
        assert each.pitfalls.endswith(".")
        assert not each.adaptation or each.adaptation.endswith(".")
        assert each.requires
        assert each.paper is None or re.fullmatch(r"\d{4}\.\d{5}|", each.paper.arxiv)
    assert len({each.title for each in DETECTORS.values()}) == len(DETECTORS)


def test_groups_and_names_select_and_baselines_stay() -> None:
    free = [name for name, each in DETECTORS.items() if each.is_model_free]
    assert [each.name for each in chosen("perplexity")] == [*free, "perplexity"]
    assert {each.group for each in chosen(["samples", "svar"])} == {
        "no_model", "samples", "attention",
    }  # fmt: skip
    assert len(chosen(None)) == len(DETECTORS)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("perplexity,perplexty", "'perplexty' is not a detector; did you mean 'perplexity'"),
        ("Perplexity", "'Perplexity' is not a detector; did you mean 'perplexity'"),
        ("Sample", "'Sample' is not a detector; did you mean 'samples'"),
        ("zzz", "'zzz' is not a detector; choose from no_model, "),
        ("", "names no detector; choose from no_model, "),
        (" , ", "names no detector"),
        ([], "names no detector"),
    ],
)
def test_a_selection_of_nothing_is_refused(names: str | list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        chosen(names)


def test_the_table_has_every_metric_with_its_interval(found: Detection) -> None:
    table = found.table
    assert table.index.tolist() == list(found.detectors)
    for metric in METRICS:
        value, low, high = (table[f"{metric}{end}"] for end in ("", "_low", "_high"))
        assert ((low <= high) & value.between(0, 1))[~table["found_nothing"]].all()
    assert ((table["auroc_low"] < table["auroc"]) & (table["auroc"] <= table["auroc_high"])).all()
    planted = table.loc["halp_last_prompt_token_linear"]
    assert planted["auroc"] > 0.9
    assert planted["learned"]
    assert 0.6 < table.loc["perplexity", "auroc"] < 0.95
    assert not table.loc["perplexity", "learned"]
    assert table.loc["perplexity", "auroc"] == table.loc["mean_logprob", "auroc"]
    assert repr(found).startswith("Detection(118 rows, ")


def test_it_is_stated_how_meanings_were_compared(run: Run, found: Detection) -> None:
    assert found.settings["meaning"] == "rules"
    own = detect(run, "category", SPEC, same_meaning=lambda _, one, other: one == other)
    assert own.settings["meaning"] == "given"
    assert {**own.settings, "meaning": "rules"} == dict(found.settings)


def test_rows_without_a_value_are_left_out_for_all(found: Detection) -> None:
    assert set(found.data.ids) == {f"q{i}" for i in range(COUNT)} - {f"q{i}" for i in EMPTY}
    [dropped] = found.dropped
    assert dropped.count == len(EMPTY)
    assert dropped.reason.startswith("without a value of perplexity, mean_logprob")
    assert all(risk.shape == (2, COUNT - 2) for risk in found.risks.values())
    assert np.array_equal(found.data.truth, np.delete(truth_of(COUNT), EMPTY))


def test_what_the_run_lacks_is_listed_with_the_reason(run: Run) -> None:
    found = detect(run, "category,samples,svar,halp_image_mean_linear,p_true", SPEC)
    reasons = {each.name: each.reason for each in found.unavailable}
    assert reasons["svar"] == "the run has no signals/attention_answer"
    assert reasons["semantic_entropy"] == (
        "the run has no signals/samples/texts, signals/samples/logprobs"
    )
    assert reasons["halp_image_mean_linear"] == "the run has no image_mean_representation"
    assert reasons["p_true"] == "the run has no signals/p_true"
    assert not reasons.keys() & set(found.detectors)
    assert len(found.data.ids) == COUNT, "no detector lacks the empty answers"


def test_a_detector_without_many_values_is_left_out_instead_of_the_rows(run: Run) -> None:
    def some(rows: Rows) -> np.ndarray:
        return np.where(np.arange(len(rows)) % 3 == 0, np.nan, np.arange(len(rows)))

    own = replace(DETECTORS["perplexity"], name="some", title="some", method=Score(some))
    found = detect(run, ["max_entropy", own], SPEC)
    reasons = {each.name: each.reason for each in found.unavailable}
    assert reasons["some"] == "has no value for 40 of 120 rows"
    assert len(found.data.ids) == COUNT - 2


@pytest.mark.first(1)
@pytest.mark.parametrize("parts", [2, 5, 8])
def test_detectors_together_leave_out_few_rows(run: Run, parts: int) -> None:
    """Each lacks other rows, few by itself; together they would lack almost all."""

    def lacking(part: int) -> Score:
        def score(rows: Rows) -> np.ndarray:
            row = np.arange(len(rows))
            return np.where((len(rows) == COUNT) & (row % 8 == part), np.nan, row)

        return Score(score)

    own = [
        replace(DETECTORS["max_entropy"], name=f"some{part}", title=f"some {part}",
                method=lacking(part))
        for part in range(parts)
    ]  # fmt: skip
    found = detect(run, own, SPEC)
    assert len(found.data.ids) == COUNT - COUNT // 8
    evaluated = [name for name in found.detectors if name.startswith("some")]
    assert len(evaluated) == 1
    reasons = {e.name: e.reason for e in found.unavailable if e.name.startswith("some")}
    assert len(reasons) == parts - 1
    assert set(reasons.values()) == {
        "has no value for 15 of 120 rows, which with those of other detectors are more than a fifth"
    }


def test_detectors_that_lack_the_same_rows_stay_together() -> None:
    one, other = np.arange(20) < 3, np.arange(20) > 15
    found = incomplete({"a": one, "b": other, "c": one, "d": np.zeros(20, bool)})
    assert set(found) == {"b"}, "as its 4 rows are the most"
    other = np.arange(20) > 16
    assert set(incomplete({"b": other, "a": one, "c": one})) == {"b"}, "of as many rows, one"
    assert incomplete({"a": one}) == {}


def test_without_any_detector_it_says_so(run: Run) -> None:
    data, spec = detect(run, "max_entropy", SPEC).data, SPEC
    rows = Rows(pd.DataFrame({"answer": ["x"] * len(data.truth)}))
    with pytest.raises(
        InputError, match=r"perplexity of the answer \(the run has no answer_logprobs\)"
    ):
        detect_rows(data, rows, [DETECTORS["perplexity"]], spec)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("svar", r"\(SVAR\) \(the run has no signals/attention_answer\); name others"),
        ("samples", r"lexical self-consistency .* and 6 others for similar reasons"),
        (["p_true"], "the run has no signals/p_true"),
    ],
)
def test_a_selection_of_which_nothing_can_be_evaluated_is_refused(
    run: Run, names: str | list[str], words: str
) -> None:
    """Baselines that need no model are added to it, which alone nobody asked for."""
    with pytest.raises(InputError, match=words):
        detect(run, names, SPEC)


def test_a_selection_without_values_is_refused(run: Run) -> None:
    own = replace(DETECTORS["perplexity"], name="some", title="some",
                  method=Score(lambda rows: np.full(len(rows), np.nan)))  # fmt: skip
    with pytest.raises(InputError, match="some \\(has no value for 120 of 120 rows\\)"):
        detect(run, [own], SPEC)


def test_a_detector_of_ones_own(run: Run) -> None:
    def length(rows: Rows) -> np.ndarray:
        return np.array([float(len(text)) for text in rows.text("answer")])

    own = replace(DETECTORS["perplexity"], name="own", title="own", method=Score(length))
    found = detect(run, [own], SPEC)
    assert found["own"].above_model_free is not None
    assert list(found.detectors)[-1] == "own"
    with pytest.raises(InputError, match="'max_entropy': is the name of a registered"):
        detect(run, ["max_entropy", replace(own, name="max_entropy")], SPEC)
    with pytest.raises(InputError, match="'own': is the name of another one"):
        detect(run, [own, replace(own)], SPEC)


def test_features_of_the_same_name_are_not_shared(run: Run) -> None:
    """Two detectors of a user may call their features alike; vectors are shared by their path."""
    known = np.array([i in EMPTY for i in range(COUNT)]) | truth_of(COUNT)
    template = DETECTORS["halp_last_prompt_token_linear"]
    noise = np.random.default_rng(0).standard_normal(COUNT)
    own = [
        replace(template, name=name, title=name, method=Probe(lambda _, v=values: {
            "x": lambda: v[:, None]}))
        for name, values in (("nothing", noise), ("everything", known + 0.01 * noise))
    ]  # fmt: skip
    found = detect(run, own, SPEC)
    assert found["everything"].auroc > 0.9
    assert found["nothing"].found_nothing or found["nothing"].auroc < 0.7


def test_only_what_is_trained_has_wider_intervals(run: Run) -> None:
    """Scores do not depend on other folds: the same values, declared as trained, are wider."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(COUNT)
    score = replace(DETECTORS["perplexity"], name="noise", title="n", method=Score(lambda _: noise))

    class Trained(Score):
        learned = True

    trained = replace(score, name="trained", method=Trained(lambda _: noise))
    table = detect(run, [score, trained], SPEC).table
    widths = table["auroc_high"] - table["auroc_low"]
    assert table.loc["noise", "auroc"] == table.loc["trained", "auroc"]
    assert widths["trained"] > 1.2 * widths["noise"]


@pytest.mark.exhaustive
def test_the_same_seed_gives_the_same_numbers(run: Run) -> None:
    again = [detect(run, "halp_last_prompt_token_linear,perplexity", SPEC).table for _ in range(2)]
    pd.testing.assert_frame_equal(*again)


def test_folds_can_leave_categories_out(run: Run) -> None:
    spec = replace(SPEC, group_by="category")
    found = detect(run, "perplexity,halp_last_prompt_token_linear", spec)
    kinds = np.array(found.data.categories)
    assert len(found.fold_of) == 1, "there is one way to leave each out"
    for number in np.unique(found.fold_of[0]):
        assert len(set(kinds[found.fold_of[0] == number])) == 1
    assert set(kinds) == set(CATEGORIES)
    assert found["halp_last_prompt_token_linear"].auroc > 0.85


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    truth = np.array([True] * 3 + [False] * 30)
    run = detected_run(tmp_path / "run", truth, empty=(0, 1, 2))
    with pytest.raises(InputError, match="0 are hallucinated, expected some"):
        detect(run, "perplexity", SPEC)
    assert detect(run, "category", SPEC).data.truth.sum() == 3


def test_questions_without_an_image_have_no_detectors_of_images(tmp_path: Path) -> None:
    """A run of text alone: what reads the image is listed, the rest is evaluated on all rows."""
    run = detected_run(tmp_path / "run", truth_of(60), change=bare)
    asked = ("halp_last_prompt_token_linear", "halp_vision_only_linear", "attention", "perplexity")
    found = detect(run, asked, SPEC)
    reasons = {each.name: each.reason for each in found.unavailable}
    of_images = ("image_statistics", "halp_vision_only_linear", "svar_prompt", "svar", "dhcp")
    assert {name for name, why in reasons.items() if why == NO_IMAGES} == set(of_images)
    assert missing_by_remedy(found.unavailable)["--signals attention"] == [
        "lookback ratio, every head", "attention to the previous token (RAUQ)"
    ]  # fmt: skip
    assert len(found.data.ids) == 60
    assert found["halp_last_prompt_token_linear"].auroc > 0.85


def test_a_run_without_answers_has_those_before_them(tmp_path: Path) -> None:
    truth = truth_of(60)
    rows = [
        replace(
            row_of(i, bool(wrong)), finish_reason="prefill", answer=None, answer_logprobs=None,
            answer_token_ids=None, signals={},
        )
        for i, wrong in enumerate(truth)
    ]  # fmt: skip
    record = make_manifest(run_id="a" * 32, capture={"max_new_tokens": 0})
    with RunWriter(tmp_path / "run", record) as writer:
        writer.add(rows)
    label(tmp_path / "run", [row.sample.id for row in rows], truth)
    found = detect(
        tmp_path / "run", "answer,samples,answer_length,halp_last_prompt_token_linear", SPEC
    )
    assert {row.known for row in found.results} == {
        "before the first token",
        "with the first token",
    }
    assert {"perplexity", "answer_length", "selfcheck"} <= {each.name for each in found.unavailable}
    assert found["halp_last_prompt_token_linear"].auroc > 0.85


def test_findings_are_sentences(copied: Run, found: Detection) -> None:
    save_detection(copied, found)
    saved = read_detection(copied)
    assert saved is not None
    text = " ".join(saved.verdict)
    assert "Best detector: linear probe, last prompt token, AUROC" in text
    assert "is better than the best single number" in text or "are better than" in text
    assert "2 rows left out for all detectors, without a value of perplexity" in text


@pytest.mark.parametrize(
    ("compared", "words"), [(1, "0 of 1 detector is better"), (2, "0 of 2 detectors are better")]
)
def test_a_finding_about_one_detector_is_singular(
    found: Detection, compared: int, words: str
) -> None:
    rival = found[found.best_model_free]
    others = [
        replace(row, above_model_free=-0.1)
        for row in found.results
        if row.above_model_free is not None
    ][:compared]
    assert words in " ".join(verdict([rival, *others], rival.name, ""))


def test_the_best_of_several_is_not_said_to_know_what_chance_finds(found: Detection) -> None:
    """Of many detectors that know nothing, the interval of the best often excludes 0.5."""
    best = max(found.results, key=lambda row: row.auroc)
    rows = [replace(row, better_than_chance=row is not best) for row in found.results]
    note = "; not significantly better than chance, corrected for"
    shown = sum(not row.found_nothing for row in rows)
    assert f"known {best.known}{note} {shown} detectors." in verdict(rows, "", "")[0]
    assert note not in verdict(found.results, "", "")[0]
    alone = verdict([replace(best, better_than_chance=False)], "", "")[0]
    assert alone.endswith("; not significantly better than chance.")


def test_a_rival_with_a_constant_risk_has_no_auroc(found: Detection) -> None:
    rival = replace(found[found.best_model_free], found_nothing=True)
    others = [row for row in found.results if row.above_model_free is not None]
    text = " ".join(verdict([rival, *others], rival.name, ""))
    assert f"needs no model ({rival.title}, constant risk) at" in text


# On disk.


@pytest.mark.usefixtures("plotted")
def test_what_is_saved_comes_back(copied: Run, found: Detection) -> None:
    folder = save_detection(copied, found)
    assert folder == copied.path / "detectors"
    saved = read_detection(copied)
    assert saved is not None
    assert saved.stale == ""
    assert [row.name for row in saved.results] == list(found.detectors)
    for mine, theirs in zip(found.results, saved.results, strict=True):
        for name in ("auroc", "auroc_low", "fpr_at_95", "above_single_p_holm"):
            assert getattr(theirs, name) == pytest.approx(getattr(mine, name), nan_ok=True)
    table = pd.read_parquet(folder / "detectors.parquet")
    assert table["auroc"].tolist() == pytest.approx(found.table["auroc"].tolist())
    risks = pd.read_parquet(folder / "risks.parquet")
    assert risks["id"].tolist() == list(found.data.ids)
    assert risks["repeat_2/risk/perplexity"].tolist() == found.risks["perplexity"][1].tolist()
    names = {path.name for path in folder.iterdir()}
    for end in (".svg", ".png", ".csv"):
        assert {f"detectors_by_cost{end}", f"detectors_by_time{end}"} <= names
    assert not any("detectors" in each for each in copied.check())


def test_other_labels_or_rows_make_it_stale(copied: Run, found: Detection) -> None:
    save_detection(copied, found)
    truth = truth_of(COUNT)
    truth[3] = ~truth[3]
    label(copied.path, copied.ids, truth)
    saved = read_detection(copied)
    assert saved is not None
    assert saved.stale == "the rows or their labels have changed since"
    (copied.path / "labels.parquet").unlink()
    saved = read_detection(copied)
    assert saved is not None
    assert "no longer exist" in saved.stale


def test_results_are_found_by_name(found: Detection) -> None:
    assert tuple(found) == found.results
    assert "perplexity" in found
    assert "perplexities" not in found
    with pytest.raises(InputError, match="was not asked for; did you mean 'perplexity'"):
        found["perplexities"]


def test_a_named_label_set_has_its_own_folder(copied: Run) -> None:
    flipped = [
        Label(i, not t, "column", "") for i, t in zip(copied.ids, truth_of(COUNT), strict=True)
    ]
    write_labels(copied.path, flipped, {}, "human")
    found = detect(copied, "perplexity", SPEC, labels="human")
    assert save_detection(copied, found) == copied.path / "detectors-human"
    assert read_detection(copied) is None
    saved = read_detection(copied, "human")
    assert saved is not None
    assert saved.stale == ""
    assert found["perplexity"].worse_than_chance


@pytest.mark.first(3)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a result of vlmscope detect"),
        ("null", "is null"),
        ('{"kind": "vlmscope detectors", "schema_version": 2}', "another version"),
        ('{"kind": "vlmscope detectors", "schema_version": 1}', "unreadable"),
        (
            '{"kind": "vlmscope detectors", "schema_version": 1, "results": [{"name": 3}]}',
            "unreadable",
        ),
    ],
)
def test_a_damaged_document_is_an_error_of_one_line(copied: Run, content: str, words: str) -> None:
    folder = copied.path / "detectors"
    folder.mkdir()
    (folder / "detectors.json").write_text(content)
    with pytest.raises(StoreError, match=words) as caught:
        read_detection(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", None), ("best_model_free", None), ("results", 3), ("results", [3]),
        ("unavailable", [{"name": "x"}]), ("dropped", [{}]), ("run_id", 7),
    ],
)  # fmt: skip
def test_a_document_of_other_content_is_damaged_or_stale(
    copied: Run, found: Detection, name: str, value: object
) -> None:
    path = save_detection(copied, found) / "detectors.json"
    document = json.loads(path.read_text())
    changed = {key: each for key, each in document.items() if key != name or value is not None}
    path.write_text(json.dumps(changed | ({} if value is None else {name: value})))
    if name == "run_id":
        saved = read_detection(copied)
        assert saved is not None
        assert "of another run" in saved.stale
        return
    with pytest.raises(StoreError, match="run 'vlmscope detect"):
        read_detection(copied)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("field", "value"),
    [("auroc", 1e300), ("auroc_low", -1), ("title", ["x"]), ("learned", 1), ("auprc", "high")],
)
def test_a_result_out_of_range_is_damaged(
    copied: Run, found: Detection, field: str, value: object
) -> None:
    path = save_detection(copied, found) / "detectors.json"
    document = json.loads(path.read_text())
    document["results"][0][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=f"unreadable.*{field}"):
        read_detection(copied)


@pytest.mark.first(3)
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("auroc", 1.2, "auroc of 'entropy', transferred, is 1.2, expected a number from 0 to 1"),
        ("auroc", float("nan"), "is nan, expected"),
        ("auroc", "0.5", "is '0.5', expected"),
        ("auroc", None, "is None, expected"),
        ("found_nothing", 1, "found_nothing of 'entropy', transferred, is 1"),
        ("rows", "12", "rows of a transfer is '12'"),
        ("rows", -1, "rows of a transfer is -1"),
    ],
)
def test_a_transfer_out_of_range_is_damaged(
    copied: Run, found: Detection, field: str, value: object, said: str
) -> None:
    path = save_detection(copied, found) / "detectors.json"
    row = {"name": "entropy", "auroc": 0.5, "found_nothing": False}
    test = {"run": "other", "relation": "the same model", "rows": 7, "results": [row]}
    (test if field in test else row)[field] = value
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transfer": [test]}))
    with pytest.raises(StoreError, match="unreadable") as caught:
        read_detection(copied)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    "change",
    [
        {"verdict": ["x" * 20_000]},
        {"unavailable": [{"name": "x", "title": "x", "reason": "x" * 20_000}]},
        {"settings": {"x" * 20_000: 1}},
        {"verdict": ["x"] * 2_000},
        {"settings": dict.fromkeys(map(str, range(2_000)))},
    ],
    ids=["finding", "reason", "name", "list", "object"],
)
def test_a_document_larger_than_any_written_is_damaged(
    copied: Run, found: Detection, change: dict[str, object]
) -> None:
    path = save_detection(copied, found) / "detectors.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match="expected at most") as caught:
        read_detection(copied)
    assert len(str(caught.value)) < 500


def test_a_result_with_a_huge_title_is_damaged(copied: Run, found: Detection) -> None:
    path = save_detection(copied, found) / "detectors.json"
    document = json.loads(path.read_text())
    document["results"][-1]["title"] = "x" * 20_000
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="a text has 20,000 characters"):
        read_detection(copied)


def test_nothing_else_is_replaced(copied: Run, found: Detection, tmp_path: Path) -> None:
    for folder in (copied.path, copied.path / "probes", copied.path / "detectors-other"):
        with pytest.raises(InputError, match="give another folder"):
            save_detection(copied, found, folder)
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "risks.parquet").write_text("mine")
    with pytest.raises(InputError, match=r"exists without a detectors\.json"):
        save_detection(copied, found, foreign)
    (foreign / "detectors.json").write_text("{}")
    with pytest.raises(InputError, match="is not a result of vlmscope detect"):
        save_detection(copied, found, foreign)
    assert (foreign / "risks.parquet").read_text() == "mine"
    elsewhere = tmp_path / "deep" / "results"
    assert save_detection(copied, found, elsewhere) == elsewhere
    assert save_detection(copied, found, elsewhere) == elsewhere, "our own are replaced"
    (copied.path / "detectors").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="symbolic link"):
        save_detection(copied, found)


@pytest.mark.exhaustive
def test_a_selection_is_saved_beside_the_results_of_more(copied: Run, found: Detection) -> None:
    names = [row.name for row in found.results]
    kept = {name: found.detectors[name] for name in names[:-1]}
    fewer = replace(found, results=found.results[:-1], detectors=kept)
    own, beside = copied.path / "detectors", copied.path / "detectors" / "selected"
    assert folder_of(copied, names) == own
    save_detection(copied, found)
    before = (own / "detectors.json").read_bytes()
    assert save_detection(copied, found) == own, "of no other detector"
    assert folder_of(copied, names[:-1]) == beside
    for folder in (None, own, beside):
        assert save_detection(copied, fewer, folder) == beside
    assert (own / "detectors.json").read_bytes() == before
    assert len(json.loads((beside / "detectors.json").read_text())["results"]) == len(names) - 1
    assert not any("detectors" in each for each in copied.check())
    assert save_detection(copied, replace(fewer, complete=True)) == own, "all were asked for"
    assert len(json.loads((own / "detectors.json").read_text())["results"]) == len(names) - 1
    save_detection(copied, found)
    truth = truth_of(COUNT)
    truth[3] = ~truth[3]
    label(copied.path, copied.ids, truth)
    assert folder_of(copied, names[:-1]) == own, "stale results are replaced"
    (own / "detectors.json").write_text("{")
    assert folder_of(copied, names[:-1]) == own, "damaged ones too"


# On other runs.


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same model, another table: a third of its images are in the training run too."""
    folder = tmp_path_factory.mktemp("detect") / "other"
    return detected_run(folder, truth_of(60, seed=4), first=COUNT - 20, prefix="o", empty=(50,))


def test_detectors_are_tested_on_another_run(run: Run, found: Detection, other: Run) -> None:
    [there] = transfer_detection(run, found, other, SPEC)
    assert not there.paired
    assert there.rows == 39
    assert there.left_out == 21, "20 about images of the training run, and an empty answer"
    by_name = {row.name: row for row in there.results}
    assert by_name["halp_last_prompt_token_linear"].auroc > 0.9
    assert by_name["halp_last_prompt_token_linear"].source_auroc == (
        found["halp_last_prompt_token_linear"].auroc
    )
    own = detect(other, "perplexity", SweepSpec(folds=3, repeats=1, draws=10))
    kept = np.isin(own.data.ids, [f"o{i}" for i in range(COUNT, COUNT + 60)])
    truth, risk = own.data.truth[kept], own.risks["perplexity"][0][kept]
    pairs = risk[truth][:, None] - risk[~truth][None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert by_name["perplexity"].auroc == pytest.approx(expected), "it has no fit"
    json.dumps(there.document())


@pytest.mark.exhaustive
def test_what_the_other_run_lacks_is_listed(run: Run, found: Detection, tmp_path: Path) -> None:
    """The same questions and images on a model without such a layer; folds of the training run."""

    folder = tmp_path / "narrow"
    truth = truth_of(COUNT, seed=8)
    rows = [
        replace(row, vectors={p: v for p, v in row.vectors.items() if not p.endswith("_3")})
        for row in run
    ]
    record = make_manifest(
        run_id="n" * 32, model={"weights_hash": "v" * 64, "name": "other"},
        capture={"signals": ("entropy",), "layers": (0, 2)},
    )  # fmt: skip
    with RunWriter(folder, record) as writer:
        writer.add(rows)
    label(folder, [row.sample.id for row in rows], truth)
    [there] = transfer_detection(run, found, [folder], SPEC)
    assert there.paired
    assert there.relation == "another model (other)"
    assert there.rows == COUNT - 2
    by_name = {row.name: row for row in there.results}
    assert set(by_name) | {each.name for each in there.unavailable} == set(found.detectors)
    assert abs(by_name["halp_last_prompt_token_linear"].auroc - 0.5) < 0.2, "layers 0 and 2 alone"


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("empty", [20, 40])
def test_a_test_run_without_many_values_keeps_its_rows(
    run: Run, found: Detection, tmp_path: Path, empty: int
) -> None:
    truth = truth_of(40, seed=5)
    other = detected_run(tmp_path / "other", truth, first=300, prefix="o", empty=range(empty))
    [there] = transfer_detection(run, found, other, SPEC)
    assert there.rows == 40
    reasons = {each.name: each.reason for each in there.unavailable}
    assert (
        reasons["perplexity"] == reasons["max_entropy"] == (f"has no value for {empty} of 40 rows")
    )
    by_name = {row.name: row for row in there.results}
    assert by_name["halp_last_prompt_token_linear"].auroc > 0.9


@pytest.mark.exhaustive
def test_a_model_of_another_width_is_tested_by_what_reads_no_states(
    run: Run, tmp_path: Path
) -> None:
    found = detect(run, [*QUICK, "halp_vision_only_linear"], SPEC)
    truth = truth_of(60, seed=5)
    other = detected_run(
        tmp_path / "wide", truth, first=300, prefix="o", change=widened, model=WIDER
    )
    [there] = transfer_detection(run, found, other, SPEC)
    assert there.rows == 60
    tested = {row.name for row in there.results}
    assert tested == set(found.detectors) - {
        "halp_last_prompt_token_linear", "mahalanobis_last_prompt_token", "answer_length",
    }  # fmt: skip
    reasons = {each.name: each.reason for each in there.unavailable}
    reason = "query_token_representation: its width is 10 in the test run, 8 in training"
    assert reasons["halp_last_prompt_token_linear"] == reason
    assert reasons["mahalanobis_last_prompt_token"] == reason


@pytest.mark.exhaustive
def test_vectors_that_are_other_things_in_the_test_run_are_not_compared(
    run: Run, found: Detection, tmp_path: Path
) -> None:
    """The vision encoder pooled in another way; and no layer of the decoder in common."""

    def deeper(row: Capture) -> Capture:
        moved = {p.replace("layer_2", "layer_1"): v for p, v in row.vectors.items()}
        kept = {p: v for p, v in moved.items() if not p.endswith(("layer_0", "layer_3"))}
        return replace(row, vectors=kept)

    vision = detect(run, "halp_vision_only_linear", SPEC)
    other = detected_run(
        tmp_path / "other", truth_of(60, seed=5), first=300, prefix="o", change=deeper,
        capture={"layers": (1,), "vision_pooling": "valid"},
    )  # fmt: skip
    [there] = transfer_detection(run, vision, other, SPEC)
    [missing] = [each for each in there.unavailable if each.name.startswith("halp")]
    assert missing.reason.endswith("it is pooled in another way in the test run")
    [there] = transfer_detection(run, found, other, SPEC)
    [missing] = [each for each in there.unavailable if each.name.startswith("mahalanobis")]
    assert missing.reason == "query_token_representation: the runs have no layer of it in common"


def test_a_test_run_without_images_has_no_vectors_of_them(run: Run, tmp_path: Path) -> None:
    """As of a table read with --text-only: its manifest describes them all the same."""
    vision = detect(run, "halp_vision_only_linear", SPEC)
    other = detected_run(
        tmp_path / "other", truth_of(60, seed=5), first=300, prefix="o", change=bare
    )
    [there] = transfer_detection(run, vision, other, SPEC)
    [missing] = [each for each in there.unavailable if each.name.startswith("halp")]
    assert missing.reason == "vision_only_representation: no row of the test run has it"


@pytest.mark.exhaustive
def test_a_distance_is_to_the_same_layer_in_both_runs(run: Run, tmp_path: Path) -> None:
    """The test run is of a deeper model, whose layer nearest to the middle is another."""
    name = "mahalanobis_last_prompt_token"
    found = detect(run, name, SPEC)
    aurocs = [
        transfer_detection(run, found, other, SPEC)[0].results[-1].auroc
        for depth in (4, 6)
        for other in [
            detected_run(
                tmp_path / str(depth), truth_of(60, seed=5), first=300, prefix="o",
                model={"num_layers": depth},
            )
        ]
    ]  # fmt: skip
    assert aurocs[0] == aurocs[1]


@pytest.mark.exhaustive
def test_detectors_are_trained_on_the_label_set_of_the_detection(copied: Run, other: Run) -> None:
    """Trained on labels that are all flipped, a good detector is as bad on labels that are not."""
    flipped = [
        Label(i, not t, "column", "") for i, t in zip(copied.ids, truth_of(COUNT), strict=True)
    ]
    write_labels(copied.path, flipped, {}, "human")
    name = "halp_last_prompt_token_linear"
    found = detect(copied, name, SPEC, labels="human")
    [there] = transfer_detection(copied, found, iter([other]), SPEC)
    [auroc] = [row.auroc for row in there.results if row.name == name]
    assert auroc < 0.1


def test_the_training_run_is_no_test(run: Run, found: Detection) -> None:
    with pytest.raises(InputError, match=r"^tests .*: is the training run"):
        transfer_detection(run, found, run, SPEC)
