"""Label sets by name through the command line: label, info, probe, report, score."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from store_support import make_capture, make_manifest
from vlmscope.errors import InputError, StoreError
from vlmscope.labelling import label
from vlmscope.report import ReportSpec
from vlmscope.report.build import gather
from vlmscope.risk.probe_of import find_probe
from vlmscope.schema import Score
from vlmscope.score import LabelFile, YesNo
from vlmscope.store import Run, RunWriter, label_settings, open_run, read_labels, write_labels
from vlmscope.sweeps import compare_labels, compare_runs, read_sweep

pytestmark = pytest.mark.usefixtures("columns_only")
Command = Callable[..., Any]
ROWS = 36
FAST = ("--draws", 100, "--folds", 3, "--repeats", 1, "--permutations", 100)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of yes/no answers, every third of them wrong."""
    run = tmp_path_factory.mktemp("sets") / "run"
    rows = []
    for i in range(ROWS):
        row = make_capture(i, image_dhash="")
        sample = replace(row.sample, target="Yes", metadata={"by_hand": i % 2 == 0})
        rows.append(replace(row, answer="Yes" if i % 3 else "No", sample=sample))
    with RunWriter(run, make_manifest()) as writer:
        writer.add(rows)
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Labels of a person: as the rule says but for four rows, and one that nobody could tell."""
    path = tmp_path / "mine.csv"
    lines = ["question_id,label"]
    for i in range(ROWS):
        word = "unscorable" if i == 7 else str(int((i % 3 == 0) != (i in (1, 2, 3, 4))))
        lines.append(f"question_comb_{i},{word}")
    path.write_text("\n".join([*lines, "other_1,1", "other_2,0"]) + "\n", "utf-8")
    return path


def test_rows_that_came_after_the_labels_are_counted(vlmscope: Command, run: Path) -> None:
    assert vlmscope("label", run).code == 0
    found = read_labels(run)
    scores = [found[id_] for id_ in list(found)[:-2]]
    write_labels(run, scores, label_settings(run, "default"))
    assert "unscorable, 2 unlabelled;" in vlmscope("info", run).out


def test_a_named_set_stands_beside_the_default_one(
    vlmscope: Command, run: Path, by_hand: Path
) -> None:
    assert vlmscope("label", run).code == 0
    default = (run / "labels.parquet").read_bytes()
    done = vlmscope("label", run, "--name", "human", "--labels", by_hand)
    assert done.code == 0, done.err
    assert str(run / "labels-human.parquet") in done.out.splitlines()
    assert (run / "labels.parquet").read_bytes() == default
    assert label_settings(run, "human")["settings"]["scorer"] == "file"
    assert read_labels(run, "human")["question_comb_1"].hallucinated is True
    shown = vlmscope("info", run)
    assert (
        f"labels default: {ROWS // 3} hallucinated, {ROWS - ROWS // 3} faithful, 0 unscorable"
        in shown.out
    )
    assert "labels human: " in shown.out
    record = json.loads(vlmscope("info", run, "--json").out)["labels"]
    assert list(record) == ["default", "human"]
    assert (record["human"]["unscorable"], record["human"]["probes"]) == (1, None)


def test_each_set_is_kept_by_the_same_rule(vlmscope: Command, run: Path, by_hand: Path) -> None:
    """A person's labels are kept in whichever set they are; the other sets are free."""
    assert vlmscope("label", run, "--name", "human", "--labels", by_hand).code == 0
    before = (run / "labels-human.parquet").read_bytes()
    done = vlmscope("label", run, "--name", "human")
    assert done.code == 2
    assert f"{ROWS - 1} labels read from {by_hand} would be lost; give --overwrite" in done.err
    with pytest.raises(InputError, match="would be lost"):
        label(open_run(run), YesNo(), name="human")
    assert (run / "labels-human.parquet").read_bytes() == before
    assert vlmscope("label", run).code == 0  # the default set holds nobody's work
    assert vlmscope("label", run, "--name", "rule", "--scorer", "yesno").code == 0
    assert vlmscope("label", run, "--name", "rule", "--scorer", "exact").code == 0
    assert vlmscope("label", run, "--name", "human", "--overwrite").code == 0
    assert (run / "labels-human.parquet").read_bytes() != before


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", "x.csv", "é"])
def test_a_hostile_name_is_refused(vlmscope: Command, run: Path, name: str) -> None:
    done = vlmscope("label", run, f"--name={name}")
    assert done.code == 2
    assert "expected 1 to 64 letters" in done.err
    assert len(done.err.strip().splitlines()) == 1
    with pytest.raises(InputError, match="expected 1 to 64 letters"):
        label(open_run(run), name=name)
    assert not list(run.glob("labels*"))


@pytest.mark.exhaustive
def test_each_set_has_probes_of_its_own(vlmscope: Command, run: Path, by_hand: Path) -> None:
    assert vlmscope("label", run).code == 0
    assert vlmscope("probe", run, *FAST).code == 0
    default = {path: path.read_bytes() for path in (run / "probes").rglob("*") if path.is_file()}
    missing = vlmscope("probe", run, "--labels", "human", *FAST)
    assert missing.code == 2
    assert "no label set of that name, there are default; run 'vlmscope label" in missing.err
    assert vlmscope("label", run, "--name", "human", "--labels", by_hand).code == 0
    into_other = vlmscope("probe", run, "--labels", "human", "--out", run / "probes", *FAST)
    assert into_other.code == 2
    assert "is a part of the run" in into_other.err
    done = vlmscope("probe", run, "--labels", "human", *FAST)
    assert done.code == 0, done.err
    assert str(run / "probes-human") in done.out
    for path, data in default.items():
        assert path.read_bytes() == data, path
    opened = open_run(run)
    ours, theirs = read_sweep(opened), read_sweep(opened, "human")
    assert ours is not None
    assert theirs is not None
    assert (ours.stale, theirs.stale) == ("", "")
    assert (ours.label_set, theirs.label_set) == ("default", "human")
    assert theirs.summary["rows"] == ROWS - 1
    assert find_probe(run).parent == run / "probes"
    assert find_probe(run / "probes-human").parent == run / "probes-human"
    told = vlmscope("info", run).out
    assert re.search(r"labels human: .*; probes in probes-human, selected AUROC 0\.\d{3}\n", told)
    # The default set changes: its probes are stale, those of the other set are not.
    scores = list(read_labels(run).values())
    write_labels(run, [replace(scores[0], hallucinated=False), *scores[1:]], {})
    ours, theirs = read_sweep(opened), read_sweep(opened, "human")
    assert ours is not None
    assert theirs is not None
    assert ours.stale
    assert not theirs.stale
    told = vlmscope("info", run).out
    assert "probes in probes, out of date: 1 of " in told
    assert "probes in probes-human, selected" in told
    _check_report(vlmscope, run)
    _check_moved(run)


def _check_report(vlmscope: Command, run: Path) -> None:
    done = vlmscope("report", run, "--labels", "human")
    assert done.code == 0, done.err
    page = (run / "report-human.html").read_text("utf-8")
    assert not (run / "report.html").exists()
    assert "label set" in page
    assert "if no unscorable answer were hallucinated" in page
    assert "missing: The saved probes" not in done.out
    done = vlmscope("report", run, "--labels", "nobody")
    assert done.code == 2
    assert "no label set of that name, there are default, human" in done.err


def _check_moved(run: Path) -> None:
    """Probes that were copied into the folder of another set are not taken for that set's."""
    shutil.rmtree(run / "probes")
    with pytest.raises(InputError, match=r"default label set has no probes; give .*probes-human"):
        find_probe(run)
    (run / "probes-human").rename(run / "probes")
    found = read_sweep(open_run(run))
    assert found is not None
    assert found.stale == "they are of the label set 'human', not 'default'"
    (run / "probes" / "predictions.parquet").write_bytes(b"")
    (run / "probes").rename(run / "probes-human")
    with pytest.raises(StoreError, match=r"vlmscope probe .* --labels human' again"):
        read_sweep(open_run(run), "human")


@pytest.mark.exhaustive
def test_a_report_without_labels_says_which_sets_there_are(vlmscope: Command, run: Path) -> None:
    assert vlmscope("label", run, "--name", "rule").code == 0
    done = vlmscope("report", run)
    assert done.code == 0, done.err
    assert "No labels yet" in done.out
    assert f"There is a label set rule: vlmscope report {run} --labels rule" in done.out


def test_a_damaged_set_is_shown_as_damaged(vlmscope: Command, run: Path) -> None:
    assert vlmscope("label", run).code == 0
    (run / "labels-broken.parquet").write_bytes(b"PAR1")
    done = vlmscope("info", run)
    assert done.code == 0, done.err
    assert "labels broken: " in done.out
    assert "cannot be read" in done.out
    assert f"labels default: {ROWS // 3} hallucinated" in done.out
    refused = vlmscope("label", run, "--name", "broken")
    assert refused.code == 2
    assert "may be a person's" in refused.err


def test_rows_that_came_later_name_the_set(vlmscope: Command, run: Path, by_hand: Path) -> None:
    label(open_run(run), LabelFile(by_hand), name="human")
    scores = list(read_labels(run, "human").values())
    write_labels(run, scores[:-2], {}, "human")
    done = vlmscope("probe", run, "--labels", "human", *FAST)
    assert done.code == 2
    assert "run vlmscope label --name human again" in done.err


def test_how_a_file_was_read_is_said(vlmscope: Command, run: Path, by_hand: Path) -> None:
    done = vlmscope("label", run, "--labels", by_hand)
    assert done.code == 0, done.err
    labels = read_labels(run)
    wrong = sum(score.hallucinated is True for score in labels.values())
    cells = sorted([(ROWS - 1 - wrong, "0 → faithful"), (wrong, "1 → hallucinated")], reverse=True)
    (first, one), (second, other) = cells
    line = (
        f"read: label = {one}, {first} rows; {other}, {second}; unscorable → unscorable, 1; "
        "2 questions of the file not in the run"
    )
    assert line in done.out.splitlines()
    record = json.loads(vlmscope("label", run, "--labels", by_hand, "--json").out)
    assert record["reading"]["column"] == "label"
    cells = record["reading"]["cells"]
    assert {cell["cell"]: (cell["outcome"], cell["rows"]) for cell in cells} == {
        "1": ("hallucinated", wrong), "0": ("faithful", ROWS - 1 - wrong),
        "unscorable": ("unscorable", 1),
    }  # fmt: skip
    assert (record["not_in_run"], record["not_in_file"]) == (2, 0)


def test_how_a_column_was_read_is_said(vlmscope: Command, run: Path) -> None:
    done = vlmscope("label", run, "--column", "by_hand")
    assert f"read: by_hand = True → hallucinated, {ROWS // 2} rows; False → faithful, " in done.out


def test_bounds_of_the_share(vlmscope: Command, run: Path, by_hand: Path) -> None:
    record = json.loads(vlmscope("label", run, "--labels", by_hand, "--json").out)["all"]
    wrong = record["hallucinated"]
    assert record["share_if_unscorable_faithful"] == wrong / ROWS
    assert record["share_if_unscorable_hallucinated"] == (wrong + 1) / ROWS
    assert record["share"] == wrong / (ROWS - 1)
    shown = vlmscope("label", run, "--labels", by_hand).out
    text = f"if every unscorable row were hallucinated {(wrong + 1) / ROWS:.1%}, if none were"
    assert f"{text} {wrong / ROWS:.1%}" in shown


def test_the_truth_of_another_column(vlmscope: Command, run: Path) -> None:
    done = vlmscope("label", run, "--target", "by_hand", "--name", "other")
    assert done.code == 0, done.err
    assert label_settings(run, "other")["settings"] == {"scorer": "auto", "target": "by_hand"}
    done = vlmscope("label", run, "--target", "nothing")
    assert done.code == 2
    assert "--target nothing: no such column; there are: by_hand" in done.err
    assert not (run / "labels.parquet").exists()


def test_options_of_a_table_do_not_go_with_a_run(vlmscope: Command, run: Path) -> None:
    for option, value in (("--out", "x.csv"), ("--map", "answer=x")):
        done = vlmscope("label", run, option, value)
        assert done.code == 2
        assert f"{option}: is for a table of answers" in done.err


def test_scores_of_a_reading(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("id,is_hallucinating\nq1, TRUE \nq1,true\nq2,nan\nq3,0.0\n")
    scorer = LabelFile(path)
    rows = [Score(id_, None, "", "") for id_ in ("q1", "q2", "q9")]
    list(scorer(rows))  # type: ignore[arg-type] - it reads the ids only
    assert (
        str(scorer.reading) == "is_hallucinating = TRUE → hallucinated, 1 row; nan → unlabelled, 1"
    )


def test_agreement_of_two_sets(vlmscope: Command, run: Path, by_hand: Path) -> None:
    assert vlmscope("label", run).code == 0
    assert vlmscope("label", run, "--name", "human", "--labels", by_hand).code == 0
    before = {path.name: path.read_bytes() for path in run.glob("*.parquet")}
    record = json.loads(vlmscope("agreement", run, "default", "human", "--json").out)
    one, other = read_labels(run), read_labels(run, "human")
    differ = [id_ for id_ in one if one[id_].hallucinated != other[id_].hallucinated]
    assert [each["id"] for each in record["disagreements"]] == differ
    assert len(differ) == 5
    decided = [id_ for id_ in one if other[id_].hallucinated is not None]
    truth = [[labels[id_].outcome for id_ in decided] for labels in (one, other)]
    assert record["decided"]["kappa"] == pytest.approx(cohen_kappa_score(*truth))
    assert record["decided"]["rows"] == ROWS - 1
    assert record["every"]["confusion"]["faithful"]["unscorable"] == 1
    assert sum(sum(row.values()) for row in record["every"]["confusion"].values()) == ROWS
    assert record["in_neither"] == 0
    assert record["decided"]["kappa_low"] <= record["decided"]["kappa"]
    with pytest.raises(InputError, match=r"^seed -1: give a number"):
        compare_labels(open_run(run), "human", "default", seed=-1)
    swapped = compare_labels(open_run(run), "human", "default")
    assert swapped.decided.kappa == pytest.approx(record["decided"]["kappa"])
    assert swapped.every.confusion.T.tolist() == [
        [record["every"]["confusion"][a][b] for b in swapped.every.classes]
        for a in swapped.every.classes
    ]
    shown = vlmscope("agreement", run, "default", "human").out
    assert f"Cohen's kappa {record['decided']['kappa']:.3f} (95% interval" in shown
    assert "5 disagreements:" in shown
    assert f"  {differ[0]}: " in shown
    assert {path.name: path.read_bytes() for path in run.glob("*.parquet")} == before


def test_agreement_shows_the_first_disagreements(vlmscope: Command, run: Path) -> None:
    ids = open_run(run).ids
    write_labels(run, [Score(id_, True, "yesno", "") for id_ in ids], {})
    write_labels(run, [Score(id_, False, "yesno", "") for id_ in ids[:-3]], {}, "b")
    for shown, options in ((5, ()), (20, ("--show", 20)), (0, ("--show", 0))):
        done = vlmscope("agreement", run, "default", "b", *options)
        assert done.code == 0, done.err
        assert done.out.count(": hallucinated, faithful") == shown
        assert f"and {ROWS - 3 - shown} more; --show N shows more, --json has them" in done.out
    assert "3 questions only in default: unlabelled in b, not compared" in done.out
    assert "36 disagreements" not in done.out
    everything = vlmscope("agreement", run, "default", "b", "--show", 1000).out
    assert everything.count(": hallucinated, faithful") == ROWS - 3
    assert "more" not in everything
    assert vlmscope("agreement", run, "default", "b", "--show", -1).code == 2


def test_agreement_shows_what_was_asked_and_answered(vlmscope: Command, run: Path) -> None:
    ids = open_run(run).ids
    write_labels(run, [Score(id_, True, "yesno", "") for id_ in ids], {})
    write_labels(run, [Score(id_, id_ != ids[3], "file", "") for id_ in ids], {}, "b")
    row = open_run(run)[ids[3]]
    lines = vlmscope("agreement", run, "default", "b").out.splitlines()
    at = lines.index(f"  {ids[3]}: hallucinated, faithful")
    assert lines[at - 1] == "1 disagreement:"
    assert lines[at + 1 :] == [
        f"    question: {row.sample.question}", "    truth: Yes", "    answer: No",
    ]  # fmt: skip
    [each] = json.loads(vlmscope("agreement", run, "default", "b", "--json").out)["disagreements"]
    assert (each["question"], each["truth"], each["answer"]) == (row.sample.question, "Yes", "No")


def test_agreement_says_where_kappa_says_nothing(vlmscope: Command, run: Path) -> None:
    ids = open_run(run).ids
    write_labels(run, [Score(id_, True, "yesno", "") for id_ in ids], {})
    write_labels(run, [Score(id_, True, "file", "") for id_ in ids], {}, "same")
    write_labels(run, [Score(id_, n > 2, "file", "") for n, id_ in enumerate(ids)], {}, "most")
    write_labels(run, [Score(id_, None, "judge", "") for id_ in ids], {}, "none")
    same = vlmscope("agreement", run, "default", "same").out
    assert (
        "kappa is not defined, as both label every row hallucinated, on the 36 rows that "
        "both decide" in same
    )
    most = vlmscope("agreement", run, "most", "default").out
    assert "Cohen's kappa 0.000" in most
    assert "default labels all of them hallucinated: kappa is then 0" in most
    none = vlmscope("agreement", run, "default", "none").out
    assert "kappa is not defined: no row to compare, on the 0 rows that both decide" in none


@pytest.mark.exhaustive
@pytest.mark.parametrize("gap", ["absent", "empty"])
def test_rows_that_nobody_labelled_are_no_disagreement(
    vlmscope: Command, run: Path, tmp_path: Path, gap: str
) -> None:
    """A file that names half of the rows, and one with empty cells."""
    assert vlmscope("label", run).code == 0
    default, ids = read_labels(run), open_run(run).ids
    half, path = ids[: ROWS // 2], tmp_path / "mine.csv"
    lines = ["question_id,label", f"{half[0]},unscorable"]
    lines += [f"{id_},{default[id_].hallucinated}" for id_ in half[1:]]
    lines += [f"{id_}, " for id_ in ids[ROWS // 2 :] if gap == "empty"]
    path.write_text("\n".join(lines), "utf-8")
    done = vlmscope("label", run, "--name", "human", "--labels", path)
    assert done.code == 0, done.err
    wrong = sum(default[id_].hallucinated is True for id_ in half[1:])
    reason = "no label in the file" if gap == "empty" else "not in the label file"
    assert f"unlabelled {ROWS // 2}: {reason}" in done.out
    assert "unscorable 1: no label in the file" in done.out
    assert f"if none were {wrong / len(half):.1%}" in done.out
    labels = read_labels(run, "human")
    outcomes = [labels[id_].outcome for id_ in ids]
    assert outcomes[1 : ROWS // 2] == [default[id_].outcome for id_ in half[1:]]
    assert (outcomes[0], {*outcomes[ROWS // 2 :]}) == ("unscorable", {"unlabelled"})
    assert f"1 unscorable, {ROWS // 2} unlabelled" in vlmscope("info", run).out
    found = json.loads(vlmscope("info", run, "--json").out)["labels"]
    assert [found[name]["unlabelled"] for name in ("default", "human")] == [0, ROWS // 2]
    record = json.loads(vlmscope("agreement", run, "default", "human", "--json").out)
    assert (record["decided"]["rows"], record["decided"]["kappa"]) == (len(half) - 1, 1.0)
    assert sum(sum(row.values()) for row in record["every"]["confusion"].values()) == len(half)
    assert [each["id"] for each in record["disagreements"]] == [half[0]]
    assert (record["only_in_one"], record["only_in_other"]) == (ROWS // 2, 0)
    shown = vlmscope("agreement", run, "default", "human").out
    assert f"{ROWS // 2} questions only in default: unlabelled in human, not compared" in shown
    assert compare_runs([open_run(run), _twin(run, tmp_path)]).runs[1].unlabelled == ROWS // 2


def _twin(run: Path, folder: Path) -> Run:
    """Return a run of another model with the labels of the set ``human`` as its default."""
    rows = list(open_run(run))
    with RunWriter(folder / "twin", make_manifest(run_id="7" * 32)) as writer:
        writer.add(rows)
    shutil.copy(run / "labels-human.parquet", folder / "twin" / "labels.parquet")
    return open_run(folder / "twin")


def test_a_report_leaves_unlabelled_rows_out_of_the_unscorable(
    vlmscope: Command, run: Path, tmp_path: Path
) -> None:
    ids, path = open_run(run).ids, tmp_path / "mine.csv"
    path.write_text("id,label\n" + "".join(f"{id_},{n % 2}\n" for n, id_ in enumerate(ids[:6])))
    assert vlmscope("label", run, "--labels", path).code == 0
    assert vlmscope("report", run).code == 0
    made = gather(open_run(run), ReportSpec(), lambda _: None).document
    assert made.categories[-1].unscorable == 0
    assert made.labels is not None
    assert made.labels.reasons == ()
    assert f"{ROWS - 6} of {ROWS} rows are unlabelled: not in the label file." in made.missing
    assert [card.outcome for card in made.cards].count(None) == ROWS - 6


def test_a_column_with_empty_cells(vlmscope: Command, tmp_path: Path) -> None:
    """The same of a column, and of a table; a word that is no label was written by somebody."""
    table, out = tmp_path / "t.csv", tmp_path / "o.csv"
    table.write_text(
        "id,question,truth,answer,seen\na,Is it?,Yes,Yes,0\nb,Is it?,Yes,Yes,\n"
        "c,Is it?,Yes,Yes,unscorable\nd,Is it?,Yes,Yes,maybe\n"
    )
    done = vlmscope("label", table, "--column", "seen", "--out", out)
    assert done.code == 0, done.err
    with out.open(newline="") as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == [
            "faithful", "unlabelled", "unscorable", "unscorable",
        ]  # fmt: skip
    assert "empty → unlabelled, 1" in done.out
    assert vlmscope("label", table, "--column", "seen", "--out", out, "--json", "--overwrite")


def test_agreement_needs_two_sets(vlmscope: Command, run: Path) -> None:
    assert vlmscope("label", run).code == 0
    for arguments, message in (
        (("default", "default"), "give two label sets"),
        (("default", "human"), "no label set 'human' yet, there are label sets default; run"),
        (("default", "../x"), "expected 1 to 64 letters"),
    ):
        done = vlmscope("agreement", run, *arguments)
        assert done.code == 2
        assert message in done.err
    write_labels(run, [Score("other", True, "file", "")], {}, "other")
    done = vlmscope("agreement", run, "default", "other")
    assert done.code == 2
    assert "no question of the run in common" in done.err
