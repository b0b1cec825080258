r"""Search for the file of an image whose name in the table differs from that on disk.

Tables are written on one machine and read on another: ``img\a.jpg`` of Windows, ``IMG/A.JPG``, a
name without its suffix, spaces around it, a different Unicode normalization of accents, more
folders. If no file has the exact path and exactly one file fits, that one is taken; if several fit,
none is. Nothing outside the image folder is searched.
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
from vlmscope.errors import join_names

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
    """Name without case and Unicode normalization → the names."""
    stems: dict[str, list[str]] = field(default_factory=dict)
    """The same without the suffix, for image files only."""
    numbers: dict[int, list[str]] | None = None
    """Number at the end of the stem → names; filled when first needed."""


class ImageFinder:
    """Finds the files of one image folder.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, Path] = {}
        """Cache: name that is not an exact path → file; the first thousand."""
        self._listings: dict[str, _Listing] = {}
        self._guesses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageFinder, (self.folder,)

    def find(self, name: str, folders_above: Callable[[], int]) -> Path | None:
        """Return the one file that a name fits, or None.

        Args:
            name: The name in the table.
            folders_above: Returns the number of leading folders that all names of the table share:
                only these may be dropped, so that no two names become equal.
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
        """Return the names in the folder that are similar to this one."""
        listing = self._listing("")
        last = fold(name)
        same = listing.names.get(last, []) or listing.stems.get(_stem(last), [])
        return same or self._close(listing, last)

    def numbered(self, name: str) -> str:
        """Return the file whose name ends in this number; an empty text if there is none.

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
        candidates = [name for name in listing.names if _may_match(name, last)]
        guesses = difflib.get_close_matches(last, candidates, 1, 0.8)
        return listing.names[guesses[0]] if guesses else []

    def _fitting(self, parts: Sequence[str]) -> list[str]:
        """Return the files that fit a name best."""
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
        """Return the folders that fit the beginning of a path."""
        found = [""]
        for part in parts:
            found = [
                _join(where, each)
                for where in found
                for each in _closest(self._listing(where).names.get(fold(part), []), part)
            ]
        return found

    def _listing(self, where: str) -> _Listing:
        """Return the names in a folder, none if it cannot be read."""
        if (known := self._listings.get(where)) is not None:
            return known
        listing = _Listing()
        root, target = os.path.realpath(self.folder), os.path.realpath(self.folder / where)
        try:
            if os.path.commonpath([root, target]) != root:  # a link out of the folder
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
    """Return a hint which file a wrong path may refer to; empty without a good guess.

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
        return f"it may be {join_names(near, 3)}: write the exact name"
    return f"there is {shown_name(near[0], _SHOWN)}: correct the path" if near else ""


@lru_cache(maxsize=64)
def _finder_of(folder: Path) -> ImageFinder:
    return ImageFinder(folder)


def _pattern_of(file: str, name: str) -> str:
    """Return the pattern that makes a file's name from the number at its end."""
    stem = Path(file).stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    width = f":0{len(digits)}d" if len(digits) > len(name.strip()) else ""
    return f"'{stem[: len(stem) - len(digits)]}{{image_id{width}}}{Path(file).suffix}'"


def _may_match(name: str, wanted: str) -> bool:
    """Return whether a name may be a typo of another, rather than the next of a numbered series.

    >>> _may_match("demo_0007.jpg", "demo_0057.jpg"), _may_match("left_a.png", "left_b.png")
    (False, False)
    >>> _may_match("kitchen_7.jpg", "kitchn_007.jpg"), _may_match("a.jpg", "aa.jpg")
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
    """Return a name without case and Unicode normalization, which file systems treat differently.

    >>> fold("E\u0301.JPG") == fold("\u00e9.jpg")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())


def split_name(name: str) -> list[str]:
    r"""Return the parts of a path written on any operating system.

    >>> split_name(r" C:\\data\\img\\a.jpg "), split_name("./img//a.jpg")
    (['data', 'img', 'a.jpg'], ['img', 'a.jpg'])
    """
    text = _DRIVE.sub("", name.strip(), count=1).replace("\\", "/")
    return [part for part in (each.strip() for each in text.split("/")) if part not in ("", ".")]


def shared_folders(names: Iterable[str]) -> int:
    """Return the number of leading folders that all names share, written on any operating system.

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
    """Return, of names that differ in case or normalization only, those closest to ``wanted``."""
    exact = [name for name in names if name == wanted]
    nfc = unicodedata.normalize("NFC", wanted)
    same = [name for name in names if unicodedata.normalize("NFC", name) == nfc]
    return exact or same or list(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith(IMAGE_SUFFIXES) else name


def _join(folder: str, name: str) -> str:
    """Return a path within the image folder, with the system's separators."""
    return f"{folder}{os.sep}{name}" if folder else name
