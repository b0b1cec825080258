"""A run for scikit-learn, pandas and PyTorch: arrays of labelled rows, predictions, a dataset."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.store import DEFAULT, AnyRun, are_stale, is_of_image
from vlmscope.store import Run as StoredRun

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    from vlmscope.api.torch_data import VectorDataset


class StaleLabelsWarning(UserWarning):
    """The ground truths that the labels were made from have changed in the table."""


class Labelled(NamedTuple):
    """The labelled rows of a run."""

    X: NDArray[np.float32]
    """The vectors, ``[n, D]``."""
    y: NDArray[np.int64]
    """1 where the answer is hallucinated, 0 where it is faithful, ``[n]``."""
    groups: NDArray[np.int64]
    """Number of each row's image, ``[n]``: rows of one group belong on one side of a split."""


def open_run(path: AnyRun) -> Run:
    """Open a run for reading: what is published now, whether a writer goes on or not.

    Args:
        path: The run folder, or its URL in an object store, such as ``s3://bucket/run``; or a run,
            which is opened anew.

    Raises:
        InputError: It is no run, or the URL cannot be opened.
        StoreError: The run is damaged.
        UnreachableError: The object store does not answer.
    """
    return Run.open(path)


class Run(StoredRun):
    """The rows of a run folder, in the order they were written. Made by ``open_run``.

    ``len(run)`` rows; ``run[id]`` and ``run.iloc[i]`` are a ``Capture``, and so is what iterating
    yields. ``run.matrix`` has the vectors of all rows, ``run.to_pandas()`` everything else, in the
    same order; ``run.Xy`` has those of the labelled rows.
    """

    def Xy(  # noqa: N802 - as scikit-learn calls the two
        self,
        position: str,
        layer: int | None = None,
        *,
        labels: str = DEFAULT,
        copies: str = "near",
    ) -> Labelled:
        """Return vectors, labels and groups of the rows that have a label: ``X, y, groups``.

        Left out are rows that are neither hallucinated nor faithful, and of a representation of the
        image the questions without one. The rows are in the order of ``ids``; ``labelled_ids`` has
        their ids.

        Args:
            position: A token position, ``last_prompt_token``, or the name of a representation.
            layer: The decoder layer; of the vision encoder's output none.
            labels: The label set.
            copies: What is one group: ``near``, rows about equal images and near-copies of them, as
                ``vlmscope probe`` splits; or ``exact``, equal images only.

        Raises:
            InputError: The run has no such vectors or labels, or no row that is labelled.
            StoreError: The labels or a shard are damaged.

        Warns:
            StaleLabelsWarning: The ground truths have changed since the labels were made.
        """
        rows, y = self._labelled(position, layer, labels)
        return self._arrays(position, layer, rows, y, copies)

    def labelled_ids(
        self, position: str, layer: int | None = None, *, labels: str = DEFAULT
    ) -> tuple[str, ...]:
        """Return the question ids of the rows of ``Xy``; the arguments are the same."""
        rows, _ = self._labelled(position, layer, labels)
        return self._ids_of(rows)

    def _ids_of(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(self.ids[row] for row in rows)

    def _arrays(
        self,
        position: str,
        layer: int | None,
        rows: NDArray[np.int64],
        y: NDArray[np.int64],
        copies: str,
    ) -> Labelled:
        """Return the vectors and groups of some rows beside their labels."""
        X = self.matrix(position, layer)[rows]  # noqa: N806
        return Labelled(X, y, self._groups(rows, copies))

    def _labelled(
        self, position: str, layer: int | None, labels: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the rows that have a vector and a label, and the labels."""
        path = self.column(position, layer)
        verdicts = self.labels(labels)["hallucinated"]
        known = verdicts.notna().to_numpy(dtype=bool)
        if is_of_image(path):
            known = known & [sha256 != "" for (sha256,) in self.texts("image_sha256")]
        rows = np.flatnonzero(known)
        if not len(rows):
            raise InputError(
                f"{self.path}: of {len(self):,} rows none has {position} and is labelled "
                f"hallucinated or faithful in the label set {labels!r}; run 'vlmscope label' again"
            )
        if are_stale(self.path, labels):
            warnings.warn(
                f"{self.path}: ground truths have changed in the table since the label set "
                f"{labels!r} was made; run 'vlmscope label' again",
                StaleLabelsWarning,
                stacklevel=3,
            )
        return rows, verdicts.iloc[rows].to_numpy(dtype=np.int64)

    def _groups(self, rows: NDArray[np.int64], copies: str) -> NDArray[np.int64]:
        """Return the number of the image of each of some rows."""
        from vlmscope.sweeps.grouping import COPIES, content_groups

        if copies not in COPIES:
            raise InputError(f"--copies {copies}: choose from {', '.join(COPIES)}")
        groups, _ = content_groups([self.to_pandas(thumbnails=True).iloc[rows]], copies)
        return groups.astype(np.int64)

    @property
    def predictions(self) -> pd.DataFrame | None:
        """What the probes predicted of rows that they were not trained on; None without probes.

        A row for each question that was probed: ``id``, ``hallucinated``, ``fold``, and
        ``risk/<name>`` for each probe and baseline, ``risk/selected`` first of all; of further
        splits ``repeat_2/fold`` and so on. Those of the default label set; see ``predictions_of``.
        """
        return self.predictions_of(DEFAULT)

    def predictions_of(self, labels: str) -> pd.DataFrame | None:
        """Return the same for the probes of another label set.

        Raises:
            StoreError: The file is damaged.
        """
        from vlmscope.sweeps import read_sweep

        found = read_sweep(self, labels)
        if found is None:
            return None
        if found.stale:
            warnings.warn(
                f"{self.path}: the probes are out of date: {found.stale}; run 'vlmscope probe' "
                "again",
                StaleLabelsWarning,
                stacklevel=3,
            )
        return found.predictions

    def torch_dataset(
        self,
        position: str,
        layer: int | None = None,
        *,
        labels: str = DEFAULT,
        copies: str = "near",
    ) -> VectorDataset:
        """Return ``Xy`` as a dataset for ``torch.utils.data.DataLoader``: items are ``x, y``.

        The arguments are those of ``Xy``. ``x`` is float32 ``[D]``, ``y`` int64; the dataset also
        has ``groups`` and ``ids``.
        """
        from vlmscope.api.torch_data import VectorDataset

        rows, y = self._labelled(position, layer, labels)
        found = self._arrays(position, layer, rows, y, copies)
        return VectorDataset(*found, self._ids_of(rows))
