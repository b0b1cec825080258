"""What a process may use of its machine: processors and memory.

Processors count if the affinity of the process and the quota of its container allow them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from vlmscope.dataset import Share

_CGROUPS = Path("/sys/fs/cgroup")


def is_supported() -> bool:
    """Return whether this system has what worker processes need: Linux."""
    return hasattr(os, "fork") and hasattr(os, "sched_getaffinity")


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


def usable_by_rank(shard: Share | None, environment: Mapping[str, str]) -> int:
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
