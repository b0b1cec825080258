"""The processes that prepare rows, and what is sent between them and their parent.

    parent                  this process, the server                workers
    starts it    ──►        imports torch and transformers
    processor    ──►        unpickles it
    a socket     ──►        forks                     ──►           serves the socket
    rows         ──────────────────────────────────────────►        ``prepare``
    inputs       ◄──────────────────────────────────────────        tensors as bytes

The server has one thread and no GPU, so that forking is safe, and a worker starts in milliseconds
and shares the memory of the imports. The server ends when the parent closes its pipe, which the
kernel does when the parent dies or executes another program, and kills its workers. A worker whose
server died is killed by the kernel.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import socket
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageFile
from torch import Tensor

from vlmscope.dataset import known_formats
from vlmscope.engine import Batch, prepare
from vlmscope.errors import named_line
from vlmscope.model import Preprocessing, ResolvedSpec
from vlmscope.model.loading.processors import import_modules
from vlmscope.model.preprocessing import packed
from vlmscope.schema import Sample
from vlmscope.shown_once import Message, collect_messages

PARENT_CHECKED = 5.0
"""Seconds between checks whether the parent still exists: a fork of it may keep its pipe open."""

_OOM_SCORE = "500"
"""If memory runs out, the kernel ends a worker first, which loses only the rows in it."""

NOT_STARTED = -1
"""Process id of a worker that could not be forked."""

_PR_SET_PDEATHSIG = 1


PRELOADED = (
    "transformers.processing_utils",
    "transformers.image_processing_backends",
    "transformers.tokenization_utils_tokenizers",
)
"""What every processor is made of: imported while the parent loads weights, which takes longer."""


@dataclass(frozen=True, slots=True)
class Task:
    """Rows to prepare, and settings of the parent that affect their images."""

    samples: tuple[Sample, ...]
    """Their images and questions; the ids are their indices."""
    folder: str | None
    """The current folder, where relative paths start."""
    max_image_pixels: int | None
    """Pillow's limit."""
    load_truncated_images: bool
    """Whether Pillow accepts truncated files."""
    shares_prefix: bool
    """Whether questions about one image share the beginning of their prompts."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor without its data, which follows as bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch without its samples and inputs."""

    batch: Batch
    rows: tuple[int, ...]
    """The indices of its samples."""
    inputs: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker made of a task. The data of its inputs follow, in the same order."""

    batches: tuple[PackedBatch, ...] = ()
    failures: tuple[tuple[int, str, str], ...] = ()
    """Index of a row, the stage at which it failed, and why."""
    messages: tuple[Message, ...] = ()
    """Warnings and log records."""
    problem: Literal["", "error", "memory"] = ""
    """Why there is no result: an exception, or what cannot be sent, where the parent prepares the
    rows itself; or too little memory."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the workers prepare rows with."""

    model: Preprocessing
    spec: ResolvedSpec
    filters: Sequence[Any]
    """Python's warning filters."""
    log_level: int
    """Level from which transformers logs."""
    formats: Sequence[str]
    """Formats of images that are read, some perhaps by a plugin of Pillow."""


def serve(descriptor: int) -> None:
    """Be the server: import a processor, fork workers, report how they ended.

    Args:
        descriptor: A socket to the parent, for a ``Connection``.
    """
    parent = os.getppid()
    os.set_inheritable(descriptor, False)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # sent to all processes of a job
    import resource  # not on Windows, where this module is imported too

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    messages = collect_messages()
    workers: set[int] = set()
    setup: Setup | None = None
    pipe = Connection(descriptor)
    with suppress(Exception):  # ``_set_up`` imports what it needs, and reports an error
        import_modules(PRELOADED)
    with suppress(EOFError, OSError):
        pipe.send(None)  # everything is imported
        while _has_parent(pipe, parent):
            order, argument = pipe.recv()
            reply: str | int
            if order == "set up":
                setup, reply = _set_up(pipe, argument)
            elif order == "start":
                reply = worker = _fork(pipe, setup, messages)
                workers |= {worker} - {NOT_STARTED}
            else:
                reply = os.waitstatus_to_exitcode(os.waitpid(argument, 0)[1])
                workers.discard(argument)
            pipe.send(reply)
    for worker in workers:
        with suppress(OSError):
            os.kill(worker, signal.SIGKILL)
    os._exit(0)


def _has_parent(pipe: Connection, parent: int) -> bool:
    """Wait for a message; return False if the parent has died."""
    while not pipe.poll(PARENT_CHECKED):
        if os.getppid() != parent:
            return False
    return True


def _set_up(pipe: Connection, modules: Sequence[str]) -> tuple[Setup | None, str]:
    """Receive what rows are prepared with; return it and no text, or why it cannot be used."""
    data = pipe.recv_bytes()
    try:
        import_modules(modules)
        setup: Setup = ForkingPickler.loads(data)
    except Exception as error:  # noqa: BLE001 - importing and unpickling may raise anything
        return None, named_line(error)
    if missing := sorted(set(setup.formats).difference(known_formats())):
        return None, f"{', '.join(missing)} is read by a plugin of Pillow that is not loaded there"
    logging.getLogger("transformers").setLevel(setup.log_level)
    filters: Any = warnings.filters
    filters[:] = setup.filters
    gc.collect()
    gc.freeze()  # so that the workers' collections do not copy the shared memory
    return setup, ""


def _fork(pipe: Connection, setup: Setup | None, messages: list[Message]) -> int:
    """Fork a worker that serves the next socket from the pipe.

    Returns:
        Its process id, or ``NOT_STARTED``.
    """
    with socket.socket(fileno=os.dup(pipe.fileno())) as control:
        _, [descriptor], _, _ = socket.recv_fds(control, 1, 1)
    server = os.getpid()
    try:
        worker = os.fork() if setup is not None else NOT_STARTED
    except OSError:
        worker = NOT_STARTED
    if worker or setup is None:
        os.close(descriptor)
        return worker
    try:
        pipe.close()
        _end_with(server)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        with suppress(EOFError, OSError):  # the parent has closed the socket, or died
            _serve_tasks(Connection(descriptor), setup, messages)
    finally:
        os._exit(0)


def _end_with(server: int) -> None:
    """Let the kernel kill this process when the server dies."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(0)


def _serve_tasks(pipe: Connection, setup: Setup, messages: list[Message]) -> None:
    """Be a worker: prepare rows until the pipe is closed."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as data:
        while True:
            messages.clear()
            _serve_task(pipe, data, setup, messages)


def _serve_task(
    pipe: Connection, data: socket.socket, setup: Setup, messages: Sequence[Message]
) -> None:
    """Prepare rows, and send them; nothing of them is kept in memory."""
    try:
        task: Task = pipe.recv()
    except (EOFError, OSError):
        raise
    except Exception:  # noqa: BLE001 - the parent prepares the rows itself
        pipe.send(Answer(problem="error"))
        return
    batches, answer = _answer(task, setup)
    try:
        _, packed_answer = packed(replace(answer, messages=tuple(messages)))
    except Exception:  # noqa: BLE001 - a warning of a class that only the parent knows
        pipe.send(Answer(problem="error"))
        return
    pipe.send_bytes(packed_answer)
    for batch in batches:
        for tensor in batch.values():
            data.sendall(as_bytes(tensor))


def _answer(task: Task, setup: Setup) -> tuple[list[dict[str, Tensor]], Answer]:
    """Prepare rows; return the inputs of each batch, and everything else."""
    Image.MAX_IMAGE_PIXELS = task.max_image_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = task.load_truncated_images
    try:
        if task.folder is not None:
            os.chdir(task.folder)
        model = replace(setup.model, shares_prefix=task.shares_prefix)
        batches, failures = prepare(task.samples, model, setup.spec)
    except MemoryError:
        return [], Answer(problem="memory")
    except Exception:  # noqa: BLE001 - the parent raises it again
        return [], Answer(problem="error")
    inputs = [{name: _dense(each) for name, each in batch.tensors().items()} for batch in batches]
    packed = tuple(
        PackedBatch(
            batch.with_tensors({}, ()),
            tuple(int(sample.id) for sample in batch.samples),
            tuple(
                Layout(name, tensor.dtype, tuple(tensor.shape), tensor.stride())
                for name, tensor in own.items()
            ),
        )
        for batch, own in zip(batches, inputs, strict=True)
    )
    failed = tuple((int(failure.id), failure.stage, failure.error) for failure in failures)
    return inputs, Answer(packed, failed)


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps in memory, its dimensions in the same order there."""
    like = torch.empty_like(tensor)
    return tensor if tensor.stride() == like.stride() else like.copy_(tensor)


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a dense tensor, in its order there."""
    flat = tensor.as_strided((tensor.numel(),), (1,))
    data: Any = flat.view(torch.uint8).numpy()
    return memoryview(data)
