"""``truths.parquet``: ground truths that changed in the table after their rows were captured.

A row's shard never changes, and a truth is no part of what a row is: what is written here counts
instead of the ``ground_truth_answer`` of the shard, for every reader of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmscope.errors import StoreError, one_line
from vlmscope.store.format.batch import Block, clean_text
from vlmscope.store.storage.atomic import publish
from vlmscope.store.storage.locks import waiting
from vlmscope.store.storage.object_store import reading
from vlmscope.store.storage.paths import place
from vlmscope.store.table import parquet_bytes

TRUTHS = "truths.parquet"
"""Name of the file in a run folder."""

_COLUMNS = ("id", "ground_truth_answer")
_REMEDY = "remove it, and run 'vlmscope extract' again with the table: it is written anew"


def read_truths(run: str | Path) -> dict[str, str]:
    """Return the truths that count instead of those in the shards, by question id.

    Args:
        run: The run folder, or its URL.

    Raises:
        StoreError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = place(run) / TRUTHS
    try:
        with reading(path) as file:
            table = pq.read_table(file)
        ids, truths = (table[name].to_pylist() for name in _COLUMNS)
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {one_line(error)}; {_REMEDY}") from error
    if not all(isinstance(text, str) for text in (*ids, *truths)):
        raise StoreError(f"{path}: not a file of truths, a cell is no text; {_REMEDY}")
    return dict(zip(ids, truths, strict=True))


def write_truths(run: Path, truths: Mapping[str, str]) -> None:
    """Replace the truths of a run; nothing is written where they are the same.

    Raises:
        StoreError: The disk refuses, or what is there is damaged. What was there stays.
    """
    wanted = {id_: clean_text(truth) for id_, truth in truths.items()}
    with waiting(run, "manifest"):
        if read_truths(run) != wanted:
            columns: dict[str, list[Any]] = {"id": list(wanted), _COLUMNS[1]: list(wanted.values())}
            publish(place(run) / TRUTHS, parquet_bytes(columns))


def hash_truths(truths: Mapping[str, str]) -> str:
    """Return what tells these truths from others, whatever their order; empty where none is."""
    if not truths:
        return ""
    return hashlib.sha256(json.dumps(sorted(truths.items())).encode()).hexdigest()


def with_truths(block: Block, truths: Mapping[str, str]) -> Block:
    """Return rows with the truths that count."""
    if truths.keys().isdisjoint(block.ids):
        return block
    own = block.texts[_COLUMNS[1]]
    now = [truths.get(id_, truth) for id_, truth in zip(block.ids, own, strict=True)]
    return replace(block, texts={**block.texts, _COLUMNS[1]: now})
