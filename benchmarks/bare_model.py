"""The model without vlmscope: the reference method, batched ``generate``, the vision encoder alone.

Everything here runs in one process on a model that is loaded once. Inputs are prepared beforehand
and moved to the device before the clock starts, so a time is the model's alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ceilings import settle
from vlmscope.dataset import load_image
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.tiles import splitting_attention
from vlmscope.prompt import build_messages
from vlmscope.reference import reference
from vlmscope.schema import CaptureSpec, Sample

ENCODER_BATCHES = 2
"""How many batches the vision encoder is timed on."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs of many rows, padded to one length."""

    samples: tuple[Sample, ...]
    """The rows."""
    inputs: dict[str, Tensor]
    """What the processor made of them, on the CPU, in the model's dtype."""
    host_seconds: float
    """Time for a row: reading its image, and the processor."""

    def batch(self, start: int, size: int, device: torch.device) -> dict[str, Tensor]:
        """Return ``size`` rows from ``start``, on the device."""
        stop = start + size
        return {name: tensor[start:stop].to(device) for name, tensor in self.inputs.items()}


def prepare_plain(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> Prepared:
    """Run the processor as its documentation says."""
    start = time.perf_counter()
    texts = [
        vlm.processor.apply_chat_template(
            build_messages(sample.question, 1), add_generation_prompt=True, tokenize=False
        )
        for sample in samples
    ]
    inputs = vlm.processor(
        text=texts,
        images=[[load_image(image) for image in sample.images] for sample in samples],
        add_special_tokens=False,  # the template wrote them
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    seconds = (time.perf_counter() - start) / len(samples)
    return Prepared(tuple(samples), vlm.cast(inputs), seconds)


def time_seed(vlm: VisionLanguageModel, samples: Sequence[Sample], tokens: int) -> dict[str, float]:
    """Return seconds a row of the reference method's three passes; the first row is a warm-up."""
    found = {}
    for name, limit in (("prefill", 0), ("answers", tokens)):
        spec = CaptureSpec(max_new_tokens=limit)
        reference(samples[0], vlm, spec)
        start = settle(vlm.device)
        for sample in samples[1:]:
            reference(sample, vlm, spec)
        found[name] = (settle(vlm.device) - start) / (len(samples) - 1)
    return found


def time_generate(
    vlm: VisionLanguageModel, prepared: Prepared, sizes: Sequence[int], tokens: int
) -> dict[str, Any]:
    """Time ``generate`` at each batch size until memory runs out; return all, and the best."""
    found: dict[str, Any] = {"sizes": {}, "best": None, "host_seconds": prepared.host_seconds}
    for size in sizes:
        free_memory()
        try:
            result = _time_size(vlm, prepared, size, tokens)
        except torch.OutOfMemoryError:
            found["sizes"][size] = "out of memory"
            break
        found["sizes"][size] = result
        best = found["best"]
        if best is None or result["rows_per_second"] > found["sizes"][best]["rows_per_second"]:
            found["best"] = size
    free_memory()
    return found


def _time_size(
    vlm: VisionLanguageModel, prepared: Prepared, size: int, tokens: int
) -> dict[str, Any]:
    """Time two batches of ``size`` rows, if there are so many; keep what they answered."""
    device = vlm.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        vlm.model.generate(**prepared.batch(0, size, device), do_sample=False, max_new_tokens=3)
    starts = range(0, min(2 * size, len(prepared.samples) - size + 1), size)
    seconds, answers = 0.0, {}
    for start in starts:
        inputs = prepared.batch(start, size, device)
        begin = settle(device)
        output = vlm.model.generate(**inputs, do_sample=False, max_new_tokens=max(1, tokens))
        seconds += settle(device) - begin
        made = output[:, inputs["input_ids"].shape[1] :].cpu().numpy()
        for sample, row in zip(prepared.samples[start : start + size], made, strict=True):
            answers[sample.id] = _cut(row, vlm.model.generation_config.eos_token_id)
    reserved = torch.cuda.max_memory_reserved() / 1e9 if device.type == "cuda" else None
    rows = len(starts) * size
    return {"rows_per_second": rows / seconds, "peak_gb": reserved, "answers": answers}


def _cut(row: np.ndarray, ends: list[int] | None) -> list[int]:
    """Return a row's tokens up to its first end."""
    stops = np.flatnonzero(np.isin(row, ends or []))
    tokens: list[int] = row[: stops[0] + 1 if len(stops) else len(row)].tolist()
    return tokens


def time_vision(vlm: VisionLanguageModel, prepared: Prepared, size: int) -> dict[str, Any]:
    """Return seconds a row of the vision encoder alone, as it is loaded and with the exact split.

    The difference between the two outputs is returned too, relative to the first one's norm.
    """
    names = vlm.family.encoder_inputs
    batch = prepared.batch(0, size, vlm.device)
    taken = {name: batch[name] for name in names}
    found: dict[str, Any] = {"batch": size}
    outputs = {}
    for name in ("sdpa", "split"):
        on_host = prepared.batch(0, size, torch.device("cpu"))
        split = splitting_attention(vlm, on_host) if name == "split" else nullcontext()
        with split, torch.inference_mode():
            outputs[name] = vlm.vision_encoder(**taken).last_hidden_state[:4].cpu()  # a warm-up too
            start = settle(vlm.device)
            for _ in range(ENCODER_BATCHES):
                vlm.vision_encoder(**taken)
            found[name] = (settle(vlm.device) - start) / (ENCODER_BATCHES * size)
        free_memory()
    plain, split_one = outputs["sdpa"].float(), outputs["split"].float()
    found["difference"] = float((split_one - plain).norm() / plain.norm())
    return found


def time_bare(vlm: VisionLanguageModel, batches: Sequence[dict[str, Tensor]], tokens: int) -> float:
    """Return the seconds of the model on prepared batches: a forward, or ``generate``."""
    start = settle(vlm.device)
    with torch.inference_mode():
        for batch in batches:
            if tokens:
                vlm.model.generate(**batch, do_sample=False, max_new_tokens=tokens)
            else:
                vlm.model(**batch, logits_to_keep=1)
    return settle(vlm.device) - start


def free_memory() -> None:
    """Give back what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
