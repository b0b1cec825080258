"""PIL images of a table in memory, each hashed once however often the table is read."""

from __future__ import annotations

from collections.abc import Hashable

from PIL import Image

from vlmscope.dataset.images.image import hash_image, load_image
from vlmscope.errors import RowError

UNREADABLE = "unreadable"
"""Hash of an image that cannot be decoded: loading it reports the error."""

ImageHashes = dict[Hashable, str]
"""Position of an image in its table → SHA-256 of its size and pixels."""


class InMemoryImage:
    """A PIL image and its position in a table.

    Args:
        image: The image.
        hashes: The hashes of its table's images computed so far.
        where: Its position in the table.
    """

    __slots__ = ("_hashes", "_where", "image")

    def __init__(self, image: Image.Image, hashes: ImageHashes, where: Hashable) -> None:
        self.image = image
        self._hashes = hashes
        self._where = where

    @property
    def sha256(self) -> str:
        """The hash of its size and pixels."""
        if self._where not in self._hashes:
            try:
                self._hashes[self._where] = hash_image(load_image(self.image))
            except RowError:
                self._hashes[self._where] = UNREADABLE
        return self._hashes[self._where]
