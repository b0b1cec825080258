"""The second proof, for a wrapper and decoder that the suite has not held: may they be batched?

Three noise images of different shapes are asked about together and one by one, the prompts padded
on the left. If the vision encoder's output falls into questions by one of the rules, and the last
hidden state of each prompt and of the first tokens of its answer does not depend on its neighbours,
questions go through the model in batches. If not, one at a time: slower, and as exact.

An image of a single token: what the library makes of it may depend on the row's neighbours. Mistral
3's class takes the batch dimension away from its projected image tokens with ``squeeze``, and there
is none: of one token in the whole batch it takes away the token. The row fails alone and succeeds
beside another. Here the projector gives such a token the dimension that is then taken.

Of an architecture that nobody described the smallest image is tried alone and beside another when
it is loaded. Where only a neighbour lets it pass, and this does not mend it, rows go one at a time:
they fail in every batch size alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, fromarray, new
from torch import Tensor, nn

from vlmscope.errors import ModelError, RowError, one_line
from vlmscope.model.attention.packed import packed, packing_configurations
from vlmscope.model.computing import computing
from vlmscope.model.families import DOCUMENT, find_family
from vlmscope.model.loading.checks import record, relative_error
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.prompt import encode, render

ASKED = (
    ("What is it?", (64, 48)),
    ("Is there anything at all in the image?", (40, 160)),
    ("Which colours are there?", (180, 56)),
)
"""Questions, and width and height of their images."""

LARGER = (1, 6, 12, 24)
"""How many times as large the images may be made for them to be seen as tiles."""

TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest relative error between a question in a batch and the same alone."""

NEW_TOKENS = 3
"""Tokens of each answer that are compared: a decoder may count padding at its steps only."""

ERRORS = Exception
"""What a model or a rule may raise that is not made for what it gets: anything."""

Seen = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Output of the encoder, last hidden state of each prompt, inputs."""


def prove_batches(vlm: VisionLanguageModel, rules: Sequence[str] = tuple(RULES)) -> str:
    """Return the first of ``rules`` that holds for batches of this model, or ``whole``.

    Raises:
        ModelError: It cannot be asked a single question.
    """
    questions = [question for question, _ in ASKED]
    try:
        images = _tiling(vlm)
        alone = [_look(vlm, [q], [p]) for q, p in zip(questions, images, strict=True)]
    except ModelError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(
            f"{vlm.name}: it cannot answer a question about an image: {what}"
        ) from error
    try:
        together = _look(vlm, questions, images)
    except Exception:  # noqa: BLE001 - code that nobody here has seen
        return "whole"  # it does not take several questions at once
    tolerance = TOLERANCES[vlm.dtype]
    same = [relative_error(together[1][row], own[1][0]) for row, own in enumerate(alone)]
    if not max(same) <= tolerance or not _answers_hold(vlm, questions, images):
        return "whole"
    for rule in rules:
        if _holds(vlm, rule, together, alone, tolerance):
            return rule
    return "whole"


def check_rule(vlm: VisionLanguageModel) -> None:
    """Check the rule that somebody's own description names.

    Raises:
        ModelError: It does not hold.
    """
    rule = vlm.family.vision_rows
    if prove_batches(vlm, [rule]) != rule:
        raise ModelError(
            f"{vlm.name}: vision_rows = {rule!r} does not hold: questions in a batch and alone "
            'differ; describe it with vision_rows = "whole", one question at a time'
        )


def with_proven_packing(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return a model that nobody described, or somebody else did, with what holds of its encoder.

    That is whether images of different sizes come out the same in one call a layer.
    """
    if not packing_configurations(vlm.vision_tower):
        return vlm
    questions = [question for question, _ in ASKED]
    try:
        plain, *_ = _look(vlm, questions, _noise())
        found, *_ = _look(vlm, questions, _noise(), in_one_call=True)
    except ERRORS:
        same = False  # it does not take several questions at once, or not in this way
    else:
        same = relative_error(found, plain) <= TOLERANCES[vlm.dtype]
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, packs_images=same))


def _noise(times: int = 1) -> list[Image]:
    """Return images of the sizes that are asked about, all but the first so many times larger."""
    rng = np.random.default_rng(0)
    sizes = [(width, height) for _, (width, height) in ASKED]
    larger = [(width * times, height * times) for width, height in sizes[1:]]
    return [
        fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in [sizes[0], *larger]
    ]


def _tiling(vlm: VisionLanguageModel) -> list[Image]:
    """Return images that the processor makes different numbers of tiles or tokens of, if any do.

    Small images are a single tile for many processors, and an order that holds for those may not
    hold for tiles.
    """
    for times in LARGER:
        images = _noise(times)
        text = render(vlm.processor, ASKED[0][0])
        shapes = set()
        for image in images:
            made = encode(vlm.processor, [text], [[image]])
            tokens = int((made["input_ids"] == vlm.image_token_id).sum())
            shapes.add((tokens, *(tuple(made[name].shape) for name in sorted(made))))
        if len(shapes) > 1:
            return images
    return _noise()


def _holds(
    vlm: VisionLanguageModel, rule: str, together: Seen, alone: Sequence[Seen], tolerance: float
) -> bool:
    try:
        shares = RULES[rule](_encoded(vlm, together))
        single = [RULES[rule](_encoded(vlm, seen))[0] for seen in alone]
    except ERRORS:
        return False
    return all(
        share.shape == own.shape and relative_error(share, own) <= tolerance
        for (share, _), (own, _) in zip(shares, single, strict=True)
    )


def _encoded(vlm: VisionLanguageModel, seen: Seen) -> Encoded:
    features, states, inputs = seen
    images = [1] * len(states)
    return Encoded(features, inputs, images, vlm.model.config, vlm.image_token_id)


def _look(
    vlm: VisionLanguageModel,
    questions: Sequence[str],
    images: Sequence[Image],
    *,
    in_one_call: bool = False,
) -> Seen:
    """Ask the questions together and return what the encoder and the decoder made of them.

    Args:
        vlm: The model.
        questions: Each about one image.
        images: The images.
        in_one_call: Whether the encoder attends to packed images in one call a layer.
    """
    texts = [render(vlm.processor, question) for question in questions]
    inputs = vlm.cast(encode(vlm.processor, texts, [[image] for image in images]))
    moved = vlm.on_device(inputs)
    parts = {"encoder": vlm.vision_encoder, "norm": vlm.final_norm}
    attention = packed(vlm) if in_one_call else contextlib.nullcontext()
    with computing(), attention, record(parts) as calls:
        # ``generate`` and not a plain forward: it counts positions from the first real token.
        vlm.model.generate(**moved, max_new_tokens=1)
    if (times := len(calls["encoder"])) != 1 and len(texts) == 1:
        (width, height) = images[0].size
        raise ModelError(
            f"{vlm.name}: its vision encoder ran {times} times for one image of {width}x{height}, "
            "for its tiles apart perhaps, and so has no one output; another module may have: "
            f'describe it with vision_encoder = "path", {DOCUMENT}'
        )
    if times != 1:
        raise RowError("image", f"the vision encoder ran {times} times for one batch")
    return calls["encoder"][0], calls["norm"][0][:, -1], inputs


def _answers_hold(
    vlm: VisionLanguageModel, questions: Sequence[str], images: Sequence[Image]
) -> bool:
    texts = [render(vlm.processor, question) for question in questions]
    try:
        return is_batched_as_alone(vlm, texts, images)
    except ERRORS:
        return False


def is_batched_as_alone(
    vlm: VisionLanguageModel, texts: Sequence[str], images: Sequence[Image]
) -> bool:
    """Return whether prompts together give what each gives alone, and so do their answers' tokens.

    Args:
        vlm: The model.
        texts: Rendered prompts.
        images: The image of each.

    Raises:
        RowError: The model does not write its answer a token a step.
    """
    together, tokens = _write(vlm, texts, images)
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        alone, own = _write(vlm, [text], [image])
        for step, (found, expected) in enumerate(zip(together, alone, strict=True)):
            if not torch.equal(tokens[row, :step], own[0, :step]):
                break  # rounding may decide between two tokens; what follows is another answer
            if not relative_error(found[row], expected[0]) <= TOLERANCES[vlm.dtype]:
                return False
    return True


def _write(
    vlm: VisionLanguageModel, texts: Sequence[str], images: Sequence[Image]
) -> tuple[list[Tensor], Tensor]:
    """Answer prompts together; return the last states of each step, and the new tokens."""
    inputs = encode(vlm.processor, texts, [[image] for image in images])
    moved = vlm.on_device(inputs)
    length = inputs["input_ids"].shape[1]
    with computing(), record({"norm": vlm.final_norm}) as calls:
        tokens = vlm.model.generate(**moved, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    if tokens.shape[1] != length + NEW_TOKENS or len(calls["norm"]) != NEW_TOKENS:
        raise RowError("prompt", "the model does not write its answer a token a step")
    return [states[:, -1] for states in calls["norm"]], tokens[:, length:].cpu()


def with_proven_rule(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model with the rule that holds: the described one, or for a stranger any."""
    described = find_family(vlm.model.config)
    rows = prove_batches(vlm, [vlm.family.vision_rows] if described else tuple(RULES))
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, vision_rows=rows))


_PROJECTOR = "multi_modal_projector"
_QUESTION = "What is it?"
_SMALLEST, _OTHER = (1, 1), (64, 48)


def keep_lone_token(projector: nn.Module) -> Any:
    """Let a projector return a single token with a batch dimension; return the hook's handle."""
    return projector.register_forward_hook(_with_batch)


def _with_batch(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1:
        return output.unsqueeze(0)
    return None


def with_smallest_image(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return a model for which neighbours do not decide whether the smallest image passes."""
    if vlm.one_at_a_time:
        return vlm
    smallest, other = new("RGB", _SMALLEST), new("RGB", _OTHER, (90, 120, 200))
    if _passes(vlm, [smallest]) or not _passes(vlm, [smallest, other]):
        return vlm
    for name, module in vlm.model.named_modules():
        if name.endswith(_PROJECTOR):
            handle = keep_lone_token(module)
            if _passes(vlm, [smallest]):
                return vlm
            handle.remove()
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, vision_rows="whole"))


def _passes(vlm: VisionLanguageModel, images: list[Image]) -> bool:
    """Return whether a question about each of some images goes through the model."""
    try:
        text = render(vlm.processor, _QUESTION)
        made = encode(vlm.processor, [text] * len(images), [[image] for image in images])
        inputs = vlm.on_device(made)
        with computing():
            vlm.model.generate(**inputs, max_new_tokens=1)
    except ERRORS:
        return False
    return True
