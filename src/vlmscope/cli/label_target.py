"""The input and output of ``vlmscope label``: a run, or external answers and a table to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmscope.cli.paths import check_file
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.dataset import AnswerTable
    from vlmscope.schema import Answered, Score
    from vlmscope.score import OptionTargets, Scorer
    from vlmscope.store import Run

JUDGEMENTS = "judge.jsonl"
"""File with the judge's verdicts, in the run folder; for a table, in the folder of --out."""

OUT_SUFFIXES = (".csv", ".parquet")
"""Suffixes of labelled tables."""


@dataclass(frozen=True)
class Target:
    """Answers to be labelled, and the destination of the labels."""

    answers: Run | AnswerTable
    """The answers."""
    name: str
    """For a run: the label set."""

    out: Path | None
    """For a table: the labelled table."""

    truth: str | None
    """Column of the ground truth."""

    overwrite: bool
    """Whether labels made by hand, or an existing file, may be replaced."""

    fields: Mapping[str, str | None] = field(default_factory=dict)
    """For a run: field → the column of the table that it was taken from."""

    def rows(self) -> Iterator[Answered]:
        """Yield the rows with the requested ground truth, option numbers replaced by their text."""
        return map(self.option_targets.resolve, self._as_written())

    @cached_property
    def option_targets(self) -> OptionTargets:
        """How the ground truths refer to options."""
        from vlmscope.score import read_option_targets

        return read_option_targets(self._as_written())

    def _as_written(self) -> Iterator[Answered]:
        from vlmscope.labelling import with_truth

        rows = self.answers.answers()
        # The column of the ground truth is in the metadata only of rows that were captured before
        # it was selected.
        if self.truth is None or self.truth == self.fields.get("target"):
            return rows
        return with_truth(rows, self.truth, self.fields)

    def score(self, scorer: Scorer) -> Iterator[Score]:
        """Yield a label for every row."""
        from vlmscope.labelling import score_rows

        return score_rows(self.rows(), scorer)

    @property
    def verdicts(self) -> Path:
        """File for the judge's verdicts."""
        if self.out is not None:
            return self.out.with_name(f"{self.out.stem}.{JUDGEMENTS}")
        return self.answers.path / JUDGEMENTS

    def check_scorable(self) -> None:
        """Refuse rows that cannot be scored, and labels that must not be replaced, before any cost.

        Raises:
            InputError: There are no answers, or labels made by hand would be lost.
        """
        from vlmscope.labelling import check_answers, check_kept
        from vlmscope.store import Run

        if isinstance(self.answers, Run):
            check_answers(self.answers)
            if not self.overwrite:
                check_kept(self.answers, name=self.name)

    def write(self, scores: Sequence[Score], settings: dict[str, Any]) -> Path:
        """Write the labels and return the file."""
        from vlmscope.labelling import replace_labels, write_labelled
        from vlmscope.store import Run

        if isinstance(self.answers, Run):
            return replace_labels(
                self.answers, scores, settings, name=self.name, overwrite=self.overwrite
            )
        assert self.out is not None  # noqa: S101 - for the type checker: open_target checks it
        return write_labelled(
            self.out, self.answers, scores, settings, overwrite=self.overwrite
        )  # fmt: skip


def _fields_of(run: Run, truth: str | None) -> dict[str, str | None]:
    """Return the columns that the fields of a run were taken from.

    Columns given to ``extract`` are in its record; others are found in the table, if it still
    exists and the rows have no metadata with the name of the requested ground truth.
    """
    from vlmscope.dataset import open_table
    from vlmscope.schema import FieldSpec

    record = run.manifest.data
    recorded = {name: record.fields.get(name) for name in ("id", "question", "target")}
    fields = {name: own if isinstance(own, str) else None for name, own in recorded.items()}
    first = next(iter(run.answers()), None)
    if truth is None or truth in fields.values() or first is None or truth in first.metadata:
        return fields
    paths = [record.path] if isinstance(record.path, str) else record.path
    if not all(Path(path).is_absolute() for path in paths):  # a name on the hub
        return fields
    try:
        columns = open_table(
            record.path,
            fields=FieldSpec(**record.fields),  # type: ignore[arg-type]
            text_only=record.text_only,
        ).reader.columns
    except InputError:
        return fields
    found = {
        "id": columns.id[0] if len(columns.id) == 1 else None,
        "question": columns.question or None,
        "target": columns.target,
    }
    return {name: own or found[name] for name, own in fields.items()}


def open_target(
    path: Path,
    *,
    name: str,
    out: Path | None,
    fields: Sequence[str],
    truth: str | None,
    overwrite: bool,
    question_template: str | None = None,
) -> Target:
    """Open the answers to be labelled, and refuse options that do not apply to them.

    Raises:
        InputError: It is neither a run nor answers; the run has no rows; options do not apply; a
            file would be lost.
    """
    from vlmscope.labelling import H5, check_rows, is_answers, read_answer_files
    from vlmscope.store import labels_file, open_run

    labels_file(name)
    if not is_answers(path):
        if question_template is not None:
            raise InputError(
                "--question-template: is for a table of answers; the questions of a run are stored "
                "as they were asked, and option numbers are resolved by the metadata"
            )
        if out is not None or fields:
            option = "--out" if out is not None else "--map"
            raise InputError(
                f"{option}: is for a table of answers or .h5 files; the labels of a run are "
                "written into the run"
            )
        run = open_run(path)
        check_rows(run)
        return Target(run, name, None, truth, overwrite, _fields_of(run, truth))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if name != "default":
        raise InputError("--name: is for a run; a table's labels go to the file --out")
    if out is None:
        raise InputError(f"{path}: is not a run; give --out FILE for the labelled table")
    if out.suffix.lower() not in OUT_SUFFIXES:
        raise InputError(f"--out {out}: name it {' or '.join(OUT_SUFFIXES)}")
    check_file(out, source=str(path))
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: already exists; give --overwrite to replace it")
    if truth is not None and path.is_file() and path.suffix.lower() not in H5:
        fields, truth = [*fields, f"target={truth}"], None
    answers = read_answer_files(path, fields, question_template)
    return Target(answers, name, out, truth, overwrite)
