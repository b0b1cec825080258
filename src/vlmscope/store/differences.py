"""What makes the rows of two manifests other numbers, in words.

A run continues only under a manifest that would give the same numbers; every difference is named at
once. Names, paths, devices and versions are kept for the record and never compared. The table may
change: whether the rows of the run are still rows of it, ``vlmscope.row_identity`` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from vlmscope.errors import RunMismatchError
from vlmscope.store.manifest import CaptureRecord, Manifest, ModelRecord

_SHOWN = 3
"""Weight files that a message names."""

_SAME_NUMBERS = (
    "format_version",
    *(f"model.{field.name}" for field in fields(ModelRecord) if field.name.endswith("_hash")),
    *(f"capture.{field.name}" for field in fields(CaptureRecord)),
    *("model.description", "dtype", "store_dtype", "attention"),
)


_MEANINGS = {
    "model.config_hash": "the model has another configuration (model.config_hash)",
    "model.weights_hash": "the model has other weights (model.weights_hash)",
    "model.processor_hash": "the processor is another one (model.processor_hash)",
    "model.chat_template_hash": "the chat template is another one (model.chat_template_hash)",
    "model.generation_hash": "generation_config.json decides otherwise (model.generation_hash)",
}
"""What a difference of hashes means."""


def check_same(stored: Manifest, wanted: Manifest) -> None:
    """Raise ``RunMismatchError``, naming every difference, unless both give the same numbers."""
    differences = [
        _MEANINGS.get(name, f"{name} is {_shown(old)}, asked for {_shown(new)}")
        + (
            other_weights(asdict(stored.model), asdict(wanted.model))
            if name == "model.weights_hash"
            else ""
        )
        for name in _SAME_NUMBERS
        if (old := _value(stored, name)) != (new := _value(wanted, name))
    ]
    if differences:
        raise RunMismatchError(
            f"this run was made with other settings: {'; '.join(differences)}; "
            "give another --out, or the settings the run was made with"
        )


def other_weights(made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return why two models have other weights, to follow the statement that they have.

    Args:
        made: The ``ModelRecord`` of a run or a probe, as a mapping.
        asked: That of the model which was loaded.
    """
    before, now = (
        f"{('adapter ' + str(model['adapter'])) if model.get('adapter') else 'no adapter'} and "
        f"{model.get('quantization') or 'no'} rounding"
        for model in (made, asked)
    )
    reasons = [f"made with {before}, asked for {now}"] if before != now else []
    reasons += _other_files(made.get("weight_files"), asked.get("weight_files"))
    return f": {', '.join(reasons)}" if reasons else ""


def _other_files(made: Any, asked: Any) -> list[str]:
    """Return which weight files differ, and how, the first few of each kind."""
    if not isinstance(made, Mapping) or not isinstance(asked, Mapping):
        return []
    both = sorted(made.keys() & asked.keys())
    kinds = {
        "other bytes in": [name for name in both if made[name] != asked[name]],
        "without": sorted(made.keys() - asked.keys()),
        "with": sorted(asked.keys() - made.keys()),
    }
    return [
        f"{kind} {', '.join(map(repr, names[:_SHOWN]))}{' …' if len(names) > _SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    ]


def _value(manifest: Manifest, name: str) -> Any:
    """Return a field by its dotted name."""
    value: Any = manifest
    for part in name.split("."):
        value = getattr(value, part)
    return dict(value) if isinstance(value, Mapping) else value


def _shown(value: Any) -> str:
    """Return a value as the message shows it: JSON, so that lists and text look familiar."""
    return json.dumps(value, ensure_ascii=False)
