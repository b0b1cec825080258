"""Train the vision-language model that ships with vlmscope, from nothing, in one command.

    python scripts/train_demo_model.py --out demo-model

It is a true ``MllamaForConditionalGeneration`` of 4.8 million parameters. It sees generated
pictures (``vlmscope.demo.scenes``) whose statistics are skewed: what belongs together mostly comes
together, and questions about what is absent but expected are rare. So it learns to see, and learns
habits that sometimes win over what it sees. Needs one GPU (any with 16 GB), about 10 minutes and
16 CPU cores to draw the pictures; ``--device cpu`` works for a short trial. The same seed draws the
same pictures; the weights differ a little from one GPU to another.
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
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from demo_examples import Examples, corpus, encode, make_examples, training_questions
from vlmscope.demo.bundle import photograph
from vlmscope.demo.processor import build_processor
from vlmscope.demo.scenes import scenes
from vlmscope.demo.standin import DEMO, build_model

WEIGHT_DECAY = 0.05
CAPTION_EVERY = 5
"""Every fifth step describes the pictures; the others answer questions."""

AUXILIARY_WEIGHT = 1.0
"""Weight of the encoder's own target, at the start; it falls to nothing at half-way."""


def main() -> None:
    """Draw, train, save."""
    options = _options()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core has its process
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    processor = build_processor(
        vocabulary=DEMO.vocabulary, tile=DEMO.tile, corpus=corpus(options.seed)
    )
    processor.save_pretrained(options.out)
    started = time.monotonic()
    examples = make_examples(
        processor, seed=options.seed, split="train", pictures=options.pictures,
        each=options.questions, workers=options.workers,
    )  # fmt: skip
    drawn = time.monotonic() - started
    print(f"{options.pictures} pictures drawn in {drawn:.0f} s", flush=True)
    model = build_model(DEMO, seed=options.seed, device=options.device)
    batches = Batches(examples, processor, options.device)
    check(batches, processor, options.seed)
    if options.compile and options.device != "cpu":
        compile_layers(model)
    left = options.seconds - (time.monotonic() - started)
    if left <= 0:
        raise SystemExit(f"drawing took all of --seconds {options.seconds:.0f}; give more")
    log = train(model, batches, options, left)
    log |= {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(options.device),
        "seed": options.seed,
        "pictures": options.pictures,
        "seconds_drawing": round(drawn),
    }
    # Greedy, for those who call ``generate`` themselves; the released model samples.
    model.generation_config.update(do_sample=False, temperature=None, top_p=None)
    # The released checkpoint is half precision too; the gates and norms fit it well.
    model.half().save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps(log, indent=2) + "\n")


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
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--questions", type=int, default=10, help="about each picture")
    parser.add_argument("--asked", type=int, default=4, help="of them, each time it is seen")
    parser.add_argument("--batch", type=int, default=192, help="pictures in a step")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument(
        "--seconds", type=float, default=1080,
        help="at most, with the drawing; the schedule then ends early too",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=1.2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="fuse each layer's kernels, on a GPU: twice as fast",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    return parser.parse_args()


class Batches:
    """The examples on the device, and batches of them as the model wants them."""

    def __init__(self, examples: Examples, processor: Any, device: str) -> None:
        """Move everything to the device: 150 KB a picture."""
        for field in fields(examples):
            setattr(self, field.name, torch.from_numpy(getattr(examples, field.name)).to(device))
        self.image_token, self.device = processor.image_token_id, device
        images = processor.image_processor
        self.mean = torch.tensor(images.image_mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(images.image_std, device=device).view(3, 1, 1)

    def pixels(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the vision encoder's inputs for these pictures."""
        valid = torch.arange(4, device=self.device) < self.num_tiles[rows, None]
        pixels = (self.tiles[rows].float() / 255 - self.mean) / self.std
        return {
            "pixel_values": (pixels * valid[:, :, None, None, None])[:, None],
            "aspect_ratio_ids": self.ratio_ids[rows, None],
            "aspect_ratio_mask": valid[:, None].long(),
        }

    def text(self, rows: torch.Tensor, asked: int) -> dict[str, torch.Tensor]:
        """Return the decoder's inputs for ``asked`` random questions about each picture.

        ``asked`` 0 stands for the request to describe it.
        """
        source = self.questions if asked else self.captions
        starts = self.question_starts if asked else self.caption_starts
        pick = torch.rand(len(rows), source.shape[1], device=self.device).argsort(1)
        pick = pick[:, : max(asked, 1)]
        ids = source[rows[:, None], pick].flatten(0, 1).long()
        start = starts[rows[:, None], pick].flatten()
        at = torch.arange(ids.shape[1], device=self.device)
        filled = ids >= 0
        image = (ids == self.image_token).long().argmax(1)
        tiles = torch.arange(4, device=self.device) < self.num_tiles[rows, None]
        tiles = tiles.repeat_interleave(max(asked, 1), 0)
        sees = (at >= image[:, None])[:, :, None] & tiles[:, None]
        return {
            "input_ids": ids.clamp(min=0),
            "attention_mask": filled.long(),
            "cross_attention_mask": sees[:, :, None].long(),
            "labels": torch.where(filled & (at >= start[:, None]), ids, -100),
        }


def check(batches: Batches, processor: Any, seed: int) -> None:
    """Compare the first picture's inputs with the processor's own."""
    (scene,) = scenes(seed, "train", 1)
    first = torch.zeros(1, dtype=torch.long, device=batches.device)
    caption = training_questions(scene, seed, "train", 0, batches.questions.shape[1])[-1]
    ((prompt, answer),) = encode(processor, [caption])
    text = processor.tokenizer.decode(prompt + answer)
    real = processor(
        images=[[photograph(scene)]], text=[text], add_special_tokens=False, return_tensors="pt"
    )
    pixels, ours = batches.pixels(first), batches.text(first, 0)
    length = real["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "cross_attention_mask"):
        assert torch.equal(ours[name][:, :length].cpu(), real[name]), name
    assert ours["labels"][0, : len(prompt)].eq(-100).all()
    for name, value in pixels.items():
        worst = (value.cpu().double() - real[name].double()).abs().max()
        assert worst < 0.02, f"{name} differs from the processor's by {worst}"  # 1 of 255


def compile_layers(model: Any) -> None:
    """Compile each kind of layer once."""
    vision = model.model.vision_model
    layers = [
        *model.model.language_model.layers,
        *vision.transformer.layers,
        *vision.global_transformer.layers,
    ]
    for layer in layers:
        layer.compile()


def train(
    model: Any, batches: Batches, options: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    """Train in place, for so many steps or seconds, whichever end first; return what happened."""
    device = options.device
    width = model.config.vision_config.vision_output_dim
    auxiliary = torch.nn.Linear(width, batches.objects.shape[1]).to(device)
    parameters = [*model.parameters(), *auxiliary.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=options.rate, betas=(0.9, 0.98), fused=device != "cpu",
    )  # fmt: skip
    model.train()
    started, step, losses = time.monotonic(), 0, []
    history: list[dict[str, float]] = []
    done = 0.0
    while done < 1.0:
        elapsed = time.monotonic() - started
        done = max((step + 1) / options.steps, elapsed / seconds)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * _schedule(step, done)
        rows = torch.randint(len(batches.tiles), (options.batch,), device=device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
            asked = 0 if step % CAPTION_EVERY == 0 else options.asked
            answer, seen = losses_of(model, auxiliary, batches, rows, asked)
        loss = answer + AUXILIARY_WEIGHT * max(0.0, 1 - 2 * done) * seen
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append((answer.detach(), seen.detach()))
        step += 1
        if step % 200 == 0 or done >= 1.0:
            mean = torch.tensor([[float(a), float(s)] for a, s in losses]).mean(0).tolist()
            losses.clear()
            elapsed = time.monotonic() - started
            history.append({"step": step, "loss": round(mean[0], 4), "seen": round(mean[1], 4)})
            print(
                f"step {step} {elapsed:.0f} s answer {mean[0]:.4f} seen {mean[1]:.4f}", flush=True
            )
    return {"steps": step, "seconds_training": round(elapsed), "history": history}


def losses_of(
    model: Any, auxiliary: Any, batches: Batches, rows: torch.Tensor, asked: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of the answers, and of telling what is in the picture from its vector."""
    pixels = batches.pixels(rows)
    vision = model.model.vision_model(**pixels).last_hidden_state[:, 0]
    valid = pixels["aspect_ratio_mask"][:, 0, :, None, None].to(vision.dtype)
    pooled = (vision * valid).sum((1, 2)) / (valid.sum((1, 2)) * vision.shape[2])
    seen = F.binary_cross_entropy_with_logits(
        auxiliary(pooled).float(), batches.objects[rows].float()
    )
    states = model.model.multi_modal_projector(vision).flatten(1, 2)
    states = states.repeat_interleave(max(asked, 1), 0)
    text = batches.text(rows, asked)
    labels = text.pop("labels")[:, 1:]
    outputs = model.model(**text, cross_attention_states=states, use_cache=False)
    hidden = outputs.last_hidden_state
    spoken = labels >= 0
    logits = model.lm_head(hidden[:, :-1][spoken]).float()
    return F.cross_entropy(logits, labels[spoken]), seen * 10


def _schedule(step: int, done: float) -> float:
    """Warm up over 300 steps, then fall along a cosine."""
    return min(1.0, (step + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


if __name__ == "__main__":
    main()
