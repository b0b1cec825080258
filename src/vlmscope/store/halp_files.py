"""Files in the HALP layout, read as one table: a group per question, a dataset per vector.

``<prefix>_part_001.h5`` and so on, or one file, also one that ``vlmscope export`` wrote. Such files
promise nothing: a row may lack a vector, or have one of another width, or one that is not finite; a
question may stand in two parts; a part may be cut short. So everything is read once when they are
opened, to learn where each question is and what its vectors lack. A matrix is read when it is asked
for, one at a time.
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
from vlmscope.store.format.batch import QUESTION_ID, SEED_TEXTS
from vlmscope.store.format.hdf5_screening import screen_ahead
from vlmscope.store.format.naming import vector_path
from vlmscope.store.halp_rows import (
    IMAGE_HASHES,
    Place,
    SeedFacts,
    SeedRow,
    opened_seed,
    read_attributes,
    read_rows,
    read_vector,
)
from vlmscope.store.table import metadata_name

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


SUFFIXES = (".h5", ".hdf5")
"""Of the files that a folder is searched for."""

FAILED_ANSWER = "[Generation failed"
"""How an answer begins that is none: research code wrote it where generation failed."""

Fault = Literal["", "missing", "of another width", "not finite"]
"""What keeps a row's vector out of its matrix; empty where nothing does."""

_PART = re.compile(r"(?P<prefix>.+)_part_\d+")
_ORDER = {name: i for i, name in enumerate((VISION_ONLY, *REPRESENTATIONS.values()))}


def find_seed_files(path: Path) -> list[Path]:
    """Return the HDF5 files of a folder, or the file itself; nothing where there is neither."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    return [path] if path.is_file() else []


def open_seed_files(path: str | Path, *, progress: Progress = lambda _: None) -> SeedFiles:
    """Read through the files of one extraction of the original research.

    Args:
        path: A folder of ``.h5`` files, or one file.
        progress: Told which file is being read.

    Raises:
        InputError: There are none, they are of several models, one is cut short or damaged, or
            none holds a question of the HALP layout.
    """
    place = Path(path)
    found = find_seed_files(place)
    screen_ahead((file, "all") for file in found)
    attributes = {file: read_attributes(file) for file in found}
    if not attributes:
        raise InputError(f"{place}: no {' or '.join(SUFFIXES)} file there; give others")
    _check_one_extraction(place, attributes)
    rows: dict[str, SeedRow] = {}
    copies = 0
    for file in sorted(attributes, key=lambda file: _age(file, attributes[file])):
        progress(file.name)
        for row in read_rows(file):
            copies += rows.pop(row.id, None) is not None
            rows[row.id] = row
    if not any(row.widths and row.texts.get("question") for row in rows.values()):
        raise InputError(
            f"{place}: no question of the HALP layout, with its text and vectors; give the files "
            "of an extraction"
        )
    return SeedFiles(place, tuple(attributes), _agreed(attributes), tuple(rows.values()), copies)


class SeedFiles:
    """The rows of one extraction's files. Made by ``open_seed_files``; no file is kept open."""

    def __init__(
        self,
        path: Path,
        files: tuple[Path, ...],
        attrs: Mapping[str, Any],
        rows: tuple[SeedRow, ...],
        copies: int,
    ) -> None:
        self.path = path
        """The folder, or the file."""
        self.files = files
        """The files, by name."""
        self.attrs = attrs
        """The root attributes that all files agree on, as JSON takes them."""
        self.copies = copies
        """Rows left aside, as their question stands again in a file that was written later."""
        self.ids: tuple[str, ...] = tuple(row.id for row in rows)
        """The question ids. Row i of every matrix belongs to ``ids[i]``."""
        self._rows = rows
        self._widths = _usual_widths(rows)

    def __repr__(self) -> str:
        rows = count(len(self), "row")
        return f"SeedFiles({str(self.path)!r}, {rows}, {', '.join(self.representations)})"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def representations(self) -> tuple[str, ...]:
        """The names that ``matrix`` takes: all that any row has."""
        return tuple(dict.fromkeys(name for name, _ in self._widths))

    def layers(self, representation: str) -> tuple[int, ...]:
        """Return the layers of a representation that any row has; the vision encoder's has none."""
        wanted = group_of(representation)
        return tuple(layer for name, layer in self._widths if name == wanted and layer is not None)

    def faults(self, representation: str, layer: int | None = None) -> list[Fault]:
        """Return what is wrong with each row's vector, whose width should be that of most rows."""
        place = (group_of(representation), layer)
        width = self._width(place)
        return [_fault(row, place, width) for row in self._rows]

    def matrix(self, representation: str, layer: int | None = None) -> NDArray[np.float32]:
        """Return ``[N, D]``, row i belonging to ``ids[i]``; NaN where ``faults`` names one."""
        place = (group_of(representation), layer)
        width = self._width(place)
        result = np.full((len(self), width), np.nan, np.float32)
        whole = [(i, row) for i, row in enumerate(self._rows) if not _fault(row, place, width)]
        for path, rows in groupby(whole, key=lambda numbered: numbered[1].file):
            with opened_seed(path) as file:
                for i, row in rows:
                    result[i] = read_vector(file, row, place)
        return result

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row per question: the specification's strings, empty where absent.

        ``image_sha256``, ``image_dhash`` and ``image_thumbnail`` are there if every row has them;
        they are empty where the question has no image. Further columns of the table that the rows
        came from stand last; None where a row has none.
        """
        import pandas as pd

        texts = {name: [row.texts.get(name, "") for row in self._rows] for name in SEED_TEXTS}
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
        """Return the further columns of the table that the rows came from, by name, each ``[N]``.

        Exports of vlmscope hold them; None where a row has none.
        """
        names = dict.fromkeys(name for row in self._rows for name in row.metadata)
        return {name: [row.metadata.get(name) for row in self._rows] for name in names}

    def facts(self) -> tuple[SeedFacts, ...]:
        """Return what each row knows of its prompt, its first token and its answer."""
        return tuple(row.facts for row in self._rows)

    def _width(self, place: Place) -> int:
        if place not in self._widths:
            have = ", ".join(vector_path(*known) for known in self._widths)
            raise InputError(f"{self.path}: no {vector_path(*place)}, there are {have}")
        return self._widths[place]


def _age(file: Path, attributes: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return what files are sorted by: when they were written, or else their number.

    A restart overwrites the first parts and leaves the later ones of before: the highest number is
    not always the last written.
    """
    return str(attributes.get("created_at", "")), len(file.name), file.name


def _usual_widths(rows: Sequence[SeedRow]) -> dict[Place, int]:
    """Return the width that most rows have, by place; places in the order of a run."""
    counts: dict[Place, Counter[int]] = {}
    for row in rows:
        for place, width in row.widths.items():
            counts.setdefault(place, Counter())[width] += 1
    places = sorted(counts, key=lambda at: (_ORDER.get(at[0], len(_ORDER)), at[0], at[1] or 0))
    return {place: counts[place].most_common(1)[0][0] for place in places}


def _fault(row: SeedRow, place: Place, width: int) -> Fault:
    if place not in row.widths:
        return "missing"
    if row.widths[place] != width or not width:
        return "of another width"
    return "not finite" if place in row.not_finite else ""


def _check_one_extraction(path: Path, attributes: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse files of several models: their questions have the same ids."""
    parts = [_PART.fullmatch(file.stem) for file in attributes]
    found = {part["prefix"] if part else "others" for part in parts}
    if len(found) == 1:
        found = {str(a["model_name"]) for a in attributes.values() if "model_name" in a}
    if len(found) > 1:
        raise InputError(
            f"{path}: files of several extractions: {', '.join(sorted(found))}; give each a folder "
            "of its own, or give one file"
        )


def _agreed(attributes: Mapping[Path, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes that all files have alike."""
    first, *others = attributes.values()
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }
