"""What ``vlmscope label`` labels: a run, or external answers; and where its labels are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmscope.cli.places import check_file
from vlmscope.errors import InputError

if TYPE_CHECKING:
    from vlmscope.dataset import AnswerTable
    from vlmscope.schema import Answered, Score
    from vlmscope.score import Scorer
    from vlmscope.store import Run

JUDGEMENTS = "judge.jsonl"
"""File in the run folder that keeps the judge's verdicts; of a table, beside its --out."""

OUT_SUFFIXES = (".csv", ".parquet")
"""Of labelled tables."""


@dataclass(frozen=True)
class Target:
    """Answers to be labelled, and where their labels are written."""

    answers: Run | AnswerTable
    """The answers."""
    name: str
    """Of a run: the label set."""
    out: Path | None
    """Of a table: the labelled table."""
    truth: str | None
    """Column to read the truth from."""
    overwrite: bool
    """Whether labels of a person, or a file, may be replaced."""
    fields: Mapping[str, str | None] = field(default_factory=dict)
    """Of a run: field → the column of the table that it was taken from."""

    def rows(self) -> Iterator[Answered]:
        """Yield the rows, with the truth that is asked for."""
        from vlmscope.labelling import with_truth

        rows = self.answers.answers()
        # The column that truths are taken from is metadata of those rows only that were captured
        # before it was.
        if self.truth is None or self.truth == self.fields.get("target"):
            return rows
        return with_truth(rows, self.truth, self.fields)

    def score(self, scorer: Scorer) -> Iterator[Score]:
        """Yield a verdict for every row."""
        from vlmscope.labelling import score_rows

        return score_rows(self.rows(), scorer)

    @property
    def verdicts(self) -> Path:
        """File for the judge's verdicts."""
        if self.out is not None:
            return self.out.with_name(f"{self.out.stem}.{JUDGEMENTS}")
        return self.answers.path / JUDGEMENTS

    def check_scorable(self) -> None:
        """Refuse what no rule or judge can score or may replace, before a judge is paid.

        Raises:
            InputError: There are no answers, or labels of a person would be lost.
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
    """Return which columns the fields of a run were taken from.

    Those that ``extract`` was told are in its record; for others the table is asked, where it is
    still there and a truth is wanted that the rows do not keep by its name.
    """
    from vlmscope.dataset import open_table
    from vlmscope.schema import FieldSpec

    record = run.manifest.data
    told = {name: record.fields.get(name) for name in ("id", "question", "target")}
    fields = {name: own if isinstance(own, str) else None for name, own in told.items()}
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
) -> Target:
    """Open what is to be labelled, and refuse options that do not go with it.

    Raises:
        InputError: It is neither a run nor answers; options do not fit; a file would be lost.
    """
    from vlmscope.labelling import H5, is_answers, read_answer_files
    from vlmscope.store import labels_file, open_run

    labels_file(name)
    if not is_answers(path):
        if out is not None or fields:
            option = "--out" if out is not None else "--map"
            raise InputError(
                f"{option}: is for a table of answers or .h5 files; the labels of a run are "
                "written into the run"
            )
        run = open_run(path)
        return Target(run, name, None, truth, overwrite, _fields_of(run, truth))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if name != "default":
        raise InputError("--name: is for a run; a table's labels go to the file --out")
    if out is None:
        raise InputError(f"{path}: is no run; give --out FILE for the labelled table")
    if out.suffix.lower() not in OUT_SUFFIXES:
        raise InputError(f"--out {out}: name it {' or '.join(OUT_SUFFIXES)}")
    check_file(out, source=str(path))
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: is there already; give --overwrite to replace it")
    if truth is not None and path.is_file() and path.suffix.lower() not in H5:
        fields, truth = [*fields, f"target={truth}"], None
    return Target(read_answer_files(path, fields), name, out, truth, overwrite)
