"""Files of the HALP research joined with a CSV file of labels.

All representations are compared on the same rows. If a few rows lack a vector, those rows are left
out; if many do, that representation or layer is. Both are counted and reported.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.probes import image_groups
from vlmscope.probes.baselines import BaselineInputs
from vlmscope.regular import open_regular
from vlmscope.score import LabelFile
from vlmscope.score.column import EMPTY, ID_COLUMNS, LABEL_COLUMNS, find_column
from vlmscope.store import FAILED_ANSWER, HalpFiles, vector_path
from vlmscope.store.halp_files import Fault
from vlmscope.store.halp_rows import HalpStatistics
from vlmscope.sweeps.data import (
    LeftOut,
    ProbeData,
    check_truth,
    images_of,
    kind_of,
    some_left_out,
    usable_columns,
)
from vlmscope.sweeps.grouping import (
    NO_IMAGE,
    Grouping,
    comparable,
    group_by_content,
    has_image,
    without_image_layers,
)
from vlmscope.sweeps.source import RESEARCH, LayerKey, layer_keys

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


FEW = 0.05
"""Largest share of rows left out to keep one representation or layer."""

FEW_IN_ALL = 0.10
"""Largest share of rows left out to keep all of them."""

IMAGE_COLUMNS = ("image_id", "image_name")
"""Columns of a label file with the image's name."""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A label file with all its columns. Made by ``read_label_table``."""

    path: Path
    """The CSV file."""
    labels: Mapping[str, bool | None]
    """Question id → True for hallucinated, None for an empty cell."""
    metadata: Mapping[str, Mapping[str, str]]
    """Further column → question id → cell."""
    unscorable: frozenset[str] = frozenset()
    """The ids whose cell marks the answer as unscorable."""


def read_label_table(path: Path) -> LabelTable:
    """Read a CSV file of labels like ``LabelFile``, with its further columns.

    Raises:
        InputError: The file cannot be read, lacks a column, or a cell is not a label.
    """
    read = LabelFile(path)
    with TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
        lines = (cells for cells in csv.reader(file, strict=True) if cells)
        header = next(lines, [])
        at = [find_column(header, names) for names in (ID_COLUMNS, LABEL_COLUMNS)]
        used = [header[index] for index in at if index is not None]
        metadata: dict[str, dict[str, str]] = {name: {} for name in header if name not in used}
        for cells in lines:
            row = dict(zip(header, cells, strict=True))
            for name, known in metadata.items():
                known.setdefault(row[used[0]], row[name])
    return LabelTable(path, read.labels, metadata, read.unscorable)


def research_data(files: HalpFiles, table: LabelTable, copies: str = "near") -> ProbeData:
    """Join HALP files with their labels.

    Images are identified by ``image_id``: HALP's own files contain no hashes. Exports of vlmscope
    do.

    Args:
        files: The files.
        table: Their labels.
        copies: Which images count as equal, if the files contain hashes: one of
            ``grouping.COPIES``.

    Raises:
        InputError: No rows are left, or labels of one class only.
    """
    texts = files.to_pandas()
    labelled = np.array([table.labels.get(id_) is not None for id_ in files.ids])
    failed = labelled & texts["answer"].str.startswith(FAILED_ANSWER).to_numpy(bool)
    imaged = has_image(texts) if "image_sha256" in texts else np.ones(len(files), dtype=bool)
    fit = comparable(imaged)
    rows = np.flatnonzero(labelled & ~failed & fit)
    if not len(rows):
        raise InputError(_nothing(files, table))
    left_out = [*_without_verdict(files, table)]
    left_out += some_left_out("row", int(failed.sum()), "generation failed, there is no answer")
    bare = int((labelled & ~failed & ~fit).sum())
    left_out += some_left_out("row", bare, NO_IMAGE)
    known = layer_keys(files) if imaged.any() else without_image_layers(layer_keys(files))
    usable = _usable(files, known, rows, left_out)
    rows = _whole(rows, usable, left_out)
    ids = tuple(files.ids[i] for i in rows)
    truth = np.array([table.labels[id_] for id_ in ids], dtype=bool)
    check_truth(files.path, truth)
    kept = texts.iloc[rows]
    metadata = {name: [cells[id_] for id_ in ids] for name, cells in table.metadata.items() if name}
    columns = _columns(files, rows, metadata)
    return ProbeData(
        rows=rows,
        ids=ids,
        truth=truth,
        grouping=_grouping(kept, metadata, copies),
        baseline_inputs=_inputs(files, kept, rows, columns),
        categories=_column(columns, "category"),
        unscorable=int((~labelled).sum()),
        unlabelled=int((~labelled).sum()) - len(table.unscorable.intersection(files.ids)),
        layer_keys=tuple(usable),
        left_out=tuple(left_out),
        origin=_origin(files, table),
        metadata=metadata,
        columns=usable_columns(columns),
    )


def _origin(files: HalpFiles, table: LabelTable) -> dict[str, Any]:
    """Return the entries of ``results.json`` that name the data."""
    return {
        "source": RESEARCH,
        "files": [file.name for file in files.files],
        "labels": str(table.path),
    }


def _columns(
    files: HalpFiles, rows: NDArray[np.int64], metadata: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[Any]]:
    """Return the columns of the label file, and those of the HALP files that it lacks."""
    own = {name: [cells[i] for i in rows] for name, cells in files.metadata().items()}
    return {**own, **metadata}


def _nothing(files: HalpFiles, table: LabelTable) -> str:
    """Return the error for no rows; most often the ids are written differently."""
    one, other = next(iter(table.labels), "none"), files.ids[0]
    return (
        f"{table.path}: has no label of a usable row among the {len(files)} of {files.path}; its "
        f"ids look like {one!r}, theirs like {other!r}; give the labels of these files"
    )


def _without_verdict(files: HalpFiles, table: LabelTable) -> Iterator[LeftOut]:
    """Yield what is left out before any answer or vector is checked."""
    name = table.path.name
    unknown = len(table.labels.keys() - set(files.ids))
    absent = sum(id_ not in table.labels for id_ in files.ids)
    empty = sum(table.labels.get(id_, True) is None for id_ in files.ids)
    yield from some_left_out("copy", files.copies, "the question is repeated in a later file")
    yield from some_left_out("label", unknown, "the files do not have the question")
    yield from some_left_out("row", absent, f"not in {name}")
    yield from some_left_out("row", empty, f"no label in {name}")


def _grouping(table: pd.DataFrame, metadata: Mapping[str, Sequence[str]], copies: str) -> Grouping:
    """Group rows by their images: by content if the files have hashes, else by name."""
    if "image_sha256" in table:
        return group_by_content(table, copies)
    images, grouped_by = _images(list(table["image_id"]), metadata)
    return Grouping(np.asarray(image_groups(images)), grouped_by, len(set(images)))


def _images(names: Sequence[str], metadata: Mapping[str, Sequence[str]]) -> tuple[list[str], str]:
    """Return the name of each row's image, and how images are identified.

    HALP's code wrote "nan" for a missing name, which the label file may have. One column is used "
    "for all rows, if possible: two columns may write the same name differently.
    """
    known = [metadata[column] for column in IMAGE_COLUMNS if column in metadata]
    for column in (names, *known):
        if not any(name.strip().lower() in EMPTY for name in column):
            return list(column), "image_id"
    images = [
        next((name for name in row if name.strip().lower() not in EMPTY), "")
        for row in zip(names, *known, strict=True)
    ]
    if lacking := images.count(""):
        return images, f"image_id ({lacking:,} rows have none and count as one image)"
    return images, "image_id"


def _usable(
    files: HalpFiles, known: Iterable[LayerKey], rows: NDArray[np.int64], left_out: list[LeftOut]
) -> dict[LayerKey, list[Fault]]:
    """Return the faults of the rows' vectors, of representations and layers that most rows have."""
    usable = {}
    for key in known:
        faults = files.faults(*key)
        found = Counter(faults[i] for i in rows)
        bad = len(rows) - found.pop("", 0)
        if bad > FEW * len(rows):
            kinds = ", ".join(f"{count:,} {fault}" for fault, count in found.most_common())
            left_out.append(LeftOut(vector_path(*key), bad, f"of {len(rows):,} vectors {kinds}"))
        else:
            usable[key] = faults
    if not usable:
        raise InputError(
            f"{files.path}: no representation that {1 - FEW:.0%} of the {len(rows):,} labelled "
            "rows have; give the files of a complete extraction"
        )
    return _enough(usable, rows, left_out)


def _enough(
    usable: dict[LayerKey, list[Fault]], rows: NDArray[np.int64], left_out: list[LeftOut]
) -> dict[LayerKey, list[Fault]]:
    """Leave out representations and layers that most rows lack until few rows in total are lost."""
    lacking = {key: frozenset(i for i in rows if faults[i]) for key, faults in usable.items()}
    while len(frozenset().union(*lacking.values())) > FEW_IN_ALL * len(rows):
        worst = max(lacking, key=lambda key: len(lacking[key]))
        bad = len(lacking.pop(worst))
        reason = f"of {len(rows):,} vectors {bad:,} missing or bad, too many together with others"
        left_out.append(LeftOut(vector_path(*worst), bad, reason))
    return {key: usable[key] for key in lacking}


def _whole(
    rows: NDArray[np.int64], usable: Mapping[LayerKey, Sequence[Fault]], left_out: list[LeftOut]
) -> NDArray[np.int64]:
    """Return the rows that have every usable vector."""
    lacks = [
        {f"{name} {faults[i]}" for (name, _), faults in usable.items() if faults[i]} for i in rows
    ]
    reasons = Counter(", ".join(sorted(lack)) for lack in lacks if lack)
    left_out += [LeftOut("row", count, reason) for reason, count in reasons.most_common()]
    return rows[[not lack for lack in lacks]]


def _inputs(
    files: HalpFiles,
    kept: pd.DataFrame,
    rows: NDArray[np.int64],
    metadata: Mapping[str, Sequence[Any]],
) -> BaselineInputs:
    """Return the inputs of the baselines for some rows; numbers only if every row has them."""
    every = files.statistics()
    known = [every[i] for i in rows]
    ids, logprobs = _likeliest(known)
    return BaselineInputs(
        question=list(kept["question"]),
        category=_column(metadata, "category"),
        answer_type=_column(metadata, "answer_type"),
        first_token_entropy=_number(row.first_token_entropy for row in known),
        first_token_logprob=None if logprobs is None else logprobs[:, 0],
        num_answer_tokens=_number(row.num_answer_tokens for row in known),
        mean_answer_logprob=_number(row.mean_answer_logprob for row in known),
        first_token=None if ids is None else tuple(map(str, ids[:, 0].tolist())),
        first_token_ids=ids,
        first_token_logprobs=logprobs,
        num_prompt_tokens=_number(row.num_prompt_tokens for row in known),
        num_images=_images_of(kept),
    )


def _likeliest(
    known: Sequence[HalpStatistics],
) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
    """Return the likeliest first tokens and their log-probabilities, ``[N, K]``.

    K is that of the row with the fewest.
    """
    ids = [row.first_token_ids for row in known if row.first_token_ids is not None]
    logprobs = [row.first_token_logprobs for row in known if row.first_token_logprobs is not None]
    if len(ids) < len(known) or len(logprobs) < len(known):
        return None, None
    fewest = min(map(len, ids))
    return (
        np.stack([each[:fewest] for each in ids]),
        np.stack([each[:fewest] for each in logprobs]),
    )


def _number(values: Iterable[float | None]) -> NDArray[np.float64] | None:
    """Return numbers as an array; None if a row has none."""
    found = list(values)
    return None if None in found else np.array(found, np.float64)


def _images_of(kept: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return the number of images of each question, if there are hashes."""
    if "image_sha256" not in kept:
        return None
    return np.array([images_of(text) for text in kept["image_sha256"]], np.float64)


def _column(metadata: Mapping[str, Sequence[Any]], name: str) -> tuple[str, ...] | None:
    return tuple(map(kind_of, metadata[name])) if name in metadata else None
