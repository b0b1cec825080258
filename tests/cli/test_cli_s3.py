"""The command line on a run in an object store: a real S3 server, real processes, a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs

from vlmscope.store import Run, open_run

Command = Callable[..., Any]


@pytest.fixture
def run(bucket: str) -> str:
    """URL of a run that is not there yet."""
    return f"{bucket}/runs/first"


@pytest.fixture
def arguments(table: Path, checkpoint: Path) -> list[str]:
    """What extracts the table, one row at a time; --out comes last."""
    return [
        *("extract", str(table), "--model", str(checkpoint), "--device", "cpu", "--json"),
        *("--max-new-tokens", "5", "--batch-size", "1", "--out"),
    ]


def assert_same_rows(found: Run, expected: Run) -> None:
    assert list(found.ids) == list(expected.ids)
    assert found.check() == []
    for one, other in zip(found, expected, strict=True):
        assert one.answer == other.answer
        assert one.boundaries == other.boundaries
        for name, vector in other.vectors.items():
            np.testing.assert_array_equal(one.vectors[name], vector)


def shards(run: str) -> list[str]:
    """Return the names of the published shards."""
    store = s3fs.S3FileSystem(use_listings_cache=False)
    return list(store.glob(f"{run}/shards/*.h5"))


def killed_amid(python: str, arguments: list[str], run: str) -> int:
    """Start the command, SIGKILL it after its second shard; return how many rows are there."""
    process = subprocess.Popen(
        [python, "-m", "vlmscope", *arguments, run],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and len(shards(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err.decode()
    return len(open_run(run))


@pytest.mark.exhaustive
def test_a_killed_run_goes_on_and_is_read_by_every_command(
    vlmscope: Command, arguments: list[str], run: str, tmp_path: Path, python: str
) -> None:
    assert vlmscope(*arguments, tmp_path / "plain").code == 0
    expected = open_run(tmp_path / "plain")
    there = killed_amid(python, arguments, run)
    assert 2 <= there <= len(expected)

    resumed = vlmscope(*arguments, run)
    assert resumed.code == 0, resumed.err
    summary = json.loads(resumed.out)
    assert summary["already_done"] == there
    assert summary["captured"] == len(expected) - there
    assert_same_rows(open_run(run), expected)

    described = vlmscope("info", run, "--json")
    assert json.loads(described.out)["rows"] == len(expected), described.err
    verified = vlmscope("verify", run, "--files")
    assert verified.code == 0, verified.err
    exported = vlmscope("export", run, tmp_path / "seed.h5")
    assert exported.code == 0, exported.err
    again = vlmscope(*arguments, run)
    assert (json.loads(again.out)["captured"], again.code) == (0, 0), again.err


@pytest.mark.exhaustive
def test_damage_is_found_and_captured_again(
    vlmscope: Command, arguments: list[str], run: str
) -> None:
    assert vlmscope(*arguments, run).code == 0
    (shard,) = shards(run)
    store = s3fs.S3FileSystem(use_listings_cache=False)
    whole = store.cat_file(shard)
    store.pipe_file(shard, whole[: len(whole) // 2])
    found = vlmscope("verify", run, "--files")
    assert found.code == 1
    assert Path(shard).name in found.err + found.out
    mended = vlmscope(*arguments, run, "--redo-damaged")
    assert mended.code == 0, mended.err
    assert vlmscope("verify", run, "--files").code == 0
    assert len(open_run(run)) == json.loads(mended.out)["total"]


def test_a_store_that_does_not_answer_is_said_in_one_line(
    vlmscope: Command, arguments: list[str], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3fs.core, "S3_RETRYABLE_ERRORS", ())  # or it waits for half a minute
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    refused = vlmscope(*arguments, run)
    assert refused.code != 0
    assert "cannot be reached" in refused.err
    assert "Traceback" not in refused.err
