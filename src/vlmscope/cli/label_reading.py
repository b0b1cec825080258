"""How ``vlmscope label`` interpreted a label file or a column, for its output."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmscope.cli.output import count, shown_text, stdout
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.score import Column, LabelFile

SHOWN_LINE = 400
"""Maximum length of the line: a column that has no labels may have many different cells."""


def reading_record(
    scorer: Column | LabelFile, ids: Collection[str], file: Path | None
) -> dict[str, Any]:
    """Return how labels were interpreted, as plain data.

    Args:
        scorer: The scorer that read them.
        ids: The questions that were labelled.
        file: The label file, for the message.

    Raises:
        InputError: None of the file's questions is among them.
    """
    from vlmscope.score import LabelFile

    record: dict[str, Any] = {"reading": scorer.reading.record() | {"line": str(scorer.reading)}}
    if not isinstance(scorer, LabelFile):
        return record
    record["not_in_run"] = len(scorer.unknown(ids))
    record["not_in_file"] = sum(id_ not in scorer.labels for id_ in ids)
    if record["not_in_run"] == len(scorer.labels):
        raise InputError(
            f"{file}: none of its questions is in the run; its ids look like "
            f"{next(iter(scorer.labels), 'none')!r}, the run's like {next(iter(ids), 'none')!r}"
        )
    return record


def show_reading(record: dict[str, Any]) -> None:
    """Print how labels were interpreted, if any were read."""
    if "reading" not in record:
        return
    parts = [record["reading"]["line"]]
    if record.get("not_in_run"):
        parts.append(f"{count(record['not_in_run'], 'question')} of the file not in the run")
    if record.get("not_in_file"):
        parts.append(f"{count(record['not_in_file'], 'row')} of the run not in the file")
    stdout.print(f"read: {shown_text('; '.join(parts), SHOWN_LINE)}")
