"""Metadata that a run cannot hold is refused before anything is written, from Python too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from store_support import make_capture, make_captures, make_manifest
from vlmscope.errors import StoreError
from vlmscope.jsontext import DEEPEST
from vlmscope.store import RunWriter, open_run
from vlmscope.store.format.batch import metadata_of, metadata_text


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP
LIST_LOOP: list[Any] = []
LIST_LOOP.append(LIST_LOOP)

REFUSED: dict[str, tuple[Any, str]] = {
    "deep": ({"x": nested(DEEPEST + 1, dict)}, "nests deeper than 64 levels"),
    "deeper": ({"x": nested(500, list)}, "nests deeper than 64 levels"),
    "deepest": ({"x": nested(50_000, tuple)}, "nests deeper than 64 levels"),
    "within itself": (LOOP, "Circular reference"),
    "list within itself": ({"x": LIST_LOOP}, "Circular reference"),
    "tuple as a key": ({("a", "b"): 1}, "keys must be str"),
    "nested bytes as a key": ({"x": {b"a": 1}}, "keys must be str"),
    "long number": ({"x": 10**5000}, "Exceeds the limit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_cannot_be_kept(tmp_path: Path, name: str) -> None:
    metadata, says = REFUSED[name]
    bad = make_capture(1)
    bad = replace(bad, sample=replace(bad.sample, metadata=metadata))
    with RunWriter(tmp_path, make_manifest()) as writer:
        with pytest.raises(StoreError, match=says) as caught:
            writer.add([make_capture(0), bad])
        writer.add(make_captures([2, 3]))
    assert str(caught.value).startswith(
        "question 'question_comb_1': its metadata cannot be stored: "
    )
    assert len(str(caught.value).splitlines()) == 1
    run = open_run(tmp_path)
    assert run.ids == ("question_comb_2", "question_comb_3")
    assert len(list(run)) == len(run.to_pandas()) == 2


@pytest.mark.parametrize("kind", [dict, list])
def test_metadata_that_nests_just_so_deep_comes_back(tmp_path: Path, kind: type) -> None:
    metadata = {
        "x": nested(DEEPEST, kind),
        "\ud800": "\udfff",
        "keys": dict.fromkeys("abc", 10**99),
    }
    capture = make_capture(0)
    with RunWriter(tmp_path, make_manifest()) as writer:
        writer.add([replace(capture, sample=replace(capture.sample, metadata=metadata))])
    (found,) = open_run(tmp_path)
    assert found.sample.metadata == metadata


@pytest.mark.parametrize("text", ["[" * 900 + "]" * 900, '{"a":' * 66 + "1" + "}" * 66, "[]", "{"])
def test_metadata_of_a_damaged_run(text: str) -> None:
    with pytest.raises(StoreError, match=r"a row's metadata is damaged: .*; restore the run"):
        metadata_of(text)


def test_metadata_survives_whatever_the_stack(tmp_path: Path) -> None:
    text = metadata_text({"x": nested(DEEPEST, list)})

    def deep(frames: int) -> Any:
        return deep(frames - 1) if frames else metadata_of(text)

    assert deep(700) == metadata_of(text)
