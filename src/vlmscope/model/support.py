"""Which families and pairs of wrapper and decoder are supported, and what was checked.

``TESTED_DECODERS`` lists the decoders with which the test suite compares a described family with
the three-pass method. A description defines where the parts of a wrapper are. Whether rows may be
batched, and answers be decoded step by step by vlmscope, depends on the pair of wrapper and
decoder: LLaVA's class wraps any decoder of the library. A pair that is not listed is checked when
it is loaded (``batching``), and its answers are decoded with ``generate``.

``proven.json`` contains which families are verified, by which checks, on which versions of
transformers. It is written by ``scripts/record_families.py`` from a run of the conformance suite
(tests/families); nothing in it is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vlmscope.model.families import FAMILIES, Family

TESTED_DECODERS: Mapping[str, frozenset[str]] = {
    "mllama": frozenset({"mllama_text_model"}),
    "llava": frozenset(
        {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "gpt_oss"}
    ),
    "llava/pixtral": frozenset({"mistral"}),
    "llava_next": frozenset({"mistral", "llama", "qwen2"}),
    "llava_onevision": frozenset({"qwen2"}),
    "qwen2_vl": frozenset({"qwen2_vl_text"}),
    "qwen2_5_vl": frozenset({"qwen2_5_vl_text"}),
    "qwen3_vl": frozenset({"qwen3_vl_text"}),
    "qwen3_vl_moe": frozenset({"qwen3_vl_moe_text"}),
    "qwen3_5": frozenset({"qwen3_5_text"}),
    "qwen3_5_moe": frozenset({"qwen3_5_moe_text"}),
    "qwen2_5_omni_thinker": frozenset({"qwen2_5_omni_text"}),
    "qwen3_omni_moe_thinker": frozenset({"qwen3_omni_moe_text"}),
    "glm4v": frozenset({"glm4v_text"}),
    "glm4v_moe": frozenset({"glm4v_moe_text"}),
    "glm46v": frozenset({"glm4v_moe_text", "glm4v_text"}),
    "exaone4_5": frozenset({"exaone4"}),
    "video_llama_3": frozenset({"qwen2"}),
    "gemma3": frozenset({"gemma3_text"}),
    "gemma4": frozenset({"gemma4_text"}),
    "paligemma": frozenset({"gemma", "gemma2"}),
    "idefics2": frozenset({"mistral"}),
    "idefics3": frozenset({"llama"}),
    "smolvlm": frozenset({"llama"}),
    "internvl": frozenset(
        {"qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "gemma2", "gemma3_text", "gpt_oss"}
    ),
    "aya_vision": frozenset({"cohere2"}),
    "ovis2": frozenset({"qwen2"}),
    "cohere2_vision": frozenset({"cohere2"}),
    "llama4": frozenset(),
    "lfm2_vl": frozenset({"lfm2"}),
    "ernie4_5_vl_moe": frozenset({"ernie4_5_vl_moe_text"}),
    "kimi_k25": frozenset({"deepseek_v3"}),
    "minicpmv4_6": frozenset({"qwen3_5_text"}),
    "minicpmv4_7": frozenset({"qwen3_5_text"}),
    "mistral3": frozenset({"mistral"}),
    "janus": frozenset({"llama"}),
    "deepseek_vl": frozenset({"llama"}),
    "deepseek_vl_hybrid": frozenset({"llama"}),
    "aria": frozenset({"aria_text"}),
    "granite4_vision": frozenset({"granite4_vision_text"}),
    "hunyuan_vl": frozenset({"hunyuan_vl_text"}),
    "got_ocr2": frozenset({"qwen2"}),
    "fast_vlm": frozenset({"qwen2"}),
    "perception_lm": frozenset({"llama"}),
    "phi4_multimodal": frozenset({"phi4_multimodal"}),
    "molmo2": frozenset({"molmo2_text"}),
}
"""Key in ``FAMILIES`` → ``model_type`` of the decoders it was tested with."""


def decoder_type(config: Any) -> str:
    """Return the ``model_type`` of a configuration's decoder."""
    text = config.get_text_config(decoder=True)
    if text is not config and text.model_type == config.model_type:
        return str(type(text).model_type)  # transformers 5.17 overwrites it with Hunyuan-VL's own
    return str(text.model_type)


def is_tested(family: Family, config: Any) -> bool:
    """Return whether the test suite covers a family with this configuration's decoder."""
    own = f"{family.model_type}/{family.vision_type}".rstrip("/")
    return own in FAMILIES and decoder_type(config) in TESTED_DECODERS.get(own, ())


CHECKS: Mapping[str, str] = {
    "one_pass_equals_three": "one pass = three",
    "a_batch_equals_each_row_alone": "batch = alone",
    "vision_only_is_the_encoders_output": "encoder before projector",
    "positions_are_those_the_decoder_saw": "positions as decoded",
    "several_images_in_one_question": "several images",
    "no_image_in_the_question": "no image",
    "the_question_does_not_reach_the_image_tokens": "question unseen by image",
    "the_image_reaches_every_representation": "image seen by all",
}
"""Test of the conformance suite → heading of its column."""

Record = Mapping[str, Mapping[str, Mapping[str, bool]]]
"""Version of transformers → family → check → whether it passed."""


@dataclass(frozen=True, slots=True)
class FamilySupport:
    """One family and its test results."""

    key: str
    """Its key in ``FAMILIES``."""
    family: Family
    """Its description."""
    verified_on: tuple[str, ...]
    """Versions of transformers on which it passed every check, newest last."""
    failed: Mapping[str, tuple[str, ...]]
    """Version → checks that it did not pass there."""


def read_record() -> Record:
    """Return the recorded results of the conformance suite."""
    path = resources.files("vlmscope.model").joinpath("proven.json")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def family_support(record: Record | None = None) -> Iterator[FamilySupport]:
    """Yield every described family, in the order of ``FAMILIES``."""
    record = read_record() if record is None else record
    versions = sorted(record, key=lambda version: [int(part) for part in version.split(".")])
    for key, family in FAMILIES.items():
        found = {version: record[version].get(key, {}) for version in versions}
        yield FamilySupport(
            key=key,
            family=family,
            verified_on=tuple(
                version
                for version, checks in found.items()
                if checks.keys() == CHECKS.keys() and all(checks.values())
            ),
            failed={
                version: tuple(name for name, passed in checks.items() if not passed)
                for version, checks in found.items()
                if not all(checks.values())
            },
        )
