"""From an image cell to what can be opened: the bytes it contains, or the path of a file.

No file is opened here; for a name without an exact file, the image folder is searched
(``finding``). Cells without an image, and paths out of the image folder, are refused by name.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from vlmscope.dataset.images.cells import REMEDY, ImageCells, find_images
from vlmscope.dataset.images.finding import ImageFinder
from vlmscope.dataset.values import shown_name, unstorable
from vlmscope.errors import InputError, RowError

EXPECTED = "write a path, or the bytes of an image file, there"
"""What an image cell may contain, for messages."""


def read_images(text: str, *, folder: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Return the images of a text in the form of an image cell: a path, or a JSON list of paths.

    Args:
        text: the path, the list, or nothing.
        folder: where relative paths start, and must stay; default: the current directory, and they
            may lead anywhere.

    Returns:
        The paths in order; none for an empty text or list. The files are not opened.

    Raises:
        InputError: the folder does not exist.
        RowError: stage ``input``: one is empty, a URL, a video or a sound, or leaves the folder.

    >>> [path.name for path in read_images('["one/a.png", "b.png"]')]
    ['a.png', 'b.png']
    """
    cells = find_images({"image": text}, ["image"], frozenset())
    root = None if folder is None else image_folder(folder)
    _check(cells)
    return tuple(_path(cell.name, root) for cell in cells.images)


def image_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder of images.

    Raises:
        InputError: it does not exist.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such image folder; pass an existing one with --images DIR")
    return Path(folder).absolute()


def locate_images(
    image: ImageCells,
    finder: ImageFinder,
    *,
    anywhere: bool = False,
    folders_above: Callable[[], int] = lambda: 0,
) -> tuple[bytes | Path | Image.Image, ...]:
    """Return a row's images in order: the table's content of each, or else its path.

    Args:
        image: the row's image cells.
        finder: the folder where relative paths start, and where every path must stay.
        anywhere: let absolute paths and symbolic links lead out of the folder.
        folders_above: returns the number of leading folders that all names of the table share.

    Raises:
        RowError: stage ``input``: one is empty, not an image, a URL, or leaves the folder. The
            message does not contain the row.
    """
    _check(image)
    located: list[bytes | Path | Image.Image] = []
    for cell in image.images:
        located.append(cell.opened or _found(cell.name, finder, anywhere, folders_above))
    return tuple(located)


def _found(
    name: str,
    finder: ImageFinder,
    anywhere: bool,
    folders_above: Callable[[], int],
) -> Path:
    """Return the path of an image; if nothing is there, that of the one file that fits its name."""
    path = _path(name, finder.folder)
    if os.path.lexists(path):
        return _inside(path, name, finder.folder, anywhere)
    if (found := finder.find(name, folders_above)) is not None:
        return _inside(found, name, finder.folder, anywhere)
    return _inside(path, name, finder.folder, anywhere)


def _inside(path: Path, name: str, folder: Path, anywhere: bool) -> Path:
    """Raise for an image path out of the folder: a table may be untrusted."""
    if anywhere:
        return path
    root, target = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([root, target]) == root:
        return path
    how = "lies outside" if path == Path(name) else "leads by a symbolic link out of"
    raise RowError(
        "input",
        f"the image path {shown_name(name, 200)} {how} the image folder {folder}; pass the folder "
        "of the images with --images DIR, or pass --allow-absolute-paths if you trust the table",
    )


def _check(image: ImageCells) -> None:
    """Raise for cells that are not images."""
    for number, cell in enumerate(image.images, start=1):
        if cell.flaw:
            which = f" {number} of {len(image.images)}" if len(image.images) > 1 else ""
            raise RowError("input", f"the image{which} {cell.flaw}")
        if cell.is_empty or cell.other:
            found = cell.other or "empty"
            which = f"image {number} of {len(image.images)} in the list"
            raise RowError("input", f"{which} is {found}; {EXPECTED}")
        if cell.medium:
            what = f"the image {shown_name(cell.name, 200)}" if cell.name else "the image"
            remedy = f"vlmscope reads images only: {REMEDY[cell.medium]}"
            raise RowError("input", f"{what} is {cell.medium}; {remedy}")


def _path(name: str, folder: Path | None) -> Path:
    if "://" in name:
        found = f"the image {shown_name(name, 200)} is a URL, which is not fetched"
        raise RowError("input", f"{found}; write a path there")
    if flaw := unstorable(name):
        raise RowError(
            "input", f"the image path {shown_name(name, 200)} contains {flaw}; write a path there"
        )
    path = Path(name)
    if folder is None or path.is_absolute():
        return path
    if Path(os.path.normpath(name)).parts[:1] == ("..",):
        raise RowError(
            "input",
            f"the image path {shown_name(name, 200)} leaves the image folder {folder}; pass a "
            "folder above it with --images DIR",
        )
    return folder / path
