"""One vlmscope process that can be killed, started from a fork server that has imported all.

So the kills fall on the work and not on the imports. Each child leads a session of its own, for
kills of the whole process group.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PRELOAD = ["faults.warm"]


@contextlib.contextmanager
def harmed(harm: str | None) -> Any:
    """Poison every model that is loaded inside the block."""
    from faults.poison import poison
    from vlmscope.executors import plan

    original = plan.load_with

    def load(*args: Any, **kwargs: Any) -> Any:
        vlm = original(*args, **kwargs)
        poison(vlm, harm or "")
        return vlm

    if harm:
        plan.load_with = load
    try:
        yield
    finally:
        plan.load_with = original


def command_line(
    arguments: Sequence[str], log: Path, harm: str | None, before: Callable[[], None] | None
) -> None:
    """Run ``vlmscope`` in this process, as its console script would; its words go to a file."""
    import torch

    from vlmscope.cli import main

    with contextlib.suppress(PermissionError):  # it leads one already
        os.setsid()
    torch.set_num_threads(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if before is not None:
        before()
    sys.argv = ["vlmscope", *arguments]
    sys.orig_argv = [sys.executable, "-m", "faults.child", harm or "", *arguments]
    with harmed(harm):
        main()


def from_python(arguments: dict[str, Any], log: Path) -> None:
    """Call ``vlmscope.extract`` with a writing process of its own, as on a GPU."""
    import torch

    from vlmscope import extract
    from vlmscope.schema import CaptureSpec

    os.setsid()
    torch.set_num_threads(1)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    extract(
        **arguments, spec=CaptureSpec(max_new_tokens=6), device="cpu", batch_size=1,
        writer="process",
    )  # fmt: skip


_CONTEXT = multiprocessing.get_context("forkserver")


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    harm: str | None = None,
    before: Callable[[], None] | None = None,
) -> BaseProcess:
    """Start a command line."""
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    child = _CONTEXT.Process(target=command_line, args=(list(arguments), log, harm, before))
    child.start()
    return child


def start_python(arguments: dict[str, Any], log: Path) -> BaseProcess:
    """Start an extraction by the Python interface whose writer is a process of its own."""
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    child = _CONTEXT.Process(target=from_python, args=(arguments, log))
    child.start()
    return child


def finish(child: BaseProcess, seconds: float = 120) -> int:
    """Wait for a child to end and return its exit code; one that does not end is killed."""
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"a child did not end in {seconds:.0f} s")
    return child.exitcode


def writer_of(child: BaseProcess) -> int | None:
    """Return the process id of a child's writing process, or None while it has none. Linux only."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    with contextlib.suppress(OSError):
        for pid in children.read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"spawn_main" in words:
                return int(pid)
    return None


if __name__ == "__main__":  # the command began again in this process
    command_line(sys.argv[2:], Path("/dev/fd/1"), sys.argv[1], None)
