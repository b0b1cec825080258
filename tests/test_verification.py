"""What verify calls a difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from store_support import make_capture
from vlmscope.schema import Capture
from vlmscope.verification import compare


@pytest.fixture
def sure() -> Capture:
    """A row of a model that is sure of itself: its numbers are near zero."""
    row = make_capture(1)
    logprobs = np.full_like(row.answer_logprobs, -1e-6)
    return replace(row, answer_logprobs=logprobs, first_token_entropy=2e-6)


@pytest.mark.parametrize(("gap", "is_fault"), [(1e-7, False), (1e-3, True)])
def test_numbers_near_zero_are_compared_on_the_scale_of_one_nat(
    sure: Capture, gap: float, is_fault: bool
) -> None:
    logprobs = sure.answer_logprobs - np.float32(gap)  # type: ignore[operator]
    stored = replace(sure, answer_logprobs=logprobs, first_token_entropy=2e-6 + gap)
    faults = compare(stored, sure).faults(1e-5, "float32")
    assert bool(faults) == is_fault
    assert len(faults) in (0, 2)


@pytest.mark.parametrize(("gap", "is_fault"), [(0.25, False), (0.5, True)])
def test_a_margin_near_zero_may_differ_by_the_rounding_of_two_logits(
    sure: Capture, gap: float, is_fault: bool
) -> None:
    """Of a model in bfloat16 that hesitates between two tokens, whose logits are about 20."""
    close, other = (
        replace(sure, signals={"margin": np.array([value], np.float32)}) for value in (0, gap)
    )
    assert bool(compare(other, close).faults(0.1, "bfloat16")) == is_fault


def test_a_vector_is_compared_relative_to_itself(sure: Capture) -> None:
    [name, *_] = sure.vectors
    small = {**sure.vectors, name: sure.vectors[name] * np.float32(1e-6)}
    off = {**small, name: small[name] * np.float32(1.001)}
    [fault] = compare(replace(sure, vectors=off), replace(sure, vectors=small)).faults(
        1e-5, "float32"
    )
    assert fault.startswith(f"{name} differs by 1.0e-03")
