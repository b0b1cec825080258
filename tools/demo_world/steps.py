"""One training step of the demo model: losses, optimiser, and a CUDA graph of it all.

The model is small, so an eager step spends most of its time on launching kernels. On a GPU a step
is captured once and then replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from tools.demo_world.batches import Batch, Batches, draw_batch
from tools.demo_world.targets import OBJECTS, OUTSIDE

WEIGHT_DECAY = 0.05

OBJECTS_WEIGHT = 10.0
"""Weight of what is in the image, against where each patch is."""

WARM_UP = 3
"""Steps, at a learning rate of 0, before a step is captured."""

Parts = Sequence[tuple[Batches, int]]
"""Examples, and how many of them a step draws."""


class Sight(torch.nn.Module):
    """Linear heads on the vision encoder's output, for training only."""

    def __init__(self, width: int) -> None:
        """Build them."""
        super().__init__()
        self.objects = torch.nn.Linear(width, OBJECTS)
        self.places = torch.nn.Linear(width, 2)

    def forward(
        self, vision: torch.Tensor, valid: torch.Tensor, targets: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the loss of telling what is in the images, and where each patch is.

        Args:
            vision: [images, tiles, 1 + patches, width]: the encoder's output.
            valid: [images, tiles]: which tiles show something.
            targets: As ``Batches.targets`` returns them.
        """
        shown = valid[:, :, None, None].to(vision.dtype)
        pooled = (vision * shown).sum((1, 2)) / (shown.sum((1, 2)) * vision.shape[2])
        known = (targets["objects"] >= 0).float()
        each = F.binary_cross_entropy_with_logits(
            self.objects(pooled).float(), targets["objects"].clamp(min=0).float(), reduction="none"
        )
        objects = (each * known).sum() / known.sum().clamp(min=1)
        inside = (targets["places"] < OUTSIDE).float()
        away = (self.places(vision[:, :, 1:]).float() - targets["places"]).square()
        places = (away * inside).sum() / inside.sum().clamp(min=1)
        return OBJECTS_WEIGHT * objects + places


def run_model(
    model: Any, pixels: dict[str, torch.Tensor], text: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the vision encoder's output and the logits after each token.

    Texts are padded on the right, so a causal mask alone hides the padding from every real token.
    """
    vision = model.model.vision_model(**pixels).last_hidden_state[:, 0]
    states = model.model.multi_modal_projector(vision).flatten(1, 2)
    ids = text["input_ids"]
    states = states.repeat_interleave(len(ids) // len(states), 0)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    outputs = model.model(
        input_ids=ids, attention_mask=causal[None, None],
        cross_attention_mask=text["cross_attention_mask"], cross_attention_states=states,
        use_cache=False,
    )  # fmt: skip
    return vision, model.lm_head(outputs.last_hidden_state)


def losses_of(model: Any, sight: Sight, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of the answers, and that of the vision encoder's own targets."""
    vision, logits = run_model(model, batch.pixels, batch.text)
    seen = sight(vision, batch.pixels["aspect_ratio_mask"][:, 0], batch.targets)
    labels = batch.text["labels"][:, 1:]
    answer = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten())
    return answer, seen


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


class Trainer:
    """Takes steps. ``asked`` says of which kind: 0 describes images, else so many questions."""

    def __init__(self, model: Any, sight: Sight, parts: dict[int, Parts], device: str) -> None:
        """Set the optimiser up.

        Args:
            model: What is trained.
            sight: The heads that train with it.
            parts: ``asked`` → what such a step draws.
            device: Where everything is.
        """
        self.model, self.sight, self._parts, self._device = model, sight, parts, device
        self._graphed = device != "cpu"
        self.parameters = [*model.parameters(), *sight.parameters()]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": WEIGHT_DECAY},
             {"params": plain, "weight_decay": 0.0}],
            lr=torch.zeros((), device=device) if self._graphed else 0.0,
            betas=(0.9, 0.98), fused=self._graphed, capturable=self._graphed,
        )  # fmt: skip
        self._sight_weight = torch.zeros((), device=device)
        self._sums = torch.zeros(3, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def capture(self) -> None:
        """Capture each kind of step, on a GPU."""
        if not self._graphed:
            return
        self.schedule(0.0, 0.0)
        for asked in self._parts:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._compute(asked)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self._compute(asked)
            self._graphs[asked] = graph
        self.means()

    def schedule(self, rate: float, sight_weight: float) -> None:
        """Set the learning rate, and the weight of the encoder's own targets."""
        self._sight_weight.fill_(sight_weight)
        for group in self.optimizer.param_groups:
            if self._graphed:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self, asked: int) -> None:
        """Take one step; on a GPU it may still be running afterwards."""
        if asked in self._graphs:
            self._graphs[asked].replay()
        else:
            self._compute(asked)

    def means(self) -> tuple[float, float]:
        """Return the mean losses (answers, sight) of the steps since the last call."""
        answer, seen, count = self._sums.tolist()
        self._sums.zero_()
        return answer / max(count, 1), seen / max(count, 1)

    def precision(self) -> torch.autocast:
        """Return the context that the model runs in."""
        return torch.autocast(
            self._device.split(":")[0], torch.bfloat16, enabled=self._graphed, cache_enabled=False
        )

    def _compute(self, asked: int) -> None:
        """Draw a batch, take the step."""
        batch = draw_batch(self._parts[asked], asked)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision():
            answer, seen = losses_of(self.model, self.sight, batch)
        (answer + self._sight_weight * seen).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self._sums += torch.stack([answer.detach(), seen.detach(), torch.ones_like(answer)])
