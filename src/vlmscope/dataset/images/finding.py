r"""The file of an image that a table names in another way than the disk does.

Tables are written on one machine and read on another: ``img\a.jpg`` of Windows, ``IMG/A.JPG``, a
name without its suffix, spaces around it, accents composed otherwise, more folders. Where the path
as it stands leads to no file, and exactly one file fits, that is taken; where several fit,
none is. Nothing outside the image folder is ever looked at.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmscope.dataset.image_formats import IMAGE_SUFFIXES
from vlmscope.dataset.values import shown_name
from vlmscope.errors import listed

_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
_NUMBER = re.compile(r"\d+$")
_DIGITS = re.compile(r"\d+")
_LETTER = re.compile(r"(?<![^\W\d_])[^\W\d_](?![^\W\d_])")
_MOST_GUESSES = 100
_MOST_NAMES = 20_000
_SHOWN = 200


@dataclass
class _Listing:
    """The names in one folder."""

    names: dict[str, list[str]] = field(default_factory=dict)
    """Name without case and composition → the names."""
    stems: dict[str, list[str]] = field(default_factory=dict)
    """The same without the suffix, of image files only."""
    numbers: dict[int, list[str]] | None = None
    """Number at the end of the stem → names, once it was asked for."""


class ImageFinder:
    """Finds the files of one image folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, Path] = {}
        """Names that were no paths → files; the first thousand."""
        self._listings: dict[str, _Listing] = {}
        self._guesses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageFinder, (self.folder,)

    def find(self, name: str, folders_above: Callable[[], int]) -> Path | None:
        """Return the one file that a name fits, or None.

        Args:
            name: What the table says.
            folders_above: Returns how many folders all names of the table begin with: only these
                may be left out, so that no two names become one.
        """
        if (known := self.found.get(name)) is not None:
            return known
        parts = split_name(name)
        if not parts or ".." in parts:
            return None
        is_whole = name.lstrip().startswith(("/", "\\")) or _DRIVE.match(name.lstrip())
        for dropped in range(len(parts)):
            if dropped and dropped > folders_above():
                break
            if is_whole and not dropped and len(parts) > 1:
                continue
            files = self._fitting(parts[dropped:])
            if len(files) > 1:
                return None
            if files:
                path = self.folder / files[0]
                if len(self.found) < 1000:
                    self.found[name] = path
                return path
        return None

    def near(self, name: str) -> list[str]:
        """Return the names in the folder that are nearly this one; none for none."""
        listing = self._listing("")
        last = fold(name)
        same = listing.names.get(last, []) or listing.stems.get(_stem(last), [])
        return same or self._close(listing, last)

    def numbered(self, name: str) -> str:
        """Return the file whose name ends in this number, if there is one; else an empty text.

        COCO's image 262148 is the file ``COCO_val2014_000000262148.jpg``.
        """
        text = name.strip().removesuffix(".0")
        if not text.isdecimal() or len(text) > 18:
            return ""
        listing = self._listing("")
        if listing.numbers is None:
            listing.numbers = {}
            for each in (each for names in listing.stems.values() for each in names):
                if match := _NUMBER.search(Path(each).stem):
                    listing.numbers.setdefault(int(match[0][-18:]), []).append(each)
        fitting = listing.numbers.get(int(text), [])
        return fitting[0] if len(fitting) == 1 else ""

    def _close(self, listing: _Listing, last: str) -> list[str]:
        if self._guesses >= _MOST_GUESSES or len(listing.names) > _MOST_NAMES:
            return []
        self._guesses += 1
        alike = [name for name in listing.names if _may_be_meant(name, last)]
        guesses = difflib.get_close_matches(last, alike, 1, 0.8)
        return listing.names[guesses[0]] if guesses else []

    def _fitting(self, parts: Sequence[str]) -> list[str]:
        """Return the files that a name fits, as closely as any does."""
        found: list[str] = []
        for where in self._folders(parts[:-1]):
            listing = self._listing(where)
            last = fold(parts[-1])
            names = listing.names.get(last, [])
            if not names and not last.endswith(IMAGE_SUFFIXES):
                names = listing.stems.get(last, [])
            found += [_join(where, each) for each in _closest(names, parts[-1])]
        return [each for each in found if (self.folder / each).is_file()]

    def _folders(self, parts: Sequence[str]) -> list[str]:
        """Return the folders that the beginning of a path fits."""
        found = [""]
        for part in parts:
            found = [
                _join(where, each)
                for where in found
                for each in _closest(self._listing(where).names.get(fold(part), []), part)
            ]
        return found

    def _listing(self, where: str) -> _Listing:
        """Return the names in a folder, none where it cannot be read."""
        if (known := self._listings.get(where)) is not None:
            return known
        listing = _Listing()
        root, target = os.path.realpath(self.folder), os.path.realpath(self.folder / where)
        try:
            if os.path.commonpath([root, target]) != root:  # a symbolic link that leads out
                raise NotADirectoryError
            names = os.listdir(target)  # noqa: PTH208 - names are wanted, of many files
        except OSError:
            names = []
        for name in sorted(names):
            folded = fold(name)
            listing.names.setdefault(folded, []).append(name)
            if folded.endswith(IMAGE_SUFFIXES):
                listing.stems.setdefault(_stem(folded), []).append(name)
        self._listings[where] = listing
        return listing


def near_file(path: Path) -> str:
    """Say which file is meant by a path that leads to none, if that can be guessed; else nothing.

    >>> near_file(Path("/gone/a.png"))
    ''
    """
    if "\0" in str(path):
        return ""
    finder = _finder_of(path.parent)
    if number := finder.numbered(path.name):
        return (
            f"{shown_name(number, _SHOWN)} there ends in this number: pass --image-pattern "
            f"{_pattern_of(number, path.name)}"
        )
    near = finder.near(path.name)
    if len(near) > 1:
        return f"it may be {listed(near, 3)}: write the exact name"
    return f"there is {shown_name(near[0], _SHOWN)}: correct the path" if near else ""


@lru_cache(maxsize=64)
def _finder_of(folder: Path) -> ImageFinder:
    return ImageFinder(folder)


def _pattern_of(file: str, name: str) -> str:
    """Return the pattern that makes a file's name of the number at its end."""
    stem = Path(file).stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    width = f":0{len(digits)}d" if len(digits) > len(name.strip()) else ""
    return f"'{stem[: len(stem) - len(digits)]}{{image_id{width}}}{Path(file).suffix}'"


def _may_be_meant(name: str, wanted: str) -> bool:
    """Return whether nothing tells two names apart as files of one series: number, single letter.

    >>> _may_be_meant("demo_0007.jpg", "demo_0057.jpg"), _may_be_meant("left_a.png", "left_b.png")
    (False, False)
    >>> _may_be_meant("kitchen_7.jpg", "kitchn_007.jpg"), _may_be_meant("a.jpg", "aa.jpg")
    (True, True)
    """
    one, other = _stem(name), _stem(wanted)
    if [*map(_unfilled, _DIGITS.findall(one))] != [*map(_unfilled, _DIGITS.findall(other))]:
        return False
    letters, wanted_letters = _LETTER.findall(one), _LETTER.findall(other)
    return len(letters) != len(wanted_letters) or letters == wanted_letters


def _unfilled(digits: str) -> str:
    return digits.lstrip("0")


def fold(text: str) -> str:
    """Return a name without what systems treat differently: case and composition.

    >>> fold("E\u0301.JPG") == fold("\u00e9.jpg")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())


def split_name(name: str) -> list[str]:
    r"""Return the parts of a path, whichever system wrote it.

    >>> split_name(r" C:\\data\\img\\a.jpg "), split_name("./img//a.jpg")
    (['data', 'img', 'a.jpg'], ['img', 'a.jpg'])
    """
    text = _DRIVE.sub("", name.strip(), count=1).replace("\\", "/")
    return [part for part in (each.strip() for each in text.split("/")) if part not in ("", ".")]


def shared_folders(names: Iterable[str]) -> int:
    """Return how many folders all names begin with, whatever system wrote them.

    >>> shared_folders(["img/a.jpg", "IMG/b.jpg"]), shared_folders(["train/1.jpg", "val/1.jpg"])
    (1, 0)
    """
    shared: list[str] | None = None
    for name in names:
        folders = [fold(part) for part in split_name(name)[:-1]]
        shared = folders if shared is None else list(_common(shared, folders))
        if not shared:
            return 0
    return len(shared or ())


def _common(one: Sequence[str], other: Sequence[str]) -> Iterator[str]:
    for a, b in zip(one, other, strict=False):
        if a != b:
            return
        yield a


def _closest(names: Sequence[str], wanted: str) -> list[str]:
    """Return of names that differ in case or composition those that do least."""
    exact = [name for name in names if name == wanted]
    nfc = unicodedata.normalize("NFC", wanted)
    same = [name for name in names if unicodedata.normalize("NFC", name) == nfc]
    return exact or same or list(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith(IMAGE_SUFFIXES) else name


def _join(folder: str, name: str) -> str:
    """Return a path within the image folder, as the system writes it."""
    return f"{folder}{os.sep}{name}" if folder else name
