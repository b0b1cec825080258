"""Rows about one image, several and none: thumbnails, cards, numbers, and the prompt's tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from material import make_image
from store_support import make_bare, make_capture, make_manifest
from vlmscope.dataset import hash_image
from vlmscope.errors import RowError
from vlmscope.executors import describe_model
from vlmscope.model import VisionLanguageModel
from vlmscope.prompt import encode, render
from vlmscope.report import ReportSpec
from vlmscope.report.build import gather
from vlmscope.report.document import Document
from vlmscope.report.prompt_view import token_view
from vlmscope.report.write import with_images
from vlmscope.schema import Capture, Sample
from vlmscope.store import RunWriter, open_run

IMAGES = [make_image("one", seed) for seed in range(3)]
HASHES = [hash_image(each) for each in IMAGES]
SHOWN = ([0], [0, 1], [], [2, 0])
"""Which of the images each row is about."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A table of four questions, its images, and a run of it."""
    for number, image in enumerate(IMAGES):
        image.save(tmp_path / f"{number}.png")
    rows, captures = [], []
    for i, shown in enumerate(SHOWN):
        names = [f"{number}.png" for number in shown]
        joined = {"image_sha256": "+".join(HASHES[n] for n in shown), "image_dhash": ""}
        capture = replace(make_capture(i), **joined) if shown else make_bare(i)  # type: ignore[arg-type]
        sample = replace(capture.sample, image_id=", ".join(names))
        captures.append(replace(capture, sample=sample))
        rows.append({"id": sample.id, "image": names, "question": sample.question})
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"path": str(tmp_path / "t.jsonl"), "fields": {}, "text_only": True}
    with RunWriter(tmp_path / "run", make_manifest(data=record)) as writer:
        writer.add(captures)
    return tmp_path


def document_of(home: Path) -> Document:
    return with_images(gather(open_run(home / "run"), ReportSpec(), lambda _: None))


def test_each_card_has_all_its_images(home: Path) -> None:
    document = document_of(home)
    assert document.images_note == ""
    assert set(document.images) == set(HASHES)
    wanted = [tuple(HASHES[number] for number in shown) for shown in SHOWN]
    assert [card.images for card in document.cards] == wanted
    assert [card.num_images for card in document.cards] == [1, 2, 0, 2]
    assert "last_image_token" not in document.cards[2].positions
    [tile] = [number for number in document.numbers if number.label == "images"]
    assert (tile.value, tile.note) == ("3", "distinct; 1 question has none")
    said = dict(dict(document.provenance)["Data"])
    assert said["questions without an image"] == "captured (--text-only)"


def test_one_of_several_that_has_changed_is_left_out(home: Path) -> None:
    make_image("four").save(home / "1.png")
    document = document_of(home)
    assert document.cards[1].images == (HASHES[0],)
    assert document.cards[1].num_images == 2
    assert document.images_note == (
        "1 of 3 images are missing: 1 changed since the run was made (0.png, 1.png)."
    )


def test_a_row_with_another_number_of_images_has_changed(home: Path) -> None:
    table = home / "t.jsonl"
    table.write_text(table.read_text().replace('["2.png", "0.png"]', '["2.png"]'))
    document = document_of(home)
    assert document.cards[3].images == (HASHES[0],), "another row shows it"
    assert "1 changed since the run was made (2.png)" in document.images_note


def captured(vlm: VisionLanguageModel, images: list[Any]) -> tuple[Capture, Sample]:
    """A row as the model would leave it, as far as a prompt goes."""
    question = "What is it?"
    inputs = encode(vlm.processor, [render(vlm.processor, question, len(images))], [images])
    ids = inputs["input_ids"][0].tolist()
    boundaries = {"last_prompt_token": len(ids) - 1}
    if images:
        last = max(i for i, token in enumerate(ids) if token == vlm.processor.image_token_id)
        boundaries["last_image_token"] = last
    sample = Sample("q", tuple(images), question, image_id="a, b")
    row = replace(
        make_bare(0),
        sample=sample,
        boundaries=boundaries,
        num_prompt_tokens=len(ids),
        image_sha256="+".join(map(hash_image, images)),
    )
    return row, sample


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_prompt_is_made_anew_with_its_images(vlm: VisionLanguageModel, count: int) -> None:
    row, sample = captured(vlm, IMAGES[:count])
    view = token_view(vlm.processor, describe_model(vlm), row, sample)
    assert sum(token.count for token in view.tokens) == row.num_prompt_tokens
    marks = [mark for token in view.tokens for mark in token.marks]
    assert marks == ["vision_token_boundary", "query_token_boundary"][count == 0 :]


def test_a_prompt_without_an_image_needs_no_table(vlm: VisionLanguageModel) -> None:
    row, _ = captured(vlm, [])
    assert token_view(vlm.processor, describe_model(vlm), row, None).tokens


def test_images_in_another_order_are_others(vlm: VisionLanguageModel) -> None:
    row, sample = captured(vlm, IMAGES[:2])
    turned = replace(sample, image=sample.images[::-1])
    with pytest.raises(RowError, match="image a, b has changed"):
        token_view(vlm.processor, describe_model(vlm), row, turned)
