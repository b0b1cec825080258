"""``open_source``: from the user's argument to a reader, for files, folders and hub names."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vlmscope.dataset.source import Source
from vlmscope.dataset.tables.csv import CsvSource
from vlmscope.dataset.tables.hub import is_saved, open_hub, open_saved
from vlmscope.dataset.tables.json import open_json
from vlmscope.dataset.tables.memory import InMemory, in_memory, with_listed_paths
from vlmscope.dataset.tables.parquet import ParquetSource
from vlmscope.dataset.tables.several import SeveralSource, tables_in
from vlmscope.dataset.tables.text import COMPRESSED, plain_suffix
from vlmscope.errors import InputError
from vlmscope.regular import NotRegularError, PointerError, open_regular
from vlmscope.schema import Sample

READERS: Mapping[str, Callable[[Path, str | None], Source]] = {
    ".csv": lambda path, _: CsvSource(path),
    ".tsv": lambda path, _: CsvSource(path, delimiter="\t"),
    ".jsonl": open_json,
    ".ndjson": open_json,
    ".json": open_json,
    ".parquet": lambda path, _: ParquetSource(path),
}
"""Extension in lower case → reader, given the file and the key of its records."""

_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<split>.+))?")
_PATTERN = re.compile(r"[*?\[]")
_NO_SUCH = "no such file or folder; check the path"

Named = str | PathLike[str] | Sequence[str | PathLike[str]]
"""Name of a table: a file, a folder, a pattern, a hub name; or several files."""

Rows = Iterable[Mapping[str, Any]] | Iterable[Sample]
"""Rows in memory."""

if TYPE_CHECKING:
    import datasets
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

    Data: TypeAlias = Named | InMemory | Rows | pd.DataFrame | datasets.Dataset
else:  # without loading the libraries
    Data = Named | InMemory | Rows
"""A table: its name, or the table itself, as ``in_memory`` accepts it."""


def open_source(data: Data, records: str | None = None) -> tuple[Source, Path]:
    """Return the reader for ``data`` and the default folder of its images.

    ``data`` is a file, a folder that ``datasets.save_to_disk`` wrote, a folder of tables,
    ``owner/name`` on the hub, or one of the last three with ``:split``; a pattern of files
    (``data/test-*.parquet``); or several of these files. The folder of images is that of the file
    or next to the saved folder, a folder of tables itself, and for the hub the current directory.

    The images of a table in memory are looked for in the current directory.

    Args:
        data: The table, or its name.
        records: The key of the rows in a JSON document.

    Raises:
        InputError: it does not exist, or is of an unknown kind.
    """
    data = with_listed_paths(data)
    if (table := in_memory(data)) is not None:
        return _open_memory(table, records)
    if not isinstance(data, str | PathLike):
        return _open_several([fspath(each) for each in cast("Sequence[str]", data)], records)
    text = fspath(data)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, None, records)
    if path.exists():
        return _open_file(path, records), path.parent
    folder, _, split = text.rpartition(":")
    if folder and Path(folder).is_dir():
        return _open_folder(Path(folder), split, records)
    hub = _HUB_NAME.fullmatch(text)
    if hub and plain_suffix(path) not in READERS:
        _refuse_records(records, text)
        return open_hub(hub["name"], hub["split"]), Path()
    if _PATTERN.search(text):
        return _open_several([text], records)
    raise InputError(f"{text}: {_NO_SUCH}")


def _open_memory(table: InMemory, records: str | None) -> tuple[Source, Path]:
    """Open a table in memory; its paths are relative to the current directory."""
    _refuse_records(records, table.name)
    if table.source is None:
        raise InputError(f"{table.name}: is in the memory of another process; give the table")
    return table.source, Path()


def shown_data(data: Named | InMemory) -> str:
    """Return the name of a table for messages."""
    if isinstance(data, InMemory):
        return data.name
    names = [data] if isinstance(data, str | PathLike) else data
    return ", ".join(fspath(name) for name in names)


def absolute_data(data: Named | InMemory) -> str | tuple[str, ...]:
    """Return the name of a table as an absolute path, for commands run from other directories.

    A folder may be given as ``folder:split``; a name that is not a path, such as a hub name, is
    unchanged.
    """
    if isinstance(data, InMemory):
        return data.name
    if not isinstance(data, str | PathLike):
        names = tuple(absolute_name(fspath(each)) for each in data)
        return names[0] if len(names) == 1 else names
    return absolute_name(fspath(data))


def absolute_name(name: str) -> str:
    """Return the absolute path of a local name; other names unchanged."""
    path, colon, split = name.rpartition(":")
    if colon and Path(path).exists() and not Path(name).exists():
        return f"{Path(path).resolve()}:{split}"
    if _PATTERN.search(name) and not Path(name).exists() and _fitting(name):
        return str(Path(name).absolute())
    return str(Path(name).resolve()) if Path(name).exists() else name


def folder_of_images(name: str | tuple[str, ...]) -> Path:
    """Return the default folder of a table's images, as ``open_source`` does, without opening it.

    Of a pattern it is the folder that all files are in or below that fit it.

    Args:
        name: The name of the table, as ``absolute_data`` returns it. It may have been removed.
    """
    names = (name,) if isinstance(name, str) else name
    return Path(commonpath(map(_folder_of_images, names)))


def _folder_of_images(name: str) -> Path:
    """Return the default folder of images of one file, folder, hub name or pattern."""
    path = Path(name).absolute()
    if not path.exists():
        folder, _, _ = name.rpartition(":")
        if folder and Path(folder).is_dir():
            path = Path(folder).absolute()
        elif _HUB_NAME.fullmatch(name) and plain_suffix(path) not in READERS:
            return Path().absolute()
        elif _PATTERN.search(name):
            return next(each for each in path.parents if not _PATTERN.search(str(each)))
    return path if path.is_dir() and not is_saved(path) else path.parent


def _fitting(pattern: str) -> list[Path]:
    """Return the paths that match a pattern, sorted; ``**`` matches folders of any depth."""
    # Path.glob takes no absolute pattern.
    return sorted(Path(each) for each in glob.glob(pattern, recursive=True))  # noqa: PTH207


def _open_several(names: Sequence[str], records: str | None) -> tuple[Source, Path]:
    """Open several files as one table, each given by a path or a pattern."""
    files: list[Path] = []
    for name in names:
        if Path(name).exists() or not _PATTERN.search(name):
            files.append(Path(name))
            continue
        found = _fitting(name)
        if not found:
            raise InputError(f"{name}: no file matches this pattern; check the path")
        files += [path for path in found if not path.is_dir()]
    if not files:
        raise InputError("expected at least one table; name a file")
    if len(files) == 1:
        return open_source(files[0], records)
    for path in files:
        if not path.exists():
            raise InputError(f"{path}: {_NO_SUCH}")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give several tables by their files")
    if len(set(files)) != len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise InputError(f"{twice}: is given twice; give each table once")
    called = names[0] if len(names) == 1 else f"{files[0].name} and {len(files) - 1} more"
    parts = tuple(_open_file(path, records) for path in files)
    return SeveralSource(parts, called), Path(commonpath(path.absolute().parent for path in files))


def _open_folder(folder: Path, split: str | None, records: str | None) -> tuple[Source, Path]:
    if is_saved(folder):
        _refuse_records(records, str(folder))
        return open_saved(folder, split), folder.parent
    files = tables_in(folder, split, tuple(READERS))
    if len(files) == 1:
        return _open_file(files[0], records), folder
    called = f"{folder}:{split}" if split else str(folder)
    return SeveralSource(tuple(_open_file(path, records) for path in files), called), folder


def _refuse_records(records: str | None, name: str) -> None:
    if records is not None:
        raise InputError(
            f"--records {records}: is for .json files, and {name} is not one; leave it out"
        )


def _open_file(path: Path, records: str | None) -> Source:
    try:
        open_regular(path).close()
    except NotRegularError as error:
        raise InputError(
            f"{path}: {error.strerror}; a table is read more than once: save it as a file first"
        ) from error
    except PointerError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); check its permissions"
        ) from error
    reader = READERS.get(plain_suffix(path))
    if reader is None:
        raise InputError(
            f"{path}: unknown extension {path.suffix!r}, expected one of {', '.join(READERS)}, "
            f"also followed by {', '.join(COMPRESSED)}; save the table as one of them"
        )
    if reader is not open_json:
        _refuse_records(records, path.name)
    try:
        return reader(path, records)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check the file"
        ) from (error)
