from pathlib import Path

import pytest

from vlmscope.errors import StoreError
from vlmscope.schema import Failure
from vlmscope.store import FailureLog, read_failures


def test_the_last_one_wins_and_attempts_count_up(tmp_path: Path) -> None:
    log = FailureLog(tmp_path)
    log.add(Failure("é/1", "image", "truncated"))
    log.add(Failure("b", "prompt", "too long"))
    again = FailureLog(tmp_path).add(Failure("é/1", "capture", "out of memory"))
    assert again.attempt == 2
    assert list(read_failures(tmp_path).values()) == [again, Failure("b", "prompt", "too long")]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_skipped_and_not_continued(tmp_path: Path, cut: int) -> None:
    log = FailureLog(tmp_path)
    log.add(Failure("a", "image", "x"))
    log.add(Failure("b", "image", "x"))
    path = tmp_path / "failures.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    FailureLog(tmp_path).add(Failure("c", "image", "x"))
    found = read_failures(tmp_path)
    assert {"a", "c"} <= found.keys()
    assert ("b" in found) == (cut == 1)  # only its line break was lost


def test_no_file_means_no_failures(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == {}


def test_trouble_is_a_store_error(tmp_path: Path) -> None:
    log = FailureLog(tmp_path / "gone")
    with pytest.raises(StoreError, match="cannot be written"):
        log.add(Failure("a", "image", "x"))
    (tmp_path / "failures.jsonl").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        read_failures(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": [1], "stage": "input", "error": "x", "attempt": 1}',
        '{"id": "a", "stage": "input", "error": "x", "attempt": "one"}',
        '{"id": "a"}',
        "[]",
        "null",
    ],
)
def test_a_line_that_is_no_failure_is_skipped(tmp_path: Path, line: str) -> None:
    (tmp_path / "failures.jsonl").write_text(f"{line}\n")
    assert read_failures(tmp_path) == {}
    assert FailureLog(tmp_path).add(Failure("a", "input", "x")).attempt == 1
