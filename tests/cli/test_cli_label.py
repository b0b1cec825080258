"""``vlmscope label``: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from judge_server import KEY, Server, failure, said, verdict
from tools.demo_world.verdict import judge as demo_verdict
from vlmscope.report import ReportSpec
from vlmscope.report.build import gather
from vlmscope.schema import Answered, Score
from vlmscope.score import error_kind
from vlmscope.store import label_settings, open_run, read_labels, read_manifest
from vlmscope.sweeps import probe_data

pytestmark = pytest.mark.usefixtures("columns_only")

Command = Callable[..., Any]


@pytest.fixture
def run(demo_run: Path, tmp_path: Path) -> Path:
    """A copy of 80 rows of the demo."""
    return shutil.copytree(demo_run, tmp_path / "labelled")


@pytest.mark.exhaustive
def test_the_demo_is_labelled_as_its_own_rule_does(vlmscope: Command, run: Path) -> None:
    done = vlmscope("label", run)
    assert done.code == 0, done.err
    labels = read_labels(run)
    opened = open_run(run)
    assert list(labels) == list(opened.ids)
    for row in opened.answers():
        right, _ = demo_verdict(row.answer or "", row.target, row.metadata["answer_type"])
        assert labels[row.id].hallucinated in (None, not right), (row, labels[row.id])
    unscorable = [score for score in labels.values() if score.hallucinated is None]
    assert len(unscorable) < 0.02 * len(labels)
    for text in ("existence-popular", "false-premise", "share", "decided by:", "labels.parquet"):
        assert text in done.out
    assert label_settings(run)["settings"] == {"scorer": "auto"}
    assert done.err.endswith(f"next: vlmscope probe {run}\n")
    named = vlmscope("label", run, "--name", "strict", "--scorer", "exact")
    assert named.err.endswith(f"next: vlmscope probe {run} --labels strict\n")


def test_json_and_another_scorer_that_replaces_the_labels(vlmscope: Command, run: Path) -> None:
    vlmscope("label", run)
    done = vlmscope("label", run, "--scorer", "yesno", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["rows"] == 80
    assert list(record["scorers"]) == ["yesno"]
    assert record["all"]["unscorable"] == record["reasons"]["truth is not yes or no"]
    assert (
        sum(found["faithful"] for found in record["categories"].values())
        == (record["all"]["faithful"])
    )
    scorable = record["all"]["hallucinated"] + record["all"]["faithful"]
    assert record["all"]["share"] == record["all"]["hallucinated"] / scorable
    assert {score.scorer for score in read_labels(run).values()} == {"yesno"}
    shown = vlmscope("label", run, "--scorer", "yesno")
    assert "truth is not yes or no" in shown.out


@pytest.mark.exhaustive
def test_which_way_answers_to_yes_no_questions_are_wrong(vlmscope: Command, run: Path) -> None:
    """False positives and false negatives, of rules and of a person; in the report and JSON too."""
    done = vlmscope("label", run, "--json")
    assert done.code == 0, done.err
    opened, labels = open_run(run), read_labels(run)
    wanted = Counter[str]()
    for row in opened.answers():
        wrong = labels[row.id].hallucinated is True and row.target in ("Yes", "No")
        kind = {"No": "affirms", "Yes": "denies"}[row.target] if wrong else None
        assert labels[row.id].error_kind == kind, row
        wanted[kind or ""] += 1
    kinds = json.loads(done.out)["error_kinds"]
    assert kinds == {"affirms": wanted["affirms"], "denies": wanted["denies"], "other": 0}
    assert wanted["affirms"]
    told = f"yes/no questions {wanted['affirms']} affirm something false, {wanted['denies']} deny"
    assert told in vlmscope("label", run).out
    text = "id,label\n" + "".join(f"{i},{s.outcome}\n" for i, s in labels.items())
    (run / "mine.csv").write_text(text, "utf-8")
    by_hand = vlmscope("label", run, "--name", "human", "--labels", run / "mine.csv", "--json")
    assert json.loads(by_hand.out)["error_kinds"] == kinds
    made = gather(opened, ReportSpec(), lambda _: None).document.labels
    assert made is not None
    assert dict(made.error_kinds)["affirms something false"] == wanted["affirms"]


@pytest.mark.parametrize(
    ("question", "answer", "truth", "kind"),
    [
        ("Is there a cup?", "Yes, on the table.", "No", "affirms"),
        ("Is there a cup?", "No.", "Yes", "denies"),
        ("Is there a dog?", "There is a dog on the bench.", "No", "affirms"),
        ("Is no cup there?", "Yes.", "No", "denies"),
        ("Is there not a red shape?", "No", "Yes", "affirms"),
        ("Isn't it red?", "Yes", "No", "other"),
        ("Is there a cup?", "No, there is no cup.", "No", "other"),
        ("Is there a cup?", None, "No", "other"),
        ("What is it?", "a dog", "a cat", None),
        ("Is it red or green?", "red", "green", None),
    ],
)
def test_a_wrong_answer_affirms_or_denies(
    question: str, answer: str | None, truth: str, kind: str | None
) -> None:
    """Whoever called it hallucinated: the answer is read, not the scorer."""
    row = Answered("q", question, answer, truth)
    assert error_kind(row, Score("q", True, "file", "")) == kind
    for other in (False, None):
        assert error_kind(row, Score("q", other, "file", "")) is None


@pytest.mark.exhaustive
def test_how_a_coded_column_was_read_is_said(
    extract: Command, vlmscope: Command, tmp_path: Path, table: Path
) -> None:
    """Every truth of the table is 0 or 1."""
    lines = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        for number, line in enumerate(lines):
            coded = {"question": "Is there a cup in the picture?", "gt_answer": str(number % 2)}
            writer.writerow(line | coded)
    assert extract().code == 0
    said = f"truth 1 = yes, 0 = no in {len(lines)} rows"
    assert f"read: {said}" in vlmscope("label", tmp_path / "run").out
    record = json.loads(vlmscope("label", tmp_path / "run", "--json").out)
    assert record["truth_read"] == said
    other = vlmscope("label", tmp_path / "run", "--scorer", "exact")
    assert "read:" not in other.out


def test_labels_from_a_file(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("question_id,is_hallucinating\ndemo_0001,False\ndemo_0002,True\nother,True\n")
    done = vlmscope("label", run, "--labels", path)
    assert done.code == 0, done.err
    assert "1 question of the file not in the run" in done.out
    assert "unlabelled 78: not in the label file" in done.out
    labels = read_labels(run)
    assert (labels["demo_0001"].outcome, labels["demo_0002"].outcome) == (
        "faithful",
        "hallucinated",
    )
    record = json.loads(vlmscope("label", run, "--labels", path, "--json").out)
    assert record["not_in_run"] == 1
    data = probe_data(open_run(run))
    assert [tuple(asdict(each).values()) for each in data.left_out] == [
        ("row", 78, "no label in labels.csv")
    ]


def test_labels_from_a_column_of_a_file(vlmscope: Command, run: Path, tmp_path: Path) -> None:
    """Of several people, for example."""
    path = tmp_path / "labels.csv"
    path.write_text("question_id,label,anna\ndemo_0001,1,right\ndemo_0002,0,wrong\n")
    done = vlmscope("label", run, "--name", "anna", "--labels", path, "--column", "anna")
    assert done.code == 0, done.err
    labels = read_labels(run, "anna")
    assert [labels[f"demo_000{i}"].hallucinated for i in (1, 2)] == [False, True]
    unknown = vlmscope("label", run, "--name", "b", "--labels", path, "--column", "bert")
    assert unknown.code == 2
    assert "labels.csv" in unknown.err
    assert "bert" in unknown.err
    assert len(unknown.err.strip().splitlines()) == 1


def test_labels_of_a_run_without_answers(
    extract: Command, vlmscope: Command, tmp_path: Path, table: Path
) -> None:
    lines = table.read_text("utf-8").splitlines()
    marked = [lines[0] + ",judged", *(f"{line},{i % 2}" for i, line in enumerate(lines[1:]))]
    table.write_text("\n".join(marked), "utf-8")
    assert extract("--max-new-tokens", 0).code == 0
    folder = tmp_path / "run"
    refused = vlmscope("label", folder)
    assert refused.code == 2
    assert "has no answers to score" in refused.err
    for command in ("info", "probe", "detect", "report"):
        told = vlmscope(command, folder)
        text = " ".join((told.out + told.err).split())
        assert f"run 'vlmscope label {folder}'" not in text, command
        assert f"next: vlmscope label {folder}" not in text, command
        assert f"vlmscope label {folder} determines" not in text, command
        assert "--max-new-tokens above 0" in text, command
    assert not read_manifest(folder).capture.max_new_tokens
    done = vlmscope("label", folder, "--column", "judged")
    assert done.code == 0, done.err
    assert "50.0%" in done.out
    assert not (folder / "judge.jsonl").exists()
    unknown = vlmscope("label", folder, "--column", "nothing")
    assert unknown.code == 2
    assert "there are: category, judged" in unknown.err
    assert len(read_labels(folder)) == 10


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--scorer", "guess"], "choose from auto"),
        (["--scorer", "column"], "--scorer column: needs --column"),
        (["--scorer", "file"], "--scorer file: needs --labels"),
        (["--scorer", "judge"], "--scorer judge: needs --judge-model"),
        (["--scorer", "vqa", "--column", "x"], "give --scorer column"),
        (["--scorer", "yesno", "--judge-model", "x"], "give --scorer judge"),
        (["--labels", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    vlmscope: Command, demo_run: Path, extra: list[str], message: str
) -> None:
    done = vlmscope("label", demo_run, *extra)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (demo_run / "labels.parquet").exists()


class FakeJudge:
    """Stands for the language model; takes what the real one takes."""

    name = "judge"
    settings: Any = None

    def __init__(self, settings: Any, cache: Path) -> None:
        assert cache.name == "judge.jsonl"
        FakeJudge.settings = settings

    def estimate(self, rows: Iterable[Answered]) -> SimpleNamespace:
        asked = len(list(rows))
        return SimpleNamespace(
            to_ask=asked, equal=0, cached=0, input_tokens=900, output_tokens=50 * asked, cost=0.25
        )

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        for row in rows:
            yield Score(row.id, True, self.name, "the judge says so")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, vlmscope: Command, run: Path) -> Command:
    """Label with a judge that is not there, after answering its question."""
    monkeypatch.setattr("vlmscope.score.judge.Judge", FakeJudge)

    def label(*extra: object, answer: str | None = None) -> Any:
        monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None, raising=False)
        monkeypatch.setattr("typer.confirm", lambda *_, **__: answer == "y")
        return vlmscope("label", run, "--judge-model", "tiny", *extra)

    return label


@pytest.mark.exhaustive
def test_the_judge_is_asked_only_with_consent(judged: Command, run: Path) -> None:
    refused = judged("--scorer", "judge")
    assert refused.code == 2
    assert "80 requests to make" in refused.err
    assert "give --yes" in refused.err
    declined = judged("--scorer", "judge", answer="n")
    assert declined.code == 2
    assert "nothing was done" in declined.err
    assert not (run / "labels.parquet").exists()
    assert judged("--scorer", "judge", answer="y").code == 0
    done = judged("--scorer", "judge", "--yes", "--judge-prices", 0.15, 0.6)
    assert done.code == 0, done.err
    assert "about 0.25 in total" in done.err
    assert FakeJudge.settings.output_price == 0.6
    assert {score.scorer for score in read_labels(run).values()} == {"judge"}
    assert label_settings(run)["settings"]["judge"]["model"] == "tiny"


def test_auto_asks_the_judge_about_what_the_rules_leave(judged: Command, run: Path) -> None:
    done = judged("--yes", "--judge-url", "http://localhost:1", "--judge-concurrency", 2)
    assert done.code == 0, done.err
    left = sum(score.scorer == "judge" for score in read_labels(run).values())
    assert f"{left} request" in done.err
    assert (FakeJudge.settings.base_url, FakeJudge.settings.concurrency) == (
        "http://localhost:1",
        2,
    )


@pytest.mark.exhaustive
def test_a_judge_that_echoes_the_key_and_talks_nonsense(
    vlmscope: Command, run: Path, judge_server: Server
) -> None:
    """Nothing of the key or of a password in the address is in any file, or on the terminal."""
    odd = [
        (200, {}, b'{"a":' * 200_000),
        said("{" * 9_000 + KEY),
        verdict("hallucinated", f"you sent {KEY}"),
        verdict("unclear", KEY.upper()),
        failure(400, f"a refusal of {KEY}"),
    ]
    replies = itertools.cycle([verdict("faithful"), *odd])
    judge_server.respond = lambda _: next(replies)
    url = f"http://me:secret-word@127.0.0.1:{judge_server.server_port}/v1"
    options = ("--judge-model", "m", "--judge-url", url, "--judge-concurrency", 1, "--yes")
    done = vlmscope("label", run, "--scorer", "judge", *options)
    assert done.code == 0, done.err
    scores = list(read_labels(run).values())
    assert {score.hallucinated for score in scores} == {True, False, None}
    assert "you sent ***" in {score.evidence for score in scores}
    shown = done.out + done.err + json.dumps(label_settings(run))
    shown += "".join(score.evidence for score in scores) + (run / "judge.jsonl").read_text()
    assert KEY not in shown
    assert KEY.upper() not in shown
    assert "secret-word" not in shown
    assert f"http://127.0.0.1:{judge_server.server_port}/v1" in shown


def test_labels_of_other_questions_replace_nothing(
    vlmscope: Command, demo_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("question_id,is_hallucinating_manual\nother_1,true\nother_2,false\n")
    done = vlmscope("label", demo_run, "--labels", file)
    assert done.code == 2
    assert re.search("its ids look like 'other_1', the run's like 'demo_[0-9]{4}'", done.err)
    assert not (demo_run / "labels.parquet").exists()
