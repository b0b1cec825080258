"""``index.h5``: the complete run in one file. Disposable: deleting it loses nothing.

It contains links, not data: an external link per question and virtual datasets over the columns,
all relative, so the folder can be moved. Only strings and token lists are copied, because HDF5 has
no virtual datasets for them. It refers to packs only, because parts are removed and packs are not.
"""

from __future__ import annotations

import io
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.store.catalog import SHARDS, Shard, scan
from vlmscope.store.format.checksums import SEAL_SIZE, digest, read_column, seal_of, seal_on
from vlmscope.store.format.columns import as_ragged, as_texts
from vlmscope.store.format.low_level import group_at, write_attribute
from vlmscope.store.format.manifest import read_manifest
from vlmscope.store.format.naming import link_name
from vlmscope.store.format.shard import LIBVER, hdf5_file, opened, root_attributes
from vlmscope.store.format.validation import COLUMNS, columns_of
from vlmscope.store.storage.atomic import publishing
from vlmscope.store.storage.locks import waiting
from vlmscope.store.storage.paths import as_path

INDEX = "index.h5"
"""Name of the file in a run folder."""


def rebuild_index(run: Path) -> None:
    """Rebuild ``index.h5`` from the packs of a run, atomically."""
    run = as_path(run)
    with waiting(run, "index"):
        packs = [shard for shard in scan(run)[0] if shard.kind == "pack" and shard.ids]
        image = io.BytesIO()
        with h5py.File(image, "w", libver=LIBVER, userblock_size=SEAL_SIZE) as file:
            rows = _link_rows(file, packs)
            file.create_group(COLUMNS, track_order=True)
            if packs:
                _add_columns(file[COLUMNS], packs)
            identity = _digest_of(run, {pack.path.name for pack in packs})
            root = root_attributes(read_manifest(run), rows=rows) | {"packs_sha256": identity}
            for name, value in root.items():
                write_attribute(file.id, name, value)
        # Sealed and published without a copy, which would be gigabytes for a million rows.
        with (
            image.getbuffer()[SEAL_SIZE:] as rest,
            publishing(run / INDEX) as temporary,
            temporary.open("wb") as file,
        ):
            file.writelines((seal_of(rest), rest))


def is_indexed(run: Path, packs: Set[str]) -> bool:
    """Return whether ``index.h5`` exists and was built from exactly these packs.

    Then it need not be rebuilt, which takes minutes for a million rows. A file name may be reused
    after its file was set aside, so the packs are identified by their seals.

    Args:
        run: The run folder.
        packs: The packs' file names.
    """
    try:
        with hdf5_file(run / INDEX, "ids") as file:
            stored = file.attrs.get("packs_sha256", "")
        return bool(stored) and stored == _digest_of(run, packs)
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError, StoreError):
        return False


def _digest_of(run: Path, packs: Set[str]) -> str:
    """Return a hash that identifies these packs; empty if one has no seal."""
    seals = {name: seal_on(run / SHARDS / name) for name in packs}
    if not all(seals.values()):
        return ""
    return digest([text for name in sorted(seals) for text in (name, seals[name].hex())])


def _link_rows(file: Any, packs: list[Shard]) -> int:
    """Link every question to its row group; return the number of questions."""
    for pack in packs:
        target = f"{SHARDS}/{pack.path.name}"
        for question_id in pack.ids:
            name = link_name(question_id)
            file[name] = h5py.ExternalLink(target, f"/{name}")
    return len(file)


def _add_columns(group: Any, packs: list[Shard]) -> None:
    """Copy strings and token lists, and show the other columns as virtual datasets.

    One pack at a time, to limit memory.
    """
    groups: dict[str, Any] = {"": group.id}
    copies: dict[str, Any] = {}
    sources: dict[str, list[_Source]] = {}
    final_norm: dict[str, bool] = {}
    rows, start = sum(map(len, packs)), 0
    for pack in packs:
        with opened(pack.path) as file:
            for path, column in columns_of(file).items():
                texts = h5py.check_string_dtype(column.dtype)
                if not texts and not h5py.check_vlen_dtype(column.dtype):
                    sources.setdefault(path, []).append(_source(pack, column))
                    if h5a.exists(column.id, b"final_norm"):
                        final_norm[path] = bool(column.attrs["final_norm"])
                    continue
                found = read_column(column)
                used = found if pack.complete else [found[i] for i in pack.rows]
                values = as_texts(used) if texts else as_ragged(used)
                if path not in copies:
                    copies[path] = _new_column(groups, path, rows, values.dtype)
                _write(copies[path], start, values)
        start += len(pack)
    for path, parts in sources.items():
        column = _show(groups, path, parts)
        if path in final_norm:
            write_attribute(column, "final_norm", np.bool_(final_norm[path]))


class _Source(NamedTuple):
    """A column of a pack, and the rows of it that are used."""

    file: bytes
    """The pack, relative to the run folder."""
    path: bytes
    """The column in it."""
    rows: int
    shape: tuple[int, ...]
    """Of the column."""
    kind: np.dtype[Any]
    selection: Any
    """The rows, as a dataspace."""


def _source(pack: Shard, column: Any) -> _Source:
    name, shape, kind = f"{SHARDS}/{pack.path.name}", column.shape, column.dtype
    if pack.complete:
        count, selection = shape[0], h5s.create_simple(shape)
    else:
        count = len(pack)
        selection = h5py.VirtualSource(name, column.name, shape, kind)[list(pack.rows)].sel.id
    return _Source(name.encode(), column.name.encode(), count, shape, kind, selection)


def _show(groups: dict[str, Any], path: str, parts: list[_Source]) -> Any:
    """Create a virtual dataset that concatenates the parts along the rows; return it, low-level.

    The values of a missing pack are NaN, or −1 for integers.
    """
    widths = parts[0].shape[1:]
    kind = np.result_type(*(part.kind for part in parts))
    shown = h5s.create_simple((sum(part.rows for part in parts), *widths))
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.VIRTUAL)
    properties.set_obj_track_times(False)
    properties.set_fill_value(np.array([np.nan if parts[0].kind.kind == "f" else -1]))
    start = 0
    for part in parts:
        shown.select_hyperslab((start, *(0 for _ in widths)), (part.rows, *widths))
        properties.set_virtual(shown, part.file, part.path, part.selection)
        start += part.rows
    shown.select_all()
    parent, _, name = path.rpartition("/")
    type_ = h5t.py_create(kind, logical=True)
    return h5d.create(group_at(groups, parent), name.encode(), type_, shown, properties)


def _new_column(groups: dict[str, Any], path: str, rows: int, kind: Any) -> Any:
    """Create a dataset of strings or lists to be filled; return it, low-level."""
    parent, _, name = path.rpartition("/")
    type_, space = h5t.py_create(kind, logical=True), h5s.create_simple((rows,))
    return h5d.create(group_at(groups, parent), name.encode(), type_, space)


def _write(column: Any, start: int, values: NDArray[np.object_]) -> None:
    """Write values into a low-level column, beginning at row ``start``.

    Not by ``column[a:b] = values``: h5py stacks lists of equal length to a matrix and refuses it.
    """
    target = column.get_space()
    target.select_hyperslab((start,), values.shape)
    column.write(h5s.create_simple(values.shape), target, values)
