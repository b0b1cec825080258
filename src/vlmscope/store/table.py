"""Rows as a table of scalars: for pandas, and for the columns of a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any

from vlmscope.errors import StoreError
from vlmscope.store.block import QUESTION_ID, SEED_TEXTS, Block, metadata_of

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

_LATER_TEXTS = ("finish_reason", "image_sha256", "image_dhash", "image_thumbnail")


def frame(blocks: Iterable[Block]) -> pd.DataFrame:
    """Return one data frame of all blocks, metadata columns last."""
    import pandas as pd

    columns: dict[str, list[Any]] = {}
    metadata: list[dict[str, Any]] = []
    for block in blocks:
        for name, values in scalar_columns(block).items():
            columns.setdefault(name, []).extend(values)
        metadata += map(metadata_of, block.texts["metadata"])
    if len({len(values) for values in columns.values()}) > 1:
        raise StoreError("the run's shards have different columns; restore them from a copy")
    for key in dict.fromkeys(key for row in metadata for key in row):
        columns[metadata_name(key, columns)] = [_valid(row.get(key)) for row in metadata]
    return pd.DataFrame(columns)


def scalar_columns(block: Block) -> dict[str, list[Any]]:
    """Return the columns that hold one value a row, without metadata."""
    texts = {name: block.texts[name] for name in (QUESTION_ID, *SEED_TEXTS) if name in block.texts}
    numbers = {name: n.tolist() for name, n in block.numbers.items() if n.ndim == 1}
    if "answer_logprobs" in block.ragged:
        means = [
            float(a.mean()) if len(a) else float("nan") for a in block.ragged["answer_logprobs"]
        ]
        numbers["mean_answer_logprob"] = means
        numbers["num_answer_tokens"] = [len(a) for a in block.ragged["answer_logprobs"]]
    later = {name: block.texts[name] for name in _LATER_TEXTS if name in block.texts}
    first = {
        "first_token_id": block.numbers["first_token_ids"][:, 0].tolist(),
        "first_token_logprob": block.numbers["first_token_logprobs"][:, 0].tolist(),
    }
    return {**texts, **later, **numbers, **first}


def metadata_name(key: str, taken: Container[str]) -> str:
    """Return the column of a metadata key; a key that is one of our columns gets a prefix.

    >>> metadata_name("category", ["answer"]), metadata_name("answer", ["answer"])
    ('category', 'metadata.answer')
    """
    name = str(_valid(key))
    while name in taken:
        name = f"metadata.{name}"
    return name


def _valid(value: Any) -> Any:
    """Return a value without lone surrogates, which no file format can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
        whole = _valid(text)
        return value if whole == text else json.loads(whole)
    return value
