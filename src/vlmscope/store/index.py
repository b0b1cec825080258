"""``index.h5``: the complete run in one file. Disposable: deleting it loses nothing.

It contains links, not data: an external link per question and virtual datasets over the columns,
all relative, so the folder can be moved. Only strings and token lists are copied, because HDF5 has
no virtual datasets for them. It refers to packs only, because parts are removed and packs are not.
"""

from __future__ import annotations

import io
from collections.abc import Set
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5s
from numpy.typing import NDArray

from vlmscope.errors import StoreError
from vlmscope.store.catalog import SHARDS, Shard, read_rows, scan
from vlmscope.store.format.checksums import SEAL_SIZE, digest, seal_of, seal_on
from vlmscope.store.format.columns import as_ragged, as_texts
from vlmscope.store.format.low_level import TEXT, write_attribute
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
                _map_columns(file[COLUMNS], packs)
                _copy_texts(file[COLUMNS], packs)
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


def _map_columns(group: Any, packs: list[Shard]) -> None:
    """Create a virtual dataset for each column of numbers, across the packs."""
    sources: dict[str, list[Any]] = {}
    final_norm: dict[str, bool] = {}
    for pack in packs:
        rows = slice(None) if pack.complete else list(pack.rows)
        with opened(pack.path) as file:
            for path, column in columns_of(file).items():
                if h5py.check_vlen_dtype(column.dtype) or h5py.check_string_dtype(column.dtype):
                    continue
                name = f"{SHARDS}/{pack.path.name}"
                source = h5py.VirtualSource(name, column.name, column.shape, column.dtype)
                sources.setdefault(path, []).append(source[rows])
                if "final_norm" in column.attrs:
                    final_norm[path] = bool(column.attrs["final_norm"])
    for path, parts in sources.items():
        column = group.create_virtual_dataset(path, _stacked(parts), fillvalue=_fill(parts))
        if path in final_norm:
            write_attribute(column.id, "final_norm", np.bool_(final_norm[path]))


def _stacked(parts: list[Any]) -> Any:
    """Return the virtual layout that concatenates the parts along the rows."""
    rows = sum(part.shape[0] for part in parts)
    kind = np.result_type(*(part.dtype for part in parts))
    layout = h5py.VirtualLayout((rows, *parts[0].shape[1:]), kind)
    start = 0
    for part in parts:
        layout[start : start + part.shape[0]] = part
        start += part.shape[0]
    return layout


def _fill(parts: list[Any]) -> Any:
    """Return the fill value for a missing pack: NaN, or −1 for integers."""
    return np.nan if parts[0].dtype.kind == "f" else -1


def _copy_texts(group: Any, packs: list[Shard]) -> None:
    """Copy strings and token lists, one pack at a time to limit memory."""
    rows, start = sum(len(pack) for pack in packs), 0
    for pack in packs:
        block = read_rows(pack, vectors=False)
        for name, texts in block.texts.items():
            _write(group.require_dataset(name, (rows,), TEXT), start, as_texts(texts))
        for name, arrays in block.ragged.items():
            values = as_ragged(arrays)
            _write(group.require_dataset(name, (rows,), values.dtype), start, values)
        start += len(block)


def _write(column: Any, start: int, values: NDArray[np.object_]) -> None:
    """Write values into a column, beginning at row ``start``.

    Not by ``column[a:b] = values``: h5py stacks lists of equal length to a matrix and refuses it.
    """
    target = column.id.get_space()
    target.select_hyperslab((start,), values.shape)
    column.id.write(h5s.create_simple(values.shape), target, values)
