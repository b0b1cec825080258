"""What the demo model is trained on, and how training is measured: without training it."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.easy_vqa_table import read_items
from tools.demo_world import examples
from tools.demo_world import held_out as measuring
from tools.demo_world.batches import Batches, Feeder, check, draw_batch
from tools.demo_world.bundle import BUNDLED
from tools.demo_world.examples import MAX_TOKENS, corpus, empty_examples, filling, make_examples
from tools.demo_world.held_out import accuracy
from tools.demo_world.scenes import SHAPES, TILE, scenes
from tools.demo_world.sources import HELD_OUT_IMAGES, EasyVqa, World, as_question
from tools.demo_world.targets import OUTSIDE, PATCHES, SIDE, UNKNOWN, objects, places
from tools.standin import DEMO, build_processor

WORLD = World(3, "train", 4, 4)
SMALL = EasyVqa(4, images=2)


@pytest.fixture(scope="module")
def processor() -> Any:
    texts = corpus(0, easy_vqa=True, images=300)
    return build_processor(vocabulary=DEMO.vocabulary, tile=DEMO.tile, corpus=texts)


@pytest.fixture(scope="module")
def world(processor: Any) -> Batches:
    return Batches(make_examples(processor, WORLD, 0), processor, "cpu").load()


@pytest.fixture(scope="module")
def easy_vqa(processor: Any) -> Batches:
    return Batches(make_examples(processor, SMALL, 0), processor, "cpu").load()


def test_inputs_are_the_processors_own(processor: Any, world: Batches, easy_vqa: Batches) -> None:
    check(world, processor, WORLD)
    check(easy_vqa, processor, SMALL)


def test_the_check_sees_a_wrong_image(processor: Any, world: Batches) -> None:
    with pytest.raises(AssertionError):
        check(world, processor, World(4, "train", 1, 4))


@pytest.mark.exhaustive
def test_every_word_of_easy_vqa_is_a_token(processor: Any) -> None:
    for question in {as_question(item) for item in read_items("train")[0]}:
        for text in (question.text, question.answer):
            words = len(text.split()) + 1  # and the punctuation
            assert len(processor.tokenizer.tokenize(text)) == words, text


def test_answers_are_the_truth_as_a_sentence() -> None:
    for item in read_items("test")[0][:200]:
        question = as_question(item)
        assert question.answer.rstrip(".").lower() == item.answer
        assert question.accepted == (item.answer,)


def test_training_never_sees_the_test_split_nor_what_is_held_out() -> None:
    train, held_out = EasyVqa(4), EasyVqa(4, held_out=True)
    assert (train.images, held_out.images) == (4000 - HELD_OUT_IMAGES, HELD_OUT_IMAGES)
    used, measured = ({image for image, _ in source._rows} for source in (train, held_out))
    assert not used & measured
    assert all(path.parts[-3] == "train" for path in train._paths.values())
    seen = {item.number for _, part in train._rows for item in part}
    all_of_them = {item.number for item in read_items("train")[0] if item.image in used}
    assert seen == all_of_them, "every question of an image is in one of its rows"
    assert {len(part) for _, part in train._rows + held_out._rows} == {4}


@pytest.mark.exhaustive
def test_a_row_asks_about_its_own_image(easy_vqa: Batches, processor: Any) -> None:
    items = {item.question: item.image for item in read_items("train")[0] if item.image < 2}
    text = processor.tokenizer.batch_decode(easy_vqa.questions.flatten(0, 1).clamp(min=0))
    images = np.repeat([image for image, _ in SMALL._rows], 4)
    own = [(item.question, item.image) for item in read_items("train")[0] if item.image < 2]
    assert len(items) > 5
    for shown, image in zip(text, images, strict=True):
        assert any(question in shown and image == number for question, number in own), shown


@pytest.mark.parametrize("shape", SHAPES)
def test_places_are_where_the_processor_puts_the_patches(
    processor: Any, shape: tuple[int, int]
) -> None:
    """An image whose colours are coordinates: red across, green down."""
    width, height = (round(0.93 * TILE * edge) for edge in shape)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, np.full_like(across, 255)], -1).astype(np.uint8)
    made = processor.image_processor(
        [[Image.fromarray(pixels)]], do_rescale=False, do_normalize=False, return_tensors="np"
    )
    tiles = made["pixel_values"][0, 0].astype(float)  # [4, 3, tile, tile]
    found, patch = places(width, height), DEMO.patch
    shown = 0
    for tile, index in product(range(4), range(PATCHES)):
        row, column = divmod(index, SIDE)
        centre = tiles[tile, :, patch * row + patch // 2, patch * column + patch // 2]
        assert (found[tile, index, 0] < OUTSIDE) == (centre[2] > 250)
        if centre[2] > 250:
            shown += 1
            np.testing.assert_allclose(found[tile, index], centre[:2] / 127.5 - 1, atol=0.04)
    assert shown > 0.75 * PATCHES * shape[0] * shape[1]


def test_objects_say_what_is_there() -> None:
    for scene in scenes(1, "train", 40):
        kinds = objects(scene).reshape(24, 9)
        assert kinds[:, 0].sum() == len(scene.counts())
        assert kinds[:, 1:].any() != scene.look.grey
    assert set(objects(None)) == {UNKNOWN}


def test_a_batch_holds_the_parts_in_their_numbers(world: Batches, easy_vqa: Batches) -> None:
    batch = draw_batch([(world, 3), (easy_vqa, 2)], 4)
    assert batch.pixels["pixel_values"].shape[0] == 5
    assert batch.text["input_ids"].shape == (20, MAX_TOKENS["questions"])
    unknown = (batch.targets["objects"] == UNKNOWN).all(1)
    assert unknown.tolist() == [False] * 3 + [True] * 2
    assert draw_batch([(world, 3), (easy_vqa, 0)], 0).text["input_ids"].shape[0] == 3


def test_only_what_is_ready_is_drawn(processor: Any) -> None:
    examples = make_examples(processor, WORLD, 0)
    batches = Batches(examples, processor, "cpu").load(2)
    assert set(batches.choose(200).tolist()) == {0, 1}
    batches.load(4)
    assert set(batches.choose(200).tolist()) == {0, 1, 2, 3}


def test_images_arrive_while_training_goes_on(
    processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "CHUNK", 1)
    made = empty_examples(len(WORLD), WORLD.each)
    batches = Batches(made, processor, "cpu")
    feeder = Feeder(batches, filling(made, processor, WORLD, 0))
    feeder.first(2)
    assert (feeder.drawn, float(batches.ready)) == (2, 2.0)
    feeder.start()
    feeder._thread.join(60)
    feeder.stop()
    assert (feeder.drawn, float(batches.ready)) == (4, 4.0)
    assert torch.equal(batches.questions, torch.from_numpy(made.questions))
    assert batches.tiles[3].any()


class Parrot:
    """Stands for a trainer; its model says what it is told to say."""

    def __init__(self) -> None:
        self.model = None

    def precision(self) -> torch.autocast:
        return torch.autocast("cpu", enabled=False)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Logits under which every text of a batch is repeated, but for what ``change`` alters."""
    state = SimpleNamespace(change=lambda ids, _: ids)

    def run_model(_: object, __: object, text: dict[str, torch.Tensor]) -> tuple[None, Any]:
        ids = state.change(text["input_ids"].clone(), text["labels"])
        return None, torch.nn.functional.one_hot(ids.roll(-1, 1), 1000).float()

    monkeypatch.setattr(measuring, "run_model", run_model)
    return state


@pytest.fixture(scope="module")
def held_out(processor: Any) -> Batches:
    source = World(0, "held-out", 8, 4, BUNDLED)
    return Batches(make_examples(processor, source, 0), processor, "cpu").load()


def measured(held_out: Batches, processor: Any, size: int = 4) -> dict[str, float]:
    return accuracy(Parrot(), held_out, processor.tokenizer, size=size, asked=4)  # type: ignore[arg-type]


def test_the_expected_answers_are_right(
    said: SimpleNamespace, held_out: Batches, processor: Any
) -> None:
    found = measured(held_out, processor)
    assert set(found.values()) == {1.0}
    assert {"all", "count"} <= set(found)
    assert any(name.endswith(" No") for name in found)
    assert measured(held_out, processor, size=9) == {}


def test_a_wrong_last_word_counts_except_behind_yes_or_no(
    said: SimpleNamespace, held_out: Batches, processor: Any
) -> None:
    def change(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        last = (labels >= 0).long().cumsum(1).argmax(1)  # the end of the turn
        return ids.scatter(1, last[:, None], 0)

    said.change = change
    found = measured(held_out, processor)
    for name, share in found.items():
        if name != "all":
            assert share == float(name.endswith((" Yes", " No"))), name
    assert 0 < found["all"] < 1


def test_a_wrong_first_word_always_counts(
    said: SimpleNamespace, held_out: Batches, processor: Any
) -> None:
    def change(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        first = (labels >= 0).long().argmax(1)
        return ids.scatter(1, first[:, None], 0)

    said.change = change
    assert set(measured(held_out, processor).values()) == {0.0}
