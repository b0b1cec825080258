"""What the tests of the engine share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from families.conformance import build
from vlmscope.model import VisionLanguageModel, load_model


@pytest.fixture(scope="module")
def models(
    vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], VisionLanguageModel]:
    """Return a function that loads a family's tiny model, once."""
    loaded = {"mllama": vlm}

    def load(family: str) -> VisionLanguageModel:
        if family not in loaded:
            folder = build(family, tmp_path_factory.mktemp("models") / family)
            loaded[family] = load_model(folder, device="cpu", dtype="float32")
        return loaded[family]

    return load
