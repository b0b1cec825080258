"""From what the user typed to a reader: a file by its extension, a saved folder, a hub name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from os import PathLike, fspath
from pathlib import Path

from vlmscope.dataset._csv import CsvSource
from vlmscope.dataset._hub import open_hub, open_saved
from vlmscope.dataset._json import JsonLinesSource, JsonListSource
from vlmscope.dataset._parquet import ParquetSource
from vlmscope.dataset._source import Source
from vlmscope.errors import InputError
from vlmscope.regular import NotRegularError, open_regular

READERS: Mapping[str, Callable[[Path], Source]] = {
    ".csv": CsvSource,
    ".tsv": lambda path: CsvSource(path, delimiter="\t"),
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".json": JsonListSource,
    ".parquet": ParquetSource,
}
"""Extension in lower case → reader."""

_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<split>.+))?")


def open_source(data: str | PathLike[str]) -> tuple[Source, Path]:
    """Find the reader for ``data`` and the folder in which its images are looked for.

    ``data`` is a file, a folder that ``datasets.save_to_disk`` wrote, ``owner/name`` on the hub,
    or one of the last two with ``:split``. Images are looked for beside the file or the folder,
    for the hub in the current directory.

    Raises:
        InputError: nothing is there, or it is of no known kind.
    """
    text = fspath(data)
    path = Path(text)
    if path.is_dir():
        return open_saved(path, None), path.parent
    if path.exists():
        return _open_file(path), path.parent
    folder, _, split = text.rpartition(":")
    if folder and Path(folder).is_dir():
        return open_saved(Path(folder), split), Path(folder).parent
    hub = _HUB_NAME.fullmatch(text)
    if hub and path.suffix.lower() not in READERS:
        return open_hub(hub["name"], hub["split"]), Path()
    raise InputError(f"{text}: no such file or folder; check the path")


def _open_file(path: Path) -> Source:
    try:
        open_regular(path).close()
    except NotRegularError as error:
        raise InputError(
            f"{path}: {error.strerror}; a table is read more than once: save it as a file first"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); check its rights"
        ) from error
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: unknown extension {path.suffix!r}, expected one of {', '.join(READERS)}; "
            "save the table as one of them"
        )

    return reader(path)
