"""How the tests of the engine run a session, and hold what it returns against the slow method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from vlmscope.engine import Batch, CaptureSession, p_true, prepare
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.signals import INTEGERS, is_token_states
from vlmscope.verification import signal_errors

TOLERANCE = 3e-5 if torch.cuda.is_available() else 1e-5
"""Of float32 vectors: a GPU sums in another order for every number of rows."""


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def assert_same(found: Capture | Failure, expected: Capture) -> None:
    assert isinstance(found, Capture), found
    assert found.vectors.keys() == expected.vectors.keys()
    for name, vector in found.vectors.items():
        assert vector.dtype == np.float32
        error = relative_error(vector, expected.vectors[name])
        assert error < TOLERANCE, f"{name}: {error:.2e}"
    assert found.answer == expected.answer
    assert found.boundaries == expected.boundaries
    assert found.num_prompt_tokens == expected.num_prompt_tokens
    assert found.finish_reason == expected.finish_reason
    assert found.image_sha256 == expected.image_sha256
    assert found.image_dhash == expected.image_dhash
    assert found.image_thumbnail == expected.image_thumbnail
    assert len(found.image_thumbnail.replace("+", "")) % 944 == 0
    assert found.first_token_entropy == pytest.approx(expected.first_token_entropy, rel=1e-4)
    np.testing.assert_array_equal(found.first_token_ids, expected.first_token_ids)
    np.testing.assert_allclose(
        found.first_token_logprobs, expected.first_token_logprobs, rtol=1e-4, atol=1e-4
    )
    assert found.signals.keys() == expected.signals.keys()
    errors = signal_errors(found.signals, expected.signals)
    for name, array in expected.signals.items():
        if name in INTEGERS or is_token_states(name):
            assert errors[name] < 3e-5, name
        else:
            np.testing.assert_allclose(found.signals[name], array, atol=3e-5, err_msg=name)
    if expected.answer is None:
        assert found.answer_token_ids is None
        assert found.answer_logprobs is None
    else:
        np.testing.assert_array_equal(found.answer_token_ids, expected.answer_token_ids)
        np.testing.assert_allclose(
            found.answer_logprobs, expected.answer_logprobs, rtol=1e-4, atol=1e-4
        )


def assert_same_samples(found: Capture, expected: Capture) -> None:
    """Compare sampled answers, and the states of their last tokens; the tokens must be equal."""
    assert len(found.samples) == len(expected.samples) > 0
    for one, other in zip(found.samples, expected.samples, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=1e-4, atol=1e-4)
        assert one.states.keys() == other.states.keys()
        for layer, state in one.states.items():
            np.testing.assert_allclose(state, other.states[layer], rtol=1e-3, atol=1e-4)


Pieces = list[list[Capture | Failure]]


def submitted(
    session: CaptureSession,
    samples: Iterable[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    size: int,
) -> Pieces:
    """Give a session all samples, ``size`` at a time; return what each batch brought to light."""
    pieces: Pieces = []
    rows = iter(samples)
    while chunk := list(islice(rows, size)):
        batches, failures = prepare(chunk, vlm, resolve_spec(spec, vlm))
        assert not failures
        pieces += [session.submit(batch) for batch in batches]
    return pieces


def run_session(
    samples: Sequence[Sample], vlm: VisionLanguageModel, spec: CaptureSpec, *, rows: int, size: int
) -> Pieces:
    """Return what came of all samples, batch by batch, and at last of the drain."""
    session = CaptureSession(vlm, resolve_spec(spec, vlm), rows)
    return [*submitted(session, samples, vlm, spec, size), session.drain()]


def captured_together(
    samples: Sequence[Sample],
    vlm: VisionLanguageModel,
    spec: CaptureSpec,
    *,
    own_width: bool = False,
) -> list[Capture]:
    """Return what a session for just these samples captures, in their order; none may fail.

    They are prepared as the session asks, and given to it one batch after the other.
    """
    resolved = resolve_spec(spec, vlm)
    session = CaptureSession(vlm, resolved, len(samples), own_width=own_width)
    batches, failures = prepare(samples, session.prepares_with, resolved)
    assert not failures
    found = [item for batch in batches for item in session.submit(batch)] + session.drain()
    assert all(isinstance(item, Capture) for item in found), found
    by_id = each_once(found, samples)
    return [by_id[sample.id] for sample in samples]


def note_complete_prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the rows whose complete prompt is run for the question about the answer."""
    seen: list[str] = []
    original = p_true.Asker._ask_together

    def spy(self: p_true.Asker, rows: Sequence[Capture], *more: Any) -> Any:
        seen.extend(row.sample.id for row in rows)
        return original(self, rows, *more)

    monkeypatch.setattr(p_true.Asker, "_ask_together", spy)
    return seen


def each_once(results: Iterable[Capture | Failure], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the results by question; every question must have exactly one."""
    found = [(item.sample.id if isinstance(item, Capture) else item.id, item) for item in results]
    assert sorted(id_ for id_, _ in found) == sorted(sample.id for sample in samples)
    return dict(found)


_KNOWN: dict[tuple[object, ...], tuple[object, ...]] = {}


def known_reference(sample: Sample, vlm: VisionLanguageModel, spec: CaptureSpec) -> Capture:
    """Return ``reference(sample, vlm, spec)``, computed once for the same three objects.

    For models and samples of the session, which several tests compare with in the same settings.
    """
    key = id(sample), id(vlm), spec, str(vlm.model.generation_config.eos_token_id)
    if key not in _KNOWN:
        _KNOWN[key] = sample, vlm, reference(sample, vlm, spec)  # kept, so that no id is used again
    return _KNOWN[key][-1]  # type: ignore[return-value]


def expected_of(
    samples: Sequence[Sample], vlm: VisionLanguageModel, spec: CaptureSpec
) -> Mapping[str, Capture]:
    """Return what the slow method makes of every sample."""
    return {sample.id: known_reference(sample, vlm, spec) for sample in samples}


def assert_all_same(
    results: Iterable[Capture | Failure],
    expected: Mapping[str, Capture],
    samples: Sequence[Sample],
) -> None:
    """Hold every result against the slow method's; none may be missing, none there twice."""
    for id_, item in each_once(results, samples).items():
        assert_same(item, expected[id_])


def answered_by_generate(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the questions which the library's ``generate`` answers."""
    seen: list[str] = []
    original = CaptureSession._generate

    def spy(self: CaptureSession, batch: Batch, *rest: Any) -> Any:
        seen.extend(sample.id for sample in batch.samples)
        return original(self, batch, *rest)

    monkeypatch.setattr(CaptureSession, "_generate", spy)
    return seen
