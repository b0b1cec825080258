"""Connecting to a Ray cluster, and the number of models it has resources for."""

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

_TIMEOUT = 10.0  # seconds to wait for the machine at an address

LOCAL = "local"
"""The address that always starts a new cluster on this machine."""


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """The resources of a cluster that the workers get."""

    workers: int
    """Number of workers; those without resources yet wait for them."""

    gpus: int
    """GPUs of each worker: one, or none."""

    workers_per_node: int
    """Most workers on one machine."""

    cpus: int
    """Processors of each worker. Few are requested beside a GPU, so that no GPU stays idle for lack
    of processors."""


@contextmanager
def cluster(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine; on exit disconnect, or stop it.

    Args:
        address: Its address. None: the one running on this machine, else a new one.
        workers: Requested number of workers: a new cluster has resources for them.

    Raises:
        InputError: There is no cluster at this address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
    with redirect_stdout(sys.stderr):  # Ray prints dead workers to stdout, which has our results
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
    """Connect to a running cluster; return False if there is none and no address was given."""
    try:
        _check_port(address or "")
        ray.init(address=address or "auto", **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        if address is None and isinstance(error, ConnectionError):
            return False
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({one_line(error)}); give the "
            "address that Ray printed when its first machine was started, or omit --address"
        ) from error
    return True


def _check_port(address: str) -> None:
    """Raise if nothing listens at ``host:port``: Ray would try for minutes and end the process."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), _TIMEOUT).close()


def worker_resources(device: str, workers: int | None) -> WorkerResources:
    """Return the resources of each worker: one GPU, or a share of the processors.

    Args:
        device: ``--device``.
        workers: ``--actors``.

    Raises:
        InputError: A GPU is requested, and the cluster has none.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and not gpus:
        raise InputError("--device cuda: the Ray cluster has no GPU; omit --device")
    if device != "cpu" and gpus:
        count = workers or gpus
        return WorkerResources(
            count, gpus=1, workers_per_node=min(count, int(max(_resources("GPU")))), cpus=1
        )
    count = workers or 1
    nodes = _resources("CPU")
    workers_per_node = math.ceil(count / max(1, len(nodes)))
    cpus = max(1, int(min(nodes, default=1)) // workers_per_node)
    return WorkerResources(count, gpus=0, workers_per_node=workers_per_node, cpus=cpus)


def _resources(kind: str) -> list[float]:
    """Return how much of a resource each machine of the cluster has."""
    return [node["Resources"].get(kind, 0) for node in ray.nodes() if node["Alive"]]
