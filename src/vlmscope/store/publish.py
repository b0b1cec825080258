"""Publishing a file: all of it or none of it.

The bytes go to a hidden file beside the target, are flushed to the disk, and take the target's
name by one atomic rename; the folder is flushed last. Whoever finds the name finds a whole file,
whatever was killed. An object store needs none of that: it has a whole object, or none. Nothing
else in a run records progress.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from vlmscope.errors import StoreError
from vlmscope.store.place import is_remote
from vlmscope.store.remote import put


def publish(path: Path, *pieces: bytes, exclusive: bool = False) -> None:
    """Write the pieces, one after the other, to ``path`` atomically and durably.

    Args:
        path: The file.
        pieces: Its bytes.
        exclusive: Whether nobody else may have published it: asked of an object store, where there
            are no locks. In a folder a lock has seen to it.

    Raises:
        RunBusyError: Somebody else has published it.
        StoreError: The disk or the store refuses.
    """
    if is_remote(path):
        put(path, b"".join(pieces), exclusive=exclusive)
        return
    with publishing(path) as temporary, temporary.open("wb") as file:
        file.writelines(pieces)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield a hidden path to write to; on leaving, give it the name ``path``.

    If anything fails, the hidden file is removed and ``path`` stays as it was. A refusal by the
    operating system becomes a ``StoreError``. Of an object store the hidden file is a local one.
    """
    if is_remote(path):
        with TemporaryDirectory(prefix="vlmscope-") as folder:
            local = Path(folder, path.name)
            yield local
            put(path, local.read_bytes(), exclusive=False)
        return
    temporary = temporary_path(path)
    _discard(temporary)  # a leftover, or a link that somebody left to have another file written
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _discard(temporary)


def temporary_path(path: Path) -> Path:
    """Return the hidden name a file is written under before it is published."""
    return path.with_name(f".{path.name}.tmp")


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk. Needs POSIX: elsewhere a folder cannot be opened."""
    if is_remote(path):
        return  # what an object store has, it has kept
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Return the one line a person sees when the disk refuses."""
    return StoreError(
        f"{path}: cannot be written: {error.strerror or error}; everything published before is "
        "safe, free space or fix the folder's permissions and run the same command again"
    )


def _discard(temporary: Path) -> None:
    """Remove a leftover; an error here must not hide the one that brought us here."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
