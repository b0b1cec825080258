"""How many processes prepare rows: the processors that this process may use, minus two.

One of the two launches the GPU's work, the other writes the run. Processors count if the affinity
of the process and the quota of its container allow them. Ranks on one machine share them, and the
memory must suffice for a batch in each worker.

Also how many processes build shards at most: they run only while rows wait to be written, and yield
to the thread that launches the GPU's work.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from vlmscope.dataset import Share
from vlmscope.early_server import RESERVED, discard_early, may_be_gpu
from vlmscope.executors.request import Request
from vlmscope.executors.workers.pool import Workers
from vlmscope.model import VisionLanguageModel

LEAST = 2
"""Fewest workers, or builders, that are worth starting."""

MOST = 16
"""Most workers of ``auto``: enough for a GPU, and each one takes memory for a batch."""

MEMORY = 2 * 2**30
"""Bytes of memory of this machine or container for each worker: a batch of many tiles takes 1 GiB
while it is prepared."""

MOST_BUILDERS = 4
"""Most processes that build shards: more rows than a GPU of today makes of one image each."""

_CGROUPS = Path("/sys/fs/cgroup")


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
        processors = _usable_by_rank(request.shard, os.environ) // sharing
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
    processors = _usable_by_rank(request.shard, os.environ) // sharing
    return auto_builders(processors, usable_memory() // sharing)


def auto_builders(processors: int, memory: int) -> int:
    """Return the most builders for some processors and bytes of memory.

    >>> [auto_builders(processors, 2**36) for processors in (0, 1, 2, 3, 4, 128)]
    [0, 0, 2, 3, 4, 4]
    >>> [auto_builders(16, memory) for memory in (2**31, 2**32, 2**34)]
    [0, 2, 4]
    """
    count = min(MOST_BUILDERS, processors, memory // MEMORY)
    return count if count >= LEAST else 0


def keep_for(vlm: VisionLanguageModel, workers: Workers | None, request: Request) -> Workers | None:
    """Return the workers, unless they were started for a GPU that the model is not on."""
    if workers is None or request.num_workers != "auto" or vlm.cuda_devices:
        return workers
    workers.close()
    return None


def is_supported() -> bool:
    """Return whether this system has what worker processes need: Linux."""
    return hasattr(os, "fork") and hasattr(os, "sched_getaffinity")


def auto_workers(processors: int, memory: int) -> int:
    """Return the number of workers for some processors and bytes of memory, 0 if too few.

    >>> [auto_workers(processors, 2**36) for processors in (1, 2, 3, 4, 16, 128)]
    [0, 0, 2, 2, 14, 16]
    >>> [auto_workers(16, memory) for memory in (2**30, 2**32, 2**34)]
    [0, 2, 8]
    """
    if processors <= RESERVED or memory < LEAST * MEMORY or not is_supported():
        return 0
    return max(LEAST, min(MOST, processors - RESERVED, memory // MEMORY))


def _is_for_gpu(request: Request) -> bool:
    """Return whether the model is, or will probably be, on a GPU."""
    if isinstance(request.model, VisionLanguageModel):
        return bool(request.model.cuda_devices)
    return may_be_gpu(request.loading.device) and torch.cuda.is_available()


def usable_processors() -> int:
    """Return the number of processors that this process may use."""
    count = float(len(os.sched_getaffinity(0)) if is_supported() else os.cpu_count() or 1)
    for quota in _quotas():
        count = min(count, quota)
    return max(1, math.ceil(count))


def _quotas() -> Iterator[float]:
    """Yield the limits of processor time of this process's control groups, in processors."""
    for folder in _control_groups():
        with suppress(OSError, ValueError, ZeroDivisionError):
            limit, _, every = (folder / "cpu.max").read_text().partition(" ")
            if limit != "max":
                yield int(limit) / int(every)
    for folder in (_CGROUPS / "cpu", _CGROUPS / "cpu,cpuacct"):  # version 1, in a container
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (
                int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
            )
            if quota > 0:
                yield quota / period


def _control_groups() -> Iterator[Path]:
    """Yield the folders of this process's control group of version 2 and of those around it."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            hierarchy, _, path = line.split(":", 2)
            if hierarchy == "0":
                own = _CGROUPS / path.lstrip("/")
                yield from (own, *(each for each in own.parents if each.is_relative_to(_CGROUPS)))


def usable_memory() -> int:
    """Return the bytes of memory that this machine has, or this process's container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if is_supported() else []
    for folder in _control_groups():
        with suppress(OSError, ValueError):
            found.append(int((folder / "memory.max").read_text()))
    with suppress(OSError, ValueError):  # version 1, in a container
        found.append(int((_CGROUPS / "memory" / "memory.limit_in_bytes").read_text()))
    return min(found, default=0)


def _usable_by_rank(shard: Share | None, environment: Mapping[str, str]) -> int:
    """Return the processors of one rank: its share of those of the machine.

    Slurm tells how many processors a task has; torchrun, how many ranks are on this machine. Else
    all ranks are taken to be on it.
    """
    usable = usable_processors()
    if local := _number(environment, "LOCAL_WORLD_SIZE"):
        return usable // local
    if on_node := _number(environment, "SLURM_CPUS_ON_NODE"):
        tasks = _number(environment, "SLURM_STEP_TASKS_PER_NODE") or 1
        own = _number(environment, "SLURM_CPUS_PER_TASK") or on_node // tasks
        return min(usable, own)
    return usable // shard.count if shard else usable


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return the first number of a variable, such as 4 of ``4(x2)``; 0 if there is none."""
    found = re.match(r"\d+", environment.get(name, ""), re.ASCII)
    return int(found[0]) if found else 0
