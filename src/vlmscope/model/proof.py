"""The proof every model passes when it is loaded: are its parts what their names promise?

One blank image goes through the model once, with ``output_hidden_states`` and with hooks on every
accessor, and each claim that the capture rests on is checked against what ``transformers`` itself
returns. Afterwards the inner code trusts the accessors and checks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlmscope.errors import ModelError, RowError, one_line
from vlmscope.model.changes import removing_hooks
from vlmscope.model.computing import computing
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.prompt import count_bos, encode, render

QUESTION = "Is there anything in the image?"
"""What the proof asks about its blank image."""

TOLERANCE = 1e-3
"""Largest relative error between a hook and ``hidden_states``: the same tensor, but spread models
copy it between devices."""

_WIDTHS = ("vision_output_dim", "embed_dim", "hidden_size")
"""What configurations call the width of a vision encoder's output."""


def prove(vlm: VisionLanguageModel) -> int:
    """Check every accessor of ``vlm`` on one blank image; return the vision encoder's width.

    Raises:
        ModelError: A part is missing or is not what its name promises; the message names it.
    """
    from PIL import Image

    try:
        _touch(vlm)
        images = [[Image.new("RGB", (64, 48), (127, 127, 127))]]
        inputs = encode(vlm.processor, [render(vlm.processor, QUESTION)], images)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unexpected(vlm, f"{type(error).__name__}: {error}") from error
    except RowError as error:
        raise ModelError(f"{vlm.name}: {error}") from error
    _check_prompt(vlm, inputs)
    moved = {k: v.to(vlm.device) for k, v in vlm.cast(inputs).items()}
    parts = {"vision_encoder": vlm.vision_encoder, "final_norm": vlm.final_norm}
    parts |= {f"layers[{k}]": layer for k, layer in enumerate(vlm.layers)}
    with computing(), record(parts) as calls:
        try:
            outputs = vlm.model(**moved, output_hidden_states=True, use_cache=False)
        except (RuntimeError, TypeError, ValueError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _unexpected(vlm, f"it fails on a blank image: {first_line}") from error
        _check_decoder(vlm, calls, outputs, inputs["input_ids"].shape[1])
        return _check_vision(vlm, calls, inputs)


def _touch(vlm: VisionLanguageModel) -> None:
    """Reach for every accessor, so that a missing one fails here."""
    for part in (vlm.vision_encoder, vlm.layers, vlm.final_norm, vlm.lm_head):
        if part is None:
            raise AttributeError("a part of the model is None")
    _ = (vlm.projector, vlm.image_token_id, vlm.num_layers, vlm.hidden_size)
    _ = vlm.skipped_without_image


@contextmanager
def record(parts: Mapping[str, Any]) -> Iterator[dict[str, list[Tensor]]]:
    """Keep what each module returns, call by call, while the ``with`` block runs."""
    calls: dict[str, list[Tensor]] = {name: [] for name in parts}

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            calls[name].append(getattr(output, "last_hidden_state", output))

        return hook

    with removing_hooks() as handles:
        for name, part in parts.items():
            handles.append(part.register_forward_hook(keep(name)))
        yield calls


def _check_prompt(vlm: VisionLanguageModel, inputs: dict[str, Tensor]) -> None:
    if not (inputs["input_ids"][0] == vlm.image_token_id).any():
        raise _unexpected(vlm, f"the prompt holds no image token (id {vlm.image_token_id})")
    if (count := count_bos(vlm.processor, inputs)) > 1:
        raise _unexpected(vlm, f"the prompt begins with the BOS token {count} times")


def _check_vision(
    vlm: VisionLanguageModel, calls: dict[str, list[Tensor]], inputs: dict[str, Tensor]
) -> int:
    """Return the width of the encoder's output, if it is what it should be."""
    outputs = calls["vision_encoder"]
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        raise _unexpected(
            vlm, f"the vision encoder ran {len(outputs)} times for one image, not once"
        )
    encoded = Encoded(outputs[0], inputs, (1,), vlm.model.config, vlm.image_token_id)
    try:
        [(features, valid)] = RULES[vlm.family.vision_rows](encoded)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise _unexpected(
            vlm, f"the vision encoder's output does not split into samples: {one_line(error)}"
        ) from error
    width = features.shape[-1]
    vision = vlm.model.config.vision_config
    named = {int(getattr(vision, name)) for name in _WIDTHS if getattr(vision, name, None)}
    if named and width not in named:
        raise _unexpected(
            vlm,
            f"the vision encoder is {width} wide, the config says "
            + " or ".join(map(str, sorted(named))),
        )
    if features.shape != (len(valid), width):
        raise _unexpected(vlm, "the vision encoder's output does not split into samples")
    return int(width)


def _check_decoder(
    vlm: VisionLanguageModel, calls: dict[str, list[Tensor]], outputs: Any, length: int
) -> None:
    states = outputs.hidden_states
    if len(states) != vlm.num_layers + 1:
        raise _unexpected(vlm, f"{vlm.num_layers} layers gave {len(states)} hidden states")
    for k in range(vlm.num_layers):
        last = k == vlm.num_layers - 1
        name = "final_norm" if last else f"layers[{k}]"
        expected = (1, length, vlm.hidden_size)
        if len(calls[name]) != 1 or tuple(calls[name][0].shape) != expected:
            found = [tuple(call.shape) for call in calls[name]]
            raise _unexpected(vlm, f"{name} returned {found}, not once {expected}")
        if not relative_error(calls[name][0], states[k + 1]) <= TOLERANCE:
            raise _unexpected(vlm, f"{name} is not hidden_states[{k + 1}], or not a number")
    logits = _logits(vlm, states[-1][:, -1])
    if not relative_error(logits, outputs.logits[:, -1]) <= 10 * TOLERANCE:
        raise _unexpected(vlm, "lm_head of the last hidden state is not the model's logits")


def _logits(vlm: VisionLanguageModel, hidden: Tensor) -> Tensor:
    """Return what the model should make of a last hidden state: Gemma caps its logits softly."""
    logits: Tensor = vlm.lm_head(hidden.to(next(vlm.lm_head.parameters()).device)).float()
    cap = getattr(vlm.model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return ‖found − expected‖ / ‖expected‖, in float32."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _unexpected(vlm: VisionLanguageModel, what: str) -> ModelError:
    return ModelError(
        f"{vlm.name}: not the {vlm.family.title} we expect: {what}. "
        "See docs/adding-a-model.md for what a family must provide"
    )
