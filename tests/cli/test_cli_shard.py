"""``extract --shard``: ranks of one run, at once and one after the other, killed and run again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from faults import child
from material import QUESTIONS, make_image
from vlmscope import FailedRowsWarning
from vlmscope import extract as run_extract
from vlmscope.schema import CaptureSpec
from vlmscope.store import Run, open_run, read_failures

Command = Callable[..., Any]
ROWS, IMAGES = 12, 6


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions about six images, and two that fail."""
    folder = tmp_path_factory.mktemp("ranks")
    names = [f"{i}.png" for i in range(IMAGES)]
    for i, name in enumerate(names):
        make_image("one", i).save(folder / name)
    rows = [(f"q{i}", names[i % IMAGES], QUESTIONS[i % 5], "Yes") for i in range(ROWS)]
    rows += [("empty", names[0], "", "Yes"), ("gone", "gone.png", "What is it?", "Yes")]
    path = folder / "many.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question_id", "image_name", "question", "gt_answer"), *rows])
    return path


@pytest.fixture
def start(questions: Path, checkpoint: Path, tmp_path: Path, python: str) -> Callable[..., Any]:
    """Start ``vlmscope extract`` as a process of its own."""

    def begin(*extra: str) -> subprocess.Popen[str]:
        command = [
            *(python, "-m", "vlmscope", "extract", str(questions), "--json"),
            *("--model", str(checkpoint), "--out", str(tmp_path / "run"), "--device", "cpu"),
            *("--max-new-tokens", "5", "--batch-size", "1", *extra),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture
def rank(extract: Command, questions: Path) -> Command:
    """Run a rank in this process, in the settings of ``start``."""

    def run(*extra: object, **options: Any) -> Any:
        return extract("--batch-size", 1, "--json", *extra, data=questions, **options)

    return run


@pytest.fixture(scope="module")
def plain(checkpoint: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same rows from one plain session."""
    out, spec = tmp_path_factory.mktemp("plain") / "run", CaptureSpec(max_new_tokens=5)
    with pytest.warns(FailedRowsWarning, match="2 rows failed"):
        return run_extract(
            questions, model=checkpoint, out=out, spec=spec, device="cpu", batch_size=1
        )


def assert_same_rows(found: Run, expected: Run) -> None:
    assert sorted(found.ids) == sorted(expected.ids)
    assert found.check() == []
    for id_ in expected.ids:
        one, other = found[id_], expected[id_]
        assert one.answer == other.answer
        np.testing.assert_array_equal(one.answer_logprobs, other.answer_logprobs)
        for name, vector in other.vectors.items():
            np.testing.assert_array_equal(one.vectors[name], vector)


def indexed(run: Path) -> int:
    with h5py.File(run / "index.h5") as index:
        return int(index.attrs["num_samples"])


@pytest.mark.exhaustive
def test_ranks_at_once_make_the_run_that_one_session_makes(
    start: Command, rank: Command, plain: Run, vlmscope: Command, tmp_path: Path
) -> None:
    ranks = [start("--shard", f"{i}/2") for i in range(2)]
    ended = [process.communicate(timeout=300) for process in ranks]
    summaries = [json.loads(out) for out, _ in ended]
    for i, (process, summary) in enumerate(zip(ranks, summaries, strict=True)):
        err = ended[i][1]
        assert process.returncode == (3 if summary["failed"] else 0), err
        assert summary["captured"] + summary["failed"] == summary["total"] > 0
        told = f"rank {i} of 2: its share is {summary['total']} of {ROWS + 2} rows"
        assert told in " ".join(err.split())
    assert sum(summary["total"] for summary in summaries) == ROWS + 2
    assert sum(summary["failed"] for summary in summaries) == 2
    run = open_run(tmp_path / "run")
    assert_same_rows(run, plain)
    assert set(run.failures) == set(plain.failures) == {"empty", "gone"}
    assert indexed(tmp_path / "run") == ROWS
    assert json.loads(vlmscope("info", tmp_path / "run", "--json").out)["rows"] == ROWS
    of_one_image = {}
    for path in (tmp_path / "run" / "shards").glob("*.h5"):
        with h5py.File(path) as shard:
            for id_ in shard["_columns/question_id"].asstr()[:]:
                of_one_image.setdefault(int(id_[1:]) % IMAGES, set()).add(path.name)
    assert all(len(files) == 1 for files in of_one_image.values())


@pytest.mark.exhaustive
def test_a_killed_rank_is_run_again_and_others_stay_out_meanwhile(
    rank: Command, questions: Path, checkpoint: Path, plain: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ("extract", questions, "--model", checkpoint, "--out", out, "--device", "cpu")
    settings = ("--max-new-tokens", 5, "--batch-size", 1, "--shard", "0/2")
    first = child.start([*map(str, arguments), *map(str, settings)], tmp_path / "log")
    while first.exitcode is None and not list((out / "shards").glob("part-*.h5")):
        time.sleep(0.005)
    assert first.pid
    os.kill(first.pid, signal.SIGSTOP)  # in the middle of its rows, however fast it is
    refused = [rank(*how) for how in (("--shard", "0/2"), (), ("--shard", "1/3"))]
    assert rank("--shard", "1/2").code in (0, 3)  # its neighbour may
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL
    for each in refused:
        assert each.code == 2
        assert "another vlmscope is writing this run (as rank_000_of_002)" in each.err
    before = len(open_run(out))
    again = rank("--shard", "0/2")
    assert again.code in (0, 3)
    summary = json.loads(again.out)
    assert summary["already_done"] > 0
    assert summary["captured"] > 0
    assert before + summary["captured"] == len(open_run(out)) == indexed(out) == ROWS
    assert_same_rows(open_run(out), plain)


@pytest.mark.exhaustive
def test_another_number_of_ranks_and_a_plain_session_go_on_from_there(
    rank: Command, tmp_path: Path
) -> None:
    done = json.loads(rank("--shard", "1/2").out)["captured"]
    assert 0 < done < ROWS
    part = json.loads(rank("--shard", "0/3").out)
    assert part["already_done"] + part["captured"] + part["failed"] == part["total"]
    rest = json.loads(rank().out)
    assert rest["already_done"] == done + part["captured"]
    assert rest["captured"] == ROWS - rest["already_done"]
    assert len(open_run(tmp_path / "run")) == indexed(tmp_path / "run") == ROWS
    nothing = rank("--shard", "2/3")
    assert json.loads(nothing.out)["captured"] == 0


@pytest.mark.exhaustive
def test_the_environment_says_which_rank_it_is(
    rank: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = rank("--shard", "auto")
    assert lost.code == 2
    assert "RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID" in lost.err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for index in ("0", "1"):
        monkeypatch.setenv("RANK", index)
        assert rank("--shard", "auto").code in (0, 3)
    assert len(open_run(tmp_path / "run")) == ROWS


def test_a_rank_without_rows_has_nothing_to_do(rank: Command, tmp_path: Path) -> None:
    codes = [rank("--shard", f"{i}/64", "--limit", 2).code for i in (0, 1)]
    assert codes == [0, 0]
    assert len(open_run(tmp_path / "run")) == 0


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "all", "0/0"])
def test_what_is_no_rank_is_refused(rank: Command, tmp_path: Path, text: str) -> None:
    refused = rank(f"--shard={text}")
    assert refused.code == 2
    assert "--shard" in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_lines_of_several_processes_are_whole(tmp_path: Path, python: str) -> None:
    """Each one longer than a page, so that the system would write it in pieces."""
    code = (
        "import sys; from vlmscope.schema import Failure; from vlmscope.store import FailureLog\n"
        "log = FailureLog(sys.argv[1])\n"
        "for i in range(40): log.add(Failure(f'{sys.argv[2]}-{i}', 'input', 'x' * 20_000))"
    )
    script = tmp_path / "write.py"
    script.write_text(code)
    command = [python, str(script), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(i)], env=os.environ) for i in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert len(lines) == len(read_failures(tmp_path)) == 120
    assert all(len(json.loads(line)["error"]) == 20_000 for line in lines)
