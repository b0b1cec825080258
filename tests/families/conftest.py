"""Which checks are made of every family by ``make test``, and which by ``make test-exhaustive``."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import pytest

from families.conformance import KINDS, NUMPY_2, WANTS_TIMM, WANTS_TORCHVISION

HERE = Path(__file__).parent

COSTLY = (
    "test_the_other_rows_equal_three",
    "test_questions_about_one_image_share_its_prompt",
    "test_several_images_in_one_question",
    "test_images_where_placeholders_stand",
    "test_no_image_in_the_question",
    "test_vision_only_is_the_encoders_output",
    "test_positions_are_those_the_decoder_saw",
    "test_the_question_does_not_reach_the_image_tokens",
    "test_the_image_reaches_every_representation",
    "test_a_batch_equals_each_row_alone",
    "test_images_in_one_piece_have_the_same_numbers",
    "test_images_one_at_a_time_have_the_same_numbers",
    "test_the_lens_of_the_last_layer_is_the_models_own",
)
"""Checks of ``test_conformance.py`` that are not comparisons with the reference, or are costly."""

CHECKPOINTS = "test_family_checkpoints.py"
"""What is asked of the checkpoints themselves, without vlmscope."""

FEW = {"qwen2_5_vl", "llava_next", *WANTS_TORCHVISION, *WANTS_TIMM}
"""Families for which they are made all the same: packed images, tiles.

The tests of the engine do the same with Mllama.

Sliding windows have ``test_windows.py``.

And those that run only where torchvision or timm is, so in ``make test-extras``.
"""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Enforce the shapes in signatures for a few families: every family passes the same ones."""
    if item.path.name == "test_conformance.py" and hasattr(item, "callspec"):
        few = FEW & set(item.callspec.params.values())
        jaxtyping.config.update("jaxtyping_disable", not few)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is done for a few families as exhaustive for the others; ignore two warnings."""
    for item in items:
        if item.path.parent == HERE:
            for mark in NUMPY_2:
                item.add_marker(mark)
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if not (chosen := chosen_for(item)):
            continue
        if not chosen & set(item.callspec.params.values()):
            item.add_marker(pytest.mark.exhaustive)


def chosen_for(item: pytest.Function) -> set[str]:
    """Return the families of a check in ``make test``, if they are not all."""
    if item.path.name == CHECKPOINTS:
        return FEW
    if item.path.name != "test_conformance.py":
        return set()
    return FEW if item.originalname in COSTLY else set(KINDS)
