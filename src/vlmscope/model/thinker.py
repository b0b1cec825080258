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


def end_turns(model: Any, eos_token_id: int | None) -> None:
    """Let a thinker end its answers where its checkpoint does not say by which token.

    The library's code for the whole model says it instead: the one that ends a turn, which is what
    the tokenizer of the checkpoint ends with. Other models stay as they are.

    Args:
        model: The model; its generation settings are changed.
        eos_token_id: The tokenizer's end.
    """
    settings = model.generation_config
    if model.config.model_type in _THINKERS and settings.eos_token_id is None:
        settings.eos_token_id = eos_token_id


def drop_audio_encoder(model: Any) -> None:
    """Free the memory of a thinker's audio encoder: no question of a table has a sound.

    An adapter may have layers in it, so it comes off after the adapter was attached.
    """
    if model.config.model_type not in _THINKERS:
        return
    for part in list(model.modules()):
        if "audio_tower" in part._modules:
            part.audio_tower = None
