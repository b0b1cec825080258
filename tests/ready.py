"""A python that has imported torch and transformers already: a command begins at once.

Importing them takes six seconds of a processor, and the suite runs a hundred commands. A server,
itself a fork of the fork server that ``faults.child`` and other tests use, forks a child for each
command; ``python``, an executable in the server's folder, passes it the arguments, the environment
and the three streams, and ends as the child does.
Inside the child ``sys.executable`` is that same executable. What neither ``-m`` nor a script begins
goes to the real python.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NEEDED = (
    "faults.warm",
    "vlmscope.labelling",
    "vlmscope.sweeps",
    "vlmscope.report",
    "vlmscope.risk",
)
"""What commands import."""

_LENGTH = 8


@contextlib.contextmanager
def ready_python(folder: Path) -> Iterator[str]:
    """Start a server; yield the path of its python. ``folder`` must have a short name."""
    name = folder / "socket"
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" ask "{name}" "$0" "$@"\n'
    )
    python.chmod(0o755)
    from multiprocessing import get_context  # ``ask`` is to begin at once, and needs none

    context = get_context("forkserver")
    context.set_forkserver_preload(list(NEEDED))
    server = context.Process(target=serve, args=(str(name),))
    server.start()
    try:
        deadline = time.monotonic() + 120
        while not name.exists():
            if server.exitcode is not None or time.monotonic() > deadline:
                raise RuntimeError("the server of commands did not start")
            time.sleep(0.02)
        yield str(python)
    finally:
        server.kill()
        server.join()


def ask(name: str, python: str, *arguments: str) -> int:
    """Have the server run a command, and return its exit code."""
    if not arguments or (arguments[0] != "-m" and arguments[0].startswith("-")):
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - as it was asked for
    request = {
        "arguments": arguments,
        "python": python,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
    }
    data = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(name)
        socket.send_fds(line, [len(data).to_bytes(_LENGTH, "big")], [0, 1, 2])
        line.sendall(data)
        child = int(line.recv(64))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(child, number))
        return int(line.recv(64) or b"1")


def serve(name: str) -> None:
    """Import what commands need, unless the fork server has; fork a child for each request."""
    os.setsid()
    for module in NEEDED:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{name}.new")
        door.listen()
        Path(f"{name}.new").rename(name)
        signal.signal(signal.SIGCHLD, _reap)
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                _attend(line)
            line.close()


def _reap(number: int, frame: object) -> None:
    """Forget the children that ended; their processor time counts as the server's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _attend(line: socket.socket) -> None:
    """Run one command in a child, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(line, _LENGTH, 3)
    data = b""
    while len(data) < int.from_bytes(length, "big"):
        data += line.recv(1 << 16)
    child = os.fork()
    if child == 0:
        line.close()
        _become(json.loads(data), streams)
    for stream in streams:
        os.close(stream)
    line.sendall(str(child).encode())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):  # who asked may have been killed
        line.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Be the process that was asked for."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.executable = request["python"]
    code = _run(*request["arguments"])
    threading._shutdown()  # type: ignore[attr-defined] - as Python does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(*arguments: str) -> int:
    """Run a module or a script, and return what its process would end with."""
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = list(arguments[1:]), str(Path.cwd())
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(arguments), str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201 - as Python does
        return 1
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(ask(*sys.argv[2:]))
