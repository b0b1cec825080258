"""Tiny checkpoints of every family, with random weights: the true architecture, no knowledge.

Hidden sizes of 24 to 56, three to six layers, images of a few patches: a forward pass takes
milliseconds. The width of the vision encoder, the width of the decoder and the number of patches
all differ, so that pooling over a wrong axis cannot go unseen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from families.gemma_checkpoints import build_gemma3, build_paligemma
from families.llava_checkpoints import build_llava, build_llava_next, build_llava_onevision
from families.minicpm_checkpoints import build_minicpmv4_6, build_minicpmv4_7
from families.mistral_checkpoints import build_mistral3, build_pixtral
from families.moe_checkpoints import build_ernie4_5_vl_moe, build_kimi_k25
from families.more_tile_checkpoints import (
    build_aria,
    build_deepseek_vl,
    build_deepseek_vl_hybrid,
    build_got_ocr2,
    build_granite4_vision,
    build_hunyuan_vl,
    build_idefics2,
)
from families.omni_checkpoints import build_qwen2_5_omni, build_qwen3_omni_moe
from families.other_checkpoints import (
    build_fastvlm,
    build_gemma4,
    build_janus,
    build_molmo2,
    build_phi4_multimodal,
)
from families.packed_checkpoints import build_exaone4_5, build_video_llama_3
from families.perception_checkpoints import build_perception_lm
from families.qwen_checkpoints import (
    build_glm4v,
    build_glm4v_moe,
    build_glm46v,
    build_qwen2_5_vl,
    build_qwen2_vl,
    build_qwen3_5,
    build_qwen3_5_moe,
    build_qwen3_vl,
    build_qwen3_vl_moe,
)
from families.tile_checkpoints import (
    build_aya_vision,
    build_cohere2_vision,
    build_idefics3,
    build_internvl,
    build_lfm2_vl,
    build_llama4,
    build_ovis2,
    build_smolvlm,
)

Builder = Callable[[Path], Path]


def _once(build: Builder) -> Builder:
    """Return a function that builds a checkpoint the first time, and then writes the same files."""
    files: dict[str, bytes] = {}

    @functools.wraps(build)
    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            return build(folder)
        if not files:
            build(folder)
            files.update((path.name, path.read_bytes()) for path in folder.iterdir())
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    return write


_BUILDERS: Mapping[str, Builder] = {
    "llava": build_llava,
    "llava_next": build_llava_next,
    "llava_onevision": build_llava_onevision,
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "qwen3_vl_moe": build_qwen3_vl_moe,
    "qwen3_5": build_qwen3_5,
    "qwen3_5_moe": build_qwen3_5_moe,
    "qwen2_5_omni_thinker": build_qwen2_5_omni,
    "qwen3_omni_moe_thinker": build_qwen3_omni_moe,
    "glm4v": build_glm4v,
    "glm4v_moe": build_glm4v_moe,
    "glm46v": build_glm46v,
    "exaone4_5": build_exaone4_5,
    "video_llama_3": build_video_llama_3,
    "gemma3": build_gemma3,
    "paligemma": build_paligemma,
    "idefics2": build_idefics2,
    "idefics3": build_idefics3,
    "smolvlm": build_smolvlm,
    "internvl": build_internvl,
    "aya_vision": build_aya_vision,
    "ovis2": build_ovis2,
    "cohere2_vision": build_cohere2_vision,
    "llama4": build_llama4,
    "lfm2_vl": build_lfm2_vl,
    "ernie4_5_vl_moe": build_ernie4_5_vl_moe,
    "kimi_k25": build_kimi_k25,
    "minicpmv4_6": build_minicpmv4_6,
    "minicpmv4_7": build_minicpmv4_7,
    "pixtral": build_pixtral,
    "mistral3": build_mistral3,
    "gemma4": build_gemma4,
    "fastvlm": build_fastvlm,
    "perception_lm": build_perception_lm,
    "janus": build_janus,
    "deepseek_vl": build_deepseek_vl,
    "deepseek_vl_hybrid": build_deepseek_vl_hybrid,
    "aria": build_aria,
    "granite4_vision": build_granite4_vision,
    "hunyuan_vl": build_hunyuan_vl,
    "got_ocr2": build_got_ocr2,
    "phi4_multimodal": build_phi4_multimodal,
    "molmo2": build_molmo2,
}

BUILDERS: Mapping[str, Builder] = {name: _once(build) for name, build in _BUILDERS.items()}
"""Family → function that writes its checkpoint into a folder and returns the folder."""
