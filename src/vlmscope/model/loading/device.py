"""The device and data type of a model: the ``--device`` and ``--dtype`` options.

An unavailable device is refused before any weights are read. Whether the weights fit on one GPU is
computed from the architecture alone, built without memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vlmscope.errors import ModelError
from vlmscope.model.loading.quantization import BYTES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Values of the ``--dtype`` option."""

_HEADROOM = 0.85
"""Fraction of a GPU's free memory that weights may take; beyond it a model is spread over GPUs."""


def auto_class(config: Any) -> Any:
    """Return the auto class that loads an architecture; those with audio have another."""
    from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as KNOWN

    return AutoModelForImageTextToText if type(config) in KNOWN else AutoModelForMultimodalLM


def check_kind(name: str, config: Any) -> None:
    """Raise an error for an architecture that takes no questions about images.

    Raises:
        ModelError: It is a language, audio or vision model, an encoder-decoder, or transformers
            cannot load it for images and text.
    """
    from transformers import __version__
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )

    has_vision = type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING and hasattr(
        config, "vision_config"
    )
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not has_vision:
        raise ModelError(
            f"{name}: a model of type {config.model_type!r} takes no questions about images, or "
            f"not in transformers {__version__}; give a vision-language model ('vlmscope models' "
            "lists some)"
        )
    if any(getattr(part, "is_encoder_decoder", False) for part in _text_parts(config)):
        raise ModelError(
            f"{name}: a model of type {config.model_type!r} is an encoder-decoder: no layer "
            "of its decoder has a state of the prompt; give a decoder-only model"
        )


def _text_parts(config: Any) -> tuple[Any, ...]:
    """Return the configurations that may define the kind of language model."""
    return (config, getattr(config, "text_config", None))


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the type to compute in.

    Raises:
        ModelError: There is no such type.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ModelError(f"--dtype {dtype!r}: choose from auto, {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device not in {"cpu", "mps"} and torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    on_metal = device == "mps" or (device == "auto" and torch.backends.mps.is_available())
    return torch.float16 if on_metal else torch.float32


def choose_device_map(device: str, config: Any, dtype: torch.dtype, quantize: str | None) -> str:
    """Return a torch device, or ``spread`` to distribute the layers over all GPUs.

    Raises:
        ModelError: The device is invalid or unavailable.
    """
    if device != "auto":
        _check_device(device)
        return device
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(0)
        alone = torch.cuda.device_count() == 1
        fits = alone or bytes_of(config, dtype, quantize) <= _HEADROOM * free
        return "cuda:0" if fits else "spread"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def bytes_of(config: Any, dtype: torch.dtype, quantize: str | None) -> int:
    """Return the size of the weights in memory in bytes, from the architecture alone."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config, attn_implementation=None)
    head = model.get_output_embeddings()
    every = sum(parameter.numel() for parameter in model.parameters())
    rounded = sum(
        module.weight.numel()
        for module in model.modules()
        if quantize and isinstance(module, nn.Linear) and module is not head
    )
    each = BYTES[quantize] if quantize else dtype.itemsize
    return int(dtype.itemsize * (every - rounded) + each * rounded)


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
