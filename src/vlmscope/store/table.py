"""Rows as tables of scalars: data frames, Parquet columns, and the Parquet files of a run."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmscope.errors import StoreError
from vlmscope.sampling import LENGTHS, SAMPLE_TEXTS, is_of_samples
from vlmscope.schema import Capture, Score
from vlmscope.shown import encodable
from vlmscope.signals import LENS_PROBS, LENS_TOKENS, NO_TOKEN, PREVIOUS, RecordedSignals
from vlmscope.store.format.batch import (
    HALP_TEXTS,
    QUESTION_ID,
    Block,
    by_layer,
    metadata_of,
    texts_in,
)
from vlmscope.store.format.manifest import CaptureRecord
from vlmscope.store.format.naming import signal_path

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmscope.store.storage.atomic import publish

THUMBNAIL = "image_thumbnail"
"""Column of the small copies of the images."""

_LATER_TEXTS = ("finish_reason", "image_sha256", "image_dhash", THUMBNAIL)


def frame(blocks: Iterable[Block]) -> pd.DataFrame:
    """Return one data frame with the rows of all blocks, metadata columns last."""
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


def labels_frame(ids: Sequence[str], scores: Sequence[Score]) -> pd.DataFrame:
    """Return labels as a table whose index is the question id.

    Args:
        ids: The questions.
        scores: One label for each.
    """
    import pandas as pd

    columns: dict[str, Any] = {
        "outcome": [score.outcome for score in scores],
        "hallucinated": pd.array([score.hallucinated for score in scores], dtype="boolean"),
        "error_kind": [score.error_kind for score in scores],
        "scorer": [score.scorer for score in scores],
        "evidence": [score.evidence for score in scores],
    }
    return pd.DataFrame(columns, index=pd.Index(list(ids), name=QUESTION_ID))


def lens_frame(row: Capture, signals: RecordedSignals, tokenizer: Any = None) -> pd.DataFrame:
    """Return the logit lens of a row as a table with a line per position, layer and token.

    Args:
        row: The row.
        signals: The signals of its run.
        tokenizer: If given, its ``decode`` makes tokens readable.
    """
    import pandas as pd

    tokens, probs = row.signals[LENS_TOKENS], row.signals[LENS_PROBS]
    index = np.nonzero(tokens != NO_TOKEN)
    columns: dict[str, Any] = {
        "position": [signals.lens_positions[at] for at in index[0]],
        "layer": [signals.lens_layers[at] for at in index[1]],
        "rank": index[2],
        "token_id": tokens[index],
        "probability": probs[index],
    }
    if tokenizer is not None:
        columns["token"] = [tokenizer.decode([int(token)]) for token in tokens[index]]
    return pd.DataFrame(columns)


def lens_of(
    row: Capture, signals: RecordedSignals, top: int
) -> dict[str, tuple[tuple[tuple[int, float], ...], ...]]:
    """Return position → for each layer the likeliest tokens of the logit lens, with probabilities.

    Args:
        row: The row; positions that it does not have are left out.
        signals: The signals of its run.
        top: Maximum number of tokens.
    """
    if LENS_TOKENS not in row.signals or LENS_PROBS not in row.signals:
        return {}
    tokens, probs = row.signals[LENS_TOKENS][..., :top], row.signals[LENS_PROBS][..., :top]
    return {
        position: tuple(
            tuple(zip(layer.tolist(), values.tolist(), strict=True))
            for layer, values in zip(tokens[at], probs[at], strict=True)
        )
        for at, position in enumerate(signals.lens_positions)
        if (tokens[at] != NO_TOKEN).all()
    }


def scalar_columns(block: Block) -> dict[str, list[Any]]:
    """Return the columns with one value per row, without metadata."""
    texts = {name: block.texts[name] for name in (QUESTION_ID, *HALP_TEXTS) if name in block.texts}
    numbers = {n.replace("/", "."): a.tolist() for n, a in block.numbers.items() if a.ndim == 1}
    if "answer_logprobs" in block.ragged:
        means = [
            float(a.mean()) if len(a) else float("nan") for a in block.ragged["answer_logprobs"]
        ]
        numbers["mean_answer_logprob"] = means
        if entropies := block.ragged.get(signal_path("entropy")):
            numbers["mean_answer_entropy"] = [
                float(a.mean()) if len(a) else float("nan") for a in entropies
            ]
        numbers["num_answer_tokens"] = [len(a) for a in block.ragged["answer_logprobs"]]
    later = {name: block.texts[name] for name in _LATER_TEXTS if name in block.texts}
    first = {
        "first_token_id": block.numbers["first_token_ids"][:, 0].tolist(),
        "first_token_logprob": block.numbers["first_token_logprobs"][:, 0].tolist(),
    }
    return {**texts, **later, **numbers, **first}


def lists_of(block: Block, name: str, record: CaptureRecord) -> Iterator[Any]:
    """Yield each row's list of a signal: of values, or of texts or lists, one for each sample.

    Args:
        block: The rows.
        name: The signal.
        record: What was recorded.

    Raises:
        StoreError: The block lacks the signal.
    """
    path = signal_path(name)
    if path not in block.columns:
        raise StoreError(
            f"a shard of the run has no {path}; 'vlmscope verify RUN --files' names damaged ones"
        )
    if name in SAMPLE_TEXTS:
        yield from map(texts_in, block.texts[path])
        return
    if name == PREVIOUS:
        layers = len(record.attention_layers)
        yield from (by_layer(values, layers) for values in block.ragged[path])
        return
    if not is_of_samples(name):
        yield from block.ragged[path]
        return
    for values, lengths in zip(block.ragged[path], block.ragged[signal_path(LENGTHS)], strict=True):
        yield np.split(values, np.cumsum(lengths)[:-1])


def metadata_name(key: str, taken: Container[str]) -> str:
    """Return the column name of a metadata key, with a prefix if the name is taken.

    >>> metadata_name("category", ["answer"]), metadata_name("answer", ["answer"])
    ('category', 'metadata.answer')
    """
    name = str(_valid(key))
    while name in taken:
        name = f"metadata.{name}"
    return name


def _valid(value: Any) -> Any:
    """Return a value without lone surrogates, which no file format can represent."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
        valid = _valid(text)
        return value if valid == text else json.loads(valid)
    return value


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write columns of equal length as a Parquet file, replacing an existing one; return the path.

    Raises:
        StoreError: The file cannot be written. An existing file is kept.
    """
    publish(path, parquet_bytes(columns))
    return path


def parquet_bytes(
    columns: Mapping[str, Sequence[Any]], settings: Mapping[str, Any] | None = None
) -> bytes:
    """Return columns of equal length as the bytes of a Parquet file.

    Args:
        columns: The columns, by name.
        settings: Stored as JSON in the schema, under the key ``vlmscope``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: list(map(_valid, values)) for name, values in columns.items()})
    if settings is not None:
        table = table.replace_schema_metadata({"vlmscope": json.dumps(settings, default=str)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    data: bytes = buffer.getvalue().to_pybytes()
    return data
