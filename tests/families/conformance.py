"""What the conformance suite asks of every family: which ones run here, and which questions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import transformers
from packaging.version import Version
from PIL import Image

from families.checkpoints import BUILDERS
from tools.standin import build_standin
from vlmscope.schema import Sample

FAMILIES = {"mllama": build_standin, **BUILDERS}
"""Family → what builds its tiny checkpoint."""

VERSION = transformers.__version__


WANTS_TORCHVISION = ("phi4_multimodal", "molmo2", "cohere2_vision", "llama4", "lfm2_vl", "kimi_k25")
"""Families whose image processor exists for torchvision only."""


WANTS_TIMM = ("fastvlm", "perception_lm")
"""Families whose vision encoder comes from timm."""

SINCE = {"molmo2": "5.20", "minicpmv4_6": "5.19", "minicpmv4_7": "5.18"}
"""Families that older versions of transformers do not have, or compute wrongly (MiniCPM-V 4.6)."""


def not_here(name: str) -> str:
    """Return why a family cannot run on this machine; empty if it can."""
    if Version(VERSION) < Version(SINCE.get(name, "0")):
        return f"transformers {SINCE[name]}"
    wanted = ["timm", "torchvision"] if name in WANTS_TIMM else ["torchvision"]
    if name not in WANTS_TIMM + WANTS_TORCHVISION:
        return ""
    return " and ".join(package for package in wanted if find_spec(package) is None)


NOT_JOINED = ("minicpmv4_6", "minicpmv4_7", "molmo2", "phi4_multimodal")
"""Families whose processors are called for complete batches, because the outputs of single images
are not joined exactly: MiniCPM-V puts images side by side, Molmo 2 counts patches from the first
image of a batch, Phi-4 pads masks with ones."""

PADDED = (
    "llava_next", "llava_onevision", "idefics2", "idefics3", "smolvlm", "pixtral", "mistral3",
    "granite4_vision",
)  # fmt: skip
"""Families whose processors pad images to the largest of a batch, or rows to the most tiles."""

NUMPY_2 = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]
"""Marks of tests that run such a model: some processors turn tensors into arrays in a way that
NumPy 2 warns about. GLM-4.1V's and PaliGemma's, and InternVL's of transformers 5.17.

``conftest.py`` gives them to all tests of this folder."""


RUNNABLE = tuple(name for name in FAMILIES if not not_here(name))
"""Families that run on this machine."""


KINDS = {
    "mllama": "cross-attention to padded tiles; layers that a question without an image skips",
    "qwen2_5_vl": "packed patches of every size, attention in windows of the encoder",
    "llava_next": "crops and an overview, with a token at the end of each row of patches",
    "internvl": "tiles with a class token, one block of image tokens",
    "idefics3": "tiles whose image tokens stand between texts",
    "mistral3": "patches of every size, merged, with a break token behind each row",
    "gemma3": "image tokens that see each other, sliding windows",
    "paligemma": "a prefix that sees the question, which ends the prompt",
    "gemma4": "embeddings of each layer, windows beside whole attention, capped logits",
    "qwen3_vl_moe": "experts, features of inner layers of the encoder added to the decoder's",
    "ernie4_5_vl_moe": "experts of their own for image tokens",
    "qwen3_5": "linear attention, which keeps states and no keys",
    "granite4_vision": "a Q-former between encoder and decoder",
    "deepseek_vl_hybrid": "two encoders, one for high resolution",
    **dict.fromkeys(WANTS_TORCHVISION + WANTS_TIMM, "runs only in ``make test-extras``"),
}
"""Families that differ in structure → in what. ``make test`` compares one pass of these with the
reference; ``make test-exhaustive`` does it for all."""


def build(name: str, folder: Path) -> Path:
    """Write a family's checkpoint."""
    return FAMILIES[name](folder)


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return noise: every pixel matters."""
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


WIDE, TALL, THIRD = make_image(90, 66), make_image(24, 80), make_image(70, 40)

ONE_IMAGE = (
    Sample("wide", WIDE, "Is there a cat in the image?"),
    Sample("tall", TALL, "What colour is it?"),
    Sample("shared", WIDE, "Why?"),
    Sample("third", THIRD, "How many people are there, and is there a rocket, or a cup?"),
)
"""Images of different sizes and tile counts, one of them shared, questions of all lengths."""

SEVERAL = (
    Sample("two", (TALL, THIRD), "Which one is it, the first or the second?"),
    Sample("three", (WIDE, WIDE, TALL), "Are they the same?"),
)
INTERLEAVED = (
    Sample("other way", (TALL, WIDE), "Is <image 2> larger than <image 1>?"),
    Sample("this way", (TALL, WIDE), "Is <image 1> larger than <image 2>?"),
    Sample("options", (WIDE, TALL, THIRD), "Which is it?\nA. <image 3>\nB. <image_1>"),
    Sample("twice", (TALL, THIRD), "<image 1> and again <image1>, and not <image 2>?"),
    Sample("one", THIRD, "What is in <image 1> here?"),
)
"""Questions whose images stand between texts."""
CONTENTS: tuple[list[str | None], ...] = (
    ["Is ", None, " larger than ", None, "?"],
    ["Is ", None, " larger than ", None, "?"],
    [None, "Which is it?\nA. ", None, "\nB. ", None],
    [None, " and again ", None, ", and not ", None, "?"],
    ["What is in ", None, " here?"],
)
"""Their texts, with None where an image stands."""
ORDERS = ((1, 0), (0, 1), (1, 2, 0), (0, 0, 1), (0,))
"""Which of their images stand there."""
NONE = (Sample("none", None, "Why is the sky blue?"), Sample("also none", None, "Why?"))
