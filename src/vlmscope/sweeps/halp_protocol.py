"""The HALP paper's own protocol, run in addition to the grouped one to compare with publications.

Rows are split at random, 80 to 20 and stratified by label, with ``random_state=42``: an image has
questions on both sides. A network (``probe.halp_network``) is trained for each representation and
layer, and the best layer is the one with the highest AUROC on the test rows. Both are optimistic,
so these numbers are marked as such and are used for nothing else: no selection, no headline, no
baseline.

Rows of files in the HALP layout are in the order in which the published scripts read them, so the
split equals theirs if all rows are labelled and complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from threading import Event
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped,unused-ignore]
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.model_selection import (  # type: ignore[import-untyped,unused-ignore]
    train_test_split,
)
from threadpoolctl import (  # type: ignore[import-untyped,unused-ignore]
    threadpool_info,
    threadpool_limits,
)

from vlmscope.metrics import Interval, resample
from vlmscope.probes.halp_network import HalpNetwork, halp_risk
from vlmscope.schema import ANSWER_POSITIONS, REPRESENTATIONS, Progress
from vlmscope.shown import rounded_difference
from vlmscope.store import vector_path
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.source import LayerKey

RANDOM_STATE = 42
"""Random state of the published split."""

OTHER_STATES = (43, 44)
"""Random states of further splits, on which the best layer of the published one is trained again.
"""

TEST_SHARE = 0.2
"""Share of the rows in the test set."""

THRESHOLD = 0.5
"""Risk above which an answer counts as predicted hallucinated."""

OPTIMISTIC = "optimistic: not grouped by image; best layer chosen on the test set"
"""Mark of every number of this protocol."""

MOST_WORKERS = 8
"""Most networks trained at once; each keeps a matrix in memory."""

SAME = 1e-5
"""Risks of test rows this close count as equal: they differ by float32 rounding."""

_NORM_FIRST = re.compile(r"mllama|llama.?3.?2|phi.?4")
_AFTER = frozenset(REPRESENTATIONS[position] for position in ANSWER_POSITIONS)


@dataclass(frozen=True, slots=True)
class HalpResult:
    """A network of one representation and layer on the test rows of one random split."""

    name: str
    """Path of the vectors, as in the other results."""
    title: str
    """Readable title."""
    representation: str
    layer: int | None
    known: Literal["before", "after"]
    """Whether the vectors exist before the first token of the answer, or only after."""
    random_state: int
    """Random state of the split."""
    auroc: float
    """On the test rows; NaN if they have one class, or training diverged."""
    interval: Interval
    """95% interval, the images of the test rows resampled."""
    accuracy: float
    """At a threshold of 0.5, like the three that follow."""
    precision: float
    recall: float
    f1: float
    confusion_matrix: tuple[tuple[int, int], tuple[int, int]]
    """Faithful and hallucinated rows, each by what was predicted: ``((TN, FP), (FN, TP))``."""
    train_auroc: float
    """On its training rows."""
    train_rows: int
    test_rows: int
    test_hallucinated: int
    shared: float
    """Share of the test rows that show an image of the training rows."""
    found_nothing: bool = False
    """Whether all test rows have the same risk (up to ``SAME``): then its AUROC is meaningless."""
    kind: Literal["halp"] = "halp"
    note: str = OPTIMISTIC


@dataclass(frozen=True, slots=True)
class HalpReport:
    """The results of the protocol."""

    results: tuple[HalpResult, ...]
    """A result for each representation and layer on the published split."""
    other_splits: tuple[HalpResult, ...]
    """Results of the best one on other splits."""
    network: HalpNetwork
    """The network that was trained."""

    @property
    def best(self) -> HalpResult | None:
        """The highest AUROC known before the answer, chosen on the test rows as in the paper."""
        known = [
            each
            for each in self.results
            if each.known == "before" and each.auroc >= 0 and not each.found_nothing
        ]
        return max(known, key=lambda each: each.auroc, default=None)

    def document(self) -> dict[str, Any]:
        """Return its entries in ``results.json``, ``halp`` and ``halp_protocol``."""
        best = self.best
        return {
            "halp": [asdict(each) for each in self.results],
            "halp_protocol": {
                "note": OPTIMISTIC,
                "random_state": RANDOM_STATE,
                "test_share": TEST_SHARE,
                "stratified": True,
                "grouped": False,
                "threshold": THRESHOLD,
                "network": asdict(self.network),
                "best": best and best.name,
                "best_on_other_splits": [asdict(each) for each in self.other_splits],
            },
        }


def halp_protocol(
    data: ProbeData,
    matrix: Callable[[str, int | None], NDArray[np.float32]],
    network: HalpNetwork,
    *,
    title: Callable[[str, int | None], str],
    draws: int,
    seed: int,
    progress: Progress = lambda _: None,
) -> HalpReport:
    """Train and test a network for every representation and layer, as the paper's code does.

    Args:
        data: The rows, their truth and images.
        matrix: Representation and layer → vectors of those rows, ``[N, D]``.
        network: The network to train; see ``network_of``.
        title: Returns the readable title of a representation and layer.
        draws: Resamples of the test rows' images.
        seed: Seed of initial weights, batches and dropout, and of the resamples. The splits are
            those of ``RANDOM_STATE`` and ``OTHER_STATES``, whatever the seed.
        progress: Called with a line of text about each step.
    """
    jobs = [_Job(number, key, RANDOM_STATE) for number, key in enumerate(data.layer_keys)]

    def run(jobs: Sequence[_Job]) -> tuple[HalpResult, ...]:
        trained = _trained(jobs, data, matrix, network, seed, progress)
        return tuple(
            _evaluated(job, risk, data, title(*job.key), draws, seed)
            for job, risk in zip(jobs, trained, strict=True)
        )

    found = HalpReport(run(jobs), (), network)
    if (best := found.best) is None:
        return found
    chosen = next(job for job in jobs if vector_path(*job.key) == best.name)
    return replace(found, other_splits=run([replace(chosen, state=s) for s in OTHER_STATES]))


def network_of(model: Mapping[str, Any]) -> HalpNetwork:
    """Return the network that HALP's code trains on a model's vectors.

    >>> network_of({"type": "mllama"}).norm_first, network_of({"type": "llava"}).norm_first
    (True, False)
    """
    names = (model.get(key) for key in ("name", "type", "model_name", "model_type"))
    text = " ".join(str(name) for name in names if name).lower()
    return HalpNetwork(norm_first=bool(_NORM_FIRST.search(text)))


@dataclass(frozen=True, slots=True)
class _Job:
    """One network to train."""

    number: int
    key: LayerKey
    state: int


def split_rows(
    truth: NDArray[np.bool_], random_state: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the training and test rows of the paper's split."""
    train, test = train_test_split(
        np.arange(len(truth)), test_size=TEST_SHARE, random_state=random_state, stratify=truth
    )
    return train, test


def _trained(
    jobs: Sequence[_Job],
    data: ProbeData,
    matrix: Callable[[str, int | None], NDArray[np.float32]],
    network: HalpNetwork,
    seed: int,
    progress: Progress,
) -> Iterator[NDArray[np.float64] | None]:
    """Yield each network's risk of every row; several are trained at once, one per thread."""
    blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
    workers = min(max(blas, default=1), MOST_WORKERS, len(jobs))
    stop = Event()

    def train(job: _Job, vectors: NDArray[np.float32]) -> NDArray[np.float64] | None:
        rows, _ = split_rows(data.truth, job.state)
        seeds = (seed, job.state, job.number)
        return halp_risk(vectors, data.truth, rows, network, seeds, stop.is_set)

    # One thread per product: the products are small, and results equal on all machines.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for start in range(0, len(jobs), workers):
                some = jobs[start : start + workers]
                progress(
                    f"HALP protocol, {start + 1} to {start + len(some)} of {len(jobs)} networks"
                )
                yield from [
                    future.result()
                    for future in [pool.submit(train, job, matrix(*job.key)) for job in some]
                ]
        finally:
            stop.set()  # after Ctrl-C, the others end after their epoch


def _evaluated(
    job: _Job,
    risk: NDArray[np.float64] | None,
    data: ProbeData,
    title: str,
    draws: int,
    seed: int,
) -> HalpResult:
    """Return the metrics that the paper reports, on the test rows; NaN without a risk."""
    representation, layer = job.key
    train, test = split_rows(data.truth, job.state)
    truth, images = data.truth[test], data.grouping.groups
    nothing = float("nan")
    found: dict[str, Any] = {
        **dict.fromkeys(("auroc", "train_auroc", "accuracy", "precision", "recall", "f1"), nothing),
        "interval": Interval(nothing, nothing),
        "confusion_matrix": ((0, 0), (0, 0)),
    }
    if risk is not None:
        found = _metrics(truth, risk[test]) | {
            "interval": _interval(data, risk, test, draws, seed),
            "train_auroc": _auroc(data.truth[train], risk[train]),
            "found_nothing": bool(np.ptp(risk[test]) < SAME),
        }
    return HalpResult(
        name=vector_path(representation, layer),
        title=f"{title}, HALP protocol ({OPTIMISTIC.partition(';')[0]})",
        representation=representation,
        layer=layer,
        known="after" if representation in _AFTER else "before",
        random_state=job.state,
        train_rows=len(train),
        test_rows=len(test),
        test_hallucinated=int(truth.sum()),
        shared=float(np.isin(images[test], images[train]).mean()),
        **found,
    )


def _metrics(truth: NDArray[np.bool_], risk: NDArray[np.float64]) -> dict[str, Any]:
    """Return the metrics of the test rows that HALP's code writes."""
    predicted = risk > THRESHOLD
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, average="binary", zero_division=0
    )
    (tn, fp), (fn, tp) = confusion_matrix(truth, predicted, labels=[False, True]).tolist()
    return {
        "auroc": _auroc(truth, risk),
        "accuracy": float((predicted == truth).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "confusion_matrix": ((tn, fp), (fn, tp)),
    }


def _auroc(truth: NDArray[np.bool_], risk: NDArray[np.float64]) -> float:
    """Return the AUROC; NaN for one class, where HALP's code returns 0.5."""
    return float(roc_auc_score(truth, risk)) if 0 < truth.sum() < len(truth) else float("nan")


def _interval(
    data: ProbeData, risk: NDArray[np.float64], test: NDArray[np.int64], draws: int, seed: int
) -> Interval:
    """Return the interval of the AUROC, resampling the images of the test rows."""
    truth, groups = data.truth[test], data.grouping.groups[test]
    if len(np.unique(groups)) < 2 or truth.all() or not truth.any():
        return Interval(float("nan"), float("nan"))
    found = resample(
        truth, {"": risk[test]}, groups, draws=draws, seed=seed, metrics=("auroc",), correct=True
    )
    return found.interval("")


def halp_sentences(found: HalpReport, grouped: float | None) -> Iterator[str]:
    """Return sentences on the protocol's best AUROC, and its difference to that of grouped folds.

    Args:
        found: The results of the protocol.
        grouped: AUROC of the selected probe under the grouped protocol; None if its risk is
            constant.
    """
    start = f"HALP protocol ({OPTIMISTIC})"
    best = found.best
    if best is None:
        constant = any(each.found_nothing for each in found.results)
        problem = "distinguishes its test rows" if constant else "has an AUROC on its test rows"
        yield f"{start}: no network {problem}."
        return
    low, high = best.interval.low, best.interval.high
    short = best.title.partition(", HALP")[0]
    span = f" (95% interval {low:.3f} to {high:.3f})" if np.isfinite(low) else ""
    text = f"{start}: the best of {len(found.results)} is {short}, AUROC {best.auroc:.3f}{span}"
    if grouped is None:
        text += "; under the grouped protocol the risk is constant"
    else:
        above = rounded_difference(best.auroc, grouped)
        side = "above" if above >= 0 else "below"
        text += f", {abs(above):.3f} {side} the grouped protocol's {grouped:.3f}"
    yield f"{text}. {best.shared:.0%} of its test rows show an image that it was trained on."
    others = [each for each in found.other_splits if np.isfinite(each.auroc)]
    if others:
        states = " and ".join(str(each.random_state) for each in others)
        values = " and ".join(f"{each.auroc:.3f}" for each in others)
        yield f"The same layer on other random splits (random_state {states}): {values}."
