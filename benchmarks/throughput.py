"""In one run: the reference method, batched ``generate`` and vlmscope, beside the hardware.

A Llama-3.2-11B-Vision with random weights, and distinct crops of photographs of four tiles each;
same machine, images, questions and token limits for all three. First the real ``vlmscope extract``
writes a run for each scenario, alone on the device. Then the model is loaded once, for the
reference method's three passes at batch 1, for ``generate`` at several batch sizes, and for the
vision encoder alone.

    answers   every answer has 65 tokens: the checkpoint's settings name no token that ends one
    prefill   representations only
    shared    representations only, four questions about each image, far apart in the table
    lengths   1 to 200 tokens: so many tokens of the vocabulary end an answer that half the answers
              of the first scenario would end by the 40th

    python benchmarks/throughput.py --work /tmp/throughput                       # one H200
    python benchmarks/throughput.py --work /tmp/tiny --size tiny --rows 24       # a CPU
    python benchmarks/throughput.py --work /tmp/demo --cpu-overhead --rows 64    # a CPU

The numbers go to ``throughput.json`` in the scratch folder, step by step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bare_model import prepare_plain, time_bare, time_generate, time_seed, time_vision
from ceilings import count_flops, measure_ceilings, step_bytes
from risk import make_checkpoint
from throughput_runs import DEMO, SCENARIOS, Scenario, answers_of, extract, scenarios
from throughput_table import derive, print_table
from true_shape import SIZES, device_name, verify
from vlmscope.dataset import read_samples
from vlmscope.engine import prepare
from vlmscope.engine.image_cache import AT_ONCE
from vlmscope.executors.batching import rows_at_once
from vlmscope.model import VisionLanguageModel, load_model

OVERHEAD_BATCH = 16
"""Rows of a batch where the bare model is compared."""

_START = time.perf_counter()


def main() -> None:
    """Measure everything and print one table."""
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.cpu_overhead:
        overhead(options)
        return
    found: dict[str, Any] = {
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    checkpoint = DEMO / "model" if options.size == "demo" else make_checkpoint(options)
    say("checkpoint ready")
    made = run_commands(options, checkpoint, found)
    run_model(options, made, found)
    found["derived"] = derive(found)
    keep(options, found)
    print_table(found)
    agree = [bare["same_first_token"] for bare in found["generate"].values()]
    if found["dtype"] == "torch.float32" and min(agree) < 1:
        raise SystemExit(f"first tokens differ from generate's in float32: shares {agree}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="scratch folder (25 GB for true)")
    parser.add_argument("--size", choices=[*SIZES, "demo"], default="true")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument(
        "--rows", type=int, default=256, help="shared takes 1.5, lengths 0.75 of it"
    )
    parser.add_argument("--batch-size", default="auto", help="of vlmscope extract")
    parser.add_argument("--hf-sizes", nargs="+", type=int, default=[32, 64], help="of generate")
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--seed-rows", type=int, default=3, help="rows for the reference method")
    parser.add_argument("--verify", type=int, default=4, help="rows to hold against reference.py")
    parser.add_argument(
        "--cpu-overhead",
        action="store_true",
        help="instead: vlmscope against the bare demo model on the CPU",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often --cpu-overhead times each")
    options = parser.parse_args()
    if "lengths" in options.scenarios and "answers" not in options.scenarios:
        parser.error("lengths chooses its end tokens by the run of answers: name answers too")
    return options


def run_commands(
    options: argparse.Namespace, checkpoint: Path, found: dict[str, Any]
) -> list[Scenario]:
    """Run the real commands, one after the other, each alone on the device."""
    found["vlmscope"] = {}
    made = []
    for scenario in scenarios(options, checkpoint):
        summary = extract(options, scenario)
        if summary["captured"] != scenario.rows:
            raise SystemExit(f"{scenario.name}: {summary}, expected {scenario.rows} rows")
        found["vlmscope"][scenario.name] = summary
        say(f"{scenario.name}: {summary['rows_per_second']:.2f} rows a second")
        if scenario.name == "answers":
            found["verify"] = verify(options.work / "answers", options.verify)
        keep(options, found)
        made.append(scenario)
    return made


def run_model(options: argparse.Namespace, made: list[Scenario], found: dict[str, Any]) -> None:
    """Load the model once, and time the reference method, ``generate`` and the vision encoder."""
    checkpoint = made[0].checkpoint
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found["ceilings"] = measure_ceilings(device)
    vlm = load_model(checkpoint)
    found["dtype"] = str(vlm.dtype)
    say(f"model loaded in {vlm.dtype}; ceilings {found['ceilings']}")
    samples = list(read_samples(made[0].table, images=options.work, limit=options.seed_rows + 1))
    found["seed"] = time_seed(vlm, samples, options.tokens)
    say(f"the reference method, seconds a row: {found['seed']}")
    found["generate"] = {}
    for scenario in made:
        found["generate"][scenario.name] = compare(options, vlm, scenario)
        keep(options, found)
    prepared = prepare_plain(vlm, samples[:1])
    encoder = (vlm.family.vision_encoder, vlm.family.encoder_inputs)
    found["flops"] = count_flops(checkpoint, prepared.inputs, encoder)
    found["step_bytes"] = step_bytes(vlm, prepared.inputs, options.tokens)
    wanted = options.batch_size if options.batch_size == "auto" else int(options.batch_size)
    found["batch"] = min(made[0].rows, rows_at_once(vlm, wanted))
    rows = list(read_samples(made[0].table, images=options.work, limit=AT_ONCE))
    found["vision"] = time_vision(vlm, prepare_plain(vlm, rows), len(rows))
    say(f"the vision encoder, seconds a row: {found['vision']}")


def compare(
    options: argparse.Namespace, vlm: VisionLanguageModel, scenario: Scenario
) -> dict[str, Any]:
    """Time ``generate`` on a scenario's first rows, and hold its answers against the run's."""
    sizes = sorted({min(size, max(1, scenario.rows // 2)) for size in options.hf_sizes})
    samples = read_samples(scenario.table, images=scenario.images, limit=2 * sizes[-1])
    vlm.model.generation_config.eos_token_id = scenario.ends
    result = time_generate(vlm, prepare_plain(vlm, list(samples)), sizes, scenario.tokens)
    if result["best"] is None:
        raise SystemExit(f"{scenario.name}: generate fits at no size; give smaller --hf-sizes")
    best = result["sizes"][result["best"]]
    ours = answers_of(options.work / scenario.name)
    pairs = [(ours[id_], tokens) for id_, tokens in best["answers"].items()]
    result["same_first_token"] = float(np.mean([one[0] == other[0] for one, other in pairs]))
    result["same_answer"] = float(np.mean([one == other for one, other in pairs]))
    for one in result["sizes"].values():
        if isinstance(one, dict):
            one["answer_lengths"] = [len(tokens) for tokens in one.pop("answers").values()]
    say(f"{scenario.name}: generate {best['rows_per_second']:.2f} rows/s at batch {result['best']}")
    return result


def overhead(options: argparse.Namespace) -> None:
    """Print how much longer vlmscope takes on a CPU than the bare demo model on the same batches.

    Reading and preparing the images, taking the vectors and writing the run are all in it;
    loading the model is not. Both are timed in turn, and the best of each counts.
    """
    table, size = DEMO / "questions.csv", OVERHEAD_BATCH
    vlm = load_model(DEMO / "model", device="cpu")
    samples = list(read_samples(table, images=DEMO / "images", limit=options.rows))
    chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
    batches = [batch.model_inputs() for chunk in chunks for batch in prepare(chunk, vlm)[0]]
    options.batch_size = str(size)
    found = {}
    for name, tokens in (("prefill", 0), ("answers", options.tokens)):
        scenario = Scenario(name, table, DEMO / "images", options.rows, tokens, DEMO / "model")
        time_bare(vlm, batches[:1], tokens)
        bare, ours = [], []
        for _ in range(options.rounds):
            bare.append(time_bare(vlm, batches, tokens))
            ours.append(extract(options, scenario, "--device", "cpu")["seconds"])
        share = min(ours) / min(bare) - 1
        found[name] = {"bare": bare, "vlmscope": ours, "overhead": share}
        say(f"{name}: at best {min(ours):.2f} s, bare {min(bare):.2f} s: overhead {share:.1%}")
    keep(options, found)


def keep(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what is known so far: a run that is cut off still tells something."""
    (options.work / "throughput.json").write_text(json.dumps(found, indent=2))


def say(text: str) -> None:
    """Print a line at once, with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
