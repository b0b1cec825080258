"""``ModelOptions``: how a checkpoint is loaded, for every command and the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options of ``vlmscope.model.load_model``, and its defaults.

    >>> ModelOptions(device="cpu", adapter="adapters/one").given
    ('device', 'adapter')
    """

    dtype: str = "auto"
    """Data type of the computation."""
    device: str = "auto"
    """Device of the model."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint."""
    attention: str = "auto"
    """Attention implementation: ``auto``, ``sdpa`` or ``eager``."""
    family: str | Path | Mapping[str, Any] | None = None
    """TOML file, or its content, that describes the model's architecture."""
    adapter: Path | None = None
    """Folder of a LoRA adapter. A text becomes a path."""
    quantize: str | None = None
    """Quantize the weights to ``4bit`` or ``8bit``."""
    allow_pickle_weights: bool = False
    """Allow weights in pickle files."""

    if TYPE_CHECKING:  # more is taken than is kept

        def __init__(
            self,
            dtype: str = "auto",
            device: str = "auto",
            revision: str | None = None,
            attention: str = "auto",
            family: str | PathLike[str] | Mapping[str, Any] | None = None,
            adapter: str | PathLike[str] | None = None,
            quantize: str | None = None,
            allow_pickle_weights: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Convert file names to paths."""
        if isinstance(self.family, PathLike):
            object.__setattr__(self, "family", Path(fspath(self.family)))
        if self.adapter is not None:
            object.__setattr__(self, "adapter", Path(self.adapter))

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults."""
        return tuple(
            option.name for option in fields(self) if getattr(self, option.name) != option.default
        )
