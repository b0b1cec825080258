"""The test runs of a transfer, and what they share with the training run.

A probe that has seen an image may recognise it in another table, so the rows of the test run about
images of the training run are determined before anything is trained. Images are compared by content
and near-copies across both runs, independently of file names.

Test runs are opened, joined with their labels, and compared with the training run (models, images,
questions, vectors). Everything that can be refused is refused here, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.positions import VISION_ONLY
from vlmscope.probes import FoldError, grouped_folds, image_groups
from vlmscope.store import (
    DEFAULT,
    STATE_HASHES,
    AnyRun,
    Manifest,
    Run,
    as_run,
    model_differences,
    vector_path,
)
from vlmscope.sweeps.data import LeftOut, ProbeData, probe_data
from vlmscope.sweeps.grouping import content_groups, plain_question
from vlmscope.sweeps.run import SweepSpec
from vlmscope.sweeps.source import AnySource, LayerKey, as_source
from vlmscope.sweeps.transfer.fits import Part


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """The image groups of both runs, numbered together, and the rows that they share."""

    source_groups: NDArray[np.int64]
    """Group of each training row, ``[N]``."""
    groups: NDArray[np.int64]
    """Group of each row of the test run, ``[M]``; equal numbers are the same images."""
    shared: NDArray[np.bool_]
    """Rows of the test run whose image group is in the training run too, ``[M]``."""
    same_text: NDArray[np.bool_]
    """Rows whose question is asked in the training run too, of any image, ``[M]``."""
    same_question: NDArray[np.bool_]
    """Rows whose question is asked in the training run of the same image group, ``[M]``."""
    by: str
    """How images are identified: see ``Grouping.by``."""


@dataclass(frozen=True, slots=True)
class Relation:
    """How the models of two runs are related."""

    same_model: bool
    """Configuration, weights, processor and chat template are the same."""
    same_tokens: bool
    """The processor is the same, so token ids and prompt lengths are comparable."""
    model: str
    """As text: ``the same model``, ``another model (NAME)`` …, and whether only one of the runs has
    images: then the prompts differ in kind."""


def relation_of(source: Manifest, test: Manifest) -> Relation:
    """Return how the models of two runs are related, by the hashes in their manifests."""
    one, other = source.model, test.model
    differs = model_differences(asdict(one), asdict(other)).keys() & set(STATE_HASHES)
    if not differs:
        phrase = "the same model"
    elif "weights_hash" in differs or "config_hash" in differs:
        phrase = f"another model ({other.name.rstrip('/').rsplit('/', 1)[-1]})"
    else:
        kinds = [name.removesuffix("_hash").replace("_", " ") for name in sorted(differs)]
        phrase = f"the same weights behind another {' and '.join(kinds)}"
    return Relation(not differs, "processor_hash" not in differs, phrase)


def _with_kinds(relation: Relation, trained: bool, tested: bool) -> Relation:
    """Return a relation that says if only one of the runs has questions about images.

    Args:
        relation: How the models are related.
        trained: Whether the questions of the training run are about images.
        tested: Whether those of the test run are.
    """
    if trained == tested:
        return relation
    difference = (
        "with images (the training run has none)"
        if tested
        else "without images (the training run has images)"
    )
    return replace(relation, model=f"{relation.model}, {difference}")


def overlap_of(
    source: Run, train_data: ProbeData, test: Run, test_data: ProbeData, copies: str = "near"
) -> Overlap:
    """Return the overlap of two runs.

    Groups of either run are kept together: a group of one run may join groups of the other through
    an image that both contain.

    Args:
        source: The training run.
        train_data: Its rows.
        test: The test run.
        test_data: Its rows.
        copies: Of ``grouping.COPIES``.
    """
    sides = (source, train_data.rows), (test, test_data.rows)
    tables = [run.to_pandas(thumbnails=True).iloc[rows] for run, rows in sides]
    content, by = content_groups(tables, copies)
    count = len(train_data.rows)
    own = [f"a{g}" for g in train_data.groups] + [f"b{g}" for g in test_data.groups]
    names = [(f"image {c}", side) for c, side in zip(content, own, strict=True)]
    groups = np.asarray(image_groups(names), dtype=np.int64)
    texts = [plain_question(str(text)) for table in tables for text in table["question"]]
    asked, asked_here = set(texts[:count]), set(zip(texts[:count], groups[:count], strict=True))
    rest = list(zip(texts[count:], groups[count:], strict=True))
    return Overlap(
        source_groups=groups[:count],
        groups=groups[count:],
        shared=np.isin(groups[count:], groups[:count]),
        same_text=np.array([text in asked for text, _ in rest], dtype=bool),
        same_question=np.array([each in asked_here for each in rest], dtype=bool),
        by=by,
    )


def common_layers(
    source: Run, train_data: ProbeData, test: Run, test_data: ProbeData, *, needed: bool = True
) -> tuple[tuple[LayerKey, ...], tuple[LeftOut, ...]]:
    """Return the vectors that both runs have, and those left out, with the reason.

    Args:
        source: The training run.
        train_data: Its rows.
        test: The test run.
        test_data: Its rows.
        needed: Whether there must be one.

    Raises:
        InputError: One is needed and there is none, or layers of the two runs are defined
            differently.
    """
    mine, theirs = source.manifest, test.manifest
    for name in ("compat", "layer_k"):
        one, other = getattr(mine.capture, name), getattr(theirs.capture, name)
        if one != other:
            raise InputError(
                f"--test {test.path}: its layers are read as capture.{name} {other!r} says, those "
                f"of {source.path} as {one!r}: they are not the same vectors; extract one again"
            )
    available = set(test_data.layer_keys)
    found, lacking, widths = [], [], []
    for key in train_data.layer_keys:
        path = vector_path(*key)
        if key not in available or _pools_differently(key, mine, theirs):
            lacking.append(path)
        elif mine.widths()[path] != theirs.widths()[path]:
            widths.append((path, mine.widths()[path], theirs.widths()[path]))
        else:
            found.append(key)
    more = [
        vector_path(*key) for key in test_data.layer_keys if key not in set(train_data.layer_keys)
    ]
    left_out = tuple(_untransferable(lacking, widths, more))
    if needed and not found:
        why = "; ".join(f"{each.what}: {each.reason}" for each in left_out)
        raise InputError(
            f"--test {test.path}: no vector that a probe of {source.path} can read ({why}); give "
            "a run with the same layers and widths"
        )
    return tuple(found), left_out


def _pools_differently(key: LayerKey, mine: Manifest, theirs: Manifest) -> bool:
    """Return whether a vector is a mean over different positions in the two runs."""
    pooled = mine.capture.vision_pooling != theirs.capture.vision_pooling
    return key[0] == VISION_ONLY and pooled


def _untransferable(
    lacking: list[str], widths: list[tuple[str, int, int]], more: list[str]
) -> Iterator[LeftOut]:
    """Yield one entry for each reason, not for each vector."""
    if lacking:
        yield LeftOut(_shown_paths(lacking), len(lacking), "the test run has no such vector")
    if more:
        yield LeftOut(_shown_paths(more), len(more), "the training run has no such vector")
    if widths:
        path, mine, theirs = widths[0]
        names = _shown_paths([name for name, _, _ in widths])
        reason = f"its width differs ({mine} numbers in training, {theirs} in the test run)"
        if len({(one, other) for _, one, other in widths}) > 1:
            reason += f", as of {path}; other widths differ too"
        yield LeftOut(names, len(widths), reason)


def _shown_paths(paths: list[str]) -> str:
    """Return paths as a short text.

    >>> _shown_paths(["a/layer_0", "a/layer_1", "b/layer_0"])
    'a/layer_0 and 2 more'
    """
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


FEWEST_GROUPS = 3
"""Minimum number of image groups of each class in a test run."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A labelled test run, and its relation to the training run."""

    run: Run
    data: ProbeData
    """Its labelled rows, including those about shared images."""
    relation: Relation
    overlap: Overlap
    layers: tuple[LayerKey, ...]
    """The representations and layers that both runs have, with the same width."""
    left_out: tuple[LeftOut, ...]
    """Vectors that are not transferred, and rows that are not tested."""
    paired: bool
    """Whether the training run's folds are used, because the runs share their images."""
    kept: NDArray[np.int64]
    """The rows of ``data`` that are tested."""
    parts: tuple[Part, ...] = ()
    """Rows to train and to test on: rows of the training run, and positions in ``kept``."""

    @property
    def truth(self) -> NDArray[np.bool_]:
        """True where a tested answer is a hallucination, ``[M]``."""
        return self.data.truth[self.kept]

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each tested row's image group, ``[M]``."""
        return self.overlap.groups[self.kept]


def targets(
    source: AnySource,
    tests: Sequence[AnyRun],
    spec: SweepSpec | None = None,
    *,
    labels: str = DEFAULT,
    vectors: bool = True,
) -> tuple[Target, ...]:
    """Open the test runs, and raise for unusable ones before anything is trained.

    Args:
        source: The labelled training run.
        tests: Labelled test runs, or their folders.
        spec: Folds and seed, as for the sweep.
        labels: The label set of ``source``; test runs use their default sets.
        vectors: Whether each must have a vector in common with ``source``.

    Raises:
        InputError: As for ``transfer``.
    """
    run = checked_source(source)
    spec = spec or SweepSpec()
    train_data = probe_data(run, spec.copies, labels=labels)
    found: list[Target] = []
    for test in tests:
        opened = as_run(test)
        _check_other(run, opened, [each.run for each in found])
        found.append(_target(run, train_data, opened, spec, vectors=vectors))
    return tuple(found)


def listed(tests: AnyRun | Target | Iterable[AnyRun | Target]) -> list[AnyRun | Target]:
    """Return the test runs as a list; a single one need not be in one."""
    if isinstance(tests, Run | str | PathLike) or not isinstance(tests, Iterable):
        return [tests]
    return list(tests)


def checked_source(source: AnySource) -> Run:
    """Return the opened training run; raise for HALP files, which identify no model."""
    source = as_source(source)
    if isinstance(source, Run):
        return source
    raise InputError(
        f"--test: {source.path} contains HALP files, which identify neither their model nor "
        "the content of their images; give a run folder to train on"
    )


def _check_other(source: Run, test: Run, before: Sequence[Run]) -> None:
    """Raise for the training run, and for a duplicate run."""
    if test.manifest.run_id == source.manifest.run_id:
        raise InputError(
            f"--test {test.path}: is the training run (run_id {source.manifest.run_id[:8]}…); "
            "give another run; results within one run are those of its sweep"
        )
    if any(test.manifest.run_id == each.manifest.run_id for each in before):
        raise InputError(f"--test {test.path}: the run is given twice; give it once")


def _target(
    source: Run, train_data: ProbeData, test: Run, spec: SweepSpec, *, vectors: bool
) -> Target:
    """Return a test run with its labels and its relation to the training run."""
    data = probe_data(test, spec.copies)
    layers, left_out = common_layers(source, train_data, test, data, needed=vectors)
    overlap = overlap_of(source, train_data, test, data, spec.copies)
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
        relation=_with_kinds(
            relation_of(source.manifest, test.manifest),
            train_data.grouping.images > 0,
            data.grouping.images > 0,
        ),
        overlap=overlap,
        layers=layers,
        left_out=(*data.left_out, *left_out),
        paired=paired,
        kept=kept,
    )
    _check_enough(found)
    return replace(found, parts=_parts(train_data, found, spec))


def _check_enough(target: Target) -> None:
    """Raise for a test run with too few answers of a class."""
    truth, groups = target.truth, target.groups
    counts = [len(np.unique(groups[rows])) for rows in (truth, ~truth)]
    if min(counts) >= FEWEST_GROUPS:
        return
    lost = len(target.data.truth) - len(truth)
    raise InputError(
        f"--test {target.run.path}: {len(truth)} rows can be tested"
        + (f", {lost} more are about training images" if lost else "")
        + f"; image groups with hallucinated answers: {counts[0]}, with faithful ones: "
        f"{counts[1]}, and {FEWEST_GROUPS} of each are needed; label questions about other images"
    )


def _parts(train_data: ProbeData, target: Target, spec: SweepSpec) -> tuple[Part, ...]:
    """Return the training and test rows of each fit: one, or one for each fold of the images.

    Groups that only the test run has are assigned to the folds in turn, as any fit may test them.

    Raises:
        InputError: No fold has answers of both kinds to compare.
    """
    if not target.paired:
        return (Part(np.arange(len(train_data.truth)), np.arange(len(target.kept))),)
    groups = target.overlap.source_groups
    try:
        folds = grouped_folds(train_data.truth, groups, count=spec.folds, seed=spec.seed)
    except FoldError as error:
        raise InputError(
            f"--test {target.run.path}: shares its images with {len(train_data.truth)} rows of the "
            f"training run, and both together cannot be split by image: {error}"
        ) from error
    fold_of = {int(g): n for n, fold in enumerate(folds) for g in np.unique(groups[fold.test])}
    new = [int(g) for g in np.unique(target.groups) if int(g) not in fold_of]
    order = np.random.default_rng(spec.seed).permutation(len(new))
    fold_of |= {new[index]: rank % len(folds) for rank, index in enumerate(order)}
    fit_of = np.array([fold_of[int(g)] for g in target.groups])
    parts = tuple(
        Part(np.asarray(fold.train), np.flatnonzero(fit_of == number))
        for number, fold in enumerate(folds)
        if (fit_of == number).any()
    )
    if not any(0 < target.truth[part.test].sum() < len(part.test) for part in parts):
        raise InputError(
            f"--test {target.run.path}: no fold has hallucinated and faithful answers to compare; "
            "label more rows"
        )
    return parts
