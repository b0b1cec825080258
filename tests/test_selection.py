"""Layers and positions, over every depth, padding and prompt that hypothesis thinks of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmscope.errors import InputError
from vlmscope.positions import ANSWER_POSITIONS, REPRESENTATIONS
from vlmscope.schema import DEFAULT_LAYERS
from vlmscope.selection import boundaries, locate, resolve_layers

IMAGE = 9


@given(st.integers(1, 200))
def test_the_default_layers_are_the_seeds(n: int) -> None:
    expected = sorted({0, n // 4, n // 2, 3 * n // 4, n - 1})
    assert list(resolve_layers(DEFAULT_LAYERS, n)) == expected


@given(st.integers(1, 100), st.data())
def test_any_list_of_layers_comes_back_sorted_and_once(n: int, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(-n, n - 1), min_size=1))
    found = resolve_layers(",".join(map(str, wanted)), n)
    assert list(found) == sorted({layer % n for layer in wanted})


def test_forms_of_a_layer() -> None:
    assert resolve_layers("all", 4) == (0, 1, 2, 3)
    assert resolve_layers("1:3, n-1", 8) == (1, 2, 7)
    assert resolve_layers("n/3+1", 9) == (4,)
    assert resolve_layers("3n/4", 32) == (24,)


@pytest.mark.parametrize("text", ["", "x", "n/0", "1.5", "9", "-9", "5:5", "n", "1;2", "all:2"])
def test_layers_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^layers"):
        resolve_layers(text, 8)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[list[int]], bool]:
    """Draw prompts of different lengths, each with an image token, and a side to pad on."""
    row = st.lists(st.integers(1, IMAGE), min_size=1, max_size=12).filter(lambda r: IMAGE in r)
    return draw(st.lists(row, min_size=1, max_size=5)), draw(st.booleans())


@given(prompts())
def test_positions_do_not_depend_on_padding(drawn: tuple[list[list[int]], bool]) -> None:
    rows, left = drawn
    length = max(map(len, rows)) + 1
    ids, mask = np.full((len(rows), length), IMAGE), np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    names = [name for name in REPRESENTATIONS if name not in ANSWER_POSITIONS]
    found = locate(ids, mask, IMAGE, names, [len(row) // 2 for row in rows])
    for i, row in enumerate(rows):
        images = [k for k, token in enumerate(row) if token == IMAGE]
        assert boundaries(found, mask, i) == {
            "last_image_token": images[-1],
            "first_image_token": images[0],
            "last_prompt_token": len(row) - 1,
            "last_question_token": len(row) - 1 - len(row) // 2,
        }
        assert found["image_mean"][i].sum() == len(images)
        assert not found["image_mean"][i][mask[i] == 0].any()


def test_a_prompt_without_an_image_is_never_given_a_position() -> None:
    ids, mask = np.array([[1, 2]]), np.array([[1, 1]])
    with pytest.raises(ValueError, match="last_image_token"):
        locate(ids, mask, IMAGE, ("last_image_token",))
    assert locate(ids, mask, IMAGE, ("last_prompt_token",))["last_prompt_token"][0, 1]
