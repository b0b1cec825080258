"""Detectors that ask the model whether its answer is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmscope.detectors.detector import AFTER, Detector, Paper
from vlmscope.detectors.methods import Score
from vlmscope.detectors.rows import Floats, Rows

KADAVATH = Paper(
    "Language Models (Mostly) Know What They Know", "Kadavath et al.", 2022, "2207.05221"
)
VERBALISED = Paper(
    "Just Ask for Calibration: Strategies for Eliciting Calibrated Confidence Scores from Language "
    "Models Fine-Tuned with Human Feedback",
    "Tian et al.", 2023, "2305.14975", "EMNLP",
)  # fmt: skip

P_TRUE = "p_true"
"""Signal with the log-odds of yes over no, one per row."""

CONFIDENCE = "verbalised_confidence"
"""Column of the table with the confidence that the model stated."""


def p_true(rows: Rows) -> Floats:
    """Return the negative log-odds that the model calls its answer true."""
    return -np.asarray(rows.signals[P_TRUE], np.float64).reshape(len(rows))


def confidences(cells: Sequence[object]) -> Floats:
    """Return stated confidences as numbers from 0 to 1; NaN where a cell is none.

    If a number of the column is above 1, all numbers without a sign are percent.

    >>> confidences(["85%", 1, 40, "fairly"]).tolist(), confidences([0.85, "1", -1]).tolist()
    ([0.85, 0.01, 0.4, nan], [0.85, 1.0, nan])
    """
    texts = [str(cell).strip() for cell in cells]
    values = np.array([_number(text.removesuffix("%")) for text in texts])
    signed = np.array([text.endswith("%") for text in texts], dtype=bool)
    percent = signed | bool((values[~signed] > 1).any())
    values = np.where(percent, values / 100, values)
    return np.where((values >= 0) & (values <= 1), values, np.nan)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def verbalised(rows: Rows) -> Floats:
    """Return one minus the stated confidence."""
    return 1.0 - confidences(list(rows.table[CONFIDENCE]))


DETECTORS = (
    Detector(
        "p_true", "P(True)", "asked", KADAVATH,
        "negative log-odds of yes over no when the model is asked whether its answer is true",
        (f"signals/{P_TRUE}",), AFTER, "answer and a prefill",
        "Models that say yes to everything say so here too; the order counts, not the level.",
        Score(p_true),
        "The paper asks for (A) True or (B) False, best with sampled answers listed in the "
        "question; the public code for semantic entropy lists them, after labelled examples. Here "
        "the question is about the answer alone, and for yes or no.",
    ),
    Detector(
        "verbalised", "verbalised confidence", "asked", VERBALISED,
        f"one minus the confidence in the table's column {CONFIDENCE}: a number from 0 to 1, or "
        "percent",
        (f"column {CONFIDENCE}",), AFTER, "answer and a prefill",
        "Few distinct values; often above 80% whatever the answer is.",
        Score(verbalised),
        "The table has the confidence: how it was asked for is up to you.",
    ),
)  # fmt: skip
"""The detectors of this module."""
