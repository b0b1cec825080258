"""The executor on Ray: one model per GPU, rows assigned to workers on demand.

- ``driver``: the loop of the process that started the job
- ``cluster``: connecting to Ray, and the number of models it has resources for
- ``scheduler``: assigns rows to workers
- ``actors``: starting, calling and replacing workers
- ``worker``: the code of an actor: one model and the rows it receives
"""

from types import ModuleType

from vlmscope.errors import InputError

__all__ = ["check_not_on_ray", "load_driver"]


def load_driver() -> ModuleType:
    """Return ``driver``, which needs Ray.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        from vlmscope.executors.ray import driver
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise InputError("--ray needs Ray: pip install 'vlmscope[ray]'") from None
    return driver


def check_not_on_ray(address: str | None, actors: int | None) -> None:
    """Refuse options of a cluster without ``--ray``.

    Raises:
        InputError: An address or a number of actors is given.
    """
    if address is not None or actors is not None:
        given = "--actors" if address is None else "--address"
        raise InputError(f"{given} is for Ray: give --ray too, or omit it")
