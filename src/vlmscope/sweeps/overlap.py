"""What the two sides of a transfer share: the model, images, questions, and vectors.

A probe that has seen an image may recognise it in another table, so which rows of the test run
are about images of the training run is known before anything is judged. Images are compared by
content and near-copies over both runs together, whatever their files are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probes import image_groups
from vlmscope.schema import VISION_ONLY
from vlmscope.store import Manifest, Run, vector_path
from vlmscope.sweeps.data import LeftOut, ProbeData
from vlmscope.sweeps.grouping import content_groups, plain_question
from vlmscope.sweeps.source import Place

_MODEL = ("config_hash", "weights_hash", "processor_hash", "chat_template_hash")
"""What makes two models the same for a probe: what ``vlmscope score`` asks for too."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """The image groups of both sides, numbered together, and what stands on both."""

    source_groups: NDArray[np.int64]
    """Group of each row that is learnt from, ``[N]``."""
    groups: NDArray[np.int64]
    """Group of each row of the test run, ``[M]``; equal numbers are the same images."""
    shared: NDArray[np.bool_]
    """Rows of the test run whose image group is in the training run too, ``[M]``."""
    same_text: NDArray[np.bool_]
    """Rows whose question is asked in the training run too, of any image, ``[M]``."""
    same_question: NDArray[np.bool_]
    """Rows whose question is asked in the training run of the same image group, ``[M]``."""
    by: str
    """How images are told apart: see ``Grouping.by``."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Whether the vectors of two runs come from the same model."""

    same_model: bool
    """Configuration, weights, processor and chat template are the same."""
    same_tokens: bool
    """The processor is the same: token ids and prompt lengths mean the same."""
    model: str
    """In words: ``the same model``, ``another model (NAME)`` …"""


def relation_of(source: Manifest, test: Manifest) -> Relation:
    """Return how the models of two runs are related, by the hashes in their manifests."""
    one, other = source.model, test.model
    differs = {name for name in _MODEL if getattr(one, name) != getattr(other, name)}
    if not differs:
        phrase = "the same model"
    elif "weights_hash" in differs or "config_hash" in differs:
        phrase = f"another model ({other.name.rstrip('/').rsplit('/', 1)[-1]})"
    else:
        kinds = [name.removesuffix("_hash").replace("_", " ") for name in sorted(differs)]
        phrase = f"the same weights behind another {' and '.join(kinds)}"
    return Relation(not differs, "processor_hash" not in differs, phrase)


def overlap_of(
    source: Run, learnt: ProbeData, test: Run, judged: ProbeData, copies: str = "near"
) -> Overlap:
    """Return what two runs share.

    Rows that either side keeps together stay together: a group of one run may join groups of the
    other through an image that both show.

    Args:
        source: The run that is learnt from.
        learnt: Its rows.
        test: The run that is judged on.
        judged: Its rows.
        copies: Of ``grouping.COPIES``.
    """
    tables = [source.to_pandas().iloc[learnt.rows], test.to_pandas().iloc[judged.rows]]
    content, by = content_groups(tables, copies)
    count = len(learnt.rows)
    own = [f"a{g}" for g in learnt.groups] + [f"b{g}" for g in judged.groups]
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


def common_places(
    source: Run, learnt: ProbeData, test: Run, judged: ProbeData
) -> tuple[tuple[Place, ...], tuple[LeftOut, ...]]:
    """Return the vectors that a probe can be carried over on, and those left out, with the reason.

    Raises:
        InputError: There are none, or layers of the two runs mean different things.
    """
    mine, theirs = source.manifest, test.manifest
    for name in ("compat", "layer_k"):
        one, other = getattr(mine.capture, name), getattr(theirs.capture, name)
        if one != other:
            raise InputError(
                f"--test {test.path}: its layers are read as capture.{name} {other!r} says, those "
                f"of {source.path} as {one!r}: they are not the same vectors; extract one again"
            )
    there = set(judged.places)
    found, lacking, widths = [], [], []
    for place in learnt.places:
        path = vector_path(*place)
        if place not in there or _pools_otherwise(place, mine, theirs):
            lacking.append(path)
        elif mine.widths()[path] != theirs.widths()[path]:
            widths.append((path, mine.widths()[path], theirs.widths()[path]))
        else:
            found.append(place)
    left_out = tuple(_not_carried(lacking, widths, [vector_path(*p) for p in judged.places
                                                    if p not in set(learnt.places)]))  # fmt: skip
    if not found:
        why = "; ".join(f"{each.what}: {each.reason}" for each in left_out)
        raise InputError(
            f"--test {test.path}: no vector that a probe of {source.path} can read ({why}); give "
            "a run with the same layers and widths"
        )
    return tuple(found), left_out


def _pools_otherwise(place: Place, mine: Manifest, theirs: Manifest) -> bool:
    """Return whether a vector is a mean over other positions in the two runs."""
    pooled = mine.capture.vision_pooling != theirs.capture.vision_pooling
    return place[0] == VISION_ONLY and pooled


def _not_carried(
    lacking: list[str], widths: list[tuple[str, int, int]], more: list[str]
) -> Iterator[LeftOut]:
    """Yield one line for each reason, not for each vector."""
    if lacking:
        yield LeftOut(_listed(lacking), len(lacking), "the test run has no such vector")
    if more:
        yield LeftOut(_listed(more), len(more), "the training run has no such vector")
    if widths:
        path, mine, theirs = widths[0]
        names = _listed([name for name, _, _ in widths])
        reason = f"its width differs ({mine} numbers in training, {theirs} in the test run)"
        if len({(one, other) for _, one, other in widths}) > 1:
            reason += f", as of {path}; other widths differ too"
        yield LeftOut(names, len(widths), reason)


def _listed(paths: list[str]) -> str:
    """Return paths in a few words.

    >>> _listed(["a/layer_0", "a/layer_1", "b/layer_0"])
    'a/layer_0 and 2 more'
    """
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
