"""Batches of training examples on the device, as the demo model wants them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from tools.demo_world.examples import Examples, encode
from tools.demo_world.sources import Source

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees."""

    pixels: Tensors
    """The vision encoder's inputs."""
    text: Tensors
    """The decoder's inputs, and ``labels``."""
    targets: Tensors
    """The vision encoder's own targets."""


class Batches:
    """The examples on the device, and batches of them.

    Until ``feed`` or ``load`` has brought an example to the device, it is not drawn.
    """

    def __init__(self, examples: Examples, processor: Any, device: str) -> None:
        """Take the memory: 150 KB an image."""
        self._examples, self.device = examples, device
        for field in fields(examples):
            source = torch.from_numpy(getattr(examples, field.name))
            setattr(self, field.name, torch.empty_like(source, device=device))
        self.image_token = processor.image_token_id
        images = processor.image_processor
        self.mean = torch.tensor(images.image_mean, device=device).view(3, 1, 1)
        self.std = torch.tensor(images.image_std, device=device).view(3, 1, 1)
        self.ready = torch.zeros((), device=device)
        self._loaded = 0

    def __len__(self) -> int:
        """Return how many images there will be in the end."""
        return len(self._examples.tiles)

    def load(self, stop: int | None = None) -> Batches:
        """Bring the examples before ``stop`` to the device, and let them be drawn."""
        stop = len(self) if stop is None else stop
        for field in fields(self._examples):
            source = torch.from_numpy(getattr(self._examples, field.name)[self._loaded : stop])
            getattr(self, field.name)[self._loaded : stop].copy_(source)
        if self.device != "cpu":
            torch.cuda.current_stream().synchronize()
        self._loaded = stop
        self.ready.fill_(stop)
        return self

    def choose(self, count: int) -> torch.Tensor:
        """Return the numbers of random images that are ready."""
        chosen = torch.rand(count, device=self.device) * self.ready
        return torch.minimum(chosen.long(), self.ready.long() - 1)

    def pixels(self, rows: torch.Tensor) -> Tensors:
        """Return the vision encoder's inputs for these images."""
        valid = torch.arange(4, device=self.device) < self.num_tiles[rows, None]
        pixels = (self.tiles[rows].float() / 255 - self.mean) / self.std
        return {
            "pixel_values": (pixels * valid[:, :, None, None, None])[:, None],
            "aspect_ratio_ids": self.ratio_ids[rows, None],
            "aspect_ratio_mask": valid[:, None].long(),
        }

    def text(self, rows: torch.Tensor, asked: int, *, shuffled: bool = True) -> Tensors:
        """Return the decoder's inputs for ``asked`` questions about each image.

        Args:
            rows: The images' numbers.
            asked: How many; 0 stands for the request to describe the image.
            shuffled: Random ones of its questions; else the first.
        """
        source = self.questions if asked else self.captions
        starts = self.question_starts if asked else self.caption_starts
        count = max(asked, 1)
        pick = torch.rand(len(rows), source.shape[1], device=self.device).argsort(1)[:, :count]
        if not shuffled:
            pick = torch.arange(count, device=self.device)
        ids = source[rows[:, None], pick].flatten(0, 1).long()
        start = starts[rows[:, None], pick].flatten()
        at = torch.arange(ids.shape[1], device=self.device)
        filled = ids >= 0
        image = (ids == self.image_token).long().argmax(1)
        tiles = torch.arange(4, device=self.device) < self.num_tiles[rows, None]
        tiles = tiles.repeat_interleave(count, 0)
        sees = (at >= image[:, None])[:, :, None] & tiles[:, None]
        return {
            "input_ids": ids.clamp(min=0),
            "attention_mask": filled.long(),
            "cross_attention_mask": sees[:, :, None].long(),
            "labels": torch.where(filled & (at >= start[:, None]), ids, -100),
        }

    def targets(self, rows: torch.Tensor) -> Tensors:
        """Return the vision encoder's own targets for these images."""
        return {
            "objects": self.objects[rows],
            "places": self.places[rows].float(),
        }


def draw_batch(parts: Sequence[tuple[Batches, int]], asked: int) -> Batch:
    """Return a batch of so many random images of each part, in one."""
    chosen = [(part, part.choose(count)) for part, count in parts if count]
    return Batch(
        pixels=_joined([part.pixels(rows) for part, rows in chosen]),
        text=_joined([part.text(rows, asked) for part, rows in chosen]),
        targets=_joined([part.targets(rows) for part, rows in chosen]),
    )


def _joined(parts: list[Tensors]) -> Tensors:
    """Concatenate along the first axis, name by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class Feeder:
    """Brings examples to the device while others are still being drawn and the model trains."""

    def __init__(self, batches: Batches, ready: Iterator[int]) -> None:
        """Take over the iteration of ``filling``."""
        self._batches, self._ready = batches, ready
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.drawn = 0
        """Images that are ready to be trained on."""

    def first(self, count: int) -> None:
        """Wait until ``count`` images are ready, or all."""
        for ready in self._ready:
            self.drawn = ready
            if ready >= count:
                break
        self._batches.load(self.drawn)

    def start(self) -> None:
        """Go on in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what is not drawn yet."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._ready.close()  # type: ignore[attr-defined]

    def _run(self) -> None:
        """Load each part as it is drawn, beside the stream that trains."""
        device = self._batches.device
        stream = None if device == "cpu" else torch.cuda.Stream(device)
        with torch.cuda.stream(stream):  # type: ignore[arg-type]
            for ready in self._ready:
                self._batches.load(ready)
                self.drawn = ready
                if self._stop.is_set():
                    break


def check(batches: Batches, processor: Any, source: Source) -> None:
    """Compare the first image's inputs with the processor's own."""
    (row,) = source.rows(0, 1)
    first = torch.zeros(1, dtype=torch.long, device=batches.device)
    asked = 0 if row.caption else 1
    question = row.caption or row.questions[0]
    ((prompt, answer),) = encode(processor, [question])
    text = processor.tokenizer.decode(prompt + answer)
    real = processor(
        images=[[row.image]], text=[text], add_special_tokens=False, return_tensors="pt"
    )
    pixels, ours = batches.pixels(first), batches.text(first, asked, shuffled=False)
    length = real["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "cross_attention_mask"):
        assert torch.equal(ours[name][:, :length].cpu(), real[name]), name
    assert ours["labels"][0, : len(prompt)].eq(-100).all()
    for name, value in pixels.items():
        worst = (value.cpu().double() - real[name].double()).abs().max()
        assert worst < 0.02, f"{name} differs from the processor's by {worst}"  # 1 of 255
