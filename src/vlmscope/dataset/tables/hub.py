"""Reader of ``datasets`` tables: a saved folder, or a name on the hub.

Rows are read as Arrow batches, never through the library's decoders. An image therefore remains
``{bytes, path}`` as stored, and a broken one is a failed row rather than a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from vlmscope.dataset.source import Row, Source
from vlmscope.dataset.tables.parquet import (
    BATCH_ROWS,
    declared_media,
    plain_rows,
    pyarrow_and_parquet,
)
from vlmscope.errors import InputError, named_line
from vlmscope.progress_bars import without_bars
from vlmscope.regular import check_folder


@dataclass(frozen=True, slots=True)
class _File:
    """The state of a file at some time."""

    path: str
    state: tuple[int, int, int]
    """Inode, size and modification time."""

    @classmethod
    def now(cls, path: str) -> _File:
        """Return the current state of a file."""
        found = os.stat(path)  # noqa: PTH116 - asked for every few rows
        return cls(path, (found.st_ino, found.st_size, found.st_mtime_ns))

    def was_written_to(self) -> bool:
        """Return whether this same file was modified since."""
        try:
            now = _File.now(self.path)
        except FileNotFoundError:
            return False
        return now.state[0] == self.state[0] and now != self


@dataclass(frozen=True)
class DatasetSource(Source):
    """A ``datasets.Dataset``. Rows are counted from 1."""

    name: str
    dataset: Any
    files: tuple[_File, ...] = ()
    """State of the memory-mapped files when the dataset was opened."""

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the dataset."""
        return tuple(self.dataset.column_names)

    def media(self) -> dict[str, str]:
        """Return the columns of sounds and videos."""
        return declared_media(self.dataset.features.to_dict())

    def rows(self) -> Iterator[Row]:
        """Yield the rows; a class label is given by its name, as text, rather than its number.

        Raises:
            InputError: the files are damaged, or were modified since the dataset was opened.
        """
        labels = _label_names(self.dataset)
        for number, values in enumerate(self._plain_rows(), start=1):
            for column, names in labels.items():
                values[column] = _label(values[column], names)
            yield Row(number, values)

    def _plain_rows(self) -> Iterator[dict[str, Any]]:
        pyarrow, _ = pyarrow_and_parquet()
        damaged = pyarrow.ArrowException  # also where this is closed while the interpreter ends
        self._check_files()
        try:
            for batch in self.dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
                yield from plain_rows(batch)
                self._check_files()
        except damaged as error:
            raise InputError(
                f"{self.name}: cannot be read as a saved dataset ({named_line(error)}); save it "
                "again"
            ) from error

    def _check_files(self) -> None:
        """Raise if a mapped file was modified since it was opened: it may be truncated.

        Reading beyond the end of a mapped file kills the process. Replacing the file by another of
        its name is harmless: the old one stays mapped.
        """
        for file in self.files:
            if file.was_written_to():
                raise InputError(f"{file.path}: was written to while it was read; save it again")


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder."""
    return any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json"))


def open_saved(folder: Path, split: str | None) -> DatasetSource:
    """Open a folder that ``save_to_disk`` wrote.

    Raises:
        InputError: it cannot be loaded, the split does not exist or was not given, or
            ``datasets`` is missing.
    """
    try:
        check_folder(folder)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; save the dataset again") from error
    datasets = _datasets()
    try:
        with _without_bars(datasets):
            loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises anything on a damaged folder
        raise InputError(
            f"{folder}: the saved dataset cannot be loaded ({named_line(error)}); save it again"
        ) from error
    if isinstance(loaded, dict):
        return _pick(loaded, str(folder), split)
    if split not in (None, str(loaded.split)):
        raise InputError(f"{folder}: contains one table without splits; leave ':{split}' out")
    return _source(folder.name, loaded)


def open_hub(name: str, split: str | None) -> DatasetSource:
    """Load ``owner/name`` from the Hugging Face hub, or from its cache.

    Raises:
        InputError: it cannot be loaded, the split does not exist or was not given, or ``datasets``
            is missing.
    """
    datasets = _datasets()
    try:
        with _without_bars(datasets):
            loaded = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, rights, unknown names, broken scripts …
        raise InputError(
            f"{name}: no such file or folder here, and the hub dataset of that name cannot be "
            f"loaded ({named_line(error)}); check the path, or fetch it elsewhere, save it to "
            "disk and name the folder"
        ) from error
    if isinstance(loaded, dict):
        return _pick(loaded, name, split)
    return _source(f"{name}:{split}" if split else name, loaded)


def _source(name: str, dataset: Any) -> DatasetSource:
    files = tuple(_File.now(file["filename"]) for file in dataset.cache_files)
    return DatasetSource(name, dataset, files)


def _pick(splits: dict[str, Any], name: str, split: str | None) -> DatasetSource:
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        asked = f"no split {split!r}." if split else "has several splits."
        raise InputError(
            f"{name}: {asked} Found {', '.join(splits)}; write {name}:{next(iter(splits), 'SPLIT')}"
        )
    return _source(f"{Path(name).name}:{split}", splits[split])


def _label_names(dataset: Any) -> dict[str, list[str]]:
    label = _datasets().ClassLabel
    return {
        column: list(feature.names)
        for column, feature in dataset.features.items()
        if isinstance(feature, label)
    }


def _label(value: int | None, names: list[str]) -> str | None:
    """Return the name of a class; the library writes -1 for none."""
    return names[value] if value is not None and value >= 0 else None


@contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    """Hide the library's progress bars, and those of the hub's downloads, unless wanted."""
    utils: Any = import_module("huggingface_hub.utils")
    shown = (lambda: not datasets.are_progress_bars_disabled(),
             lambda: not utils.are_progress_bars_disabled())  # fmt: skip
    with (
        without_bars(shown[0], datasets.disable_progress_bars, datasets.enable_progress_bars),
        without_bars(shown[1], utils.disable_progress_bars, utils.enable_progress_bars),
    ):
        yield


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "reading a saved or hub dataset needs the datasets library, which is not installed; "
            "pip install datasets"
        ) from error
    return datasets
