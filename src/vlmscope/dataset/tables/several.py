"""Several tables read as one: files given one by one, by a pattern, or by their folder.

A folder is expected in the layout of the Hugging Face hub: files of one split are numbered
``test-00000-of-00003.parquet``, and splits have names. One split is read, and all its files must be
present.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmscope.dataset.source import Row, Source
from vlmscope.dataset.tables.json import JsonSource
from vlmscope.dataset.tables.text import plain_suffix
from vlmscope.errors import InputError, join_names

_NUMBERED = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{8,64})?")
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval")
_SPLIT_NAME = re.compile(rf"(?<![a-z])({'|'.join(_SPLITS)})(?![a-z])", re.IGNORECASE)
_DEEPEST = 3
"""Levels of subfolders searched in a folder of tables."""


@dataclass(frozen=True)
class SeveralSource(Source):
    """Tables with the same columns, one after another."""

    parts: tuple[Source, ...]
    """The tables, at least one."""
    called: str
    """The user's argument: a pattern, a folder."""

    @property
    def name(self) -> str:  # type: ignore[override]  # read-only here, and never set elsewhere
        """The user's argument."""
        return self.called

    @property
    def missing(self) -> frozenset[str]:  # type: ignore[override]  # as the first table has it
        """Texts that mean "no value"."""
        return self.parts[0].missing

    def columns(self) -> tuple[str, ...]:
        """Return the columns, which must be those of every table.

        Raises:
            InputError: A table has other columns.
        """
        first, names = self.parts[0], self.parts[0].columns()
        every = dict.fromkeys(names)
        for part in self.parts[1:]:
            found = part.columns()
            in_json = isinstance(first, JsonSource) and isinstance(part, JsonSource)
            if type(part) is not type(first) and not in_json:
                raise InputError(
                    f"{self.name}: {first.name} and {part.name} are of different formats; name "
                    "tables of one format"
                )
            # Objects of JSON may lack a key; a header that lacks a column is a different table.
            if in_json:
                every.update(dict.fromkeys(found))
            elif set(found) != set(names):
                differing = sorted(set(found) ^ set(names))
                raise InputError(
                    f"{self.name}: {first.name} and {part.name} do not have the same columns: "
                    f"{join_names(differing)} in only one of them; name tables of the same columns"
                )
        return tuple(every)

    def media(self) -> Mapping[str, str]:
        """Return the columns of sounds and videos."""
        return {column: kind for part in self.parts for column, kind in part.media().items()}

    def rows(self) -> Iterator[Row]:
        """Yield the rows of every table."""
        for part in self.parts:
            within = f"{part.name} {part.unit}"
            for row in part.rows():
                yield row._replace(within=within)


def tables_in(folder: Path, split: str | None, known: Sequence[str]) -> list[Path]:
    """Return the files of a folder that together are one table.

    Args:
        folder: The folder.
        split: The split, if one was given.
        known: Extensions of tables.

    Raises:
        InputError: There is none; there are several splits, or formats, and none was chosen; a
            numbered file is missing.
    """
    files = sorted(_tables_below(folder, known, _DEEPEST))
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    chosen = splits.get(split or "", [])
    if not chosen and split:  # ``folder:test`` of data/test and the like
        ends = [name for name in splits if name.rpartition("/")[2] == split]
        chosen = splits[ends[0]] if len(ends) == 1 else []
    if not files:
        raise InputError(
            f"{folder}: found neither a table in this folder nor a dataset saved by Hugging Face "
            "datasets; name a table in it (.csv, .tsv, .jsonl, .json, .parquet)"
        )
    if not chosen:
        asked = f"no split {split!r}." if split else "has several splits."
        names = [name or files[0].name for name in splits]
        raise InputError(
            f"{folder}: {asked} Found {join_names(names)}; write {folder}:{names[0]}, or name the "
            "files"
        )
    _check_complete(folder, chosen)
    return chosen


def _tables_below(folder: Path, known: Sequence[str], levels: int) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith((".", "_", "~")):
            continue
        if path.is_dir():
            if levels:
                yield from _tables_below(path, known, levels - 1)
        elif plain_suffix(path) in known and path.name not in ("dataset_info.json", "README.json"):
            yield path


def _split_of(path: Path) -> str:
    """Return the name of the split that a file of a folder belongs to.

    >>> _split_of(Path("data/test-00000-of-00003.parquet")), _split_of(Path("val.csv"))
    ('test', 'val')
    >>> _split_of(Path("part_1.csv")), _split_of(Path("small/test/0000.parquet"))
    ('', 'small/test')
    """
    stem = path.name.split(".")[0]
    numbered = _NUMBERED.fullmatch(stem)
    folders = [part for part in path.parts[:-1] if part != "data"]
    named = _SPLIT_NAME.search(stem)
    split = numbered["split"] if numbered else named[1] if named else ""
    return "/".join([*folders, split] if split else folders)


def _check_complete(folder: Path, files: Sequence[Path]) -> None:
    """Raise for a split with a missing numbered file."""
    found = [_NUMBERED.fullmatch(path.name.split(".")[0]) for path in files]
    numbers = {int(one["number"]) for one in found if one}
    if not numbers:
        return
    first = next(one for one in found if one)
    gone = sorted(set(range(int(first["count"]))) - numbers)
    if gone:
        names = [f"{first['split']}-{number:05d}-of-{first['count']}" for number in gone]
        raise InputError(
            f"{folder}: {len(numbers)} of {int(first['count'])} files are there, missing "
            f"{join_names(names, 10)}; fetch them, or name the files to read"
        )
