"""Finished rows on their way to the writer: gathered, because each hand-over becomes a file.

Rows end one by one. A shard for each would be a thousand times ``fsync``; a shard only at the end
would be lost in a power cut. So a hand-over has about as many rows as a prefill, and none waits
long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vlmscope.schema import Capture, Failure

PATIENCE = 10.0
"""Seconds after which rows are handed over however few they are."""


class Outbox:
    """Gathers results.

    Args:
        send: Takes a batch of them.
        size: How many make a batch, asked each time.
    """

    def __init__(
        self, send: Callable[[Sequence[Capture | Failure]], None], size: Callable[[], int]
    ) -> None:
        self._send = send
        self._size = size
        self._waiting: list[Capture | Failure] = []
        self._since = time.monotonic()

    def put(self, results: Sequence[Capture | Failure]) -> None:
        """Take results in; hand them over if they are enough, or the first has waited long."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += results
        if len(self._waiting) >= self._size() or time.monotonic() - self._since > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._send(waiting)
