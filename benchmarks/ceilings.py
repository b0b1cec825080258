"""What the device can do at most, what the model asks of it, and how busy it was.

The ceilings are measured on the spot: one large matrix product and one large copy. Operations are
counted on the ``meta`` device with plain attention, so that the count does not depend on a kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText

from vlmscope.model import VisionLanguageModel

SAMPLE_MS = 200
"""Time between two samples of ``nvidia-smi``."""


@dataclass(frozen=True, slots=True)
class GpuWatch:
    """What ``nvidia-smi`` said while something ran; empty where there is none."""

    samples: list[tuple[float, float, float]] = field(default_factory=list)
    """Moment in seconds (``time.perf_counter``), GB in use, percent busy."""

    def peak_gb(self) -> float | None:
        """Return the most memory in use, beyond what was in use at the start."""
        used = [gb for _, gb, _ in self.samples]
        return max(used) - used[0] if used else None

    def busy(self, start: float, end: float) -> float | None:
        """Return the mean share of time busy between the first and last tenth of a stretch."""
        tenth = (end - start) / 10
        inner = [share for at, _, share in self.samples if start + tenth <= at <= end - tenth]
        return sum(inner) / len(inner) / 100 if inner else None


@contextmanager
def watch_gpu() -> Iterator[GpuWatch]:
    """Sample the first visible GPU while the ``with`` block runs."""
    watch = GpuWatch()
    if shutil.which("nvidia-smi") is None:
        yield watch
        return
    query = ["--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={first}", *query, f"--loop-ms={SAMPLE_MS}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=_read, args=(process.stdout, watch.samples), daemon=True)
        reader.start()
        try:
            yield watch
        finally:
            process.terminate()
            reader.join()


def _read(lines: Any, samples: list[tuple[float, float, float]]) -> None:
    for line in lines:
        try:
            mebibytes, percent = (float(text) for text in line.split(","))
        except ValueError:  # "[N/A]": some virtual machines do not tell
            continue
        samples.append((time.perf_counter(), mebibytes * 2**20 / 1e9, percent))


def settle(device: torch.device) -> float:
    """Return the time when nothing is pending on the device, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_ceilings(device: torch.device) -> dict[str, float]:
    """Return FLOP/s of a square matrix product, and bytes a second read and written by a copy.

    A GPU computes in bfloat16, a CPU in float32.
    """
    on_gpu = device.type == "cuda"
    edge, dtype = (8192, torch.bfloat16) if on_gpu else (2048, torch.float32)
    one, other = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    source = torch.ones((4 << 30) if on_gpu else (256 << 20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.matmul(one, other), device)
    copy = _seconds(lambda: target.copy_(source), device)
    return {"flops": 2 * edge**3 / product, "bytes": 2 * source.numel() / copy}


def _seconds(work: Any, device: torch.device, times: int = 10) -> float:
    """Return the mean time of ``work``, after a warm-up."""
    work()
    work()
    start = settle(device)
    for _ in range(times):
        work()
    return (settle(device) - start) / times


def count_flops(checkpoint: Path, inputs: dict[str, Tensor], encoder: Any) -> dict[str, float]:
    """Return the operations of one row's prefill: of the vision encoder, and of everything.

    Args:
        checkpoint: The model; only its configuration is read.
        inputs: Prepared inputs, of which the first row counts.
        encoder: Path of the vision encoder, and names of its inputs.
    """
    path, names = encoder
    config = AutoConfig.from_pretrained(checkpoint)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    one = {name: _on_meta(tensor, model.dtype) for name, tensor in inputs.items()}
    one.pop("attention_mask")  # a row alone has no padding, and a mask would be looked into
    counts = {}
    for part, module, given, more in (
        ("vision", model.get_submodule(path), {name: one[name] for name in names}, {}),
        ("prefill", model, one, {"logits_to_keep": 1}),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(**given, **more)
        counts[part] = float(counter.get_total_flops())
    return counts


def _on_meta(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    one = tensor[:1].to("meta")
    return one.to(dtype) if one.is_floating_point() else one


def step_bytes(vlm: VisionLanguageModel, inputs: dict[str, Tensor], tokens: int) -> dict[str, int]:
    """Return what one decoding step must move: the weights once, and the cache of each row.

    Args:
        vlm: The model.
        inputs: Prepared inputs of one row, which is prefilled to see its cache.
        tokens: Length of the answer; on average half of it is in the cache.
    """
    one = {name: tensor.to(vlm.device) for name, tensor in inputs.items()}
    prompt = one["input_ids"].shape[1]
    with torch.inference_mode():
        cache = vlm.model(**one, use_cache=True, logits_to_keep=1).past_key_values
    row = sum(_row_bytes(layer, prompt, tokens // 2) for layer in cache.layers)
    modules = (vlm.layers, vlm.final_norm, vlm.lm_head)
    weights = sum(p.numel() * p.element_size() for part in modules for p in part.parameters())
    return {"weights": weights, "row": row}


def _row_bytes(layer: Any, prompt: int, answered: int) -> int:
    """Return what a step moves of one row's layer, after a prompt and part of an answer."""
    if not hasattr(layer, "keys"):  # linear attention: its states are read and written again
        states = (*layer.conv_states.values(), *layer.recurrent_states.values())
        return sum(2 * s.numel() * s.element_size() for s in states if s is not None)
    seen = layer.keys.shape[-2]
    grows = seen == prompt  # a cache of image tokens has another length, and stays
    each = sum(one.numel() * one.element_size() // seen for one in (layer.keys, layer.values))
    return each * (seen + answered if grows else seen)
