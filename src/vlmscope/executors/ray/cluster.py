"""A Ray cluster, and how many models it has room for."""

from __future__ import annotations

import math
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import ray

from vlmscope.errors import InputError, one_line
from vlmscope.locking import warnings_lock

_PATIENCE = 10.0  # seconds until a machine that does not answer is taken for none

LOCAL = "local"
"""The address that starts a cluster on this machine, whatever is running."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the workers get of a cluster."""

    workers: int
    """How many there are; those for whom there is no room yet wait for it."""
    gpus: int
    """GPUs of each: one, or none."""
    cpus: int
    """Processors of each. On a GPU little is reckoned with, so that none stays empty for want of
    processors."""


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine; leave it, or end it, at the end.

    Args:
        address: Where it is. None: the one that runs on this machine, else one that is started.
        workers: How many workers are asked for: a cluster that is started has room for them.

    Raises:
        InputError: There is no cluster at this address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    with redirect_stdout(sys.stderr):  # Ray tells there of dead workers, among our results
        _start(address, workers)
        try:
            yield
        finally:
            ray.shutdown()


def _start(address: str | None, workers: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    with warnings_lock(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's advice on its own settings
        if address == LOCAL or not _connect(address, quiet):
            cpus = max(os.cpu_count() or 1, workers or 1)
            ray.init(address=LOCAL, num_cpus=cpus, include_dashboard=False, **quiet)


def _connect(address: str | None, quiet: dict[str, Any]) -> bool:
    """Connect to a running cluster; return False if there is none and none was named."""
    try:
        _knock(address or "")
        ray.init(address=address or "auto", **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        if address is None and isinstance(error, ConnectionError):
            return False
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({one_line(error)}); give the "
            "one that Ray printed when its first machine was started, or leave --address away"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raise if nobody listens at ``host:port``: Ray would try for minutes and end the process."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _PATIENCE).close()


def room(device: str, workers: int | None) -> Room:
    """Return what each worker gets: a GPU of its own, or a share of the processors.

    Args:
        device: ``--device``.
        workers: ``--actors``.

    Raises:
        InputError: A GPU is asked for, and the cluster has none.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise InputError("--device cuda: the Ray cluster has no GPU; leave --device away")
    if device != "cpu" and gpus:
        return Room(workers or gpus, gpus=1, cpus=1)
    count = workers or 1
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    on_a_node = math.ceil(count / max(1, len(nodes)))
    return Room(count, gpus=0, cpus=max(1, int(min(nodes, default=1)) // on_a_node))
