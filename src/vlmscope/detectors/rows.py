"""``Rows``: what detectors read, a run's columns for some of its rows, loaded on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from numpy.typing import NDArray

from vlmscope.detectors.meaning import SameMeaning, by_rules
from vlmscope.positions import SUBLAYER_REPRESENTATIONS
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.store import Run, vector_path
from vlmscope.sweeps import ProbeData
from vlmscope.sweeps.transfer.fits import take_rows

Floats = NDArray[np.float64]

ANSWER_LOGPROBS = "answer_logprobs"
"""Name of the log-probabilities of the answer's tokens among the signals."""

AN_IMAGE = "image"
"""Requirement of detectors that mean nothing without an image, whatever else a run has."""


STOP = "stop"
"""Reason to finish of an answer whose last token is the end of turn."""


class Columns(Mapping[str, Any]):
    """Columns by name, each read when it is used: lists and arrays whose first axis is the row.

    Args:
        names: The columns.
        read: Name → the column for all rows of the run.
        rows: The rows to return.
    """

    def __init__(
        self, names: Sequence[str], read: Callable[[str], Any], rows: NDArray[np.int64]
    ) -> None:
        self._names, self._read, self._rows = tuple(names), read, rows

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return taken(self._read(name), self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def of(self, rows: NDArray[np.int64]) -> Columns:
        """Return the columns of some of these rows."""
        return Columns(self._names, self._read, self._rows[rows])

    def only(self, names: Sequence[str]) -> Columns:
        """Return some of the columns."""
        return Columns(names, self._read, self._rows)


def taken(values: Any, rows: NDArray[np.int64]) -> Any:
    """Return some rows of an array or a list."""
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Everything that detectors may read of some rows; aligned, ``[N]``."""

    table: pd.DataFrame
    """Texts, numbers and metadata: ``question``, ``answer``, ``image_thumbnail`` …"""
    signals: Mapping[str, Any] = field(default_factory=dict)
    """Signals by name, as ``Run.signal`` returns them, and ``answer_logprobs``."""
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Hidden states and sub-layers by path, ``query_token_representation/layer_20``, ``[N, D]``."""
    inputs: BaselineInputs | None = None
    """What is known without hidden states."""
    attention_layers: tuple[int, ...] = ()
    """The decoder layers that the arrays of attention count."""
    attention_heads: int = 0
    """Heads of a layer."""
    num_layers: int = 0
    """Decoder layers of the model."""
    trained_layers: int = 0
    """In rows of a test run, those of the training run: distances read the middle one of these."""
    same_meaning: SameMeaning = by_rules
    """Whether two answers to a question mean the same."""
    undefined: dict[str, NDArray[np.bool_]] = field(default_factory=dict, init=False)
    """Rows without a finite vector, by path: what was found already, as several detectors ask."""
    known: dict[int, tuple[Callable[[Rows], Any], Any]] = field(default_factory=dict, init=False)
    """What ``once`` has computed, by the identity of the function, which is kept alive."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def available(self) -> tuple[str, ...]:
        """The names that ``Detector.requires`` may refer to."""
        columns = (f"column {name}" for name in self.table.columns)
        signals = (n if n == ANSWER_LOGPROBS else f"signals/{n}" for n in self.signals)
        images = () if self.without_images else (AN_IMAGE,)
        return (*images, *columns, *signals, *self.vectors)

    @property
    def without_images(self) -> bool:
        """Whether it is known that none of the rows is a question about an image."""
        return "image_sha256" in self.table and not any(self.text("image_sha256"))

    def lacks(self, requires: Sequence[str]) -> str:
        """Return what is missing of the requirements of a detector, as text; empty if nothing.

        >>> Rows(pd.DataFrame({"answer": ["yes"]})).lacks(["column answer", "signals/entropy"])
        'signals/entropy'
        """
        there = self.available
        missing = (
            name
            for name in requires
            if not any(one == name or one.startswith(f"{name}/") for one in there)
        )
        return ", ".join(missing)

    def paths(self, *groups: str) -> list[str]:
        """Return the paths of the vectors in some groups, in the order of the run."""
        return [path for path in self.vectors if path.partition("/")[0] in groups]

    def layers_of(self, names: Mapping[str, Any], prefix: str) -> dict[int, str]:
        """Return the layers below a name: ``{20: "internal_confidence/layer_20"}``."""
        start = f"{prefix}/layer_"
        return {int(name.removeprefix(start)): name for name in names if name.startswith(start)}

    def text(self, name: str) -> list[str]:
        """Return a column of the table as texts, empty for missing values."""
        return ["" if cell is None or cell != cell else str(cell) for cell in self.table[name]]

    def per_token(self, name: str) -> list[Floats]:
        """Return a signal with one value per token of the answer, as float64; missing is empty."""
        return [
            np.empty(0) if values is None else np.asarray(values, np.float64).ravel()
            for values in self.signals[name]
        ]

    def of_answer(self, name: str) -> list[Floats]:
        """Return ``per_token`` without the end-of-turn token of the answers that have one."""
        ended = [reason == STOP for reason in self.text("finish_reason")]
        each = zip(self.per_token(name), ended, strict=True)
        return [values[: len(values) - end] for values, end in each]

    def once(self, compute: Callable[[Rows], Any]) -> Any:
        """Return what a function computes of these rows: a value for each, computed only once.

        Args:
            compute: Rows → an array or a list whose first axis is the row. ``take`` keeps the
                values of the rows that are left: one that depends on other rows (``contrast``)
                is that of all rows there were at the first call.
        """
        if id(compute) not in self.known:
            values = compute(self)
            # Rows are taken by position, and of a Series by its index.
            values = values.to_numpy() if isinstance(values, pd.Series) else values
            self.known[id(compute)] = compute, values
        return self.known[id(compute)][1]

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return some of the rows."""
        found = replace(
            self,
            table=self.table.iloc[rows].reset_index(drop=True),
            signals=_some(self.signals, rows),
            vectors=_some(self.vectors, rows),
            inputs=None if self.inputs is None else take_rows(self.inputs, rows),
        )
        for key, (compute, values) in self.known.items():
            found.known[key] = compute, taken(values, rows)
        return found


def with_vectors(rows: Rows, paths: Sequence[str]) -> Rows:
    """Return the rows with some of their vectors."""
    if len(paths) == len(rows.vectors):
        return rows  # with what it has computed
    if isinstance(rows.vectors, Columns):
        return replace(rows, vectors=rows.vectors.only(paths))
    return replace(rows, vectors={path: rows.vectors[path] for path in paths})


def _some(columns: Mapping[str, Any], rows: NDArray[np.int64]) -> Mapping[str, Any]:
    if isinstance(columns, Columns):
        return columns.of(rows)
    return {name: taken(values, rows) for name, values in columns.items()}


def rows_of(run: Run, data: ProbeData, same_meaning: SameMeaning = by_rules) -> Rows:
    """Return the labelled rows of a run.

    Args:
        run: The run.
        data: Its rows, from ``probe_data``.
        same_meaning: Whether two answers to a question mean the same.
    """
    capture = run.manifest.capture
    answered = capture.max_new_tokens > 0
    names = (*run.signals, *([ANSWER_LOGPROBS] if answered else []))
    sublayers = [
        (group, layer)
        for group in run.representations
        if group in SUBLAYER_REPRESENTATIONS
        for layer in run.layers(group)
    ]
    keys = {vector_path(*key): key for key in (*data.layer_keys, *sublayers)}
    return Rows(
        table=run.to_pandas(thumbnails=True).iloc[data.rows].reset_index(drop=True),
        signals=Columns(names, _reader(run), data.rows),
        vectors=Columns(tuple(keys), lambda path: run.matrix(*keys[path]), data.rows),
        inputs=data.baseline_inputs,
        attention_layers=capture.attention_layers,
        attention_heads=capture.attention_heads,
        num_layers=run.manifest.model.num_layers,
        same_meaning=same_meaning,
    )


def _reader(run: Run) -> Callable[[str], Any]:
    """Return a function that reads a signal; lists, which are small and slow to read, only once."""
    lists: dict[str, Any] = {}

    def read(name: str) -> Any:
        if name in lists:
            return lists[name]
        found = _signal(run, name)
        if isinstance(found, list):
            lists[name] = found
        return found

    return read


def _signal(run: Run, name: str) -> Any:
    if name != ANSWER_LOGPROBS:
        return run.signal(name)
    blocks = run.blocks(vectors=False)
    return [values for block in blocks for values in block.ragged[ANSWER_LOGPROBS]]
