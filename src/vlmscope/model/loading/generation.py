"""Greedy generation settings: a checkpoint's own, without those that are not greedy.

The specification requires ``do_sample=False``. Released checkpoints come with settings of their
own: sampling temperatures, and some that change *how* decoding runs (beams, speculation, chunked
prefill, a second guided forward). ``generate`` takes those from the model wherever the call does
not set them, so they are cleared once, on the model. Settings that make greedy decoding a different
but still deterministic rule (a repetition penalty, suppressed tokens, end-of-turn tokens) are the
checkpoint's intent and are kept.
"""

from __future__ import annotations

from typing import Any

from vlmscope.model.fingerprint import hash_json

_CLEARED = {
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "use_cache": True,
    **dict.fromkeys(
        (
            "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
            "penalty_alpha", "dola_layers", "guidance_scale", "prompt_lookup_num_tokens",
            "prefill_chunk_size", "max_length", "max_new_tokens", "max_time", "stop_strings",
            "watermarking_config", "compile_config", "cache_implementation",
        )
    ),
    "return_dict_in_generate": False,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_scores": False,
    "output_logits": False,
}  # fmt: skip


def make_greedy(model: Any, pad_token_id: int | None) -> None:
    """Clear every setting of ``model.generation_config`` that is not greedy."""
    config = model.generation_config
    for name, value in _CLEARED.items():
        if hasattr(config, name):
            setattr(config, name, value)
    if config.pad_token_id is None:
        config.pad_token_id = pad_token_id


def hash_generation(model: Any) -> str:
    """Return the hash of the remaining settings, which affect which tokens are generated."""
    settings = model.generation_config.to_dict()
    ignored = {*_CLEARED, "transformers_version", "_from_model_config"}
    return hash_json({k: v for k, v in settings.items() if k not in ignored and v is not None})
