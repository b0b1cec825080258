"""Real LoRA adapters on tiny checkpoints, made and saved by peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DECODER = r".*language_model.*\.(q_proj|v_proj)"
"""The usual targets: queries and values of the decoder."""


def write_adapter(checkpoint: Path, folder: Path, **options: Any) -> Path:
    """Save an adapter with random matrices, none of them zero, and return its folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(checkpoint)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": DECODER} | options)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
