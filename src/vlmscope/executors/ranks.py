"""Which rank this process is, as ``--shard`` says, or torchrun or Slurm in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vlmscope.dataset import Share
from vlmscope.errors import InputError

AUTO = "auto"
"""The text that asks for the environment's word."""

_KNOWN = "RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID, or SLURM_PROCID and SLURM_NTASKS"


def share_of(text: str, environment: Mapping[str, str]) -> Share:
    """Return the share that ``--shard`` asks for.

    Of the environment's names those of torchrun come first, then those of a Slurm array, then those
    of a Slurm step.

    Args:
        text: ``3/8``, or ``auto``.
        environment: The environment's variables.

    Raises:
        InputError: The text is no rank, or the environment does not tell.

    >>> share_of("3/8", {})
    Share(index=3, count=8)
    >>> share_of("auto", {"RANK": "1", "WORLD_SIZE": "4"})
    Share(index=1, count=4)
    >>> array = {"MIN": "10", "MAX": "14", "STEP": "2", "COUNT": "3"}
    >>> slurm = {f"SLURM_ARRAY_TASK_{name}": value for name, value in array.items()}
    >>> share_of("auto", slurm | {"SLURM_ARRAY_TASK_ID": "12"})
    Share(index=1, count=3)
    """
    if text == AUTO:
        return _from_environment(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    if found is None:
        raise InputError(f"--shard {text!r}: give I/N, such as 0/8 to 7/8, or auto")
    return Share(int(found[1]), int(found[2]))


def _from_environment(environment: Mapping[str, str]) -> Share:
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _share(environment, "RANK", "WORLD_SIZE")
    if "SLURM_ARRAY_TASK_ID" in environment:
        return _share_of_array(environment)
    if "SLURM_PROCID" in environment:
        return _share(environment, "SLURM_PROCID", "SLURM_NTASKS")
    raise InputError(f"--shard auto: the environment does not have {_KNOWN}; give --shard I/N")


def _share(environment: Mapping[str, str], index: str, count: str) -> Share:
    return Share(_number(environment, index), _number(environment, count))


def _share_of_array(environment: Mapping[str, str]) -> Share:
    """Return the place of a task among those of its array, whose numbers may begin anywhere."""
    names = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT"))
    task, first, last, count = (_number(environment, name) for name in names)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") if count > 1 else 1
    if step < 1 or (task - first) % step or last != first + (count - 1) * step:
        raise InputError(
            f"--shard auto: the numbers of this Slurm array ({count} from {first} to {last}) have "
            "gaps, so that its task's place among them is not known; give --shard I/N, such as "
            "$SLURM_ARRAY_TASK_ID/N for an array of 0 to N-1"
        )
    return Share((task - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return a variable's number."""
    text = environment.get(name)
    if text is None or not re.fullmatch(r"\d+", text, re.ASCII):
        found = "is not set" if text is None else f"is {text!r}, no number"
        raise InputError(f"--shard auto: {name} {found}; set it, or give --shard I/N")
    return int(text)
