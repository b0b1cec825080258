"""Weights rounded to 4 or 8 bits while they are loaded: the ``--quantize`` option, bitsandbytes.

Every linear layer is rounded, those of the vision encoder and of the projector too, and the head
that makes logits is not: what ``transformers`` does by default. The rest (embeddings, norms,
convolutions) stays in the type of ``--dtype``, which is also what 4-bit layers compute in. 4-bit
weights are NF4, what adapters are trained on.

8-bit layers round what comes in, too, but for the columns where any token of the call is large.
Those tokens may be another question's, so that in a batch a question's states move by several per
cent: 8-bit models take one question at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from vlmscope.errors import ModelError, one_line

BYTES: Mapping[str, float] = {"4bit": 0.5625, "8bit": 1.0}
"""Name of the ``--quantize`` option → bytes a weight. 4 bits, and a float32 for every 64."""


def check_quantize(quantize: str | None, name: str, config: Any) -> None:
    """Refuse rounding that cannot be done, before the weights are read.

    Args:
        quantize: ``4bit``, ``8bit``, or None for the weights as they are.
        name: The checkpoint, for the message.
        config: Its configuration.

    Raises:
        ModelError: There is no such rounding, bitsandbytes is missing, or the checkpoint is
            quantised already, and otherwise.
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


def check_device(quantize: str | None, name: str, config: Any, place: str) -> None:
    """Refuse what bitsandbytes cannot do on a device.

    Raises:
        ModelError: Its 8-bit product on a CPU takes three dimensions, Mllama's encoder has four.
    """
    if quantize == "8bit" and place == "cpu" and config.model_type == "mllama":
        raise ModelError(
            f"--quantize 8bit: bitsandbytes cannot run {name} in 8 bits on a CPU; "
            "use 4bit, or a GPU"
        )


def quantization_options(quantize: str | None, dtype: torch.dtype, config: Any) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told beside the rest.

    Args:
        quantize: ``4bit``, ``8bit`` or None.
        dtype: What the model computes in.
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
    """Return ``4bit``, ``8bit``, or nothing where bitsandbytes rounded nothing."""
    found = (name for name in BYTES if getattr(model, f"is_loaded_in_{name}", False))
    return next(found, "")


def settle(model: Any) -> None:
    """Undo what bitsandbytes 0.50 does of its own accord; nothing for other models.

    Where a CPU has AVX512-BF16, 4-bit layers would take a kernel that computes in bfloat16 whatever
    was asked for, and that stops at widths which are no multiples of 32 and 64. 8-bit layers would
    say in every call that they round from float16.
    """
    if rounding_of(model) == "8bit":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if rounding_of(model) == "4bit":
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False


def _stored(config: Any) -> Mapping[str, Any]:
    """Return how a checkpoint is quantised on disk; empty where it is not."""
    found = getattr(config, "quantization_config", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()
