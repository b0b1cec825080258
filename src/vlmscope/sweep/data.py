"""What of a run a probe may learn from: scorable rows, their truth, images and outside facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probe import image_groups
from vlmscope.probe.baselines import Facts
from vlmscope.store import Run, read_labels

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeData:
    """The rows that probes learn from, aligned, ``[N]``."""

    rows: NDArray[np.int64]
    """Their numbers in the run."""
    ids: tuple[str, ...]
    """Question ids."""
    truth: NDArray[np.bool_]
    """True where the answer is a hallucination."""
    groups: NDArray[np.int64]
    """Image of each row; copies and near-copies of an image count as one."""
    facts: Facts
    """What is known of them from outside."""
    categories: tuple[str, ...] | None
    """Category of each, where the table has one."""
    unscorable: int
    """Rows left out because nobody can say whether they are right."""


def probe_data(run: Run) -> ProbeData:
    """Join a run with its labels.

    Raises:
        InputError: The run has no labels, or none of one kind: nothing can be learnt.
    """
    labels = read_labels(run.path)
    table = run.to_pandas()
    found = [labels.get(id_) for id_ in run.ids]
    missing = sum(score is None for score in found)
    if missing:
        raise InputError(
            f"{run.path}: {missing} of {len(run)} rows have no label, as they came after the "
            "labelling; run vlmscope label again"
        )
    verdicts = [score.hallucinated for score in found if score is not None]
    rows = np.array([i for i, verdict in enumerate(verdicts) if verdict is not None], np.int64)
    truth = np.array([verdicts[i] for i in rows], dtype=bool)
    if truth.all() or not truth.any():
        raise InputError(
            f"{run.path}: of {len(rows)} scorable answers {int(truth.sum())} are hallucinated; "
            "a probe needs some that are and some that are not"
        )
    kept = table.iloc[rows]
    return ProbeData(
        rows=rows,
        ids=tuple(run.ids[i] for i in rows),
        truth=truth,
        groups=_groups(kept),
        facts=_facts(kept),
        categories=_texts(kept, "category"),
        unscorable=len(verdicts) - len(rows),
    )


def _groups(table: pd.DataFrame) -> NDArray[np.int64]:
    """Number the images: by content, and by likeness where the run keeps perceptual hashes."""
    likeness = None
    if "image_dhash" in table and all(table["image_dhash"]):
        likeness = [int(text, 16) for text in table["image_dhash"]]
    return np.asarray(image_groups(list(table["image_sha256"]), likeness))


def _facts(table: pd.DataFrame) -> Facts:
    return Facts(
        question=list(table["question"]),
        category=_texts(table, "category"),
        answer_type=_texts(table, "answer_type"),
        first_token_entropy=table["first_token_entropy"].to_numpy(np.float64),
        first_token_logprob=table["first_token_logprob"].to_numpy(np.float64),
        num_answer_tokens=_numbers(table, "num_answer_tokens"),
        mean_answer_logprob=_numbers(table, "mean_answer_logprob"),
    )


def _texts(table: pd.DataFrame, name: str) -> tuple[str, ...] | None:
    return tuple(str(value) for value in table[name]) if name in table else None


def _numbers(table: pd.DataFrame, name: str) -> NDArray[Any] | None:
    return table[name].to_numpy(np.float64) if name in table else None
