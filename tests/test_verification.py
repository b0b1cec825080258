"""What verify calls a difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from store_support import make_capture
from vlmscope.schema import Capture
from vlmscope.signals import LENS_PROB, LENS_PROBS, LENS_RANK, LENS_TOKENS, confidence_name
from vlmscope.verification import TOLERANCES, compare, signal_errors


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


EXACT = TOLERANCES["float32"]


def lens(tokens: list[int], probs: list[float], rank: int = 0) -> dict[str, np.ndarray]:
    """The lens of one state, and at a position that the row lacks."""
    absent = np.full(len(tokens), np.nan, np.float32)
    return {
        LENS_TOKENS: np.array([[tokens], [[-1] * len(tokens)]], np.int32),
        LENS_PROBS: np.array([[probs], [absent]], np.float32),
        LENS_RANK: np.array([[rank], [-1]], np.int32),
    }


EXPECTED = lens([7, 3, 5], [0.5, 0.2, 0.1999999], rank=4)


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (lens([7, 3, 5], [0.5, 0.2, 0.1999999], 4), ""),
        (lens([7, 5, 3], [0.5, 0.2, 0.1999999], 4), ""),  # nearly equal
        (lens([7, 3, 9], [0.5, 0.2, 0.1999998], 4), ""),  # a fourth, nearly equal
        (lens([7, 3, 5], [0.5, 0.2, 0.1999999], 5), ""),
        (lens([3, 7, 5], [0.5, 0.2, 0.1999999], 4), LENS_TOKENS),
        (lens([9, 3, 5], [0.5, 0.2, 0.1999999], 4), LENS_TOKENS),
        (lens([7, 3, -1], [0.5, 0.2, 0.1999999], 4), LENS_TOKENS),
        (lens([7, 3, 5], [0.5, 0.2, 0.1999], 4), LENS_PROBS),
        (lens([7, 3, 5], [0.5, 0.2, np.nan], 4), LENS_PROBS),
        (lens([7, 3, 5], [0.5, 0.2, 0.1999999], 6), LENS_RANK),
        (lens([7, 3, 5], [0.5, 0.2, 0.1999999], -1), LENS_RANK),
    ],
)
def test_tokens_and_ranks_may_differ_where_tokens_are_nearly_as_likely(
    found: dict[str, np.ndarray], wrong: str
) -> None:
    errors = signal_errors(found, EXPECTED)
    assert [name for name, error in errors.items() if not error <= EXACT] == ([wrong] * bool(wrong))


def test_probabilities_are_compared_by_their_logarithms() -> None:
    name = confidence_name(3)
    small = {name: np.array([1e-6, 0.9, 0.0], np.float32)}
    other = {name: np.array([2e-6, 0.9, 0.0], np.float32)}
    assert signal_errors(small, small) == {name: 0}
    assert signal_errors(other, small)[name] > EXACT
    assert signal_errors({}, small) == {name: np.inf} == signal_errors(small, {})


def test_an_array_that_a_row_lacks_is_called_missing(sure: Capture) -> None:
    """As of a run that an earlier version made; not an infinite difference."""
    expected = replace(sure, signals={"attention_prompt": np.ones((1, 2, 4), np.float32)})
    [fault] = compare(replace(sure, signals={}), expected).faults(1e-5, "float32")
    assert fault.startswith("signals/attention_prompt is missing")
    assert "inf" not in fault


def test_the_rank_of_another_first_token_is_not_compared(sure: Capture) -> None:
    """Without answers, two tokens that are nearly as likely may be either one's first."""
    row = replace(sure, answer=None, answer_token_ids=None, answer_logprobs=None)
    row = replace(row, signals={LENS_PROB: np.array([[0.5]], np.float32)})
    other = replace(row, signals={LENS_PROB: np.array([[0.2]], np.float32)})
    assert compare(other, row).errors[f"signals/{LENS_PROB}"] > EXACT
    swapped = replace(other, first_token_ids=row.first_token_ids[::-1])
    assert f"signals/{LENS_PROB}" not in compare(swapped, row).errors
