"""What is known of a saved probe besides its numbers, and the check that it is all there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vlmscope.errors import InputError
from vlmscope.version import __version__

LATER = frozenset({"chosen_c"})
"""Fields that probes of earlier versions lack."""

FORMAT_VERSION = 1
"""Version of a saved probe's two files."""


@dataclass(frozen=True, slots=True)
class ProbeInfo:
    """What a probe was trained on and how well it did: plain data, JSON as it is."""

    representation: str
    """Name of the representation, as in the run."""
    layer: int | None
    """Decoder layer; None for the vision encoder's vector."""
    width: int
    """Numbers in a vector."""
    estimator: str
    """Name of the probe's class."""
    rows: int
    """Rows it was trained on."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's fingerprint, as the caller has it."""
    calibration: tuple[float, float] | None = None
    """Slope and offset to apply to the log-odds; None if they stand as they are."""
    threshold: float = 0.5
    """Risk above which an answer is flagged."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """How well it did, out of fold."""
    chosen_c: tuple[float, ...] | None = None
    """Penalty ``C`` that each fold of the sweep chose; None where it is not known."""
    vlmscope: str = __version__
    """Version that wrote it."""
    format_version: int = FORMAT_VERSION


def read_info(place: Path, found: Any) -> ProbeInfo:
    """Turn the JSON object into a ``ProbeInfo``, every field of its type."""
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{place}: format version {version!r}, expected {FORMAT_VERSION}; "
            "use the vlmscope that wrote it, or train the probe again"
        )
    names = {each.name for each in fields(ProbeInfo)}
    # Probes of before have no chosen_c.
    if set(found) | LATER != names:
        odd = ", ".join(sorted((set(found) | LATER) ^ names))
        raise InputError(f"{place}: fields missing or unknown: {odd}; train the probe again")
    lists = {name: found.get(name) for name in ("calibration", "chosen_c")}
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in lists.items()}
    info = ProbeInfo(**{**found, **tuples})
    check_info(place, info)
    return info


def check_info(place: Path, info: ProbeInfo) -> None:
    """Check every field's type and range."""
    pair = info.calibration
    good = {
        "representation": isinstance(info.representation, str),
        "layer": info.layer is None or _is_count(info.layer),
        "width": _is_count(info.width) and info.width > 0,
        "estimator": isinstance(info.estimator, str),
        "rows": _is_count(info.rows),
        "model": isinstance(info.model, Mapping),
        "calibration": pair is None
        or (
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(map(_is_number, pair))
            and pair[0] >= 0
        ),
        "threshold": _is_number(info.threshold) and 0 <= info.threshold <= 1,
        "metrics": isinstance(info.metrics, Mapping)
        and all(map(_is_number, info.metrics.values())),
        "chosen_c": info.chosen_c is None
        or (
            isinstance(info.chosen_c, tuple)
            and all(_is_number(value) and value > 0 for value in info.chosen_c)
        ),
        "vlmscope": isinstance(info.vlmscope, str),
        "format_version": info.format_version == FORMAT_VERSION,
    }
    for name in (name for name, right in good.items() if not right):
        raise InputError(
            f"{place}: {name} is {getattr(info, name)!r}, which is not of the kind expected "
            "(see ProbeInfo); train the probe again"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
