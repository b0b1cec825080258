"""``truths.parquet``: ground truths that changed in the table after their rows were captured.

A shard never changes, and the ground truth is not part of a row's identity: values in this file
replace the ``ground_truth_answer`` of the shard, for everything that reads through vlmscope.
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
from vlmscope.store.storage.paths import as_path
from vlmscope.store.table import parquet_bytes

FILE = "truths.parquet"
"""Name of the file in a run folder."""

_COLUMNS = ("id", "ground_truth_answer")
_REMEDY = "remove it, and run 'vlmscope extract' again with the table, which rewrites it"


def read_ground_truths(run: str | Path) -> dict[str, str]:
    """Return the ground truths that replace those in the shards, by question id.

    Args:
        run: The run folder, or its URL.

    Raises:
        StoreError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = as_path(run) / FILE
    try:
        with reading(path) as file:
            table = pq.read_table(file)
        ids, ground_truths = (table[name].to_pylist() for name in _COLUMNS)
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read: {one_line(error)}; {_REMEDY}") from error
    if not all(isinstance(text, str) for text in (*ids, *ground_truths)):
        raise StoreError(f"{path}: not a file of ground truths, a cell is not text; {_REMEDY}")
    return dict(zip(ids, ground_truths, strict=True))


def replace_ground_truths(run: Path, ground_truths: Mapping[str, str]) -> None:
    """Replace the ground truths of a run; nothing is written if they are the same.

    Raises:
        StoreError: The file cannot be written, or the existing one is damaged and is kept.
    """
    wanted = {id_: clean_text(truth) for id_, truth in ground_truths.items()}
    with waiting(run, "manifest"):
        if read_ground_truths(run) != wanted:
            columns: dict[str, list[Any]] = {"id": list(wanted), _COLUMNS[1]: list(wanted.values())}
            publish(as_path(run) / FILE, parquet_bytes(columns))


def hash_ground_truths(ground_truths: Mapping[str, str]) -> str:
    """Return a hash of ground truths, independent of their order; empty if there are none."""
    if not ground_truths:
        return ""
    return hashlib.sha256(json.dumps(sorted(ground_truths.items())).encode()).hexdigest()


def with_ground_truths(block: Block, ground_truths: Mapping[str, str]) -> Block:
    """Return rows with their ground truths replaced by the given ones."""
    if ground_truths.keys().isdisjoint(block.ids):
        return block
    own = block.texts[_COLUMNS[1]]
    now = [ground_truths.get(id_, truth) for id_, truth in zip(block.ids, own, strict=True)]
    return replace(block, texts={**block.texts, _COLUMNS[1]: now})
