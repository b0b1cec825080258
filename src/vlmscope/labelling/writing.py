"""``vlmscope.label``: the answers of a run against their ground truth, written as a label set.

Labels made by a rule or a judge can be made again, so newer ones replace them. Labels read from a
file or a column may be the work of a person, and the file may be gone: they are only replaced on
request. This applies to each label set separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vlmscope.errors import InputError, StoreError, UnreachableError
from vlmscope.schema import Score
from vlmscope.score import (
    Auto,
    Column,
    LabelFile,
    Scorer,
    read_code,
    read_option_targets,
    with_error_kinds,
)
from vlmscope.store import (
    DEFAULT,
    AnyRun,
    Run,
    alone,
    as_run,
    label_settings,
    labels_file,
    read_labels,
    write_labels,
)

READ = frozenset({Column.name, LabelFile.name})
"""Scorers that read existing labels."""

MADE = frozenset({"auto", "exact", "judge", "vqa", "yesno"})
"""Scorers whose labels can be made again."""

_REMEDY = "give --overwrite to replace them"


def label(
    run: AnyRun,
    scorer: Scorer | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    name: str = DEFAULT,
    overwrite: bool = False,
) -> dict[str, Score]:
    """Label every answer of a run, replacing older labels.

    Args:
        run: The run, or its folder.
        scorer: The scorer; by default ``score.Auto``: by the stance of a yes/no answer or by VQA
            matching, depending on the ground truth.
        settings: Stored with the labels, to document how they were made; by default the scorer's
            name.
        name: The label set.
        overwrite: Also replace labels that were read from a file or a column.

    Returns:
        Question id → verdict, in the order of the run.

    Raises:
        InputError: The run has no rows; it stopped at the prefill, so it has no answers to score;
            labels that were read from a file or a column would be lost; or the name is not valid
            for a set.
        RunBusyError: Another process is labelling the run.
        StoreError: Writing fails.
    """
    run = as_run(run)
    labels_file(name)  # an invalid name is refused before anything is scored
    check_rows(run)
    if not isinstance(scorer, Column | LabelFile):
        check_answers(run)
    options = read_option_targets(run.answers())
    rows = partial(map, options.resolve)
    code = read_code(rows(run.answers()))
    scorer = scorer or Auto(code=code)
    scored = list(scorer(rows(run.answers())))
    scores = list(with_error_kinds(map(code.decode, rows(run.answers())), scored))
    made = settings or {"scorer": scorer.name}
    replace_labels(run, scores, made, name=name, overwrite=overwrite)
    return {score.id: score for score in scores}


def replace_labels(
    run: Run,
    scores: Sequence[Score],
    settings: Mapping[str, Any],
    *,
    name: str = DEFAULT,
    overwrite: bool = False,
) -> Path:
    """Write a label set of a run, unless labels from a file or a column would be lost.

    Returns the file.

    Args:
        run: The run.
        scores: One verdict a row.
        settings: How they were made.
        name: The label set.
        overwrite: Replace any labels.

    Raises:
        InputError: Labels that were read from a file or a column would be lost.
        RunBusyError: Another process is labelling the run.
        StoreError: Writing fails.
    """
    with alone(run.path, "labels", "labelling this run"):
        if not overwrite:
            check_kept(run, scores, name=name)
        return write_labels(
            run.path, scores, settings, name, ground_truths=run.changed_ground_truths
        )


def check_kept(run: Run, scores: Iterable[Score] = (), *, name: str = DEFAULT) -> None:
    """Raise if labels that may be the work of a person would be replaced.

    Labels that are read again may replace those with the same verdicts, and labels of a scorer its
    own older ones.

    Args:
        run: The run.
        scores: The new labels; none yet for a rule or a judge.
        name: The label set to replace.

    Raises:
        InputError: There are such labels, or the label set cannot be read.
    """
    try:
        old = read_labels(run.path, name)
    except InputError:
        labels_file(name)
        return  # there are none
    except UnreachableError:
        raise
    except StoreError as error:
        raise InputError(f"{error}; they may be a person's: {_REMEDY}") from error
    new = {score.id: score for score in scores}
    made = MADE.union(score.scorer for score in new.values()) - READ
    lost = Counter(
        score.scorer
        for score in old.values()
        if score.hallucinated is not None
        and score.scorer not in made
        and not _is_kept(score, new.get(score.id))
    )
    if lost:
        count = "1 label" if lost.total() == 1 else f"{lost.total():,} labels"
        raise InputError(
            f"{run.path}: {count} read from {_source(run, lost, name)} would be lost; {_REMEDY}"
        )


def _is_kept(old: Score, new: Score | None) -> bool:
    """Return whether a new label equals an old one and was also read from a file or a column."""
    return new is not None and new.scorer in READ and new.hallucinated == old.hallucinated


def _source(run: Run, lost: Mapping[str, int], name: str) -> str:
    """Return the source of labels as text, if known."""
    try:
        settings = label_settings(run.path, name)["settings"]
        if settings.get("labels"):
            return str(settings["labels"])
        if settings.get("column"):
            return f"the column {settings['column']!r}"
    except (StoreError, KeyError, TypeError, AttributeError):
        pass
    return " and ".join(repr(name) for name in sorted(lost))


def check_rows(run: Run) -> None:
    """Raise for a run without rows: an empty label set would look like a labelled run.

    Raises:
        InputError: It has none.
    """
    if not len(run):
        raise InputError(
            f"{run.path}: has no rows to label; run vlmscope extract first ('vlmscope info' shows "
            "rows that failed)"
        )


def check_answers(run: Run) -> None:
    """Raise for a run without answers, which can only have labels from elsewhere.

    Raises:
        InputError: It stopped after the prefill.
    """
    if not run.manifest.capture.max_new_tokens:
        raise InputError(
            f"{run.path}: has no answers to score, it stopped after the prefill; extract again "
            "with --max-new-tokens above 0, or read labels by --column or --labels"
        )
