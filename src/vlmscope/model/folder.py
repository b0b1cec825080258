"""The folder of a checkpoint or an adapter, before libraries open files in it by their names."""

from __future__ import annotations

from pathlib import Path

from vlmscope.errors import ModelError
from vlmscope.regular import PointerError, check_folder


def check_files(folder: Path) -> None:
    """Refuse a folder that the libraries would wait for, read for ever, or could not open.

    Raises:
        ModelError: It holds a pipe, a socket, a device, a Git LFS pointer or a huge JSON file, or
            its path is not UTF-8.
    """
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{folder}: the path is not UTF-8, and safetensors opens no other; rename the folder"
        ) from error
    try:
        check_folder(folder)
    except PointerError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; get the folder again") from error
