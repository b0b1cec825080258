"""Weights quantised to 4 or 8 bits during loading: the ``--quantize`` option, with bitsandbytes.

Every linear layer is quantised, including those of the vision encoder and the projector, except the
output head: the default of ``transformers``. The rest (embeddings, norms, convolutions) stays in
the type of ``--dtype``, in which 4-bit layers also compute. 4-bit weights are NF4, the type that
adapters are trained with.

8-bit layers also quantise their inputs, except for columns in which any token of the call is large.
Those tokens may belong to another question, so in a batch a question's states change by several
per cent: 8-bit models process one question at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from vlmscope.errors import ModelError, one_line

BYTES: Mapping[str, float] = {"4bit": 0.5625, "8bit": 1.0}
"""Value of ``--quantize`` → bytes per weight. For 4 bits, plus a float32 for every 64 weights."""


def check_quantize(quantize: str | None, name: str, config: Any) -> None:
    """Raise an error for quantisation that is not possible, before the weights are read.

    Args:
        quantize: ``4bit``, ``8bit``, or None for no quantisation.
        name: The checkpoint, for the message.
        config: Its configuration.

    Raises:
        ModelError: There is no such option, bitsandbytes is missing, or the checkpoint is
            quantised already in another way.
    """
    if quantize is None:
        return
    if quantize not in BYTES:
        raise ModelError(f"--quantize {quantize!r}: choose from {', '.join(BYTES)}")
    if (stored := _stored(config)) and stored.get(f"load_in_{quantize}") is not True:
        method = stored.get("quant_method", "another method")
        raise ModelError(
            f"--quantize {quantize}: {name} is quantised already, by {method}; leave it out"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"--quantize {quantize} needs bitsandbytes, which cannot be imported "
            f"({one_line(error)}): pip install bitsandbytes"
        ) from error


def check_device(quantize: str | None, name: str, config: Any, device: str) -> None:
    """Raise an error for what bitsandbytes does not support on a device.

    Raises:
        ModelError: Its 8-bit product on a CPU takes three dimensions, Mllama's encoder has four.
    """
    if quantize == "8bit" and device == "cpu" and config.model_type == "mllama":
        raise ModelError(
            f"--quantize 8bit: bitsandbytes cannot run {name} in 8 bits on a CPU; "
            "use 4bit, or a GPU"
        )


def quantization_options(quantize: str | None, dtype: torch.dtype, config: Any) -> dict[str, Any]:
    """Return the additional arguments for ``from_pretrained``.

    Args:
        quantize: ``4bit``, ``8bit`` or None.
        dtype: The type to compute in.
        config: The checkpoint's configuration: it may be quantised already.
    """
    from transformers import BitsAndBytesConfig

    if quantize is None or _stored(config):
        return {}
    if quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    chosen = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": chosen}


def rounding_of(model: Any) -> str:
    """Return ``4bit`` or ``8bit``; empty if bitsandbytes quantised nothing."""
    found = (name for name in BYTES if getattr(model, f"is_loaded_in_{name}", False))
    return next(found, "")


def fix_bitsandbytes_defaults(model: Any) -> None:
    """Undo unwanted defaults of bitsandbytes 0.50; other models are not changed.

    Where a CPU has AVX512-BF16, 4-bit layers would use a kernel that computes in bfloat16 whatever
    ``--dtype`` is, and that fails for widths that are no multiples of 32 and 64. 8-bit layers would
    log in every call that they convert from float16.
    """
    if rounding_of(model) == "8bit":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if rounding_of(model) == "4bit":
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False


def _stored(config: Any) -> Mapping[str, Any]:
    """Return how a checkpoint is quantised on disk; empty if it is not."""
    found = getattr(config, "quantization_config", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()
