"""``Request``: what the user asked for, before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlmscope.dataset import Share
from vlmscope.schema import CaptureSpec, FieldSpec
from vlmscope.store import ALONE, StoreDtype, rank_name


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, unchecked: the arguments of ``vlmscope extract``."""

    data: str | tuple[str, ...]
    """Path of the table, a pattern or a hub id; several are one table together."""
    model: str
    """Folder of a checkpoint, or a hub id."""
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
    """Questions in the model at once; their prompts go through in smaller batches."""
    dtype: str = "auto"
    """Type the model computes in."""
    device: str = "auto"
    """Where it runs."""
    store_dtype: StoreDtype = "float32"
    """Type of the vectors on disk."""
    attention: str = "auto"
    """Attention implementation: ``auto``, ``sdpa`` or ``eager``."""
    revision: str | None = None
    """Commit of a hub checkpoint."""
    family: str | Path | Mapping[str, Any] | None = None
    """TOML file, or what is in one, that describes the model's architecture."""
    adapter: Path | None = None
    """Folder of a LoRA adapter."""
    quantize: str | None = None
    """Round the weights, ``4bit`` or ``8bit``."""
    strict: bool = False
    """Stop at the first row that fails."""
    text_only: bool = False
    """Take rows without a picture as questions about none; else each is a failure."""
    time_limit: float | None = None
    """Seconds that the model may take for a batch; a row that takes longer alone is a failure."""
    redo_damaged: bool = False
    """Set damaged files of the run aside, and capture their rows again."""
    allow_absolute_paths: bool = False
    """Let paths of pictures lead out of the image root."""
    allow_pickle_weights: bool = False
    """Read weights that are pickles."""
    shard: Share | None = None
    """Only the rows of this rank; the others of the run write theirs beside it."""
    writer: Literal["auto", "thread", "process"] = "auto"
    """Who writes the run: a thread, or a process of its own; auto: the latter on a GPU."""

    @property
    def writes_as(self) -> str:
        """The name to write the run as."""
        return rank_name(self.shard.index, self.shard.count) if self.shard else ALONE
