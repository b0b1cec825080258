"""The process that starts workers (``executors.workers``), started before torch is imported here.

That process imports the same libraries as this one, which takes many seconds on a slow disk. The
command line therefore starts it first, so that both import at the same time, and the images of the
first rows are prepared by workers. Elsewhere it is started when it is needed. This module imports
nothing heavy.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from vlmscope.executors.workers.process import serve; serve(int(sys.argv[1]))"
)

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip
"""Environment of a worker: it is one of many, and uses no GPU."""

KEPT_MEMORY = 2 * 2**30
"""Bytes that a worker may keep from one batch to the next."""

_KEEPING_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_MEMORY),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""Settings of glibc: a worker keeps its memory for its next batch. By default each array of an
image is returned to the kernel, which clears the same pages again: half of a worker's time."""

_GPUS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""Files of the drivers of NVIDIA (on Linux, and on Windows' Linux) and AMD."""

RESERVED = 2
"""Processors that workers leave to the thread that launches the GPU's work, and to the process that
writes."""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """The process and our end of its pipe."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    owner: int
    """Id of the process that started it."""


_early: list[ServerProcess] = []


def start_early(num_workers: int | str, device: str) -> None:
    """Start the process if workers will probably be used; an error is left to the later start.

    Args:
        num_workers: As ``--num-workers``.
        device: As ``--device``.
    """
    if not _early and (_is_likely(device) if num_workers == "auto" else num_workers != 0):
        with suppress(OSError):
            _early.append(start_server())
            atexit.register(discard_early)


def take_server() -> ServerProcess:
    """Return the process that was started early, if it still runs, or else a new one.

    Raises:
        OSError: It cannot be started.
    """
    while _early:
        found = _early.pop()
        if found.owner == os.getpid() and found.process.poll() is None:
            return found
        _end(found)
    return start_server()


def discard_early() -> None:
    """End the process that was started early and is not used."""
    while _early:
        _end(_early.pop())


def start_server() -> ServerProcess:
    """Start the process.

    Raises:
        OSError: It cannot be started.
    """
    ours, theirs = Pipe()
    isolation = "-I" if sys.flags.isolated else "-P"
    path = [entry for entry in sys.path if isinstance(entry, str)]
    with theirs:
        process = subprocess.Popen(
            [
                *(sys.executable or "", isolation, "-X", f"utf8={sys.flags.utf8_mode}"),
                *("-c", _START, str(theirs.fileno()), *path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is handled by this process
            env={**_KEEPING_MEMORY, **os.environ, **_ONE_THREAD},
        )
    return ServerProcess(process, ours, os.getpid())


def may_be_gpu(device: str) -> bool:
    """Return whether a value of ``--device`` means a GPU, if there is one."""
    return device.startswith(("auto", "cuda", "spread"))


def _is_likely(device: str) -> bool:
    """Return whether the model will probably be on a GPU, and there are processors for workers."""
    if not hasattr(os, "sched_getaffinity") or not may_be_gpu(device):
        return False
    return len(os.sched_getaffinity(0)) > RESERVED and any(path.exists() for path in _GPUS)


def _end(server: ServerProcess) -> None:
    """End a process; in a fork of the one that started it, only close the pipe."""
    server.pipe.close()
    if server.owner != os.getpid():
        server.process.returncode = 0  # of another process, which waits for it
        return
    server.process.kill()
    server.process.wait()
