"""Ctrl-C and SIGTERM: finish the answers in progress, publish them, and set the exit code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from vlmscope.cli.output import stderr


@dataclass(slots=True)
class StopRequest:
    """Whether a stop was requested, and by which signal."""

    event: threading.Event = field(default_factory=threading.Event)
    """Set when a stop is requested."""

    signum: int = 0
    """The signal."""

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, as shells expect."""
        return 128 + self.signum


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first signal into a stop request; a second one stops at once."""
    request = StopRequest()
    previous = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}

    def ask(signum: int, _frame: FrameType | None) -> None:
        request.signum = signum
        request.event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stderr.print("stopping when these rows are done; press Ctrl-C again to stop at once")

    try:
        for sig in previous:
            signal.signal(sig, ask)
        yield request
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)
