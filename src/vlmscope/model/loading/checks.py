"""The check of every loaded model: whether its parts return what their names say.

One blank image goes through the model once, with ``output_hidden_states`` and with hooks on every
accessor, and each assumption of the capture is checked against what ``transformers`` itself
returns. Afterwards the inner code relies on the accessors without further checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlmscope.errors import ModelError, RowError, one_line
from vlmscope.model.computing import computing, removing_hooks
from vlmscope.model.loading.processors import defaulted_settings
from vlmscope.model.unembedding import unembedding_of
from vlmscope.model.vision_rows import RULES, Encoded
from vlmscope.model.vlm import VisionLanguageModel
from vlmscope.prompt import count_bos, encode, render

QUESTION = "Is there anything in the image?"
"""The question asked about the blank image."""

TOLERANCE = 1e-3
"""Maximum relative error between a hook and ``hidden_states``. They are the same tensor, but spread
models copy it between devices."""

_WIDTHS = ("vision_output_dim", "embed_dim", "output_channels", "hidden_size")
"""Names that configurations use for the width of a vision encoder's output."""


def check_model_parts(vlm: VisionLanguageModel) -> tuple[int, str]:
    """Check every accessor of ``vlm`` on one blank image.

    Returns:
        The vision encoder's width, and ``VisionLanguageModel.lens_fault``.

    Raises:
        ModelError: A part is missing or does not return what its name says; the message names it.
    """
    try:
        _access_parts(vlm)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unexpected(vlm, f"{type(error).__name__}: {error}") from error
    inputs = blank_inputs(vlm)
    moved = vlm.on_device(inputs)
    parts = {"vision_encoder": vlm.vision_encoder, "final_norm": vlm.final_norm}
    parts |= {f"layers[{k}]": layer for k, layer in enumerate(vlm.layers)}
    with computing(), record(parts) as calls:
        try:
            outputs = vlm.model(**moved, output_hidden_states=True, use_cache=False)
        except Exception as error:
            raise unexpected(vlm, "it fails on a blank image", error) from error
        _check_decoder(vlm, calls, outputs, inputs["input_ids"].shape[1])
        return _check_vision(vlm, calls, inputs), _lens_fault(vlm, outputs)


def blank_inputs(vlm: VisionLanguageModel) -> dict[str, Tensor]:
    """Return the inputs of a question about a blank image, on the CPU.

    Raises:
        ModelError: The processor fails on it, or creates no image token for it.
    """
    from PIL import Image

    images = [[Image.new("RGB", (64, 48), (127, 127, 127))]]
    try:
        inputs = encode(vlm.processor, [render(vlm.processor, QUESTION)], images)
    except (RowError, ModelError) as error:  # has its own message, on a chat template for example
        raise ModelError(f"{vlm.name}: {error}") from error
    except Exception as error:
        raise unexpected(vlm, "its processor fails on a blank image", error) from error
    _check_prompt(vlm, inputs)
    return inputs


def _access_parts(vlm: VisionLanguageModel) -> None:
    """Access every accessor, so that a missing one fails here."""
    for part in (vlm.vision_encoder, vlm.layers, vlm.final_norm, vlm.lm_head):
        if part is None:
            raise AttributeError("a part of the model is None")
    _ = (vlm.projector, vlm.image_token_id, vlm.num_layers, vlm.hidden_size)
    _ = vlm.skipped_without_image


@contextmanager
def record(parts: Mapping[str, Any]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the outputs of each module, call by call, within the context."""
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
    try:
        token = vlm.image_token_id
    except (AttributeError, TypeError, ValueError) as error:
        raise _unexpected(vlm, f"{type(error).__name__}: {error}") from error
    if not (inputs["input_ids"][0] == token).any():
        raise _unexpected(vlm, f"the prompt contains no image token (id {token})")
    if (count := count_bos(vlm.processor, inputs)) > 1:
        raise _unexpected(vlm, f"the prompt begins with the BOS token {count} times")


def _check_vision(
    vlm: VisionLanguageModel, calls: dict[str, list[Tensor]], inputs: dict[str, Tensor]
) -> int:
    """Return the width of the encoder's output, if it is as expected."""
    outputs = calls["vision_encoder"]
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        raise _unexpected(
            vlm, f"the vision encoder ran {len(outputs)} times for one image, not once"
        )
    encoded = Encoded(outputs[0], inputs, (1,), vlm.model.config, vlm.image_token_id)
    try:
        [(features, valid)] = RULES[vlm.family.vision_rows](encoded)
    except Exception as error:
        raise _unexpected(
            vlm, f"the vision encoder's output does not split into samples: {one_line(error)}"
        ) from error
    width = features.shape[-1]
    named = encoder_widths(vlm)
    if named and width not in named:
        raise _unexpected(
            vlm,
            f"the vision encoder is {width} wide, the config gives "
            + " or ".join(map(str, sorted(named))),
        )
    if features.shape != (len(valid), width):
        raise _unexpected(vlm, "the vision encoder's output does not split into samples")
    return int(width)


def encoder_widths(vlm: VisionLanguageModel) -> set[int]:
    """Return the widths that the configuration gives for the vision encoder's output."""
    vision = getattr(vlm.model.config, "vision_config", None)
    named = (getattr(vision, name, None) for name in _WIDTHS)
    return {int(width) for width in named if isinstance(width, int)}


def _check_decoder(
    vlm: VisionLanguageModel, calls: dict[str, list[Tensor]], outputs: Any, length: int
) -> None:
    states = getattr(outputs, "hidden_states", None)
    if states is None:
        raise _unexpected(vlm, "the model returns no hidden_states")
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
    raw = vlm.lm_head(states[-1][:, -1].to(next(vlm.lm_head.parameters()).device)).cpu()
    config, logits = vlm.model.config.get_text_config(decoder=True), outputs.logits[:, -1].cpu()
    cap = getattr(config, "final_logit_softcapping", None)
    if not (
        relative_error(scaled_like(raw, logits, cap), logits) <= 10 * TOLERANCE
        or is_monotonic_in(raw, logits)
    ):
        raise _unexpected(vlm, "lm_head of the last hidden state is not the model's logits")


def _lens_fault(vlm: VisionLanguageModel, outputs: Any) -> str:
    """Return ``VisionLanguageModel.lens_fault``, by comparing the last token's logits."""
    found = unembedding_of(vlm).logits(outputs.hidden_states[-1][0, -1:], vlm.num_layers - 1)
    if relative_error(found[0], outputs.logits[0, -1]) <= 10 * TOLERANCE:
        return ""
    return (
        f"the logits of {vlm.family.title} are not those of its final norm and head, but are "
        "computed from them in a way that vlmscope does not know"
    )


def scaled_like(raw: Tensor, logits: Tensor, cap: float | None) -> Tensor:
    """Return raw logits scaled, and softly capped, as a model's logits are.

    Cohere multiplies them, Granite divides them, Gemma caps them, some do both. Only a factor
    common to all tokens is fitted; their order comes from the model's own logits.

    Args:
        raw: The head's output for the last hidden state.
        logits: The model's logits.
        cap: The cap of the model's logits; None for none.

    >>> raw = torch.tensor([1.0, -2.0, 0.5])
    >>> scaled_like(raw, 3 * raw, None).tolist()
    [3.0, -6.0, 1.5]
    """
    raw, logits = raw.double(), logits.double()
    if cap is None:
        return _factor(raw, logits) * raw
    low = logits.abs() < 0.9 * cap  # closer to the cap it cannot be inverted
    uncapped = cap * torch.atanh(logits[low] / cap)
    return cap * torch.tanh(_factor(raw[low], uncapped) * raw / cap)


def is_monotonic_in(raw: Tensor, logits: Tensor) -> bool:
    """Return whether logits are a non-decreasing function of the head's output.

    For a cap that no configuration names, a constant, or log-probabilities, the tokens have the
    head's order, which would not be the order of a wrong head.

    >>> raw = torch.tensor([[1.0, -2.0, 0.5]])
    >>> is_monotonic_in(raw, raw.log_softmax(-1)), is_monotonic_in(raw, -raw)
    (True, False)
    """
    ordered = logits.double().gather(-1, raw.argsort(dim=-1))
    highest = ordered.cummax(dim=-1).values
    spread = ordered.amax() - ordered.amin()
    return bool(spread > 0) and bool((highest - ordered).amax() <= 10 * TOLERANCE * spread)


def _factor(raw: Tensor, scaled: Tensor) -> float:
    """Return the least-squares factor between two tensors."""
    return float((raw * scaled).sum() / (raw * raw).sum().clamp_min(1e-30))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return ‖found − expected‖ / ‖expected‖, in float32."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def unexpected(vlm: VisionLanguageModel, what: str, error: Exception) -> ModelError:
    """Return the error for a model whose code raised another error."""
    left = defaulted_settings(vlm.processor, vlm.name, vlm.revision)
    more = f"; {left}" if left else ""
    return _unexpected(vlm, f"{what}: {type(error).__name__}: {one_line(error)}{more}")


def _unexpected(vlm: VisionLanguageModel, what: str) -> ModelError:
    return ModelError(
        f"{vlm.name}: not the expected {vlm.family.title}: {what}. "
        "See docs/adding-a-model.md for what a family must provide"
    )
