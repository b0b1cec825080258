"""Detectors that read hidden states: probes, attention heads, distances and subspaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh  # type: ignore[import-untyped,unused-ignore]
from sklearn.covariance import LedoitWolf  # type: ignore[import-untyped,unused-ignore]

from vlmscope.detectors.detector import AFTER, BEFORE, Detector, Known, Paper, Passes
from vlmscope.detectors.methods import BestHeads, Distance, Estimator, Features, Matrix, Probe
from vlmscope.detectors.rows import Floats, Rows
from vlmscope.positions import ANSWER_POSITIONS, REPRESENTATIONS, VISION_ONLY
from vlmscope.positions import sublayer_representation as sublayer

HALP = Paper(
    "HALP: Detecting Hallucinations in Vision-Language Models without Generating a Single Token",
    "Kogilathota et al.", 2026, "2603.05465", "EACL",
)  # fmt: skip
SAPLMA = Paper(
    "The Internal State of an LLM Knows When It's Lying", "Azaria and Mitchell", 2023, "2304.13734",
    "Findings of EMNLP",
)  # fmt: skip
ITI = Paper(
    "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model",
    "Li et al.", 2023, "2306.03341", "NeurIPS",
)  # fmt: skip
MEANS = Paper(
    "The Geometry of Truth: Emergent Linear Structure in Large Language Model Representations of "
    "True/False Datasets",
    "Marks and Tegmark", 2023, "2310.06824",
)  # fmt: skip
MAHALANOBIS = Paper(
    "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
    "Lee et al.", 2018, "1807.03888", "NeurIPS",
)  # fmt: skip
HALOSCOPE = Paper(
    "HaloScope: Harnessing Unlabeled LLM Generations for Hallucination Detection",
    "Du et al.", 2024, "2409.17504", "NeurIPS",
)  # fmt: skip

DIRECTIONS = 10
"""Number of singular directions of HaloScope."""

WIDEST = 64
"""Most principal components of which the Mahalanobis distance is taken."""

LEAST_VARIANCE = 1e-12
"""Variance of a direction, relative to the largest, below which it is rounding."""

BLOCK = 2048
"""Rows that are converted to float64 at once."""

LAST_ANSWER = REPRESENTATIONS["last_answer_token"]
LAST_PROMPT = REPRESENTATIONS["last_prompt_token"]
HALP_READS = (VISION_ONLY, REPRESENTATIONS["last_image_token"], LAST_PROMPT)
"""What HALP reads, of the representations known before the first token."""


def states(group: str) -> Callable[[Rows], Features]:
    """Return the layers of a representation as the candidates of a probe."""
    return partial(_candidates, group)


def _candidates(group: str, rows: Rows) -> Features:
    return {path: partial(rows.vectors.__getitem__, path) for path in rows.paths(group)}


def middle(group: str) -> Callable[[Rows], Matrix]:
    """Return the vectors of the recorded layer that is nearest to the middle of the model."""
    return partial(_middle, group)


def _middle(group: str, rows: Rows) -> Matrix:
    layers = rows.layers_of(dict.fromkeys(rows.paths(group)), group)
    depth = rows.trained_layers or rows.num_layers
    return np.asarray(rows.vectors[layers[middle_layer(layers, depth)]])


def middle_layer(layers: Mapping[int, Any], depth: int) -> int:
    """Return the recorded layer that is nearest to the middle of the model, the lower in a tie.

    >>> middle_layer({0: "", 10: "", 20: "", 31: ""}, 32)
    20
    """
    return min(layers, key=lambda layer: (abs(layer - depth / 2), layer))


class _Read:
    """Reads a matrix once for all heads of a layer."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._path = rows, ""
        self._matrix: Matrix = np.empty(0)

    def head(self, path: str, columns: slice) -> Matrix:
        """Return some columns of a matrix."""
        if path != self._path:
            self._path, self._matrix = path, self._rows.vectors[path]
        return np.asarray(self._matrix[:, columns])


def heads(position: str) -> Callable[[Rows], Features]:
    """Return the output of each head of each layer at a position."""
    return partial(_heads, sublayer(position, "heads"))


def _heads(group: str, rows: Rows) -> Features:
    found: dict[str, Callable[[], Matrix]] = {}
    reader = _Read(rows)
    for path in rows.paths(group):
        wide = rows.vectors[path].shape[1]
        count = rows.attention_heads if wide % max(rows.attention_heads, 1) == 0 else 1
        size = wide // max(count, 1)
        for head in range(max(count, 1)):
            columns = slice(head * size, (head + 1) * size)
            found[f"{path}/head_{head}"] = partial(reader.head, path, columns)
    return found


def mahalanobis(
    train: Matrix, truth: NDArray[np.bool_], test: Matrix, most: int = WIDEST
) -> Floats:
    """Return the squared Mahalanobis distance of vectors to the faithful training answers.

    Args:
        train: Training vectors, ``[N, D]``.
        truth: True where their answer is a hallucination.
        test: Vectors, ``[M, D]``.
        most: Principal components of the training vectors that are used.

    >>> train = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [9, 9]])
    >>> truth = np.array([False, False, False, False, True])
    >>> far = mahalanobis(train, truth, np.array([[3.0, 3], [0, 0]]))
    >>> bool(far[0] > far[1])
    True
    """
    faithful = train[~truth]
    centre = faithful.mean(axis=0, dtype=np.float64)
    kept = principal(faithful, centre, most)[1]
    spread = LedoitWolf(assume_centered=True).fit(projected(faithful, centre, kept))
    return np.asarray(spread.mahalanobis(projected(test, centre, kept)))


def haloscope(
    train: Matrix,
    truth: NDArray[np.bool_] | None,
    test: Matrix,
    directions: int = DIRECTIONS,
) -> Floats:
    """Return HaloScope's membership score: squared projections on the largest directions.

    With the training vectors' mean subtracted and their singular values s and directions v, the
    score of f is the mean over the largest ones of s (f · v)².

    Args:
        train: Training vectors, ``[N, D]``.
        truth: Not used: no label is.
        test: Vectors, ``[M, D]``.
        directions: Number of directions.
    """
    del truth
    centre = train.mean(axis=0, dtype=np.float64)
    values, found = principal(train, centre, directions)
    return np.asarray((values * projected(test, centre, found) ** 2).mean(axis=1))


def principal(vectors: Matrix, centre: Floats, most: int) -> tuple[Floats, Matrix]:
    """Return the largest singular values of centred vectors and their directions.

    From the eigenvectors of the smaller of the matrix's two products with itself, as a complete
    decomposition of thousands of states takes several times as long. Directions without variance
    are left out; of vectors that are all equal one is returned.

    Args:
        vectors: The vectors, ``[N, D]``; computed with in float64, some rows at a time.
        centre: Subtracted from each, ``[D]``.
        most: Number of directions.

    Returns:
        The values, ``[K]``, the largest first, and the directions, ``[K, D]``.

    >>> rows = np.array([[4.0, 0], [-2, 0], [1, 1], [1, -1]])
    >>> values, directions = principal(rows, np.array([1.0, 0.0]), 1)
    >>> values.round(3).tolist(), abs(directions).round(3).tolist()
    ([4.243], [[1.0, 0.0]])
    """
    count, width = vectors.shape
    if width > count:
        centred = vectors - centre
        product = centred @ centred.T
    else:
        product = np.zeros((width, width))
        for block in centred_blocks(vectors, centre):
            product += block.T @ block
    size = len(product)
    squares, found = eigh(product, subset_by_index=(max(size - most, 0), size - 1))
    squares, found = squares[::-1], found[:, ::-1]
    kept = squares > LEAST_VARIANCE * squares[0]
    kept[0] = True
    values, found = np.sqrt(np.maximum(squares[kept], 0)), found[:, kept].T
    if width > count:
        found = found @ centred / np.maximum(values, np.finfo(np.float64).tiny)[:, None]
    return values, found


def projected(vectors: Matrix, centre: Floats, directions: Matrix) -> Floats:
    """Return centred vectors in the coordinates of some directions, ``[N, K]``, float64."""
    blocks = [block @ directions.T for block in centred_blocks(vectors, centre)]
    return np.concatenate(blocks) if blocks else np.empty((0, len(directions)))


def centred_blocks(vectors: Matrix, centre: Floats) -> Iterator[Floats]:
    """Yield rows minus the centre in float64, ``BLOCK`` at a time: a copy of all is large."""
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK] - centre


CHOSEN = "the layer is chosen inside training"
READS_IMAGE = "May recognise images; folds keep those of one image together."


def _timing(group: str) -> tuple[Known, Passes]:
    """Return when the states of a group are known, and what they cost."""
    answered = {REPRESENTATIONS[position] for position in ANSWER_POSITIONS}
    return (AFTER, "answer") if group in answered else (BEFORE, "prefill")


_SHORT = {
    VISION_ONLY: ("vision_only", "vision encoder"),
    **{
        group: (position, position.replace("_", " ")) for position, group in REPRESENTATIONS.items()
    },
}
"""Representation → the end of a detector's name, and its readable name."""


def _halp(group: str, estimator: Estimator) -> Detector:
    """Return the probe of a representation."""
    end, title = _SHORT[group]
    known, passes = _timing(group)
    kind = "MLP" if estimator == "mlp" else "linear probe"
    paper = HALP if known == BEFORE else SAPLMA  # HALP reads no token of the answer
    name = "saplma" if group == LAST_ANSWER else f"halp_{end}"
    return Detector(
        f"{name}_{'mlp' if estimator == 'mlp' else 'linear'}",
        f"{kind}, {title}", "states", paper,
        f"{kind} of the hidden state at the {title}; {CHOSEN}",
        (group,), known, passes, READS_IMAGE,
        Probe(states(group), estimator), _adapted(group, estimator, paper),
    )  # fmt: skip


def _adapted(group: str, estimator: Estimator, paper: Paper) -> str:
    """Return what differs from the probe of a paper."""
    found = "A logistic regression on standardised features, with a penalty chosen inside training"
    found += "; the paper trains a network."
    if estimator == "mlp":
        found = "Standardised features, a penalty and early stopping on held-out images"
        found += (
            ", in place of batch normalisation and dropout."
            if paper is HALP
            else "; HALP's network of 512, 256 and 128 units, not the paper's."
        )
    if paper is HALP and group not in HALP_READS:
        found += " The paper does not read this position."
    if paper is SAPLMA and group != LAST_ANSWER:
        found += " The paper reads the last token."
    return found


def _iti(position: str, known: Known, passes: Passes) -> Detector:
    title = position.replace("_", " ")
    return Detector(
        f"iti_{position}", f"attention heads, {title}", "states", ITI,
        f"mean log-odds of logistic probes of single heads' outputs at the {title}: of the 16 "
        "heads that are best inside training",
        (sublayer(position, "heads"),), known, passes,
        "Without attention signals the number of heads is unknown, and a layer counts as one.",
        BestHeads(heads(position)),
        "The paper selects heads by their accuracy on held-out rows, to steer the model; here they "
        "are selected by AUROC inside training, and the same probes predict.",
    )  # fmt: skip


def _distances(group: str) -> tuple[Detector, Detector, Detector]:
    end, title = _SHORT[group]
    known, passes = _timing(group)
    where = f"hidden state at the {title}"
    return (
        Detector(
            f"mean_difference_{end}", f"mean difference, {title}", "states", MEANS,
            f"projection of the {where} on the difference of the class means of the training rows, "
            f"standardised; {CHOSEN} by the linear probe",
            (group,), known, passes, READS_IMAGE,
            Probe(states(group), "mean-difference"),
            "Scaled by the variance of each feature; the paper's mass-mean probe is not scaled, "
            "or, for data like those of training, by the covariance within the classes.",
        ),
        Detector(
            f"mahalanobis_{end}", f"Mahalanobis distance, {title}", "states", MAHALANOBIS,
            f"squared Mahalanobis distance of the {where} of the middle layer to the faithful "
            f"training answers, in their {WIDEST} largest principal components, with a shrunk "
            "covariance (Ledoit and Wolf)",
            (group,), known, passes, "Unusual questions are far away too.",
            Distance(True, middle(group), mahalanobis),
            "One Gaussian, of the faithful answers, instead of one per class with a common "
            "covariance; no perturbed inputs, and one layer in place of a combination of layers.",
        ),
        Detector(
            f"haloscope_{end}", f"HaloScope, {title}", "states", HALOSCOPE,
            f"{where} of the middle layer, centred: mean of s (f · v)² over the {DIRECTIONS} "
            "largest singular values s and directions v of the unlabelled training rows",
            (group,), known, passes,
            "Large directions may be the kinds of questions rather than hallucinations.",
            Distance(False, middle(group), haloscope),
            "The membership score itself, higher for a hallucination as in the paper; the paper "
            "trains a classifier on its thresholded values. Its public code averages projections "
            "before they are squared, and chooses layer, threshold, number of directions and the "
            "sign of the score on labelled rows; here layer and number are fixed."
            + ("" if group == LAST_ANSWER else " The paper reads the last token of the answer."),
        ),
    )  # fmt: skip


DETECTORS: tuple[Detector, ...] = (
    *(_halp(group, "logistic") for group in _SHORT),
    *(_halp(group, "mlp") for group in (VISION_ONLY, LAST_PROMPT, LAST_ANSWER)),
    _iti("last_prompt_token", BEFORE, "prefill"),
    _iti("last_answer_token", AFTER, "answer"),
    *_distances(LAST_PROMPT),
    *_distances(LAST_ANSWER),
)
"""The detectors of this module."""
