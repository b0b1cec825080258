"""A watchdog process that ends this one when none of its Python threads can run.

A C function that keeps the interpreter's lock and never returns blocks every Python thread, so that
only another process can end it. This file is both sides: ``Watchdog`` is used by the watched
process; run as a script, the file is the watching process, with Python's standard library only.

The watched process sends a byte from time to time. The watchdog adds up its own short waits without
a byte, except those in which the watched process was stopped: Ctrl-Z, SIGSTOP or a sleeping laptop
do not count.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys

ALIVE, AT_REST, EXPIRED = b"+", b"-", b"!"
"""The messages: Python runs; no limit is active for now; the limit has expired, and what is
captured is being written before the process ends or restarts."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that a terminal or scheduler sends to every process of a job; the parent handles them."""


class Watchdog:
    """Starts a process that watches this one; does nothing if no process can be started.

    Args:
        seconds: Time without a message after which this process is ended by SIGABRT, with the
            stacks of its threads on stderr.
        ending: The same, after the message ``EXPIRED``.
    """

    def __init__(self, seconds: float, ending: float) -> None:
        if sys.__stderr__ is not None and not faulthandler.is_enabled():
            with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
                faulthandler.enable(sys.__stderr__)
        given = [str(os.getpid()), str(seconds), str(ending)]
        command = [sys.executable, "-I", "-S", __file__, *given]
        self._process: subprocess.Popen[bytes] | None = None
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # inherited by the process
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
            )
        except OSError:
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)

    def send(self, message: bytes) -> None:
        """Send ``ALIVE``, ``AT_REST`` or ``EXPIRED``."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(message)

    def close(self) -> None:
        """Stop the watchdog."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()


def watch(process: int, seconds: float, ending: float) -> None:
    """Wait for messages of the parent process, and end it if they stop."""
    tick = min(max(seconds / 60, 0.01), 0.25)
    allowed = {ALIVE: seconds, EXPIRED: ending}
    limit, silent = None, 0.0
    while os.getppid() == process:
        if select.select([0], [], [], tick)[0]:
            messages = os.read(0, 65_536)
            if not messages:
                return
            limit, silent = allowed.get(messages[-1:]), 0.0
        elif limit is not None and not _is_stopped(process):
            silent += tick
            if silent >= limit:
                os.kill(process, signal.SIGABRT)
                return


def _is_stopped(process: int) -> bool:
    """Return whether a process is stopped, if /proc has its state."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
