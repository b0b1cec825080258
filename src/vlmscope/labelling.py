"""``vlmscope.label``: the answers of a run against their ground truth, written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmscope.errors import InputError
from vlmscope.schema import Score
from vlmscope.score import Auto, Column, LabelFile, Scorer
from vlmscope.store import Run, write_labels


def label(
    run: Run, scorer: Scorer | None = None, *, settings: Mapping[str, Any] | None = None
) -> dict[str, Score]:
    """Label every answer of a run, replacing older labels.

    Args:
        run: The run.
        scorer: Decides; by default ``score.Auto``: by the stance of a yes/no answer or by VQA
            matching, as the truth asks for.
        settings: Kept with the labels, to say how they were made; by default the scorer's name.

    Returns:
        Question id → verdict, in the order of the run.

    Raises:
        InputError: The run stopped at the prefill, so it has no answers to score.
        StoreError: The disk refuses.
    """
    scorer = scorer or Auto()
    if not isinstance(scorer, Column | LabelFile):
        check_answers(run)
    scores = list(scorer(run.answers()))
    write_labels(run.path, scores, settings or {"scorer": scorer.name})
    return {score.id: score for score in scores}


def check_answers(run: Run) -> None:
    """Refuse a run without answers, which only labels made elsewhere can label.

    Raises:
        InputError: It stopped after the prefill.
    """
    if not run.manifest.capture.max_new_tokens:
        raise InputError(
            f"{run.path}: has no answers to score, it stopped after the prefill; extract again "
            "with --max-new-tokens above 0, or read labels by --column or --labels"
        )
