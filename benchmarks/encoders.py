"""Vision encoders that pack images, at their true shapes: the library's attention and ours.

Random weights in bfloat16, 640 × 480 and 480 × 640 images as grids of patches, nothing but the
encoder. Timed in one run: ``sdpa`` as the library loads it, one call a layer
(``packed_attention``), MLPs filled up to a multiple of 64 as well (``encoder_widths``), and their
blocks through ``torch.compile(dynamic=True)``, its seconds included. Each is held against the
library's ``sdpa`` in float32.

    python benchmarks/encoders.py                  # one GPU, under four minutes
    python benchmarks/encoders.py --tiny           # a CPU, toy sizes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from family_shapes import QWEN2_5_VL
from vlmscope.model.attention.packed import packed
from vlmscope.model.computing import full_float32
from vlmscope.model.encoder_widths import widen, widened

EXACT_IMAGES = 4
"""Images of the comparison with float32."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One encoder."""

    title: str
    """Whose it is."""
    module: str
    """Where the library has it."""
    names: tuple[str, str]
    """Its class and that of its configuration."""
    config: Mapping[str, Any]
    """Its configuration."""
    tiny: Mapping[str, Any]
    """What is smaller on a CPU."""
    grid: tuple[int, int]
    """Rows and columns of patches of an image of 640 × 480."""


SHAPES = {
    "qwen2_5_vl": Shape(
        "Qwen2.5-VL-7B",
        "transformers.models.qwen2_5_vl",
        ("Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig"),
        QWEN2_5_VL.config["vision_config"],
        QWEN2_5_VL.tiny["config"]["vision_config"],
        (34, 46),
    ),
    "qwen3_vl": Shape(
        "Qwen3-VL-8B",
        "transformers.models.qwen3_vl",
        ("Qwen3VLVisionModel", "Qwen3VLVisionConfig"),
        {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
            "out_hidden_size": 4096, "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        {
            "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5,
            "out_hidden_size": 64, "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
        },
        (30, 40),
    ),
    "glm4v": Shape(
        "GLM-4.1V-9B",
        "transformers.models.glm4v",
        ("Glm4vVisionModel", "Glm4vVisionConfig"),
        {
            "depth": 24, "hidden_size": 1536, "intermediate_size": 13_696, "num_heads": 12,
            "out_hidden_size": 4096, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "image_size": 336,
        },
        {
            "depth": 3, "hidden_size": 40, "intermediate_size": 56, "num_heads": 5,
            "out_hidden_size": 64, "image_size": 56,
        },
        (34, 46),
    ),
}  # fmt: skip


def main() -> None:
    """Measure every encoder and print a table for each."""
    options = parse()
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    begin = time.perf_counter()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    say(f"{name}, torch {torch.__version__}, {options.rows} images of 640 x 480")
    peak = measure_peak(device, tiny=options.tiny)
    say(f"a large matrix product: {peak / 1e12:.1f} TFLOP/s")
    for family in options.families:
        with torch.inference_mode(), full_float32():
            measure(SHAPES[family], options, device, peak)
        if device == "cuda":
            torch.cuda.empty_cache()
    say(f"\n{time.perf_counter() - begin:.0f} s in all")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=32, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", choices=["blocks", "whole", "none"], default="blocks")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for a CPU")
    return parser.parse_args()


def measure(shape: Shape, options: argparse.Namespace, device: str, peak: float) -> None:
    """Time one encoder in every way and print the table."""
    tower = build(shape, device, tiny=options.tiny)
    grid = shape.grid if not options.tiny else (4, 6)
    inputs = inputs_for(tower, grid, options.rows)
    few, truth = (
        inputs_for(tower, grid, min(EXACT_IMAGES, options.rows)),
        exact(tower, grid, options),
    )
    floor = flops(tower, grid, options.rows) / peak / options.rows * 1e3
    rows = len(inputs["grid_thw"])
    say(f"\n{shape.title}: {len(inputs['hidden_states']) // rows} patches an image")
    print("| | ms an image | its kernels | launches | first call, s | other batch, s | error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    other = inputs_for(tower, grid, max(1, rows * 3 // 4), odd=True)
    for label, way in ways(tower, options):
        with way:
            first = seconds(lambda: tower(**inputs), device)
            best = min(seconds(lambda: tower(**inputs), device) for _ in range(options.rounds))
            kernels, launches = profile(lambda: tower(**inputs), device)
            changed = seconds(lambda: tower(**other), device)
            found = tower(**few).last_hidden_state
        error = float((found.float() - truth).norm() / truth.norm())
        print(
            f"| {label} | {best / rows * 1e3:.2f} | {kernels / rows * 1e3:.2f} | {launches} | "
            f"{first:.1f} | {changed:.2f} | {error:.1e} |",
            flush=True,
        )
    say(f"floor by FLOPs: {floor:.2f} ms an image")


def ways(tower: nn.Module, options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Yield each way to run the encoder: what it is called, and what is in force meanwhile."""
    stands_for_a_model: Any = SimpleNamespace(
        vision_tower=tower, family=SimpleNamespace(packs_images=True)
    )

    @contextmanager
    def way(*, one_call: bool, wide: bool = False, compiled: bool = False) -> Iterator[None]:
        with ExitStack() as stack:
            if one_call:
                stack.enter_context(packed(stands_for_a_model))
            if wide:
                stack.enter_context(widened(stands_for_a_model))
            if compiled:
                stack.enter_context(compiling(tower, options))
            yield

    yield "sdpa, as loaded", way(one_call=False)
    yield "one call a layer", way(one_call=True)
    count = widen(tower)
    yield f"and {count} MLPs filled up", way(one_call=True, wide=True)
    if options.compile != "none":
        yield f"and {options.compile} compiled", way(one_call=True, wide=True, compiled=True)


@contextmanager
def compiling(tower: Any, options: argparse.Namespace) -> Iterator[None]:
    """Compile the blocks, or the encoder, in the block; print how often it compiled."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    parts = [tower] if options.compile == "whole" else list(tower.blocks)
    for part in parts:
        part.compile(dynamic=True, backend=options.backend)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None
        stats, breaks = dict(counters["stats"]), sum(counters["graph_break"].values())
        say(f"compiled: {stats.get('unique_graphs', 0)} graphs, {breaks} breaks")


def build(shape: Shape, device: str, *, tiny: bool) -> Any:
    """Return the encoder with random weights."""
    import importlib

    name = f"{shape.module}.modeling_{shape.module.rpartition('.')[2]}"
    module = importlib.import_module(name)
    config = getattr(module, shape.names[1])(**{**shape.config, **(shape.tiny if tiny else {})})
    config._attn_implementation = "sdpa"
    with torch.device(device):
        tower = getattr(module, shape.names[0])(config)
    torch.manual_seed(0)
    for parameter in tower.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.02)
    return tower.to(torch.bfloat16).eval()


def inputs_for(
    tower: Any, grid: tuple[int, int], images: int, *, odd: bool = False
) -> dict[str, Tensor]:
    """Return patches of noise: every other image stands upright; ``odd`` ones are smaller."""
    rows, columns = (side - 2 if odd else side for side in grid)
    grids = [(1, rows, columns) if i % 2 == 0 else (1, columns, rows) for i in range(images)]
    config, device = tower.config, next(tower.parameters()).device
    size = 3 * config.temporal_patch_size * config.patch_size**2
    rng = torch.Generator().manual_seed(images)
    patches = torch.randn(images * rows * columns, size, generator=rng)
    return {
        "hidden_states": patches.to(device, next(tower.parameters()).dtype),
        "grid_thw": torch.tensor(grids, device=device),
    }


def exact(tower: Any, grid: tuple[int, int], options: argparse.Namespace) -> Tensor:
    """Return what the library makes of a few images in float32, and hold ours against that."""
    inputs = inputs_for(tower, grid, min(EXACT_IMAGES, options.rows))
    inputs["hidden_states"] = inputs["hidden_states"].float()
    tower.float()
    truth: Tensor = tower(**inputs).last_hidden_state
    model: Any = SimpleNamespace(vision_tower=tower, family=SimpleNamespace(packs_images=True))
    with packed(model):
        found = tower(**inputs).last_hidden_state
    say(f"float32, by length: {float((found - truth).norm() / truth.norm()):.1e} of the library's")
    tower.to(torch.bfloat16)
    return truth


def flops(tower: Any, grid: tuple[int, int], images: int) -> float:
    """Return the FLOPs of the blocks' products and attention, windows counted as windows."""
    config, patches = tower.config, images * grid[0] * grid[1]
    products = 2 * patches * sum(p.numel() for p in tower.blocks.parameters() if p.ndim > 1)
    width, depth = config.hidden_size, len(tower.blocks)
    whole = len(getattr(config, "fullatt_block_indexes", range(depth)))
    window = (getattr(config, "window_size", 0) // config.patch_size) ** 2
    seen = whole * grid[0] * grid[1] + (depth - whole) * window
    return float(products + 4 * patches * width * seen)


def measure_peak(device: str, *, tiny: bool) -> float:
    """Return the FLOP/s of a large matrix product in bfloat16."""
    side = 256 if tiny else 8192
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = min(seconds(lambda: one @ one, device) for _ in range(10))
    return 2 * side**3 / best


def profile(call: Callable[[], Any], device: str) -> tuple[float, int]:
    """Return the seconds that a call's kernels take, and how many they are; nothing on a CPU."""
    if device == "cpu":
        return 0.0, 0
    activity = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[activity]) as seen:
        call()
        torch.cuda.synchronize()
    kernels: Sequence[Any] = [
        event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return sum(event.time_range.elapsed_us() for event in kernels) / 1e6, len(kernels)


def seconds(call: Callable[[], Any], device: str) -> float:
    """Return how long a call takes, its kernels included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
