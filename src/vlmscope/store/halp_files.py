"""Files in the HALP layout, read as one table: a group per question, a dataset per vector.

The files are ``<prefix>_part_001.h5`` and so on, or one file, also one written by ``vlmscope
export``. They are not guaranteed to be complete: a row may lack a vector, or have one of another
width or with non-finite values; a question may be in two parts; a part may be truncated. So all
files are read once when they are opened, to find the location of each question and the faults of
its vectors. A matrix is read on request, one at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.schema import REPRESENTATIONS, VISION_ONLY, Progress
from vlmscope.schema import representation as group_of
from vlmscope.shown import count
from vlmscope.store.format.batch import HALP_TEXTS, QUESTION_ID
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.naming import vector_path
from vlmscope.store.halp_rows import (
    IMAGE_HASHES,
    HalpRow,
    HalpStatistics,
    VectorKey,
    opened_halp,
    read_attributes,
    read_rows,
    read_vector,
)
from vlmscope.store.table import metadata_name

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


SUFFIXES = (".h5", ".hdf5")
"""Suffixes of the files that are looked for in a folder."""

FAILED_ANSWER = "[Generation failed"
"""Beginning of the text that the HALP research code wrote as an answer if generation failed."""

Fault = Literal["", "missing", "of another width", "not finite"]
"""Why a row's vector is not in its matrix; empty if it is."""

_PART = re.compile(r"(?P<prefix>.+)_part_\d+")
_ORDER = {name: i for i, name in enumerate((VISION_ONLY, *REPRESENTATIONS.values()))}


def find_halp_files(path: Path) -> list[Path]:
    """Return the HDF5 files of a folder, or the file itself; empty if there is neither."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    return [path] if path.is_file() else []


def open_halp_files(path: str | Path, *, progress: Progress = lambda _: None) -> HalpFiles:
    """Read the files of one extraction of the HALP research code.

    Args:
        path: A folder of ``.h5`` files, or one file.
        progress: Called with the name of each file before it is read.

    Raises:
        InputError: There are no files, they are of several models, one is truncated or damaged, or
            none has a question in the HALP layout.
    """
    source = Path(path)
    found = find_halp_files(source)
    screen_ahead((file, "all") for file in found)
    attributes = {file: read_attributes(file) for file in found}
    if not attributes:
        raise InputError(
            f"{source}: no {' or '.join(SUFFIXES)} file found; give a folder of such files, or one"
        )
    _check_one_extraction(source, attributes)
    rows: dict[str, HalpRow] = {}
    copies = 0
    for file in sorted(attributes, key=lambda file: _age(file, attributes[file])):
        progress(file.name)
        for row in read_rows(file):
            copies += rows.pop(row.id, None) is not None
            rows[row.id] = row
    if not any(row.widths and row.texts.get("question") for row in rows.values()):
        raise InputError(
            f"{source}: no question in the HALP layout, with its text and vectors; give the files "
            "of an extraction"
        )
    return HalpFiles(source, tuple(attributes), _agreed(attributes), tuple(rows.values()), copies)


class HalpFiles:
    """The rows of one extraction. Returned by ``open_halp_files``; no file is kept open."""

    def __init__(
        self,
        path: Path,
        files: tuple[Path, ...],
        attrs: Mapping[str, Any],
        rows: tuple[HalpRow, ...],
        copies: int,
    ) -> None:
        self.path = path
        """The folder, or the file."""
        self.files = files
        """The files, by name."""
        self.attrs = attrs
        """The root attributes that are equal in all files, as JSON values."""
        self.copies = copies
        """Number of rows ignored because a file that was written later has the same question."""
        self.ids: tuple[str, ...] = tuple(row.id for row in rows)
        """The question ids. Row i of every matrix belongs to ``ids[i]``."""
        self._rows = rows
        self._widths = _usual_widths(rows)

    def __repr__(self) -> str:
        rows = count(len(self), "row")
        return f"HalpFiles({str(self.path)!r}, {rows}, {', '.join(self.representations)})"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def representations(self) -> tuple[str, ...]:
        """The names that ``matrix`` accepts: those of all vectors that any row has."""
        return tuple(dict.fromkeys(name for name, _ in self._widths))

    def layers(self, representation: str) -> tuple[int, ...]:
        """Return the layers of a representation in any row; empty for the vision encoder's."""
        wanted = group_of(representation)
        return tuple(layer for name, layer in self._widths if name == wanted and layer is not None)

    def faults(self, representation: str, layer: int | None = None) -> list[Fault]:
        """Return the fault of each row's vector; the expected width is that of most rows."""
        key = (group_of(representation), layer)
        width = self._width(key)
        return [_fault(row, key, width) for row in self._rows]

    def matrix(self, representation: str, layer: int | None = None) -> NDArray[np.float32]:
        """Return ``[N, D]``, row i belonging to ``ids[i]``; NaN for rows with a fault."""
        key = (group_of(representation), layer)
        width = self._width(key)
        result = np.full((len(self), width), np.nan, np.float32)
        valid = [(i, row) for i, row in enumerate(self._rows) if not _fault(row, key, width)]
        for path, rows in groupby(valid, key=lambda numbered: numbered[1].file):
            with opened_halp(path) as file:
                for i, row in rows:
                    result[i] = read_vector(file, row, key)
        return result

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per question: the specification's strings, empty if absent.

        ``image_sha256``, ``image_dhash`` and ``image_thumbnail`` are included if every row has
        them; they are empty if the question has no image. Other columns of the table that the rows
        came from are last; None if a row has no value.
        """
        import pandas as pd

        texts = {name: [row.texts.get(name, "") for row in self._rows] for name in HALP_TEXTS}
        hashes = {
            name: [row.hashes[name] for row in self._rows]
            for name in IMAGE_HASHES
            if all(name in row.hashes for row in self._rows)
        }
        columns: dict[str, list[Any]] = {QUESTION_ID: list(self.ids), **texts, **hashes}
        for name, cells in self.metadata().items():
            columns[metadata_name(name, columns)] = cells
        return pd.DataFrame(columns)

    def metadata(self) -> dict[str, list[Any]]:
        """Return the other columns of the table that the rows came from, by name, each ``[N]``.

        Exports of vlmscope contain them; None if a row has no value.
        """
        names = dict.fromkeys(name for row in self._rows for name in row.metadata)
        return {name: [row.metadata.get(name) for row in self._rows] for name in names}

    def statistics(self) -> tuple[HalpStatistics, ...]:
        """Return the data on prompt, first token and answer stored with each row."""
        return tuple(row.statistics for row in self._rows)

    def _width(self, key: VectorKey) -> int:
        if key not in self._widths:
            have = ", ".join(vector_path(*known) for known in self._widths)
            raise InputError(f"{self.path}: no {vector_path(*key)}, there are {have}")
        return self._widths[key]


def _age(file: Path, attributes: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return the sort key of a file: the time it was written, or else its number.

    A restart overwrites the first parts and leaves the later ones of the previous attempt: the
    highest number is not always the last written.
    """
    return str(attributes.get("created_at", "")), len(file.name), file.name


def _usual_widths(rows: Sequence[HalpRow]) -> dict[VectorKey, int]:
    """Return the most common width of each vector, in the order of representations in a run."""
    counts: dict[VectorKey, Counter[int]] = {}
    for row in rows:
        for key, width in row.widths.items():
            counts.setdefault(key, Counter())[width] += 1
    keys = sorted(counts, key=lambda at: (_ORDER.get(at[0], len(_ORDER)), at[0], at[1] or 0))
    return {key: counts[key].most_common(1)[0][0] for key in keys}


def _fault(row: HalpRow, key: VectorKey, width: int) -> Fault:
    if key not in row.widths:
        return "missing"
    if row.widths[key] != width or not width:
        return "of another width"
    return "not finite" if key in row.not_finite else ""


def _check_one_extraction(path: Path, attributes: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse files of several models: their questions have the same ids."""
    parts = [_PART.fullmatch(file.stem) for file in attributes]
    found = {part["prefix"] if part else "others" for part in parts}
    if len(found) == 1:
        found = {str(a["model_name"]) for a in attributes.values() if "model_name" in a}
    if len(found) > 1:
        raise InputError(
            f"{path}: files of several extractions: {', '.join(sorted(found))}; give each its own "
            "folder, or give one file"
        )


def _agreed(attributes: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes that are equal in all files."""
    first, *others = attributes.values()
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }
