"""One file to take away: ``.h5`` in the seed's layout, ``.parquet``, or ``.npz``.

The exports hold copies, never links or virtual datasets, so they can be moved and cut up at will.
HDF5 and Parquet are written a shard at a time, NumPy's archive a matrix at a time.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError
from vlmscope.store.block import Block
from vlmscope.store.columns import final_norm_leaves
from vlmscope.store.naming import vector_path
from vlmscope.store.parquet import export_parquet
from vlmscope.store.publish import publishing
from vlmscope.store.rows import RowWriter
from vlmscope.store.run import Run
from vlmscope.store.shard import LIBVER, root_attributes
from vlmscope.store.spool import Spool


def export_run(run: Run, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write the run to one file, whose suffix says which kind. Atomic like everything here."""
    target = Path(out)
    export = _EXPORTS.get(target.suffix.lower())
    if export is None:
        raise InputError(
            f"{target}: unknown suffix {target.suffix!r}; name it {', '.join(_EXPORTS)}"
        )
    if target.exists() and not overwrite:
        raise InputError(f"{target}: already there; give another name, or ask to overwrite it")
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; make it first")
    with publishing(target) as temporary:
        export(run, temporary)
    return target


def _export_h5(run: Run, path: Path) -> None:
    """Write the seed's tree with real datasets."""
    final_norm = final_norm_leaves(run.manifest)
    with Spool(path) as spool:
        with h5py.File(spool, "w", libver=LIBVER) as file:
            for block in run.blocks():
                rows = RowWriter(file, block, final_norm=final_norm, virtual=False)
                for _ in rows.write():
                    spool.check()
            file.attrs.update(root_attributes(run.manifest, rows=len(run)))
        spool.check()


_LONGEST_TEXT = 4096  # characters


def _export_npz(run: Run, path: Path) -> None:
    """Write arrays named like the HDF5 paths; ragged lists are flat, with offsets."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, layers in run.manifest.representations().items():
            for layer in layers or (None,):
                _add(archive, vector_path(name, layer), run.matrix(name, layer))
        blocks = list(run.blocks(vectors=False))
        for name, array in _plain_arrays(blocks).items():
            _add(archive, name, array)


def _plain_arrays(blocks: list[Block]) -> dict[str, NDArray[Any]]:
    """Return everything but the vectors as arrays that need no pickle."""
    arrays: dict[str, NDArray[Any]] = {}
    if not blocks:
        return {"question_id": np.array([], dtype=np.str_)}
    for name in blocks[0].texts:
        arrays |= _text_arrays(name, [text for block in blocks for text in block.texts[name]])
    for name in blocks[0].numbers:
        arrays[name] = np.concatenate([block.numbers[name] for block in blocks])
    for name in blocks[0].ragged:
        lists = [values for block in blocks for values in block.ragged[name]]
        arrays[name] = np.concatenate(lists)
        arrays["answer_offsets"] = _offsets(lists)
    return arrays


def _text_arrays(name: str, texts: list[str]) -> dict[str, NDArray[Any]]:
    """Return texts as one array of NumPy strings; long ones as UTF-8 bytes with offsets.

    A NumPy string array gives every text the room of the longest.
    """
    if max(map(len, texts)) <= _LONGEST_TEXT:
        return {name: np.array(texts, np.str_)}
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    return {f"{name}.utf8": np.concatenate(encoded), f"{name}.offsets": _offsets(encoded)}


def _offsets(lists: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    """Return where each list starts in the flat array, and the end."""
    return np.cumsum([0, *(len(values) for values in lists)], dtype=np.int64)


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _export_parquet(run: Run, path: Path) -> None:
    with path.open("wb") as file:  # by its name Arrow opens none whose path is not UTF-8
        export_parquet(run, file)


_EXPORTS: dict[str, Callable[[Run, Path], None]] = {
    ".h5": _export_h5,
    ".parquet": _export_parquet,
    ".npz": _export_npz,
}
