"""Hashes of what a model is made of besides its weights: settings, processor, adapter settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vlmscope.model.adapters import CONFIG

_VOLATILE = frozenset(
    {"_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype"}
)
"""Config entries that say where it was loaded, not what it is."""
_VOLATILE_OF_ADAPTERS = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "task_type"}
)
"""The same for an adapter."""


def hash_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as canonical JSON.

    >>> hash_json({"b": 1, "a": 2}) == hash_json({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_config(name: str, revision: str | None = None) -> str:
    """Return the hash of a checkpoint's configuration as it is stored.

    Not as it is loaded: each version of transformers adds entries of its own.
    """
    from transformers import PreTrainedConfig

    stored, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    return hash_json(_without_volatile(stored))


def hash_processor(processor: Any) -> str:
    """Return the hash of image preprocessing and tokenizer, classes included.

    The class counts because the PIL and the torchvision backends differ by up to one grey level.
    """
    images = processor.image_processor
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    # What the last call asked for, not what the tokenizer is.
    state = {"padding", "truncation"}
    return hash_json([
        type(images).__name__,
        _without_volatile(images.to_dict()),
        {name: part for name, part in tokenizer.items() if name not in state},
    ])  # fmt: skip


def hash_adapter_config(folder: Path) -> str:
    """Return the hash of how a LoRA adapter's tensors are applied."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return hash_json({
        # peft writes sets of names, in any order.
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in config.items()
        if name not in _VOLATILE_OF_ADAPTERS
    })  # fmt: skip


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_without_volatile(item) for item in value]
    return value
