"""What the conformance suite asks of every family: which ones run here, and which questions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import transformers
from packaging.version import Version
from PIL import Image

from families.checkpoints import BUILDERS
from vlmscope.demo.standin import build_standin
from vlmscope.schema import Sample

FAMILIES = {"mllama": build_standin, **BUILDERS}
"""Family → what builds its tiny checkpoint."""

VERSION = transformers.__version__


WANTS_TORCHVISION = ("phi4_multimodal", "molmo2", "cohere2_vision", "llama4", "lfm2_vl")
"""Families whose image processor exists for torchvision only."""


def not_here(name: str) -> str:
    """Return why a family cannot run on this machine; empty if it can."""
    missing = {"fastvlm": ("timm", "torchvision")}.get(name, ("torchvision",))
    if name not in {"fastvlm", *WANTS_TORCHVISION}:
        return ""
    if name == "molmo2" and Version(VERSION) < Version("5.20"):
        return "transformers 5.20"
    return " and ".join(package for package in missing if find_spec(package) is None)


RUNNABLE = tuple(name for name in FAMILIES if not not_here(name))
"""Families that run on this machine."""


def build(name: str, folder: Path) -> Path:
    """Write a family's checkpoint."""
    return FAMILIES[name](folder)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return noise: every pixel matters."""
    rng = np.random.default_rng([seed, width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


WIDE, TALL, THIRD = picture(90, 66), picture(24, 80), picture(70, 40)

ONE_PICTURE = (
    Sample("wide", WIDE, "Is there a cat in the image?"),
    Sample("tall", TALL, "What colour is it?"),
    Sample("shared", WIDE, "Why?"),
    Sample("third", THIRD, "How many people are there, and is there a rocket, or a cup?"),
)
"""Pictures of different sizes and tile counts, one of them shared, questions of all lengths."""

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
