"""What a family's library and the hardware do: batched ``generate``, and the floor of a row."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bare_model import free_memory, prepare_plain
from ceilings import settle, step_bytes
from family_runs import say
from vlmscope.dataset import read_samples
from vlmscope.model import load_model

DECODED_AT_ONCE = 128
"""Rows of the floor's decoding step, which reads the weights once for all of them."""


def measure_library(
    options: argparse.Namespace,
    table: Path,
    checkpoint: Path,
    ceilings: dict[str, float],
    found: dict[str, Any],
) -> None:
    """Time ``generate``, and count what a row must cost."""
    vlm = load_model(checkpoint)
    samples = list(read_samples(table, images=table.parent, limit=max([1, *options.generate])))
    found["generate"] = {}
    for size in options.generate:
        free_memory()
        try:
            found["generate"][size] = time_generate(vlm, samples[:size], options.tokens)
        except torch.OutOfMemoryError:
            found["generate"][size] = "out of memory"
        say(f"generate, batch {size}: {found['generate'][size]}")
    one = prepare_plain(vlm, samples[:1]).inputs
    inputs = {name: tensor.to(vlm.device) for name, tensor in one.items()}
    read = step_bytes(vlm, one, options.tokens)
    vlm.model.set_attn_implementation("eager")  # the counter does not know shared heads
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vlm.model(**inputs, logits_to_keep=1)
    step = (read["weights"] + DECODED_AT_ONCE * read["row"]) / ceilings["bytes"]
    prefill = float(counter.get_total_flops()) / ceilings["flops"]
    decode = (options.tokens - 1) * step / DECODED_AT_ONCE
    found["floor"] = {"prefill": 1 / prefill, "answers": 1 / (prefill + decode)} | read
    say(f"floor: {found['floor']}")


def time_generate(vlm: Any, samples: list[Any], tokens: int) -> dict[str, float]:
    """Return rows a second of ``generate`` on one batch, and seconds a row to prepare it."""
    prepared = prepare_plain(vlm, samples)
    inputs = {name: tensor.to(vlm.device) for name, tensor in prepared.inputs.items()}
    found = {"host_seconds": prepared.host_seconds}
    for mode, limit in (("prefill", 1), ("answers", tokens)):
        vlm.model.generate(**inputs, do_sample=False, max_new_tokens=min(limit, 3))
        start = settle(vlm.device)
        vlm.model.generate(**inputs, do_sample=False, max_new_tokens=limit)
        found[mode] = len(samples) / (settle(vlm.device) - start)
    return found
