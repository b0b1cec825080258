"""Check whether rows may be batched, for a wrapper and decoder that the test suite does not cover.

Three noise images of different shapes are asked about together and one by one, with the prompts
padded on the left. Rows are batched if one of the rules assigns the vision encoder's output to the
questions, and the last hidden state of each prompt and of the first tokens of its answer does not
depend on the other rows of the batch. Otherwise rows are run one at a time: slower, and as exact.

For an image of a single token, the library's result may depend on the other rows. Mistral 3's class
removes the batch dimension of its projected image tokens with ``squeeze``, and there is none: if
the batch contains a single image token, that dimension is removed instead. The row fails alone and
succeeds together with another. Here the projector adds the dimension that ``squeeze`` removes.

For an undescribed architecture the smallest image is tried alone and together with another when the
model is loaded. If it passes only together with another, and the added dimension does not help,
rows are run one at a time: they then fail at every batch size alike.
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
"""Questions, each with the width and height of its image."""

LARGER = (1, 6, 12, 24)
"""Factors by which the images may be enlarged so that the processor splits them into tiles."""

TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Maximum relative error between a question in a batch and the same question alone."""

NEW_TOKENS = 3
"""Tokens of each answer that are compared: some decoders mishandle padding only while decoding."""

ERRORS = Exception
"""What a model or a rule may raise on inputs that it does not support: anything."""

Seen = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Output of the encoder, last hidden state of each prompt, inputs."""


def find_batch_rule(vlm: VisionLanguageModel, rules: Sequence[str] = tuple(RULES)) -> str:
    """Return the first of ``rules`` that is correct for batches of this model, or ``whole``.

    Raises:
        ModelError: The model fails on a single question.
    """
    questions = [question for question, _ in ASKED]
    try:
        images = _tiling_images(vlm)
        alone = [_run_batch(vlm, [q], [p]) for q, p in zip(questions, images, strict=True)]
    except ModelError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ModelError(
            f"{vlm.name}: it cannot answer a question about an image: {what}"
        ) from error
    try:
        together = _run_batch(vlm, questions, images)
    except Exception:  # noqa: BLE001 - an undescribed architecture may raise anything
        return "whole"  # the model does not support several questions in a batch
    tolerance = TOLERANCES[vlm.dtype]
    same = [relative_error(together[1][row], own[1][0]) for row, own in enumerate(alone)]
    if not max(same) <= tolerance or not _answers_agree(vlm, questions, images):
        return "whole"
    for rule in rules:
        if _is_right_rule(vlm, rule, together, alone, tolerance):
            return rule
    return "whole"


def check_rule(vlm: VisionLanguageModel) -> None:
    """Check the rule that a user's description names.

    Raises:
        ModelError: The rule is wrong for this model.
    """
    rule = vlm.family.vision_rows
    if find_batch_rule(vlm, [rule]) != rule:
        raise ModelError(
            f"{vlm.name}: vision_rows = {rule!r} is wrong: questions in a batch and alone "
            'differ; describe it with vision_rows = "whole", one question at a time'
        )


def with_verified_packing(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model with the verified ``packs_images``.

    For models without a description of ours: it is true if images of different sizes give the same
    result with one attention call per layer.
    """
    if not packing_configurations(vlm.vision_tower):
        return vlm
    questions = [question for question, _ in ASKED]
    try:
        plain, *_ = _run_batch(vlm, questions, _noise_images())
        found, *_ = _run_batch(vlm, questions, _noise_images(), in_one_call=True)
    except ERRORS:
        same = False  # several questions in a batch are not supported, or not packed
    else:
        same = relative_error(found, plain) <= TOLERANCES[vlm.dtype]
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, packs_images=same))


def _noise_images(times: int = 1) -> list[Image]:
    """Return noise images of the sizes in ``ASKED``, all but the first enlarged ``times`` times."""
    rng = np.random.default_rng(0)
    sizes = [(width, height) for _, (width, height) in ASKED]
    larger = [(width * times, height * times) for width, height in sizes[1:]]
    return [
        fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in [sizes[0], *larger]
    ]


def _tiling_images(vlm: VisionLanguageModel) -> list[Image]:
    """Return images that the processor splits into different numbers of tiles or tokens, if any.

    Small images are a single tile for many processors, and a rule that is right for those may be
    wrong for tiles.
    """
    for times in LARGER:
        images = _noise_images(times)
        text = render(vlm.processor, ASKED[0][0])
        shapes = set()
        for image in images:
            made = encode(vlm.processor, [text], [[image]])
            tokens = int((made["input_ids"] == vlm.image_token_id).sum())
            shapes.add((tokens, *(tuple(made[name].shape) for name in sorted(made))))
        if len(shapes) > 1:
            return images
    return _noise_images()


def _is_right_rule(
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


def _run_batch(
    vlm: VisionLanguageModel,
    questions: Sequence[str],
    images: Sequence[Image],
    *,
    in_one_call: bool = False,
) -> Seen:
    """Run the questions as one batch; return outputs of the encoder and decoder, and the inputs.

    Args:
        vlm: The model.
        questions: The questions, each about one image.
        images: The images.
        in_one_call: Whether the encoder attends to packed images in one call per layer.
    """
    texts = [render(vlm.processor, question) for question in questions]
    inputs = vlm.cast(encode(vlm.processor, texts, [[image] for image in images]))
    moved = vlm.on_device(inputs)
    parts = {"encoder": vlm.vision_encoder, "norm": vlm.final_norm}
    attention = packed(vlm) if in_one_call else contextlib.nullcontext()
    with computing(), attention, record(parts) as calls:
        # ``generate`` and not a plain forward: it numbers positions from the first real token.
        vlm.model.generate(**moved, max_new_tokens=1)
    if (times := len(calls["encoder"])) != 1 and len(texts) == 1:
        (width, height) = images[0].size
        raise ModelError(
            f"{vlm.name}: its vision encoder ran {times} times for one image of {width}x{height}, "
            "perhaps once per tile, and so has no single output; another module may have: "
            f'describe it with vision_encoder = "path", {DOCUMENT}'
        )
    if times != 1:
        raise RowError("image", f"the vision encoder ran {times} times for one batch")
    return calls["encoder"][0], calls["norm"][0][:, -1], inputs


def _answers_agree(
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
    """Return whether prompts give the same states and answer tokens in a batch as alone.

    Args:
        vlm: The model.
        texts: Rendered prompts.
        images: The image of each.

    Raises:
        RowError: The model does not generate one token per step.
    """
    together, tokens = _generate(vlm, texts, images)
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        alone, own = _generate(vlm, [text], [image])
        for step, (found, expected) in enumerate(zip(together, alone, strict=True)):
            if not torch.equal(tokens[row, :step], own[0, :step]):
                break  # rounding may decide between two tokens; the answers differ from there on
            if not relative_error(found[row], expected[0]) <= TOLERANCES[vlm.dtype]:
                return False
    return True


def _generate(
    vlm: VisionLanguageModel, texts: Sequence[str], images: Sequence[Image]
) -> tuple[list[Tensor], Tensor]:
    """Answer prompts as one batch; return the last states of each step, and the new tokens."""
    inputs = encode(vlm.processor, texts, [[image] for image in images])
    moved = vlm.on_device(inputs)
    length = inputs["input_ids"].shape[1]
    with computing(), record({"norm": vlm.final_norm}) as calls:
        tokens = vlm.model.generate(**moved, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    if tokens.shape[1] != length + NEW_TOKENS or len(calls["norm"]) != NEW_TOKENS:
        raise RowError("prompt", "the model does not generate one token per step")
    return [states[:, -1] for states in calls["norm"]], tokens[:, length:].cpu()


def with_verified_rule(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model with the verified rule: the described one, or any if undescribed."""
    described = find_family(vlm.model.config)
    rows = find_batch_rule(vlm, [vlm.family.vision_rows] if described else tuple(RULES))
    return dataclasses.replace(vlm, family=dataclasses.replace(vlm.family, vision_rows=rows))


_PROJECTOR = "multi_modal_projector"
_QUESTION = "What is it?"
_SMALLEST, _OTHER = (1, 1), (64, 48)


def keep_lone_token(projector: nn.Module) -> Any:
    """Keep the batch dimension of a single projected token; return the hook's handle."""
    return projector.register_forward_hook(_with_batch)


def _with_batch(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1:
        return output.unsqueeze(0)
    return None


def with_smallest_image(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """Return a model in which the other rows do not affect whether the smallest image passes."""
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
    """Return whether a question about each image runs through the model without an error."""
    try:
        text = render(vlm.processor, _QUESTION)
        made = encode(vlm.processor, [text] * len(images), [[image] for image in images])
        inputs = vlm.on_device(made)
        with computing():
            vlm.model.generate(**inputs, max_new_tokens=1)
    except ERRORS:
        return False
    return True
