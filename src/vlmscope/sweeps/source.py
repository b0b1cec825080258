"""Sources of vectors to probe: a run, or files of the HALP research, with a common interface."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError, join_names, shortened
from vlmscope.schema import Progress
from vlmscope.store import (
    DEFAULT,
    AnyRun,
    HalpFiles,
    Run,
    find_halp_files,
    is_remote,
    label_sets,
    labels_file,
    open_halp_files,
    open_run,
    path_of,
)
from vlmscope.store.format.manifest import MANIFEST

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

LayerKey = tuple[str, int | None]
"""Representation and layer."""

RESEARCH = "research files"
"""Name of HALP files in results and probes."""

LABEL_SET = "label_set"
"""Key in results.json of the label set that was probed; files in the HALP layout have none."""


class Source(Protocol):
    """Rows with vectors: the common interface of ``Run`` and ``HalpFiles``."""

    path: Path
    """The folder or file."""
    ids: tuple[str, ...]
    """The question ids. Row i of every matrix belongs to ``ids[i]``."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def representations(self) -> tuple[str, ...]:
        """The names that ``matrix`` accepts."""
        ...

    def layers(self, representation: str) -> tuple[int, ...]:
        """Return the layers of a representation; the vision encoder's has none."""
        ...

    def matrix(self, representation: str, layer: int | None = None) -> NDArray[np.float32]:
        """Return ``[N, D]``; NaN in rows that lack the vector."""
        ...

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per question, without vectors."""
        ...


AnySource: TypeAlias = "Source | AnyRun"
"""What can be probed, or the path of it."""


def as_source(source: AnySource) -> Source:
    """Return a source unchanged, or opened if a path is given.

    Raises:
        InputError: It is neither a run nor files in the HALP layout, nor the path of either.
        StoreError: The run is damaged.
    """
    if hasattr(source, "representations"):
        return cast("Source", source)
    path = path_of(source)
    if not is_run(path) and not is_remote(path) and find_halp_files(path):
        return open_halp_files(path)
    return open_run(path)


def is_run(path: Path) -> bool:
    """Return whether a path is a run folder, rather than files of the HALP research."""
    return (path / MANIFEST).exists()


def option_of_set(option: str, name: str) -> str:
    """Return an option with the name of a label set, empty for the default set.

    >>> option_of_set("--labels", "human"), option_of_set("--labels", "default")
    (' --labels human', '')
    """
    return "" if name == DEFAULT else f" {option} {name}"


def check_seed(seed: int) -> None:
    """Raise for a seed that generators do not accept.

    Raises:
        InputError: It is negative or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed}: give a number from 0 to {2**32 - 1}")


def check_label_set(run: Path, name: str) -> None:
    """Raise for a label set that a run does not have.

    Raises:
        InputError: With the existing sets, and the command for a file of labels.
    """
    sets = label_sets(run)
    if name in sets or name == DEFAULT:
        return
    if "/" in name or "." in name or Path(name).exists():
        raise InputError(
            f"--labels {shortened(name)}: {run} is a run, which keeps its labels, and takes the "
            f"name of a label set; run 'vlmscope label {run} --labels FILE' first, then probe it "
            "without --labels"
        )
    labels_file(name)
    have = f"there are {join_names(sets)}" if sets else "there are none"
    raise InputError(
        f"--labels {name}: {run} has no label set of that name, {have}; run 'vlmscope label {run} "
        f"--name {name}' first"
    )


def open_source(path: Path, *, labelled: bool, progress: Progress = lambda _: None) -> Source:
    """Open a run folder, or files of the HALP research.

    Args:
        path: A run folder; a folder of ``.h5`` files; or one such file.
        labelled: Whether labels are given in a CSV file. HALP files need them, runs have their own.
        progress: Called with the file that is being read.

    Raises:
        InputError: It is none of these, or the labels are missing or too many.
    """
    run = is_run(path)
    if not run and not find_halp_files(path):
        found = "no .h5 files there, and no run" if path.exists() else "no such file or folder"
        raise InputError(f"{path}: {found}; give a run folder, or .h5 files of the HALP research")
    check_labels(path, run=run, labelled=labelled)
    return open_run(path) if run else open_halp_files(path, progress=progress)


def check_labels(path: Path, *, run: bool, labelled: bool) -> None:
    """Raise for a run with a label file, and for HALP files without one.

    Raises:
        InputError: With the way to give labels for each.
    """
    if run and labelled:
        raise InputError(
            f"--labels: {path} is a run, which keeps its labels; run 'vlmscope label {path} "
            "--labels FILE' first, then probe it without --labels"
        )
    if not run and not labelled:
        raise InputError(
            f"{path}: HALP files contain no labels; give --labels FILE, a CSV with the columns "
            "question_id and is_hallucinating_manual (or is_hallucinating, hallucinated, label)"
        )


def layer_keys(source: Source) -> Iterator[LayerKey]:
    """Yield every representation with each of its layers."""
    for representation in source.representations:
        for layer in source.layers(representation) or (None,):
            yield representation, layer


def model_of(source: Source) -> dict[str, Any]:
    """Return the identity of the model behind the vectors, for a saved probe.

    A run records hashes of its model. HALP files do not, so no loaded model matches.
    """
    if isinstance(source, Run):
        manifest = source.manifest
        capture = {name: getattr(manifest.capture, name) for name in ("vision_pooling", "compat")}
        times = {"prompt_time": manifest.model.prompt_time, "dtype": manifest.dtype}
        return asdict(manifest.model) | capture | times
    attrs = source.attrs if isinstance(source, HalpFiles) else {}
    return {**attrs, "source": RESEARCH}


def run_id_of(source: Source) -> str:
    """Return the id of the run that the rows come from; empty if unknown."""
    if isinstance(source, Run):
        return source.manifest.run_id
    return str(source.attrs.get("run_id", "")) if isinstance(source, HalpFiles) else ""
