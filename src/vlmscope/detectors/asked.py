"""Detectors that ask the model whether its answer is right."""

from __future__ import annotations

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
    "Tian et al.", 2023, "2305.14975",
)  # fmt: skip

P_TRUE = "p_true"
"""Signal with the log-odds of yes over no, one per row."""

CONFIDENCE = "verbalised_confidence"
"""Column of the table with the confidence that the model stated."""


def p_true(rows: Rows) -> Floats:
    """Return the negative log-odds that the model calls its answer true."""
    return -np.asarray(rows.signals[P_TRUE], np.float64).reshape(len(rows))


def confidence_in(cell: object) -> float:
    """Return a stated confidence as a number from 0 to 1; NaN if it is none.

    >>> confidence_in("85%"), confidence_in(0.85), confidence_in("fairly")
    (0.85, 0.85, nan)
    """
    text = str(cell).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return float("nan")
    value = value / 100 if text.endswith("%") or value > 1 else value
    return value if 0 <= value <= 1 else float("nan")


def verbalised(rows: Rows) -> Floats:
    """Return one minus the stated confidence."""
    return 1.0 - np.array([confidence_in(cell) for cell in rows.table[CONFIDENCE]])


DETECTORS = (
    Detector(
        "p_true", "P(True)", "asked", KADAVATH,
        "negative log-odds of yes over no when the model is asked whether its answer is true",
        (f"signals/{P_TRUE}",), AFTER, "answer and a prefill",
        "Models that say yes to everything say so here too; the order counts, not the level.",
        Score(p_true),
        "The paper lists sampled answers in the question; here only the answer itself is asked "
        "about.",
    ),
    Detector(
        "verbalised", "verbalised confidence", "asked", VERBALISED,
        f"one minus the confidence in the table's column {CONFIDENCE}: a number from 0 to 1, or "
        "percent",
        (f"column {CONFIDENCE}",), AFTER, "answer and a prefill",
        "Few distinct values; often above 80% whatever the answer is.",
        Score(verbalised),
    ),
)  # fmt: skip
"""The detectors of this module."""
