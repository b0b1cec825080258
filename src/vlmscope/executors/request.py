"""``Request``: the arguments of the user, before any check, and the rank of this process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlmscope.dataset import InMemory, Share
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel
from vlmscope.model_options import ModelOptions
from vlmscope.schema import CaptureSpec, FieldSpec
from vlmscope.store import ALONE, StoreDtype, rank_name

AUTO = "auto"
"""The value of ``--shard`` that reads the rank from the environment."""

_KNOWN = "RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID, or SLURM_PROCID and SLURM_NTASKS"


def share_of(text: str, environment: Mapping[str, str]) -> Share:
    """Return the share given by ``--shard``.

    From the environment, the variables of torchrun are used first, then those of a Slurm array,
    then those of a Slurm step.

    Args:
        text: ``3/8``, or ``auto``.
        environment: The environment's variables.

    Raises:
        InputError: The text is not a rank, or the environment does not specify one.

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
    """Return the index of a task in its array, whose numbers may start at any value."""
    names = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT"))
    task, first, last, count = (_number(environment, name) for name in names)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") if count > 1 else 1
    if step < 1 or (task - first) % step or last != first + (count - 1) * step:
        raise InputError(
            f"--shard auto: the numbers of this Slurm array ({count} from {first} to {last}) have "
            "gaps, so that the index of its task is unknown; give --shard I/N, such as "
            "$SLURM_ARRAY_TASK_ID/N for an array of 0 to N-1"
        )
    return Share((task - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return a variable's number."""
    text = environment.get(name)
    if text is None or not re.fullmatch(r"\d+", text, re.ASCII):
        found = "is not set" if text is None else f"is {text!r}, not a number"
        raise InputError(f"--shard auto: {name} {found}; set it, or give --shard I/N")
    return int(text)


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of ``vlmscope extract``, unchecked."""

    data: str | tuple[str, ...] | InMemory
    """Path of the table, a pattern or a hub id; several form one table. Or a table in memory."""

    model: str | VisionLanguageModel
    """Folder of a checkpoint, or a hub id; or a loaded model."""
    out: Path
    """The run folder."""
    images: str | None = None
    """Image root (default: the table's folder)."""
    fields: FieldSpec = field(default_factory=FieldSpec)
    """Column mapping."""
    spec: CaptureSpec = field(default_factory=CaptureSpec)
    """What to record."""
    limit: int | None = None
    """Only the first rows of the table."""
    batch_size: int | Literal["auto"] = "auto"
    """Questions that are decoded at once; their prompts are prefilled in smaller batches."""
    loading: ModelOptions = field(default_factory=ModelOptions)
    """Options for loading the model."""
    store_dtype: StoreDtype | None = None
    """Type on disk. By default that of vectors is float32, and that of states of several tokens,
    which are large, float16."""
    strict: bool = False
    """Stop at the first row that fails."""
    text_only: bool = False
    """Accept rows without an image as text-only questions; else each is a failure."""

    time_limit: float | None = None
    """Maximum seconds of the model for a batch; a row that takes longer alone is a failure."""
    redo_damaged: bool = False
    """Set damaged files of the run aside, and capture their rows again."""
    allow_absolute_paths: bool = False
    """Allow image paths outside the image root."""

    shard: Share | None = None
    """Only the rows of this rank; other ranks write theirs into the same run."""

    num_workers: int | Literal["auto"] = "auto"
    """Processes that prepare rows; 0 for threads of this process; auto: processes for a GPU."""

    writer: Literal["auto", "thread", "process"] = "auto"
    """Whether a thread or a separate process writes the run; auto: a process on a GPU."""

    @property
    def writes_as(self) -> str:
        """The writer name."""
        return rank_name(self.shard.index, self.shard.count) if self.shard else ALONE
