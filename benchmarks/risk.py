"""What a risk costs beside the answer it foretells, at the model's true shape, in one run.

Builds (or finds) a Llama-3.2-11B-Vision with random weights and a table of distinct images as
``true_shape.py`` does, saves a probe on a middle layer, and times ``RiskScorer`` against a plain
``generate`` of a whole answer: one question at a time, as a service would ask, and in batches. The
probe's numbers are random; what is timed does not depend on them. The risks are checked against
the vectors that a capture with answers keeps.

    python benchmarks/risk.py --work /tmp/true-shape                       # one GPU with 80 GB
    python benchmarks/risk.py --work /tmp/tiny --size tiny --rows 8 --tokens 8   # a CPU
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import standins
from true_shape import SIZES, device_name, say, write_table
from vlmscope.dataset import read_samples
from vlmscope.engine import capture, prepare
from vlmscope.engine.answers import greedy_config
from vlmscope.executors import describe_model
from vlmscope.metrics import Platt
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.probes import MeanDifferenceProbe, ProbeInfo, save_probe
from vlmscope.risk import Risk, RiskScorer
from vlmscope.schema import CaptureSpec, Sample

QUERY = "query_token_representation"


def main() -> None:
    """Time both and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = make_checkpoint(options)
    vlm = load_model(checkpoint)
    samples = list(read_samples(write_table(options.work, options.rows, SIZES[options.size].tile)))
    layer = vlm.num_layers // 2
    probe = make_probe(options.work / "probe", vlm, layer)
    check(vlm, probe, samples[:4], layer)
    one = RiskScorer(vlm, probe, batch_size=1)
    many = RiskScorer(vlm, probe, batch_size=options.batch_size)
    few = samples[: options.single]
    rows = [
        ("one question", median(lambda s: one.risk(s.image, s.question), few),
         median(lambda s: answer([s], vlm, options.tokens), few)),
        (f"a batch of {options.batch_size}, each",
         seconds(lambda: list(many.score(samples))) / len(samples),
         seconds(lambda: answer_all(samples, vlm, options)) / len(samples)),
    ]  # fmt: skip
    say(f"\n{device_name()}, torch {torch.__version__}, {options.size} shape, seconds:")
    say(f"{'':28}{'risk':>10}{f'{options.tokens} tokens':>12}{'share':>9}")
    for name, risk, whole in rows:
        say(f"{name:28}{risk:10.3f}{whole:12.3f}{risk / whole:9.1%}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (25 GB for true)")
    parser.add_argument("--size", choices=SIZES, default="true")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--single", type=int, default=12, help="questions asked one at a time")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=65)
    return parser.parse_args()


def make_checkpoint(options: argparse.Namespace) -> Path:
    """Return the checkpoint, built if it is not there."""
    folder = Path(options.work / "checkpoint")
    if not (folder / "config.json").exists():
        on_gpu = torch.cuda.is_available() and options.size == "true"
        standins.build_standin(
            folder,
            size=SIZES[options.size],
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            device="cuda" if on_gpu else "cpu",
        )
        if on_gpu:
            torch.cuda.empty_cache()
    return folder


def make_probe(folder: Path, vlm: VisionLanguageModel, layer: int) -> Path:
    """Save a probe of random numbers for one layer of the model."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, vlm.hidden_size)).astype(np.float32)
    probe = MeanDifferenceProbe().fit(matrix, np.arange(64) % 2 == 0)
    info = ProbeInfo(
        representation=QUERY,
        layer=layer,
        width=vlm.hidden_size,
        estimator="MeanDifferenceProbe",
        rows=64,
        model=asdict(describe_model(vlm)) | {"vision_pooling": "all"},
        calibration=(0.01, 0.0),  # random log-odds are large; these risks are not all 0 or 1
    )
    save_probe(folder, probe, info)
    return folder


def check(vlm: VisionLanguageModel, probe: Path, samples: list[Sample], layer: int) -> None:
    """Compare the risks with those of the vectors that a capture with answers keeps."""
    spec = CaptureSpec(layers=str(layer), positions=("last_prompt_token",), max_new_tokens=3)
    scorer = RiskScorer(vlm, probe, batch_size=len(samples))
    kept = capture(samples, vlm, spec, batch_size=len(samples))
    risks = [found.risk for found in scorer.score(samples) if isinstance(found, Risk)]
    vectors = np.stack([item.vectors[f"{QUERY}/layer_{layer}"] for item in kept])
    wanted = Platt(0.01, 0.0).apply(scorer.probe.decision_function(vectors))
    say(f"risks {np.round(risks, 3).tolist()}")
    say(f"largest difference from the stored vectors' risks: {np.abs(risks - wanted).max():.1e}")


def answer(samples: list[Sample], vlm: VisionLanguageModel, tokens: int) -> None:
    """Write whole answers, as anybody would without vlmscope's hooks."""
    [batch], _ = prepare(samples, vlm)
    inputs = {name: tensor.to(vlm.device) for name, tensor in batch.model_inputs().items()}
    config = greedy_config(vlm, tokens)
    config.min_new_tokens = tokens
    with torch.inference_mode():
        vlm.model.generate(**inputs, generation_config=config).cpu()


def answer_all(
    samples: list[Sample], vlm: VisionLanguageModel, options: argparse.Namespace
) -> None:
    """Write whole answers, batch by batch."""
    for start in range(0, len(samples), options.batch_size):
        answer(samples[start : start + options.batch_size], vlm, options.tokens)


def median(work: Callable[[Sample], object], samples: list[Sample]) -> float:
    """Return the median time of ``work`` on one sample; the first of all is a warm-up."""
    work(samples[0])
    return statistics.median(seconds(lambda sample=sample: work(sample)) for sample in samples)


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes; it ends with numbers on the CPU, so nothing is pending."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
