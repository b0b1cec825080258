"""The nouns: what they take, and that they can be compared, hashed and read in one line."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlmscope
from vlmscope import Capture, CaptureSpec, Sample
from vlmscope.errors import InputError
from vlmscope.schema import Answered, FieldSpec
from vlmscope.selection import resolve_layers


def capture(**changes: Any) -> Capture:
    first = Capture(
        sample=Sample("q1", Image.new("RGB", (4, 4)), "What is it?", metadata={"tags": ["a"]}),
        vectors={"query_token_representation/layer_2": np.array([1, np.nan], np.float32)},
        boundaries={"last_prompt_token": 7},
        num_prompt_tokens=8,
        image_sha256="ab",
        first_token_entropy=0.5,
        first_token_ids=np.arange(20),
        first_token_logprobs=np.zeros(20, np.float32),
        finish_reason="stop",
        answer="It is\na horse. " + 100 * "x",
        answer_token_ids=np.arange(5),
    )
    return replace(first, **changes)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([0, 10], (0, 10)),
        ((3,), (3,)),
        (3, (3,)),
        (np.int64(3), (3,)),
        (-1, (11,)),
        (range(4), (0, 1, 2, 3)),
        (np.array([2, 1]), (1, 2)),
        (["n/2", 0], (0, 6)),
        ("0,n-1", (0, 11)),
        ({1, 2}, (1, 2)),
        (iter([5]), (5,)),
    ],
)
def test_layers_may_be_numbers(layers: Any, expected: tuple[int, ...]) -> None:
    spec = CaptureSpec(layers=layers)
    assert isinstance(spec.layers, str)
    assert resolve_layers(spec.layers, 12) == expected
    assert replace(spec, max_new_tokens=0).layers == spec.layers


@pytest.mark.parametrize("layers", [None, 1.5, True, [], [None], [[1]], b"3"])
def test_layers_that_are_none_are_refused(layers: Any) -> None:
    with pytest.raises(InputError, match=r"^layers .*(number|no layer)"):
        resolve_layers(CaptureSpec(layers=layers).layers, 2)


@pytest.mark.parametrize(
    "positions",
    [
        "last_prompt_token,image_mean",
        "last_prompt_token, image_mean",
        ["last_prompt_token", "image_mean"],
        ["query_token_representation", "image_mean_representation"],
        {"last_prompt_token": 1, "image_mean": 2},
        iter(["query_token_representation", "image_mean"]),
    ],
)
def test_positions_may_be_one_text_or_several(positions: Any) -> None:
    assert CaptureSpec(positions=positions).positions == ("last_prompt_token", "image_mean")
    assert CaptureSpec(positions="last_prompt_token") == CaptureSpec(
        positions=("query_token_representation",)
    )


@pytest.mark.parametrize("positions", [None, 3, "", [], [3], ["last_token"], "vision_only", [[]]])
def test_positions_that_are_none_are_refused(positions: Any) -> None:
    with pytest.raises(ValueError, match=r"^positions.* from last_image_token, "):
        CaptureSpec(positions=positions)


@pytest.mark.parametrize("tokens", ["5", 1.0, None, False, -1])
def test_a_limit_that_is_no_number_is_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match=r"^max_new_tokens "):
        CaptureSpec(max_new_tokens=tokens)


@pytest.mark.parametrize(
    "wrong", [{"id": ["a"]}, {"id": 1}, {"image": b"a"}, {"number_rows": "no"}]
)
def test_columns_of_another_type_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^FieldSpec: {next(iter(wrong))} is .*, expected "):
        FieldSpec(**wrong)


def test_samples_can_be_compared_and_hashed() -> None:
    one, other = (capture().sample for _ in range(2))
    assert one == other
    assert len({one, other, replace(one, question="?")}) == 2
    assert hash(Answered("q", "?", None, "", {"a": []})) == hash(
        Answered("q", "?", None, "", {"a": []})
    )


def test_captures_are_equal_where_everything_is() -> None:
    assert capture() == capture()
    assert hash(capture()) == hash(capture())
    for changes in (
        {"vectors": {}},
        {"vectors": {"query_token_representation/layer_2": np.array([1, 2], np.float32)}},
        {"vectors": {"query_token_representation/layer_2": np.array([1, np.nan])}},
        {"first_token_ids": np.arange(19)},
        {"answer_token_ids": None},
        {"answer": None},
        {"first_token_entropy": float("nan")},
    ):
        assert capture(**changes) != capture()
        assert capture(**changes) == capture(**changes)
    assert capture() != "a capture"


def test_a_capture_and_a_sample_are_shown_in_one_readable_line() -> None:
    text = repr(capture())
    assert text.startswith("Capture('q1', 1 vector, 8 prompt tokens, answer 'It is\\na horse. xxx")
    assert text.endswith("of 5 tokens, stop)")
    assert "\n" not in text
    assert len(text) < 200
    assert repr(Sample("q", b"x" * 5_000, "?")) == (
        "Sample(id='q', image=<5,000 bytes>, question='?')"
    )
    assert repr(Sample("q", None, "?")) == "Sample(id='q', image=None, question='?')"
    assert "<5 bytes>, 'a.png'" in repr(Sample("q", [b"x" * 5, "a.png"], "?"))


def test_a_capture_gives_a_vector_by_its_position() -> None:
    item = capture()
    vector = item.vectors["query_token_representation/layer_2"]
    assert item.vector("last_prompt_token", 2) is vector
    assert item.vector("query_token_representation", layer=2) is vector
    with pytest.raises(InputError, match=r"'q1': no vector .*layer_3, there are .*layer_2"):
        item.vector("last_prompt_token", layer=3)


OPTIONAL = ("vlmscope.executors.ray", "vlmscope.model.elementwise.triton_kernels")
"""Modules of packages that need not be installed."""


def dataclasses() -> Iterator[type]:
    for found in pkgutil.walk_packages(vlmscope.__path__, "vlmscope."):
        if not found.name.startswith(OPTIONAL) and "__main__" not in found.name:
            for each in vars(import_module(found.name)).values():
                if isinstance(each, type) and is_dataclass(each) and each.__module__ == found.name:
                    yield each


def test_no_dataclass_with_arrays_has_an_equality_that_raises() -> None:
    arrays = ("ndarray", "NDArray", "DataFrame", "Tensor")
    found = [
        each
        for each in dataclasses()
        if any(kind in str(f.type) for f in fields(each) for kind in arrays)
        if not any("Callable" in str(f.type) for f in fields(each))
    ]
    assert len(found) > 20
    assert [each for each in found if each.__dataclass_params__.eq] == []  # type: ignore[attr-defined]


def test_names_may_be_one_text() -> None:
    assert vlmscope.SweepSpec(estimators="mlp,logistic").estimators == ("mlp", "logistic")
    assert vlmscope.SweepSpec(estimators=["logistic"], by="domain").by == ("domain",)
    with pytest.raises(ValueError, match=r"^estimators: 'forest' is not a probe"):
        vlmscope.SweepSpec(estimators="forest")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 5}, "Sample: id is 5 of the type int, expected text"),
        ({"target": ["Yes"]}, r"Sample: target is \['Yes'\] of the type list, expected text"),
        ({"image_id": 7}, "Sample: image_id is 7"),
        ({"origin": b"t.csv"}, "Sample: origin is b't.csv'"),
        ({"metadata": None}, "Sample: metadata is None of the type NoneType, expected a"),
        ({"metadata": [("a", 1)]}, "Sample: metadata is"),
        ({"id": "x" * 9, "target": np.arange(9999)}, "Sample: target is array"),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        Sample(**{"id": "q1", "image": "a.png", "question": "?", **changes})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"^{message}"):
        replace(Sample("q1", "a.png", "?"), **changes)
    assert Sample(np.str_("q1"), None, "?").id == "q1"
