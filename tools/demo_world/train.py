"""Train the vision-language model that ships with vlmscope, from nothing, in one command.

    pip install easy-vqa==1.0
    python -m tools.demo_world.train --out demo-model

It is a true ``MllamaForConditionalGeneration`` of 4.8 million parameters. It sees generated
images (``tools.demo_world.scenes``) whose statistics are skewed: what belongs together mostly comes
together, and questions about what is absent but expected are rare. So it learns to see, and learns
habits that sometimes win over what it sees. A small share of the images, ``--easy-vqa``, is
easy-VQA's training split; its test split is a second world that it never sees.

Needs one GPU (any with 32 GB), under ten minutes and 16 CPU cores to draw the images; ``--device
cpu`` works for a short trial, ``--easy-vqa 0`` needs no package. The same seed draws the same
images; the weights differ a little from one GPU to another. ``--resume`` goes on where a run that
was ended left its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tools.demo_world.batches import Batches, Feeder, check
from tools.demo_world.bundle import BUNDLED
from tools.demo_world.examples import corpus, empty_examples, filling, make_examples
from tools.demo_world.held_out import accuracy
from tools.demo_world.sources import EasyVqa, World
from tools.demo_world.steps import Sight, Trainer, compile_layers
from tools.standin import DEMO, build_model, build_processor

CAPTION_EVERY = 5
"""Every fifth step describes images; the others answer questions."""

SIGHT_WEIGHT = 1.0
"""Weight of the vision encoder's own targets, at the start; it falls to nothing at half-way."""

WARM_UP = 300
"""Steps until the learning rate is at its highest."""

LOG_EVERY = 200

CHECKPOINT = "checkpoint.pt"

COMMAND = ("python", "-m", "tools.demo_world.train")
"""What starts this, for the model card."""


def main() -> None:
    """Draw, train, save."""
    options = _options()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its process
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    easy_vqa = options.easy_vqa > 0
    processor = build_processor(
        vocabulary=DEMO.vocabulary, tile=DEMO.tile, corpus=corpus(options.seed, easy_vqa=easy_vqa)
    )
    processor.save_pretrained(options.out)
    started = time.monotonic()
    world = World(options.seed, "train", options.pictures, options.questions)
    examples = empty_examples(len(world), world.each)
    ready = filling(examples, processor, world, options.workers)
    next(ready)  # the drawing processes start here, before this one first uses the GPU
    others = _other_examples(options, processor)
    batches = Batches(examples, processor, options.device)
    feeder = Feeder(batches, ready)
    feeder.first(options.first)
    check(batches, processor, world)
    sets = {name: Batches(made, processor, options.device).load() for name, made in others.items()}
    print(f"{feeder.drawn} images drawn in {time.monotonic() - started:.0f} s", flush=True)
    log = train(options, processor, batches, feeder, sets, started)
    log["images"] = {"drawn": feeder.drawn, "easy_vqa": _easy_vqa_images(options)}
    (options.out / "training.json").write_text(json.dumps(log, indent=2) + "\n")
    (options.out / CHECKPOINT).unlink(missing_ok=True)


def _easy_vqa_images(options: argparse.Namespace) -> int:
    """Return how many images of easy-VQA are trained on."""
    return EasyVqa(options.asked, images=options.easy_vqa_images).images if options.easy_vqa else 0


def _other_examples(options: argparse.Namespace, processor: Any) -> dict[str, Any]:
    """Return the examples beside the generated training images, by what they are for."""
    held_out = options.held_out - options.held_out % options.batch
    sources: dict[str, Any] = {}
    if held_out:
        sources["held_out"] = World(options.seed, "held-out", held_out, options.asked, BUNDLED)
    if options.easy_vqa:
        few = options.easy_vqa_images
        sources["easy_vqa"] = EasyVqa(options.asked, images=few)
        sources["held_out_easy_vqa"] = EasyVqa(options.asked, images=few, held_out=True)
    return {name: make_examples(processor, sources[name], options.workers) for name in sources}


def machine(device: str) -> str:
    """Return what the training ran on."""
    chip = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    return f"{chip}, {os.cpu_count()} CPU cores, torch {torch.__version__}"


def commit() -> str:
    """Return the commit that the code is at, or nothing where there is no repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return done.stdout.strip()


def _options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pictures", type=int, default=100_000, help="generated images")
    parser.add_argument(
        "--first", type=int, default=10_000, help="of them, drawn before the first step"
    )
    parser.add_argument("--questions", type=int, default=10, help="about each generated image")
    parser.add_argument("--asked", type=int, default=4, help="of them, each time it is seen")
    parser.add_argument("--batch", type=int, default=192, help="images in a step")
    parser.add_argument(
        "--easy-vqa", type=float, default=0.015, metavar="SHARE",
        help="share of the images of a step with questions that is easy-VQA's; 0 to 1, 0 for none",
    )  # fmt: skip
    parser.add_argument(
        "--easy-vqa-images", type=int, metavar="N", help="only the first so many of its images"
    )
    parser.add_argument(
        "--held-out", type=int, default=960, help="generated images to measure on meanwhile"
    )
    parser.add_argument("--measure-every", type=int, default=2000, metavar="STEPS")
    parser.add_argument("--save-every", type=int, default=5000, metavar="STEPS")
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument(
        "--seconds", type=float, default=1080,
        help="at most, with the drawing; the schedule then ends early too",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="fuse each layer's kernels, on a GPU",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--resume", action="store_true", help="from the checkpoint in --out")
    options = parser.parse_args()
    if not 0 <= options.easy_vqa <= 1:
        parser.error(f"--easy-vqa {options.easy_vqa}: want a share, 0 to 1")
    return options


@dataclass
class Progress:
    """How far training has come, and what was measured on the way."""

    steps: int = 0
    seconds_training: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)


def train(
    options: argparse.Namespace, processor: Any, batches: Batches, feeder: Feeder,
    sets: dict[str, Batches], started: float,
) -> dict[str, Any]:  # fmt: skip
    """Train and save the model, for so many steps or seconds, whichever end first.

    Returns:
        What happened.
    """
    model = build_model(DEMO, seed=options.seed, device=options.device).train()
    sight = Sight(model.config.vision_config.vision_output_dim).to(options.device)
    if options.compile and options.device != "cpu":
        compile_layers(model)
    outside = round(options.batch * options.easy_vqa)
    questions = [(batches, options.batch - outside)]
    if outside:
        questions.append((sets["easy_vqa"], outside))
    parts = {0: [(batches, options.batch)], options.asked: questions}
    trainer = Trainer(model, sight, parts, options.device)
    progress = _resumed(options, trainer) if options.resume else Progress()
    trainer.capture()
    feeder.start()
    left = options.seconds - (time.monotonic() - started)
    if left <= 0:
        raise SystemExit(f"drawing took all of --seconds {options.seconds:.0f}; give more")

    def measure() -> None:
        progress.held_out.append(
            _measured(trainer, sets, processor.tokenizer, options) | {"step": progress.steps}
        )
        print(json.dumps(progress.held_out[-1]), flush=True)

    _loop(trainer, progress, options, left, measure)
    feeder.stop()
    # Greedy, for those who call ``generate`` themselves; the released model samples.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None)
    # The released checkpoint is half precision too; the gates and norms fit it well.
    model.half().save_pretrained(options.out)
    return asdict(progress) | {
        "command": shlex.join([*COMMAND, *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(options.device),
        "seed": options.seed,
        "images_in_a_step": {"generated": options.batch - outside, "easy_vqa": outside},
        "seconds": round(time.monotonic() - started),
    }


def _loop(
    trainer: Trainer, progress: Progress, options: argparse.Namespace, seconds: float, measure: Any
) -> None:
    """Take the steps."""
    started = time.monotonic() - progress.seconds_training
    done = progress.steps / options.steps
    while done < 1.0:
        step = progress.steps
        done = max((step + 1) / options.steps, (time.monotonic() - started) / seconds)
        trainer.schedule(
            options.rate * _schedule(step, done), SIGHT_WEIGHT * max(0.0, 1 - 2 * done)
        )
        trainer.step(0 if step % CAPTION_EVERY == 0 else options.asked)
        progress.steps = step + 1
        if progress.steps % LOG_EVERY == 0 or done >= 1.0:
            answer, seen = trainer.means()  # waits for the steps so far
            progress.seconds_training = round(time.monotonic() - started, 1)
            entry = {"step": step + 1, "loss": round(answer, 4), "seen": round(seen, 4)}
            progress.history.append(entry)
            print(f"{progress.seconds_training:.0f} s {json.dumps(entry)}", flush=True)
        if progress.steps % options.measure_every == 0 or done >= 1.0:
            measure()
        if progress.steps % options.save_every == 0:
            progress.seconds_training = round(time.monotonic() - started, 1)
            _save(options, trainer, progress)


def _schedule(step: int, done: float) -> float:
    """Warm up, then fall along a cosine."""
    rise = min(1.0, (step + 1) / WARM_UP)
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def _measured(
    trainer: Trainer, sets: dict[str, Batches], tokenizer: Any, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the share of right answers on each set that is held out."""
    return {
        name: accuracy(trainer, sets[name], tokenizer, size=options.batch, asked=options.asked)
        for name in sets
        if name.startswith("held_out")
    }


def _save(options: argparse.Namespace, trainer: Trainer, progress: Progress) -> None:
    """Write a checkpoint, whole or not at all."""
    path = options.out / CHECKPOINT
    state = {
        "model": trainer.model.state_dict(), "sight": trainer.sight.state_dict(),
        "optimizer": trainer.optimizer.state_dict(), "progress": asdict(progress),
    }  # fmt: skip
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _resumed(options: argparse.Namespace, trainer: Trainer) -> Progress:
    """Load the checkpoint; other random examples follow than those that would have."""
    path = options.out / CHECKPOINT
    if not path.exists():
        raise SystemExit(f"{path}: no checkpoint to resume from; leave out --resume")
    state = torch.load(path, map_location=options.device, weights_only=True)
    trainer.model.load_state_dict(state["model"])
    trainer.sight.load_state_dict(state["sight"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    progress = Progress(**state["progress"])
    torch.manual_seed(options.seed + progress.steps)
    return progress


if __name__ == "__main__":
    main()
