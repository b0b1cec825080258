"""Rows with every signal that detectors read, as noise: a test plants what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vlmscope.detectors import Rows
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.sweeps import ProbeData
from vlmscope.sweeps.grouping import Grouping

LAYERS, HEADS, WIDTH = 4, 2, 6
"""Decoder layers, heads, and width of the hidden states."""

POSITIONS = (
    "vision_token", "query_token", "first_image_token", "image_mean", "last_question_token",
    "first_answer_token", "last_answer_token", "answer_mean",
)  # fmt: skip
WORDS = ("red", "blue", "green", "a dog", "the dog", "two cats")


def shares(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Return shares of attention, which add up to 1 along the last axis."""
    found = rng.random(shape) + 0.1
    return found / found.sum(axis=-1, keepdims=True)


def noise_rows(seed: int = 0, count: int = 30, *, samples: int = 4) -> Rows:
    """Return rows whose every signal is noise, in the form in which a run returns them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, count)
    logprobs = [-rng.exponential(0.5, length) for length in lengths]
    first = -np.sort(rng.exponential(1.0, (count, 20)), axis=1)
    signals: dict[str, Any] = {
        "answer_logprobs": logprobs,
        "entropy": [rng.exponential(1.0, length) for length in lengths],
        "attention_prompt": shares(rng, count, LAYERS, HEADS, 4),
        "attention_answer": shares(rng, count, 3, LAYERS, HEADS, 4),
        "attention_previous": [rng.random((length, LAYERS)) for length in lengths],
        **{f"internal_confidence/layer_{layer}": [rng.random(length) for length in lengths]
           for layer in (1, 2)},
        "samples/texts": [list(rng.choice(WORDS, samples)) for _ in range(count)],
        "samples/logprobs": [[-rng.exponential(0.5, 2) for _ in range(samples)]
                             for _ in range(count)],
        **{f"samples/last_token/layer_{layer}": rng.standard_normal((count, samples, WIDTH))
           for layer in (1, 2)},
        "p_true": rng.standard_normal(count),
    }  # fmt: skip
    own = np.random.default_rng([seed, 1])  # the draws of the others do not depend on these
    signals |= {
        f"similarity/{kind}/layer_{layer}": [own.uniform(-1, 1, length) for length in lengths]
        for kind in ("last_prompt_token", "image_lens_top", "image_max")
        for layer in (1, 2)
    }
    vectors = {
        f"{position}_representation/layer_{layer}": rng.standard_normal((count, WIDTH))
        for position in POSITIONS
        for layer in (1, 2)
    }
    vectors["vision_only_representation"] = rng.standard_normal((count, WIDTH))
    for position in ("query_token", "last_answer_token"):
        vectors[f"{position}_heads/layer_2"] = rng.standard_normal((count, HEADS * 3))
    table = pd.DataFrame({
        "question": [f"What is it, number {i % 5}?" for i in range(count)],
        "answer": rng.choice(WORDS, count),
        "category": rng.choice(["colour", "count"], count),
        "image_thumbnail": [""] * count,
        "first_token_entropy": rng.exponential(1.0, count),
        "first_token_logprob": first[:, 0],
        "num_prompt_tokens": rng.integers(20, 40, count),
        "num_answer_tokens": lengths,
        "finish_reason": np.where((np.arange(count) % 3 > 0) & (lengths > 1), "stop", "length"),
        "verbalised_confidence": rng.integers(0, 101, count),
    })  # fmt: skip
    return Rows(
        table=table,
        signals=signals,
        vectors={path: values.astype(np.float32) for path, values in vectors.items()},
        inputs=inputs_of(table, first),
        attention_layers=tuple(range(LAYERS)),
        attention_heads=HEADS,
        num_layers=LAYERS,
    )


def inputs_of(table: pd.DataFrame, first: NDArray[np.float64] | None = None) -> BaselineInputs:
    return BaselineInputs(
        question=list(table["question"]),
        category=list(table["category"]),
        answer_type=None,
        first_token_entropy=None,
        first_token_logprob=None,
        num_answer_tokens=table["num_answer_tokens"].to_numpy(np.float64),
        mean_answer_logprob=None,
        first_token_logprobs=first,
    )


def with_signal(rows: Rows, **signals: Any) -> Rows:
    """Return rows with other signals; ``/`` in a name is written as two underscores."""
    named = {name.replace("__", "/"): values for name, values in signals.items()}
    return replace(rows, signals={**rows.signals, **named})


def data_of(
    rows: Rows, truth: NDArray[np.bool_], groups: NDArray[np.int64] | None = None
) -> ProbeData:
    """Return the labels of rows; by default every row is about its own image."""
    count = len(truth)
    numbers = np.arange(count) if groups is None else groups
    assert rows.inputs is not None
    return ProbeData(
        rows=np.arange(count),
        ids=tuple(f"q{i}" for i in range(count)),
        truth=truth,
        grouping=Grouping(numbers, "content", len(np.unique(numbers))),
        baseline_inputs=rows.inputs,
        categories=tuple(rows.inputs.category or ()),
        unscorable=0,
    )
