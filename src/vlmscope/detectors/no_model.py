"""Detectors that need no model: the question, its category, the answer's length, the image.

What they reach is what any other detector has to exceed.
"""

from __future__ import annotations

import numpy as np

from vlmscope.dataset import read_thumbnails
from vlmscope.detectors.detector import AFTER, BEFORE, Detector
from vlmscope.detectors.methods import Baseline, Features, Probe
from vlmscope.detectors.rows import AN_IMAGE, Floats, Rows
from vlmscope.probes.baselines import JOINT

STATISTICS = (
    "darkest", "brightest", "mean", "deviation", "edges", "colourfulness", "Cb", "Cr", "images",
)  # fmt: skip
"""What is computed of an image."""


def image_statistics(texts: list[str]) -> Floats:
    """Return ``STATISTICS`` of each row's image, the mean over several; NaN without an image.

    Args:
        texts: The thumbnails, joined by ``+`` for several images.
    """
    split = [text.split("+") if text else [] for text in texts]
    flat = [part for parts in split for part in parts]
    owner = np.repeat(np.arange(len(split)), [len(parts) for parts in split])
    found = np.full((len(texts), len(STATISTICS)), np.nan)
    if not flat:
        return found
    images = read_thumbnails(flat)
    span = (images.high - images.low)[:, None, None] / 255
    grey = images.low[:, None, None] + images.luma * span
    edges = (
        np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))
        + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    )  # fmt: skip
    colour = images.colour.astype(np.float64)
    each = np.stack([
        images.low, images.high, grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), edges,
        np.hypot(colour[:, 0], colour[:, 1]).mean(axis=(1, 2)),
        colour[:, 0].mean(axis=(1, 2)), colour[:, 1].mean(axis=(1, 2)),
    ], axis=1)  # fmt: skip
    count = np.bincount(owner, minlength=len(texts))
    shown = count > 0
    for column, values in enumerate(each.T):
        sums = np.bincount(owner, weights=values, minlength=len(texts))
        found[shown, column] = sums[shown] / count[shown]
    found[shown, -1] = count[shown]
    return found


def image_features(rows: Rows) -> Features:
    """Return the statistics of each row's image.

    If only some rows have one, the others have no images and otherwise the mean of those that do:
    a baseline is no reason to leave rows out.
    """

    def read() -> Floats:
        found = image_statistics(rows.text("image_thumbnail"))
        missing = np.isnan(found).any(axis=1)
        if missing.all() or not missing.any():
            return found
        found[missing] = found[~missing].mean(axis=0)
        found[missing, STATISTICS.index("images")] = 0
        return found

    return {"image statistics": read}


QUESTION = "Beats many detectors where kinds of questions differ in how often they are answered "
QUESTION += "wrongly."

DETECTORS = (
    Detector(
        "question_words", "the question's words", "no_model", None,
        "logistic regression on TF-IDF weights of the question's words",
        ("column question",), BEFORE, "no pass", QUESTION, Baseline("question_words"),
    ),
    Detector(
        "category", "the question's category", "no_model", None,
        "share of hallucinations of the question's category in training",
        ("column category",), BEFORE, "no pass", QUESTION, Baseline("category"),
    ),
    Detector(
        "answer_type", "the type of answer asked for", "no_model", None,
        "share of hallucinations of the type of answer in training: the table's, or by the "
        "question's first words",
        ("column question",), BEFORE, "no pass", QUESTION, Baseline("answer_type"),
    ),
    Detector(
        "image_statistics", "statistics of the image", "no_model", None,
        "logistic regression on brightness, contrast, edges, colours and number of the images",
        (AN_IMAGE, "column image_thumbnail"), BEFORE, "no pass",
        "Of a thumbnail of 24 × 24 cells.", Probe(image_features),
    ),
    Detector(
        "no_model_joint", "all that needs no model, together", "no_model", None,
        "the best, inside training, of the question's words, category, type of answer, lengths of "
        "question and prompt, columns of the table, and models of all of them",
        ("column question",), BEFORE, "no pass", QUESTION, Baseline(JOINT),
    ),
    Detector(
        "answer_length", "length of the answer", "no_model", None,
        "logistic regression on the number of the answer's tokens",
        ("column num_answer_tokens",), AFTER, "answer",
        "Needs the answer, but nothing else of the model.", Baseline("answer_length"),
    ),
)  # fmt: skip
"""The detectors of this module."""
