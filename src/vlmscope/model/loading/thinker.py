"""The thinker of an Omni checkpoint: the part that reads images and text, and generates text.

Qwen2.5-Omni and Qwen3-Omni are released as a thinker together with parts that generate speech. A
question about an image needs only the thinker, without its audio encoder. Its configuration is
``thinker_config`` in ``config.json``, and the names of its weights begin with ``thinker.``, which
the library removes.
"""

from __future__ import annotations

from typing import Any

COMPLETE = ("qwen2_5_omni", "qwen3_omni_moe")
"""``model_type`` of complete Omni checkpoints."""

_THINKERS = tuple(f"{model_type}_thinker" for model_type in COMPLETE)

_OF_THE_WEIGHTS = ("quantization_config", "transformers_weights")
"""Settings of the complete checkpoint that define how, or from which file, weights are read."""


def thinker_of(config: Any) -> Any:
    """Return the thinker's configuration of a complete checkpoint; any other as it is."""
    if config.model_type not in COMPLETE:
        return config
    thinker = config.thinker_config
    for key in _OF_THE_WEIGHTS:
        if (value := getattr(config, key, None)) is not None:
            setattr(thinker, key, value)
    return thinker


def prepare_thinker(model: Any, eos_token_id: int | None) -> None:
    """Prepare a loaded thinker for questions about images; other models are not changed.

    Its audio encoder is removed, which frees its memory: tables contain no audio. An adapter may
    have layers in the encoder, so this comes after an adapter was attached. Where the checkpoint
    does not define which token ends an answer, the tokenizer's end token is used: the library's
    code for the complete model sets it, the released files do not.

    Args:
        model: The model; changed in place.
        eos_token_id: The tokenizer's end token.
    """
    if model.config.model_type not in _THINKERS:
        return
    for part in list(model.modules()):
        if "audio_tower" in dict(part.named_children()):
            part.audio_tower = None
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = eos_token_id
