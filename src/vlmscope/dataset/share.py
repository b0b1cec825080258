"""A share of a table: the rows that one of several ranks does.

Ranks do not talk. Each row alone says which rank it belongs to, by a hash that is the same on every
machine; and the questions about one image fall to one rank, which encodes it once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from vlmscope.errors import InputError


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of one rank of several.

    Raises:
        InputError: there is no such rank.
    """

    index: int
    """Which rank, counted from 0."""
    count: int
    """How many there are."""

    def __post_init__(self) -> None:
        """Refuse a rank that is not one of the ranks."""
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"--shard {self}: there is no such rank; of eight ranks the first is --shard 0/8 "
                "and the last --shard 7/8"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, images: Any, sample_id: str) -> bool:
        """Return whether a row is in this share.

        The images count as the table names them, by a hash of their bytes where it has no names:
        so it does not matter where a rank finds them, or whether it does.

        Args:
            images: What tells the row's images from others; None where it is about none.
            sample_id: What counts then.
        """
        about = ["id", sample_id] if images is None else ["picture", images]
        digest = hashlib.sha256(json.dumps(about).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index
