"""Arguments mean the same wherever they are given, and what they cannot be is said in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlmscope.arguments import check_batch_size, whole_number
from vlmscope.errors import InputError
from vlmscope.labelling.local_judge import LocalJudgeSettings
from vlmscope.report import ReportSpec

NO_NUMBERS = (True, 1.0, "1", None, float("nan"))


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_whole_number_is_named(value: object) -> None:
    with pytest.raises(InputError, match=r"^limit .*: expected a whole number$"):
        whole_number("--limit", value, least=1)


def test_the_least_is_allowed_and_less_is_not() -> None:
    assert whole_number("--limit", np.int64(1), least=1) == 1
    assert type(whole_number("--limit", np.int64(1))) is int
    with pytest.raises(InputError, match=r"^limit 0: give 1 or more$"):
        whole_number("--limit", 0, least=1)
    assert whole_number("--limit", -3) == -3


@pytest.mark.parametrize("size", [0, -1, *NO_NUMBERS])
def test_no_size_of_a_batch(size: Any) -> None:
    with pytest.raises(
        InputError, match=r"^batch_size .*: (give 1 or more|expected a whole number)"
    ):
        check_batch_size(size)
    with pytest.raises(InputError, match=r"^judge_batch_size .*: "):
        LocalJudgeSettings("judge", "0" * 64, batch_size=size)
    with pytest.raises(InputError, match=r"^samples .*: "):
        ReportSpec(samples=size)
