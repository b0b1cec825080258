"""Rows as a table of scalars: for pandas, and for the columns of a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlmscope.store.block import QUESTION_ID, SEED_TEXTS, Block

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]

_LATER_TEXTS = ("finish_reason", "image_sha256")


def frame(blocks: Iterable[Block]) -> pd.DataFrame:
    """Return one data frame of all blocks, metadata columns last."""
    import pandas as pd

    rows = [row for block in blocks for row in scalar_rows(block)]
    names: dict[str, None] = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame(rows, columns=list(names))


def scalar_rows(block: Block) -> list[dict[str, Any]]:
    """Return every row's scalars by name: the seed's texts, our numbers, then its metadata."""
    columns = scalar_columns(block)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    for row, text in zip(rows, block.texts["metadata"], strict=True):
        row.update({metadata_name(key, columns): v for key, v in json.loads(text).items()})
    return rows


def scalar_columns(block: Block) -> dict[str, list[Any]]:
    """Return the columns that hold one value a row, without metadata."""
    texts = {name: block.texts[name] for name in (QUESTION_ID, *SEED_TEXTS) if name in block.texts}
    numbers = {name: n.tolist() for name, n in block.numbers.items() if n.ndim == 1}
    if "answer_logprobs" in block.ragged:
        means = [
            float(a.mean()) if len(a) else float("nan") for a in block.ragged["answer_logprobs"]
        ]
        numbers["mean_answer_logprob"] = means
    return {**texts, **{name: block.texts[name] for name in _LATER_TEXTS}, **numbers}


def metadata_name(key: str, taken: Iterable[str]) -> str:
    """Return the column of a metadata key; a key that is one of our columns gets a prefix.

    >>> metadata_name("category", ["answer"]), metadata_name("answer", ["answer"])
    ('category', 'metadata.answer')
    """
    return f"metadata.{key}" if key in set(taken) else key
