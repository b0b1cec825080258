"""This process's ends: of the process that starts workers, and of a worker.

The inputs of a batch come through a socket, with one system call for each tensor: it waits for all
bytes without the interpreter's lock, needs no ``/dev/shm``, which is small in containers, and
leaves nothing behind if a process dies.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import torch

from vlmscope.early_server import take_server
from vlmscope.executors.workers.process import NOT_STARTED, Answer, Layout, as_bytes

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WITH_SERVER = "with the process that started it"
"""How a worker ended whose server died."""

START_SECONDS = 120
"""Seconds that the server may take to start, to be set up, or to fork a worker, also on a busy
machine with a slow disk."""

SECONDS_TO_END = 1.0
"""Seconds that the server may take to end its workers before it is killed; then the kernel does."""


class Server:
    """The process that starts workers. Except ``interrupt``, used by one thread at a time."""

    def __init__(self) -> None:
        started = take_server()
        self._pipe, self._process, self._owner = started.pipe, started.process, started.owner
        self._is_ready = False
        self._socket = _socket_of(self._pipe)

    def is_ready(self) -> bool:
        """Return whether its imports are done: it can be set up within a second."""
        with suppress(OSError):  # it has ended; setting it up reports why
            return self._is_ready or self._pipe.poll()
        return False

    def set_up(self, modules: Sequence[str], data: memoryview) -> None:
        """Send what rows are prepared with.

        Raises:
            EOFError, OSError: It has ended.
            RuntimeError: It does not start, or the data cannot be used there.
        """
        if not self._is_ready:
            if not self._pipe.poll(START_SECONDS):  # for example, the executable is not Python
                raise RuntimeError(f"their process did not start in {START_SECONDS} seconds")
            self._pipe.recv()
            self._is_ready = True
        self._pipe.send(("set up", modules))
        self._pipe.send_bytes(data)
        if problem := self._reply("cannot be set up"):
            raise RuntimeError(problem)

    def _reply(self, what: str) -> Any:
        """Return its next answer.

        Raises:
            EOFError, OSError: It has ended.
            RuntimeError: It does not answer; it is killed, as a late answer would be taken for
                that to another question.
        """
        if not self._pipe.poll(START_SECONDS):
            if os.getpid() == self._owner:
                self._process.kill()
            raise RuntimeError(f"their process {what} within {START_SECONDS} seconds")
        return self._pipe.recv()

    def start_worker(self) -> Worker:
        """Start a worker.

        Raises:
            EOFError, OSError: It has ended.
            RuntimeError: No process can be forked, or it does not answer.
        """
        ours, theirs = Pipe()
        with theirs:
            self._pipe.send(("start", None))
            socket.send_fds(self._socket, [b"+"], [theirs.fileno()])
            process = self._reply("cannot start one")
        if process == NOT_STARTED:
            ours.close()
            raise RuntimeError("a process cannot be forked, memory may be too small")
        return Worker(ours, process, self)

    def end_of(self, worker: Worker) -> str:
        """Return how a worker ended that has died."""
        try:
            self._pipe.send(("wait", worker.process))
            code = self._reply("has not seen it end")
        except (EOFError, OSError, RuntimeError):
            return WITH_SERVER
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    def interrupt(self) -> None:
        """Let it end with its workers, and wake a thread that waits for it."""
        if os.getpid() == self._owner:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._is_ready:
                self._process.kill()

    def stop(self) -> None:
        """End it and its workers; in a fork of this process, only close the pipe."""
        self.interrupt()
        self._socket.close()
        self._pipe.close()
        if os.getpid() != self._owner:
            self._process.returncode = 0
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS_TO_END)
        self._process.kill()
        self._process.wait()


class Worker:
    """A worker, used by one thread at a time.

    Args:
        pipe: Its socket.
        process: Its process id.
        server: The server that started it.
    """

    def __init__(self, pipe: Connection, process: int, server: Server) -> None:
        self.process = process
        self.server = server
        self._pipe = pipe
        self._data = _socket_of(pipe)

    def is_alive(self) -> bool:
        """Return whether it has not died while it was idle."""
        try:
            return bool(self._data.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def run(
        self, task: memoryview, *, pin_memory: bool
    ) -> tuple[Answer, list[dict[str, torch.Tensor]]]:
        """Run a task; return its answer, and the inputs of each batch.

        Raises:
            EOFError, OSError: It has died.
        """
        self._pipe.send_bytes(task)
        answer: Answer = self._pipe.recv()
        return answer, [
            {each.name: self._receive(each, pin_memory=pin_memory) for each in batch.inputs}
            for batch in answer.batches
        ]

    def _receive(self, layout: Layout, *, pin_memory: bool) -> torch.Tensor:
        """Receive a tensor, in few system calls: each one acquires the interpreter lock again."""
        tensor = torch.empty_strided(
            layout.shape, layout.stride, dtype=layout.dtype, pin_memory=pin_memory
        )
        left = as_bytes(tensor)
        while left:
            received = self._data.recv_into(left, len(left), socket.MSG_WAITALL)
            if not received:
                raise EOFError
            left = left[received:]
        return tensor

    def interrupt(self) -> None:
        """Let it end, and wake a thread that waits for it."""
        with suppress(OSError):
            self._data.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Let it end, and close the socket."""
        self.interrupt()
        self._data.close()
        self._pipe.close()


def _socket_of(pipe: Connection) -> socket.socket:
    """Return the socket of a connection as a socket that blocks, whatever the default is."""
    found = socket.socket(fileno=os.dup(pipe.fileno()))
    found.settimeout(None)
    return found
