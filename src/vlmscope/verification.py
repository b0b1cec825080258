"""``verify``: compare stored rows of a finished run with the reference method.

Rows are drawn at random, read from the store, and recomputed by ``reference``: three passes, one
row at a time, no padding. So the complete chain is compared: prompt, batch, capture, and storage.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlmscope.dataset import Table
from vlmscope.engine.row_errors import row_errors
from vlmscope.errors import InputError, RunMismatchError
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import at_time
from vlmscope.reference import reference
from vlmscope.row_identity import compare_rows
from vlmscope.sampling import LENGTHS, SAMPLE_TEXTS, TEXTS, TOKEN_IDS
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.signals import (
    BOXES,
    IMAGE_LENS,
    INTERNAL_CONFIDENCE,
    LENS_PROB,
    LENS_PROBS,
    LENS_RANK,
    LENS_TOKENS,
    P_TRUE,
    PREVIOUS_HEAD,
    TOKEN_STATISTICS,
    TOP_IMAGE_TOKENS,
    is_token_rows,
    is_token_states,
    similarity_name,
)
from vlmscope.store import Manifest, Run, StoreDtype, clean_text

TOLERANCES = {"float32": 3e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Maximum relative error ‖stored − reference‖ / ‖reference‖ of one vector, by the model's dtype.

A batch of one and a batch of many use different kernels, and every layer adds to the difference.
Measured at real size on a GPU (docs/performance.md): up to 1.1e-5 in float32 after 32 layers and
2,385 tokens, and up to 7.1e-2 in bfloat16, where both are equally far from float32. The error of a
wrong token or layer is about 1.
"""

HALF_STORAGE_TOLERANCE = 1e-3
"""Minimum tolerance if vectors are stored as float16, whose spacing is 5e-4."""

ONE_NAT = 1.0
"""Log-probabilities and entropies near zero are compared on this scale: they are differences of
logits, so for a model that is nearly certain they consist of rounding errors."""

EVENLY = 0.1
"""The attention to image tokens is compared on this scale: the norm of that of a token that attends
to a hundred others evenly. On a scale of 1, a map of the wrong tokens would be no error."""

LOGITS = 10.0
"""Size of logits, to which their rounding errors are relative."""

TIES = 30.0
"""Relative change of a token's rank per relative change of its probability, at most: the tail of a
distribution is dense."""

MOST_BY_ONE = 2 / TOP_IMAGE_TOKENS
"""Largest change of a mean of so many cosines if one of them is replaced."""

SCALES = {"margin": 4 * ONE_NAT, P_TRUE: 4 * ONE_NAT}
"""The scale of other signals: margins and log-odds are differences of two logits, of which each is
rounded to 1/8 by bfloat16 from 16 on; log-probabilities near zero are not affected by that."""

STRICT_ALWAYS = ("boundaries", "num_prompt_tokens", "image_sha256", "samples")
"""Values that must be equal in every precision; ``samples`` are texts, given the tokens."""

STRICT_IN_FLOAT32 = ("answer", "answer_token_ids", "finish_reason", "first_token")
"""Values that must be equal in float32 only: in half precision near-ties of two tokens depend on
the batch, so a difference is shown and is not an error."""


_GIVEN = (*SAMPLE_TEXTS, TOKEN_IDS, LENGTHS)
"""Arrays of the samples that are not numbers, or that the reference method is given."""


@dataclass(frozen=True, slots=True)
class RowCheck:
    """Comparison of one stored row with the recomputed one."""

    id: str
    """The question id."""
    errors: Mapping[str, float]
    """HDF5 path → relative error, of the vectors and of the log-probabilities."""
    differing: tuple[str, ...]
    """Values that are not equal, named as in ``STRICT_ALWAYS`` and ``STRICT_IN_FLOAT32``."""

    @property
    def same_answer(self) -> bool:
        """Whether the answers are the same text."""
        return "answer" not in self.differing

    def faults(
        self, tolerance: float, dtype: str, states_dtype: StoreDtype = "float16"
    ) -> list[str]:
        """Return the errors of the row as phrases; NaN is never within the tolerance.

        Args:
            tolerance: The maximum relative error of a vector.
            dtype: The type of the weights.
            states_dtype: As in ``limit_of``.
        """
        strict = STRICT_ALWAYS + (STRICT_IN_FLOAT32 if dtype == "float32" else ())
        found = [f"the {name} differs" for name in self.differing if name in strict]
        limits = {name: limit_of(name, tolerance, states_dtype) for name in self.errors}
        return found + [
            f"{name} is missing, or has another shape or other gaps"
            if error == math.inf
            else f"{name} differs by {error:.1e}, tolerance {limits[name]:.0e}"
            for name, error in self.errors.items()
            if not error <= limits[name]
        ]


def limit_of(name: str, tolerance: float, states_dtype: StoreDtype = "float16") -> float:
    """Return the maximum error of an array.

    Args:
        name: Its HDF5 path.
        tolerance: The maximum relative error of a vector.
        states_dtype: What states of several tokens are stored as. Attention maps are always
            float16, but for their boxes.

    >>> limit_of("signals/image_tokens/layer_3", 3e-5)
    0.001
    >>> limit_of("signals/image_tokens/layer_3", 3e-5, "float32")
    3e-05
    >>> limit_of("signals/attention_map/layer_3", 3e-5, "float32")
    0.001
    """
    signal = name.removeprefix("signals/")
    states = is_token_states(signal)
    half = states_dtype == "float16" if states else is_token_rows(signal) and signal != BOXES
    return max(tolerance, HALF_STORAGE_TOLERANCE) if half else tolerance


def tolerance_of(manifest: Manifest) -> float:
    """Return the maximum relative error for a run with this manifest."""
    tolerance = TOLERANCES[manifest.dtype]
    if manifest.store_dtype == "float16":
        return max(tolerance, HALF_STORAGE_TOLERANCE)
    return tolerance


def check_tolerance(tolerance: float | None) -> None:
    """Raise for a tolerance with which no comparison means anything.

    Args:
        tolerance: The given maximum relative error; None is that of the run.

    Raises:
        InputError: It is negative, infinite or NaN.
    """
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise InputError(f"--tolerance {tolerance}: give a number of 0 or more")


def choose_samples(
    run: Run, table: Table, count: int, seed: int = 0
) -> tuple[list[Sample], tuple[str, ...]]:
    """Return ``count`` stored rows of ``run``, drawn at random, as samples of its table.

    Rows that are not in the table any more are not drawn; their ids are returned too.

    Raises:
        InputError: The run is empty, or a drawn row cannot be read any more.
        RunMismatchError: Rows of the run are other questions in the table, or all are missing.
        TableChangedError: The table changed meanwhile.
    """
    if not len(run):
        raise InputError(f"{run.path}: the run contains no rows; run vlmscope extract first")
    scan = table.scan()
    try:
        gone = compare_rows(run, table, scan).removed
    except RunMismatchError as error:
        raise RunMismatchError(f"{error}; here, name the original table with --data") from None
    without = frozenset(gone)
    stored = [id_ for id_ in run.ids if id_ not in without]
    drawn = random.Random(seed).sample(stored, min(count, len(stored)))  # noqa: S311 - a sample
    order = {id_: i for i, id_ in enumerate(drawn)}
    found = []
    for row in table.as_scanned(scan).rows():
        if row.id in order:
            if isinstance(row, Failure):
                raise InputError(row.error)
            found.append(row)
    return sorted(found, key=lambda sample: order[sample.id]), gone


def check_rows(run: Run, samples: list[Sample], vlm: VisionLanguageModel) -> Iterator[RowCheck]:
    """Yield the comparison of each sample's stored row with ``reference``.

    Raises:
        RowError: The row cannot be recomputed.
    """
    record = run.manifest.capture
    spec = CaptureSpec(
        layers=",".join(map(str, record.layers)),
        positions=record.positions,
        vision_pooling=record.vision_pooling,
        max_new_tokens=record.max_new_tokens,
        compat=record.compat,
        signals=record.signals,
        samples=record.samples,
        temperature=record.temperature,
        seed=record.seed,
    )
    vlm = replace(vlm, processor=at_time(vlm.processor, run.manifest.model.prompt_time))
    exact = run.manifest.dtype == "float32"
    for sample in samples:
        stored = run[sample.id]
        tokens = None if exact else stored.answer_token_ids
        with row_errors(sample):
            expected = reference(
                sample,
                vlm,
                spec,
                answer_token_ids=tokens,
                sample_token_ids=[answer.token_ids for answer in stored.samples],
                previous_heads=stored.signals.get(PREVIOUS_HEAD),
            )
        if not record.signals:  # a run of a version that recorded none
            expected = replace(expected, signals={})
        yield compare(stored, expected)


def compare(stored: Capture, expected: Capture) -> RowCheck:
    """Compare a stored row with a recomputed one; the error of a missing vector is infinite."""
    expected = storable(expected)
    errors = {
        name: _relative_error(stored.vectors.get(name), vector)
        for name, vector in expected.vectors.items()
    }
    errors["first_token_logprobs"] = _relative_error(
        stored.first_token_logprobs, expected.first_token_logprobs, ONE_NAT
    )
    errors["first_token_entropy"] = _relative_error(
        np.array([stored.first_token_entropy]), np.array([expected.first_token_entropy]), ONE_NAT
    )
    differing = _differing(stored, expected)
    same_tokens = "answer_token_ids" not in differing
    if expected.answer_logprobs is not None and same_tokens:
        errors["answer_logprobs"] = _relative_error(
            stored.answer_logprobs, expected.answer_logprobs, ONE_NAT
        )
    skipped: tuple[str, ...] = () if same_tokens else TOKEN_STATISTICS
    if expected.answer is None and "first_token" in differing:
        skipped = (LENS_RANK, LENS_PROB)  # of another token
    errors |= {
        f"signals/{name}": error
        for name, error in signal_errors(stored.signals, expected.signals).items()
        if name not in skipped
    }
    return RowCheck(stored.sample.id, errors, differing)


def signal_errors(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the relative error of each array of signals; infinite for a missing one.

    Probabilities are compared by their logarithms. Tokens and ranks may differ where the
    probabilities of tokens are nearly equal.
    """
    errors = {}
    for name, array in expected.items():
        own = found.get(name)
        if name in _GIVEN:
            continue
        if own is None or own.shape != array.shape:
            errors[name] = math.inf
        else:
            errors[name] = _error_of_signal(name, found, expected)
    for name in found.keys() - expected.keys():
        errors[name] = math.inf
    return errors


def _error_of_signal(
    name: str, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> float:
    """Return the relative error of an array of a signal, of the same shape as expected."""
    own, array = found[name], expected[name]
    if name.startswith(similarity_name(IMAGE_LENS, 0).removesuffix("0")):
        return _error_of_selected(own, array)
    if is_token_states(name):
        return _relative_error(own, array)
    if is_token_rows(name):
        return _relative_error(own, array, EVENLY)
    if name == PREVIOUS_HEAD:
        return float(not np.array_equal(own, array))
    if name == LENS_TOKENS:
        return _error_of_tokens(found, expected)
    if name == LENS_RANK:
        return _error_of_ranks(own, array)
    if name in (LENS_PROBS, LENS_PROB) or name.startswith(INTERNAL_CONFIDENCE):
        return _relative_error(_logarithm(own), _logarithm(array), ONE_NAT)
    return _relative_error(own, array, SCALES.get(name, ONE_NAT))


def _error_of_tokens(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Return the largest relative error of the logits of tokens that have changed places.

    A token that is not among those expected is less likely than the last of them.
    """
    tokens, wanted = found[LENS_TOKENS], expected[LENS_TOKENS]
    own, logprobs = _logarithm(found[LENS_PROBS]), _logarithm(expected[LENS_PROBS])
    if not np.array_equal(tokens < 0, wanted < 0):
        return math.inf
    largest = 0.0
    for *at, rank in np.argwhere(tokens != wanted):
        where = tuple(at)
        known = np.flatnonzero(wanted[where] == tokens[where][rank])
        difference = (
            logprobs[where][known[0]] - logprobs[where][rank]
            if len(known)
            else own[where][rank] - logprobs[where][-1]
        )
        largest = max(largest, abs(float(difference)))
    return largest / LOGITS


def _error_of_ranks(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest relative error of ranks, beyond one near-tie.

    The number of tokens whose probability is near that of a token grows with its rank.
    """
    if not np.array_equal(found < 0, expected < 0):
        return math.inf
    difference = np.abs(found.astype(np.float64) - expected) - 1
    return float((difference.clip(0) / (TIES * (expected + 1.0).clip(1))).max(initial=0))


def _error_of_selected(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative error of means over the likeliest of many tokens.

    Where the last selected token and the next one are nearly equally likely, another one may have
    been selected, which changes a mean by no more than ``MOST_BY_ONE``: not in one value of twenty.
    """
    difference = np.abs(found.astype(np.float64) - expected)
    others = np.argsort(difference)[::-1][: max(1, len(expected) // 20)]
    tied = [i for i in others if difference[i] <= MOST_BY_ONE]
    return _relative_error(np.delete(found, tied), np.delete(expected, tied), ONE_NAT)


def _logarithm(probabilities: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return found


def _differing(stored: Capture, expected: Capture) -> tuple[str, ...]:
    """Return the names of the values that are not equal."""
    same = {
        "boundaries": stored.boundaries == expected.boundaries,
        "num_prompt_tokens": stored.num_prompt_tokens == expected.num_prompt_tokens,
        "image_sha256": stored.image_sha256 == expected.image_sha256,
        "samples": [(each.text, each.finish_reason) for each in stored.samples]
        == [(each.text, each.finish_reason) for each in expected.samples],
        "answer": stored.answer == expected.answer,
        "answer_token_ids": _same_array(stored.answer_token_ids, expected.answer_token_ids),
        "finish_reason": stored.finish_reason == expected.finish_reason,
        "first_token": stored.first_token_ids[0] == expected.first_token_ids[0],
    }
    return tuple(name for name, equal in same.items() if not equal)


def _same_array(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def storable(item: Capture) -> Capture:
    """Return ``item`` with its answers as HDF5 can store them."""
    signals = dict(item.signals)
    if TEXTS in signals:
        signals[TEXTS] = np.array([clean_text(text) for text in signals[TEXTS]], object)
    answer = None if item.answer is None else clean_text(item.answer)
    return replace(item, answer=answer, signals=signals)


def _relative_error(found: np.ndarray | None, expected: np.ndarray, least: float = 1e-30) -> float:
    """Return ‖found − expected‖ / ‖expected‖, or divided by ``least`` if that is more.

    A value that is NaN in both, the attention of an empty answer, is equal.
    """
    if found is None or found.shape != expected.shape:
        return math.inf
    absent = np.isnan(expected) & np.isnan(found)
    difference = np.where(absent, 0, found.astype(np.float64) - expected)
    size = np.linalg.norm(np.where(absent, 0, expected))
    return float(np.linalg.norm(difference) / max(float(size), least))
