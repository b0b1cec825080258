"""GOT-OCR2's processor takes one list of images for all rows, and its checkpoint no template."""

from __future__ import annotations

from pathlib import Path

import pytest

from families.checkpoints import BUILDERS
from families.conformance import TALL, THIRD, WIDE
from vlmscope.errors import ModelError
from vlmscope.model import load_model
from vlmscope.model.loading.processors import load_processor
from vlmscope.prompt import encode, render


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return BUILDERS["got_ocr2"](tmp_path / "got_ocr2")


def test_images_are_taken_row_by_row(folder: Path) -> None:
    processor = load_processor(folder)
    rows = ([WIDE], [TALL, THIRD])
    texts = [render(processor, "What is it?", len(row)) for row in rows]
    inputs = encode(processor, texts, rows)
    tokens = (inputs["input_ids"] == processor.image_token_id).sum(dim=1).tolist()
    assert tokens == [256, 512]
    for row, image in enumerate((WIDE, TALL, THIRD)):
        alone = encode(processor, [render(processor, "What is it?")], [[image]])
        assert (inputs["pixel_values"][row] == alone["pixel_values"][0]).all()


def test_without_a_template_it_is_refused_by_that_word(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template") as caught:
        load_model(folder, device="cpu")
    assert str(caught.value).startswith(f"{folder}: the checkpoint has no chat template")
    assert "\n" not in str(caught.value)
