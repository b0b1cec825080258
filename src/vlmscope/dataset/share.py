"""``Share``: the rows of a table that one of several ranks processes.

Ranks do not communicate. The rank of a row follows from a hash of the row alone, the same on every
machine; and all questions about one image go to one rank, which encodes it once.
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
        InputError: the rank is out of range.
    """

    index: int
    """The rank, counted from 0."""
    count: int
    """Number of ranks."""

    def __post_init__(self) -> None:
        """Raise for a rank out of range."""
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"--shard {self}: there is no such rank; of eight ranks the first is --shard 0/8 "
                "and the last --shard 7/8"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, images: Any, sample_id: str) -> bool:
        """Return whether a row is in this share.

        Images are identified by their names in the table, or by a hash of their bytes without one,
        so the result does not depend on where, or whether, a rank finds the files.

        Args:
            images: Identity of the row's images; None without images.
            sample_id: Identifies the row then.
        """
        about = ["id", sample_id] if images is None else ["picture", images]
        digest = hashlib.sha256(json.dumps(about).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index
