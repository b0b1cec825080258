"""Whatever a file holds, a reader gives a result or one of our errors: any bytes, any damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import readers
from vlmscope.store.format import hdf5_screening

CORPUS = Path(readers.__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.rglob("*") if path.is_file())
FEW = settings(
    deadline=None, max_examples=15, suppress_health_check=list(HealthCheck), derandomize=True
)
HEADER = b"question_id,image,question\n"
RUN_JSON = json.loads(json.dumps(asdict(readers.MANIFEST)))


@pytest.fixture(autouse=True, scope="module")
def soon() -> Iterator[None]:
    """Do not wait long for a file of which HDF5 never comes back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5_screening, "SECONDS", 0.3)
        yield


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_fuzzing_kept(path: Path) -> None:
    readers.feed(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", ["csv", "tsv", "labels"])
@FEW
@given(data=st.binary(max_size=200) | st.text('ab,"\n\r\t\0é', max_size=60).map(str.encode))
@example(data=b"\xef\xbb\xbf")
@example(data=b'"' + b"x" * 200_000)
def test_any_csv(name: str, data: bytes) -> None:
    readers.feed(name, data)
    readers.feed(name, HEADER + data)


@pytest.mark.parametrize("name", ["jsonl", "json", "rows", "verdicts", "failures", "probe"])
@FEW
@given(data=st.binary(max_size=200) | plain.map(lambda value: json.dumps(value).encode()))
@example(data=b"[" * 100_000)
@example(data=b'{"id":' * 50_000)
@example(data=b'{"id": ' + b"9" * 5000 + b"}")
def test_any_json(name: str, data: bytes) -> None:
    readers.feed(name, data)


@FEW
@given(
    row=st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "image", "question", "x"), plain))
)
def test_any_row(row: object) -> None:
    whole = {"id": "first", "image": "a.png", "question": "?"}
    lines = "\n".join(json.dumps(each) for each in (whole, row))
    readers.feed("jsonl", lines.encode("utf-8", "surrogatepass"))


def _nested(opening: str, depth: int, inner: object) -> str:
    closing = {"[": "]", '{"a": ': "}", '[{"b": ': "}]"}[opening]
    return opening * depth + json.dumps(inner) + closing * depth


depths = st.sampled_from([1, 60, 64, 65, 66, 300, 480, 950, 2000])
cells = (
    plain.map(json.dumps)
    | st.builds(_nested, st.sampled_from(["[", '{"a": ', '[{"b": ']), depths, plain)
    | st.integers(600, 5000).map(lambda digits: "-" + "9" * digits)
    | st.sampled_from(["1e999", '"\\ud800"', '"\\u0000"', '{"bytes": "x", "path": ["a"]}', '"[1,"'])
)
names = st.sampled_from(["image", "question", "answer", "category", "x", "", "\\ud800", "row"])


@settings(FEW, max_examples=8)
@given(st.lists(st.dictionaries(names, cells, max_size=5), max_size=4))
def test_any_table_that_is_accepted_is_captured(rows: list[dict[str, str]]) -> None:
    lines = []
    for number, row in enumerate(rows):
        whole = {"id": f'"q{number}"', "question": '"?"', **row}
        lines.append("{" + ", ".join(f'"{name}": {cell}' for name, cell in whole.items()) + "}\n")
    readers.feed("rows", "".join(lines).encode())


@settings(FEW, max_examples=12)
@given(
    st.integers(0, 59), st.text(max_size=9), cells, st.sampled_from(["", "faithful", "unclear", 1])
)
def test_any_reply_of_a_judge(head: int, header: str, cell: str, word: object) -> None:
    said = f'{{"verdict": {json.dumps(word)}, "reason": {cell}, "KEY": "KEY"}}'
    for content in (json.dumps(said), cell, json.dumps(f"K EY {said} KEY")):
        body = f'{{"choices": [{{"message": {{"content": {content}}}}}], "error": {cell}}}'
        readers.feed("judge", bytes([head]) + header.encode() + b"\n" + body.encode())


@FEW
@given(st.lists(cells, max_size=3), st.sampled_from(["faithful", "", 1, None]))
def test_any_file_of_verdicts(lines: list[str], word: object) -> None:
    whole = [f'{{"key": "k", "verdict": {json.dumps(word)}, "reason": {cell}}}' for cell in lines]
    readers.feed("verdicts", "\n".join([*whole, *lines]).encode())


@FEW
@given(data=st.binary(max_size=200))
@example(data=b"[" * 100_000)
def test_any_bytes_as_a_manifest(data: bytes) -> None:
    readers.feed("manifest", data)


@FEW
@given(st.sampled_from(["", "model", "capture", "data"]).flatmap(
    lambda part: st.tuples(
        st.just(part), st.sampled_from(sorted(RUN_JSON[part] if part else RUN_JSON)), plain
    )
))  # fmt: skip
@example(("model", "hidden_size", 2**62))
@example(("model", "vision_size", -1))
@example(("capture", "layers", [10**30]))
@example(("data", "fields", {"id": {}}))
def test_any_value_in_a_manifest(change: tuple[str, str, object]) -> None:
    part, name, value = change
    changed = json.loads(json.dumps(RUN_JSON))
    (changed[part] if part else changed)[name] = value
    readers.feed("manifest", json.dumps(changed).encode())


@pytest.mark.parametrize("depth", [70, 500, 900])
def test_a_manifest_that_nests_too_deep(depth: int) -> None:
    deep = '{"a": [' * (depth // 2) + "]}" * (depth // 2)
    text = json.dumps({**RUN_JSON, "versions": {"vlmscope": "DEEP"}})
    readers.feed("manifest", text.replace('"DEEP"', deep).encode())


@pytest.mark.parametrize("name", ["shard", "research"])
@FEW
@given(st.data())
def test_a_file_of_hdf5_that_was_cut(name: str, data: st.DataObject) -> None:
    """Damage in the middle is for ``make fuzz``, and for ``test_screened_hdf5.py``."""
    whole = (CORPUS / name / "rows.h5").read_bytes()
    readers.feed(name, whole[: data.draw(st.integers(0, len(whole) - 1))])
    readers.feed(name, data.draw(st.binary(max_size=64)))
