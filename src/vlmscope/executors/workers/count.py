"""How many processes prepare rows, and how many build shards.

As many prepare rows as there are processors that this process may use, minus two: one of the two
launches the GPU's work, the other writes the run. Ranks on one machine share the processors, and
the memory must suffice for a batch in each worker.

Those that build shards run only while rows wait to be written, and yield to the thread that
launches the GPU's work.
"""

from __future__ import annotations

import os
from contextlib import suppress

import torch

from vlmscope.early_server import KEPT_MEMORY, RESERVED, discard_early, may_be_gpu
from vlmscope.executors.request import Request
from vlmscope.executors.workers.pool import Workers
from vlmscope.executors.workers.usable import is_supported, usable_by_rank, usable_memory
from vlmscope.model import VisionLanguageModel

LEAST = 2
"""Fewest workers, or builders, that are worth starting."""

MOST = 16
"""Most workers of ``auto``: enough for a GPU, and each one takes memory for a batch."""

MEMORY = KEPT_MEMORY
"""Bytes of memory of this machine or container for each worker, which it may keep for a run: 32
rows of 13 tiles take 0.8 GiB (SmolVLM2) to 1.1 GiB (InternVL), large photographs 1 GiB more."""

MEMORY_OF_BUILDER = 2 * 2**30
"""The same for a process that builds shards."""

MOST_BUILDERS = 4
"""Most processes that build shards: more rows than a GPU of today makes of one image each."""


def make_workers(request: Request, *, sharing: int = 1) -> Workers | None:
    """Return the workers for a request, which are being started, or None for threads.

    Called before the model is loaded, so that both start at the same time.

    Args:
        request: The request.
        sharing: Number of models of this job on this machine, if it is not a matter of ranks.
    """
    if request.num_workers != "auto":
        count = request.num_workers
    elif _is_for_gpu(request):
        processors = usable_by_rank(request.shard, os.environ) // sharing
        count = auto_workers(processors, usable_memory() // sharing)
    else:
        count = 0
    if not count:
        discard_early()
        return None
    workers = Workers(count, wait=request.num_workers != "auto")
    with suppress(OSError):  # ``begin`` tries again, and reports the error
        workers.start()
    return workers


def builders_for(request: Request, *, sharing: int = 1) -> int:
    """Return the most processes that may build shards for a request, 0 if too few.

    Args:
        request: The request.
        sharing: Number of models of this job on this machine, if it is not a matter of ranks.
    """
    processors = usable_by_rank(request.shard, os.environ) // sharing
    return auto_builders(processors, usable_memory() // sharing)


def auto_builders(processors: int, memory: int) -> int:
    """Return the most builders for some processors and bytes of memory.

    >>> [auto_builders(processors, 2**36) for processors in (0, 1, 2, 3, 4, 128)]
    [0, 0, 2, 3, 4, 4]
    >>> [auto_builders(16, memory) for memory in (2**31, 2**32, 2**34)]
    [0, 2, 4]
    """
    count = min(MOST_BUILDERS, processors, memory // MEMORY_OF_BUILDER)
    return count if count >= LEAST else 0


def keep_for(vlm: VisionLanguageModel, workers: Workers | None, request: Request) -> Workers | None:
    """Return the workers, unless they were started for a GPU that the model is not on."""
    if workers is None or request.num_workers != "auto" or vlm.cuda_devices:
        return workers
    workers.close()
    return None


def auto_workers(processors: int, memory: int) -> int:
    """Return the number of workers for some processors and bytes of memory, 0 if too few.

    >>> [auto_workers(processors, 2**36) for processors in (1, 2, 3, 4, 16, 128)]
    [0, 0, 2, 2, 14, 16]
    >>> [auto_workers(16, memory) for memory in (2**30, 2**33, 2**35)]
    [0, 4, 14]
    """
    if processors <= RESERVED or memory < LEAST * MEMORY or not is_supported():
        return 0
    return max(LEAST, min(MOST, processors - RESERVED, memory // MEMORY))


def _is_for_gpu(request: Request) -> bool:
    """Return whether the model is, or will probably be, on a GPU."""
    if isinstance(request.model, VisionLanguageModel):
        return bool(request.model.cuda_devices)
    return may_be_gpu(request.loading.device) and torch.cuda.is_available()
