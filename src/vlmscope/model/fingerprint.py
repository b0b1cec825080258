"""What a model *is*, in hashes: so that a run never mixes rows of two models under one name.

A hub checkpoint is pinned by its commit. A local folder has none, so its weights are identified by
the names, types and shapes of all tensors and the first kilobytes of each: two fine-tunes of one
model agree in the former and not in the latter; and 21 GB need not be read. A LoRA
adapter and rounding at loading make other weights of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from vlmscope.errors import ModelError, one_line
from vlmscope.model.adapters import CONFIG, WEIGHTS
from vlmscope.model.vlm import VisionLanguageModel

_SAMPLE = 4096
"""Bytes read of each tensor."""

_LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""

_MEBIBYTE = 1 << 20
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


def hash_weights(folder: Path) -> str:
    """Return the hash that identifies the weight files of a local checkpoint."""
    return _hash_files(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin"})


def hash_adapter(folder: Path) -> str:
    """Return the hash that identifies a LoRA adapter: its tensors, and how they are applied."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    known = {
        # peft writes sets of names, in any order.
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in config.items()
        if name not in _VOLATILE_OF_ADAPTERS
    }
    return hash_json([_hash_files([folder / WEIGHTS]), known])


def hash_loaded_weights(vlm: VisionLanguageModel) -> str:
    """Return the hash that identifies the weights which a loaded model computes with.

    Those of the folder, or the commit of the hub; with an adapter or rounding, a hash of all three.
    """
    folder = Path(vlm.name)
    base = hash_weights(folder) if folder.is_dir() else str(vlm.revision)
    if vlm.adapter is None and not vlm.quantization:
        return base
    adapter = None if vlm.adapter is None else hash_adapter(Path(vlm.adapter))
    return hash_json([base, adapter, vlm.quantization])


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                _add_tensors(digest, file)
            else:
                digest.update(file.read(_MEBIBYTE))
                file.seek(max(0, size - _MEBIBYTE))
                digest.update(file.read(_MEBIBYTE))
    return digest.hexdigest()


def _add_tensors(digest: Any, file: BinaryIO) -> None:
    """Add the header of a safetensors file, and the beginning of every tensor.

    The file begins with the header's length as little-endian uint64, then the header as JSON:
    tensor name → type, shape, and where its bytes begin and end behind the header.
    """
    length = int.from_bytes(file.read(8), "little")
    header = file.read(min(length, _LONGEST_HEADER))
    digest.update(header)
    try:
        tensors = sorted(json.loads(header).items())
        offsets = [tensor["data_offsets"] for name, tensor in tensors if name != "__metadata__"]
        for begin, end in offsets:
            file.seek(8 + length + begin)
            digest.update(file.read(min(_SAMPLE, max(0, end - begin))))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        # One that is in the folder and was not loaded: those that are loaded are sound.
        raise ModelError(
            f"{file.name}: damaged weight file: {one_line(error)}; remove it or get it again"
        ) from error


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple):
        return [_without_volatile(item) for item in value]
    return value
