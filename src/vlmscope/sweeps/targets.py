"""The runs that a transfer judges on, opened, joined with their labels, and held against training.

Everything that can be refused is refused here, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probes import FoldError, grouped_folds
from vlmscope.store import DEFAULT, Run, open_run
from vlmscope.sweeps.carrying import Part
from vlmscope.sweeps.data import LeftOut, ProbeData, probe_data
from vlmscope.sweeps.grid import SweepSpec
from vlmscope.sweeps.overlap import Overlap, Relation, common_places, overlap_of, relation_of
from vlmscope.sweeps.source import Place, Source

FEWEST_GROUPS = 3
"""Image groups of each class that a test run must have."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A labelled run to judge on, and how it is related to the one that is learnt from."""

    run: Run
    data: ProbeData
    """Its labelled rows, those about shared images among them."""
    relation: Relation
    overlap: Overlap
    places: tuple[Place, ...]
    """The vectors that both runs have, as wide in both."""
    left_out: tuple[LeftOut, ...]
    """What is not carried over, and the rows that are not judged."""
    paired: bool
    """Whether the training run's folds are used, because the runs share their images."""
    kept: NDArray[np.int64]
    """The rows of ``data`` that are judged."""
    parts: tuple[Part, ...] = ()
    """Who learns and who is judged: rows of the training run, and places in ``kept``."""

    @property
    def truth(self) -> NDArray[np.bool_]:
        """True where a judged answer is a hallucination, ``[M]``."""
        return self.data.truth[self.kept]

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each judged row's image group, ``[M]``."""
        return self.overlap.groups[self.kept]


def targets(
    source: Source,
    tests: Sequence[Run | str | Path],
    spec: SweepSpec | None = None,
    *,
    labels: str = DEFAULT,
) -> tuple[Target, ...]:
    """Open the runs to judge on, and refuse what cannot be judged before anything is trained.

    Args:
        source: The labelled run to learn from.
        tests: Labelled runs to judge on, or their folders.
        spec: Folds and seed, as of the sweep.
        labels: The label set of ``source``; test runs are judged by their default sets.

    Raises:
        InputError: As for ``transfer``.
    """
    run = checked_source(source)
    spec = spec or SweepSpec()
    learnt = probe_data(run, spec.copies, labels=labels)
    found: list[Target] = []
    for test in tests:
        opened = test if isinstance(test, Run) else open_run(test)
        _check_other(run, opened, [each.run for each in found])
        found.append(_target(run, learnt, opened, spec))
    return tuple(found)


def checked_source(source: Source) -> Run:
    """Return the training run, or refuse files that know neither images nor model."""
    if isinstance(source, Run):
        return source
    raise InputError(
        f"--test: {source.path} holds research files, which know neither their model nor the "
        "content of their images; give a run folder to learn from"
    )


def _check_other(source: Run, test: Run, before: Sequence[Run]) -> None:
    """Refuse the run that is learnt from, and one that is given twice."""
    if test.manifest.run_id == source.manifest.run_id:
        raise InputError(
            f"--test {test.path}: is the run that is learnt from (run_id "
            f"{source.manifest.run_id[:8]}…); give another run, what a run finds on itself is in "
            "its own results"
        )
    if any(test.manifest.run_id == each.manifest.run_id for each in before):
        raise InputError(f"--test {test.path}: the run is given twice; give it once")


def _target(source: Run, learnt: ProbeData, test: Run, spec: SweepSpec) -> Target:
    """Join a test run with its labels and with what it shares with the training run."""
    data = probe_data(test, spec.copies)
    places, left_out = common_places(source, learnt, test, data)
    overlap = overlap_of(source, learnt, test, data, spec.copies)
    shared = int(overlap.shared.sum())
    paired = shared * 2 > len(overlap.shared)
    kept = np.arange(len(data.rows)) if paired else np.flatnonzero(~overlap.shared)
    if shared and not paired:
        what = "question" if overlap.by == "question" else "image"
        reason = f"the training run has the {what} too"
        left_out = (*left_out, LeftOut("row", shared, reason))
    found = Target(
        run=test,
        data=data,
        relation=relation_of(source.manifest, test.manifest),
        overlap=overlap,
        places=places,
        left_out=(*data.left_out, *left_out),
        paired=paired,
        kept=kept,
    )
    _check_enough(found)
    return replace(found, parts=_parts(learnt, found, spec))


def _check_enough(target: Target) -> None:
    """Refuse a test run with too few answers of a kind."""
    truth, groups = target.truth, target.groups
    counts = [len(np.unique(groups[rows])) for rows in (truth, ~truth)]
    if min(counts) >= FEWEST_GROUPS:
        return
    lost = len(target.data.truth) - len(truth)
    raise InputError(
        f"--test {target.run.path}: {len(truth)} rows can be judged"
        + (f", {lost} more are about images that are trained on" if lost else "")
        + f"; image groups with hallucinated answers: {counts[0]}, with faithful ones: "
        f"{counts[1]}, and {FEWEST_GROUPS} of each are needed; label questions about other images"
    )


def _parts(learnt: ProbeData, target: Target, spec: SweepSpec) -> tuple[Part, ...]:
    """Return who learns and who is judged: once, or once for each fold of the images.

    Groups that only the test run has go to the folds in turn: any fit may judge them.

    Raises:
        InputError: No fold has answers of both kinds to compare.
    """
    if not target.paired:
        return (Part(np.arange(len(learnt.truth)), np.arange(len(target.kept))),)
    groups = target.overlap.source_groups
    try:
        folds = grouped_folds(learnt.truth, groups, count=spec.folds, seed=spec.seed)
    except FoldError as error:
        raise InputError(
            f"--test {target.run.path}: shares its images with {len(learnt.truth)} rows of the "
            f"training run, and both together cannot be split by image: {error}"
        ) from error
    fold_of = {int(g): n for n, fold in enumerate(folds) for g in np.unique(groups[fold.test])}
    new = [int(g) for g in np.unique(target.groups) if int(g) not in fold_of]
    order = np.random.default_rng(spec.seed).permutation(len(new))
    fold_of |= {new[place]: turn % len(folds) for turn, place in enumerate(order)}
    judged_by = np.array([fold_of[int(g)] for g in target.groups])
    parts = tuple(
        Part(np.asarray(fold.train), np.flatnonzero(judged_by == number))
        for number, fold in enumerate(folds)
        if (judged_by == number).any()
    )
    if not any(0 < target.truth[part.judged].sum() < len(part.judged) for part in parts):
        raise InputError(
            f"--test {target.run.path}: no fold has hallucinated and faithful answers to compare; "
            "label more rows"
        )
    return parts
