"""Immutable HDF5 shards: parts and packs, built in memory and published at once.

An HDF5 file that is appended to does not survive a kill; one that is written once and renamed does.
Because it is built in memory, HDF5 never writes to the disk: a full disk is a plain write error,
and the library never sees a partially written file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import h5py

from vlmscope.errors import EarlierVersionError, StoreError
from vlmscope.regular import PointerError, check_regular
from vlmscope.schema import FORMAT_VERSION
from vlmscope.store.format.batch import Block
from vlmscope.store.format.checksums import SEAL_SIZE, seal_is_broken, seal_of, seal_on
from vlmscope.store.format.columns import final_norm_leaves, with_stored_tokens, write_columns
from vlmscope.store.format.hdf5_screening import Depth, screen, screen_remote
from vlmscope.store.format.low_level import write_attribute
from vlmscope.store.format.manifest import Manifest, check_version
from vlmscope.store.format.row_groups import RowWriter
from vlmscope.store.format.validation import MissingColumnError
from vlmscope.store.storage.object_store import identity_of, remote_file
from vlmscope.store.storage.paths import is_remote
from vlmscope.version import __version__

LIBVER = ("v110", "v110")
"""HDF5 1.10 and later read it. ``latest`` under HDF5 2.0 writes what HDF5 1.x cannot read."""

_COUNT = count()
_GROWTH = 16 * 2**20
"""Growth step of a large in-memory file: h5py's 64 KB would copy it repeatedly. HDF5 clears all of
it first, so that a few rows get less."""

_SMALLEST = 2**18


def build_shard(
    block: Block, manifest: Manifest, *, writer: str, supersedes: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """Return the bytes of a shard with these rows, in two pieces as ``image_of`` does."""
    block = with_stored_tokens(block, manifest)  # the row groups show the types that are stored
    with memory_file(sum(matrix.nbytes for matrix in block.vectors.values())) as file:
        write_columns(file, block, manifest)
        rows = RowWriter(file, block, final_norm=final_norm_leaves(manifest), virtual=True)
        for _ in rows.write():
            pass
        root = {**root_attributes(manifest, rows=len(block)), "writer": writer}
        for name, value in root.items():
            write_attribute(file.id, name, value)
        if supersedes:
            file.attrs.create("supersedes", list(supersedes), dtype=h5py.string_dtype())
        return image_of(file)


@contextmanager
def memory_file(size: int) -> Iterator[Any]:
    """Open a new HDF5 file in memory.

    HDF5 identifies files by name even here: two threads must not have the same name open.

    Args:
        size: Approximate number of bytes that will be written.
    """
    name = f"vlmscope-memory-{next(_COUNT)}"
    file = h5py.File(
        name,
        "w",
        driver="core",
        backing_store=False,
        block_size=min(_GROWTH, max(_SMALLEST, size)),
        libver=LIBVER,
        userblock_size=SEAL_SIZE,
    )
    with file:
        yield file


def image_of(file: Any) -> tuple[bytes, bytes]:
    """Return the bytes of an open in-memory file: its seal, and the rest.

    In two pieces, because joining them would be one more copy of the file in memory.
    """
    file.flush()
    image = file.id.get_file_image()
    return seal_of(image), image


def root_attributes(manifest: Manifest, *, rows: int) -> dict[str, Any]:
    """Return the root attributes: the specification's six, then ours."""
    return {
        "model_name": manifest.model.name,
        "model_type": manifest.model.type,
        "device": manifest.device,
        "dtype": manifest.dtype,
        **{name: value for name, value in _particulars(manifest).items() if value},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_samples": rows,
        "format_version": FORMAT_VERSION,
        "run_id": manifest.run_id,
        "vlmscope_version": __version__,
    }


def _particulars(manifest: Manifest) -> dict[str, str | None]:
    """Return the optional root attributes, which are written only if they are not empty."""
    return {
        "compat": manifest.capture.compat,
        "adapter": manifest.model.adapter,
        "quantization": manifest.model.quantization,
    }


@contextmanager
def opened(path: Path, depth: Depth = "columns") -> Iterator[Any]:
    """Open a shard for reading; errors in its content name the file.

    Uses HDF5's default for locks: it refuses a file that the process has open in another mode.

    Args:
        path: The shard.
        depth: What will be read from it.

    Raises:
        FileNotFoundError: The shard has been removed.
        StoreError: It is damaged.
        EarlierVersionError: It is not damaged, and lacks a column that this version writes.
        UnreachableError: The object store does not answer.
    """
    try:
        with hdf5_file(path, depth) as file:
            check_version(path, int(file.attrs.get("format_version", 0)))
            yield file
    except FileNotFoundError:
        raise
    except PointerError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except (OSError, KeyError, RuntimeError, UnicodeDecodeError) as error:
        if isinstance(error, MissingColumnError) and not is_changed(path):
            raise EarlierVersionError(
                f"{path}: has no {error.args[0]}, an earlier version of vlmscope wrote it; read "
                "what it has by plain h5py or by that version, or extract into another --out"
            ) from error
        raise StoreError(
            f"{path}: damaged or not an HDF5 file ({error}); restore it from a copy, or run the "
            "same extract command with --redo-damaged to capture its rows again"
        ) from error


def is_changed(path: Path) -> bool:
    """Return whether a file has a seal that does not match; the first versions wrote no seal."""
    return bool(seal_on(path)) and seal_is_broken(path)


@contextmanager
def hdf5_file(path: Path, depth: Depth) -> Iterator[Any]:
    """Open a local or remote HDF5 file for reading, after it was screened in a child process.

    Args:
        path: The file.
        depth: What will be read from it.

    Raises:
        OSError: The file does not exist, is not a regular file, or not an HDF5 file.
        StoreError: The screening failed.
        UnreachableError: The object store does not answer.
    """
    if is_remote(path):
        with remote_file(path) as remote:
            screen_remote(path, remote, depth)
            with h5py.File(remote, "r") as file:
                yield file
        return
    check_regular(path)
    screened = screen(path, depth)
    with h5py.File(path, "r") as file:
        if identity_of(path) != screened:
            raise StoreError(
                f"{path}: is being replaced while it is read; wait until nothing writes it"
            )
        yield file
