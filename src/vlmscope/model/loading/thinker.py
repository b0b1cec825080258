"""The thinker of an Omni checkpoint: the part that reads images and text, and writes text.

Qwen2.5-Omni and Qwen3-Omni are released whole: a thinker, and parts that speak its answer. A
question about an image needs the thinker alone, without its encoder for sound. Its configuration is
``thinker_config`` in ``config.json``, and its weights begin with ``thinker.``, which the library
takes off.
"""

from __future__ import annotations

from typing import Any

WHOLE = ("qwen2_5_omni", "qwen3_omni_moe")
"""``model_type`` of whole checkpoints."""

_THINKERS = tuple(f"{model_type}_thinker" for model_type in WHOLE)

_OF_THE_WEIGHTS = ("quantization_config", "transformers_weights")
"""Settings of the whole that say how, or from which file, all weights are read."""


def thinker_of(config: Any) -> Any:
    """Return the configuration of a whole checkpoint's thinker; any other as it is."""
    if config.model_type not in WHOLE:
        return config
    thinker = config.thinker_config
    for key in _OF_THE_WEIGHTS:
        if (value := getattr(config, key, None)) is not None:
            setattr(thinker, key, value)
    return thinker


def settle_thinker(model: Any, eos_token_id: int | None) -> None:
    """Make a loaded thinker what a question about an image needs; other models stay as they are.

    Its audio encoder is dropped, whose memory is freed: no question of a table has a sound. An
    adapter may have layers in that, so this comes after an adapter was attached. And where the
    checkpoint does not say which token ends an answer, the tokenizer's does: the library's code for
    the whole model says so, not the released files.

    Args:
        model: The model; changed in place.
        eos_token_id: The tokenizer's end.
    """
    if model.config.model_type not in _THINKERS:
        return
    for part in list(model.modules()):
        if "audio_tower" in dict(part.named_children()):
            part.audio_tower = None
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = eos_token_id
