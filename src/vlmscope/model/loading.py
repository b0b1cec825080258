"""Load a checkpoint through ``from_pretrained``, and let it prove itself once.

Nothing is guessed quietly: an architecture that is not described, weights that are missing from the
checkpoint (``transformers`` would fill them with noise), or a device that is not there, each ends
with one line that says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlmscope.errors import ModelError, one_line
from vlmscope.model.families import FAMILIES, Family
from vlmscope.model.greedy import make_greedy
from vlmscope.model.processors import load_processor
from vlmscope.model.proof import prove
from vlmscope.model.vlm import VisionLanguageModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the ``--dtype`` option."""

_HEADROOM = 0.85
"""Share of a GPU's free memory that weights may take before the model is spread over several."""


def load_model(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    attention: str = "sdpa",
) -> VisionLanguageModel:
    """Load a vision-language model and its processor, and prove them on one blank image.

    Args:
        name: Folder of a checkpoint, or a hub id.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU that has it,
            float32 on a CPU.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``spread`` (layers over all GPUs), or
            ``auto``: the first GPU, spread where the weights do not fit on it, else the CPU.
        revision: Branch, tag or commit of a hub repository.
        attention: Attention implementation, ``sdpa`` or ``eager``.

    Raises:
        ModelError: The checkpoint cannot be loaded or is not what its family promises.
    """
    name = str(name)
    config = _load_config(name, revision)
    family = _family_of(config, name)
    # A branch may move between two downloads: everything comes from the commit of the config.
    revision = getattr(config, "_commit_hash", None) or revision
    kind = _choose_dtype(dtype, device)
    model = _load_weights(name, revision, kind, _choose_place(device, config, kind), attention)
    processor = load_processor(name, revision)
    make_greedy(model, processor.tokenizer.pad_token_id)
    vlm = VisionLanguageModel(model, processor, family, name, revision)
    prove(vlm)
    return vlm


def _load_config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    folder = Path(name)
    if not name:
        raise ModelError("--model '': give the folder of a checkpoint, or a hub id")
    if folder.is_file():
        raise ModelError(f"{name}: is a file; give the folder that holds it")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: the folder holds no config.json; give the folder that save_pretrained wrote"
        )
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelError(f"{name}: no such folder, and not a hub id of the form owner/name")
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot load the configuration: {one_line(error)}") from error


def _family_of(config: Any, name: str) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(f"{f.title} ({f.model_type})" for f in FAMILIES.values())
        raise ModelError(
            f"{name}: model type {config.model_type!r} is not described; vlmscope knows {known}. "
            "A description is a few lines: docs/adding-a-model.md"
        )
    return family


def _choose_place(device: str, config: Any, dtype: torch.dtype) -> str:
    """Return a torch device, or ``spread`` for the layers to go over all GPUs."""
    if device != "auto":
        _check_device(device)
        return device
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(0)
        alone = torch.cuda.device_count() == 1
        return "cuda:0" if alone or _size(config, dtype) <= _HEADROOM * free else "spread"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _size(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes that the weights will take, from the architecture alone."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return dtype.itemsize * sum(int(parameter.numel()) for parameter in model.parameters())


def _check_device(device: str) -> None:
    gpus = torch.cuda.device_count()
    if device == "spread":
        if gpus < 2:
            raise ModelError(f"--device spread needs two GPUs or more; this machine has {gpus}")
        return
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"--device {device!r} is not a device; use auto, cpu, cuda, cuda:1, spread or mps"
        ) from error
    if kind.type not in {"cpu", "cuda", "mps"} or (kind.type == "cpu" and kind.index):
        raise ModelError(f"--device {device!r}: use auto, cpu, cuda, cuda:1, spread or mps")
    if kind.type == "cuda" and (kind.index or 0) >= gpus:
        raise ModelError(f"--device {device!r}: this machine has {gpus} CUDA devices")
    if kind.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("--device mps: this machine has no Metal device")


def _choose_dtype(dtype: str, device: str) -> torch.dtype:
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ModelError(f"--dtype {dtype!r}: choose from auto, {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device not in {"cpu", "mps"} and torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    on_metal = device == "mps" or (device == "auto" and torch.backends.mps.is_available())
    return torch.float16 if on_metal else torch.float32


def _load_weights(
    name: str, revision: str | None, dtype: torch.dtype, place: str, attention: str
) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            name,
            revision=revision,
            dtype=dtype,
            device_map="auto" if place == "spread" else place,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{name}: the weights do not fit on {place}: {one_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: cannot load the weights, or they do not fit the configuration: "
            f"{one_line(error)}"
        ) from error
    except Exception as error:
        # A damaged weight file raises safetensors' own error class, which derives from Exception.
        if type(error).__module__.split(".")[0] not in {"safetensors", "safetensors_rust"}:
            raise
        raise ModelError(f"{name}: damaged weight file: {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name}: the checkpoint lacks {len(missing)} weights, {missing[0]} for example, "
            "and they would be noise; download it again"
        )
    placed = {str(part) for part in getattr(model, "hf_device_map", {}).values()}
    if aside := sorted(placed & {"cpu", "disk"}) if place == "spread" else []:
        raise ModelError(
            f"{name}: the GPUs together are too small, parts would go to {' and '.join(aside)}; "
            "use more GPUs or a smaller --dtype"
        )
    return model.eval()
