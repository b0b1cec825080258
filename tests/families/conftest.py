"""Which checks are made of every family by ``make test``, and which by ``make test-exhaustive``."""

from __future__ import annotations

import pytest

COSTLY = (
    "test_several_images_in_one_question",
    "test_images_where_placeholders_stand",
    "test_no_image_in_the_question",
)
"""Checks of ``test_conformance.py`` that take half of its time."""

FEW = ("mllama", "qwen2_5_vl", "llava_next", "gemma3", "internvl", "paligemma", "smolvlm")
"""Families for which they are made all the same: one of each way to put images into a prompt."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is done for a few families as exhaustive for the others."""
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname in COSTLY:
            family = item.callspec.params.get("family")
            if item.path.name == "test_conformance.py" and family not in FEW:
                item.add_marker(pytest.mark.exhaustive)
