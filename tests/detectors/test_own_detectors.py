"""A user's own detector: what is wrong with it is one line that names it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detected_runs import STATE, detected_run, truth_of
from vlmscope.detectors import DETECTORS, Detector, Distance, Probe, Rows, Score, detect
from vlmscope.errors import InputError
from vlmscope.store import Run
from vlmscope.sweeps import SweepSpec

SPEC = SweepSpec(folds=3, repeats=1, draws=24)
COUNT = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return detected_run(tmp_path_factory.mktemp("own") / "run", truth_of(COUNT))


def length(rows: Rows) -> Any:
    return np.array([float(len(text)) for text in rows.text("answer")])


def own(method: Any = None, **changes: Any) -> Detector:
    template = replace(DETECTORS["max_entropy"], name="mine", title="mine", requires=())
    return replace(template, method=method or Score(length), **changes)


def states(rows: Rows) -> Any:
    return rows.vectors[STATE]


def error_of(run: Run, detector: Any, *others: Any) -> str:
    with pytest.raises(InputError) as raised:
        detect(run, [*others, detector], SPEC)
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.first(5)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known": "after answer"}, "known is 'after answer', .*did you mean .*'after the answer'"),
        ({"passes": "two"}, "passes is 'two', .*choose from 'no pass', 'prefill'"),
        ({"group": "state"}, "group is 'state', .*did you mean 'states'"),
        ({"name": ""}, "name is '', expected a text"),
        ({"title": 3}, "title is 3, expected a text"),
        ({"paper": "Ren"}, "paper is 'Ren', expected a Paper or None"),
        ({"requires": "signals/entropy"}, "requires is 'signals/entropy', expected a tuple"),
        ({"method": length}, r"method is a function, expected Score\(function\)"),
        ({"method": Score}, "method is the class Score, expected"),
        ({"method": Probe(states, "svm")}, "estimator is 'svm', expected one of 'logistic'"),
    ],
)
def test_a_wrong_description_is_refused(run: Run, changes: dict[str, Any], words: str) -> None:
    name = changes.get("name", "mine")
    with pytest.raises(InputError, match=f"detector {name!r}: {words}"):
        detect(run, own(**changes), SPEC)


@pytest.mark.first(3)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("entropy", "did you mean 'signals/entropy'"),
        ("attention_prompt", "did you mean 'signals/attention_prompt'"),
        ("answer", "did you mean 'column answer'"),
        ("query_token_representatio", "did you mean 'query_token_representation'"),
        ("signals/entropyy", "did you mean 'signals/entropy'"),
        ("signals/answer_logprobs", ", 'answer_logprobs',"),
        ("answer_logprob", "did you mean 'answer_logprobs'"),
    ],
)
def test_a_requirement_that_no_run_has_is_refused(run: Run, name: str, words: str) -> None:
    text = error_of(run, own(requires=(name,)))
    assert f"detector 'mine': requires {name!r}, expected a name such as" in text
    assert words in text


def test_a_requirement_that_a_run_may_have_leaves_it_out(run: Run) -> None:
    names = ("signals/attention_prompt", "column kind", "last_answer_token_heads/layer_9")
    found = detect(run, ["max_entropy", own(requires=names)], SPEC)
    [reason] = [each.reason for each in found.unavailable if each.name == "mine"]
    assert reason == f"the run has no {', '.join(names)}"
    with pytest.raises(InputError, match="'mine': was not evaluated: the run has no signals/att"):
        found["mine"]
    with pytest.raises(InputError, match="was not asked for; did you mean 'max_entropy'"):
        found["max_entropi"]


@pytest.mark.first(6)
@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Score(lambda _: np.ones(3)), "its score: returned a ndarray of float64, (3,), "
         "expected an array of numbers, (60)"),
        (Score(lambda rows: length(rows)[:, None]), "ndarray of float64, (60, 1)"),
        (Score(lambda _: None), "its score: returned a NoneType of object"),
        (Score(lambda rows: rows.text("answer")), "its score: returned a list of <U"),
        (Score(lambda rows: rows.signals["entropy"]), "a list of float32, (60, 3)"),
        (Score(lambda rows: [[1.0] * (i % 3) for i in range(len(rows))]), "a list of unequal rows"),
        (Score(lambda rows: rows.signals["signals/entropy"]), "its method read 'signals/entropy', "
         "which the rows do not have; did you mean 'entropy'? List in requires"),
        (Score(lambda rows: rows.table["answr"]), "read 'answr', which the rows do not have; did "
         "you mean 'answer'"),
        (Score(lambda _: 1 / 0), "its method raised ZeroDivisionError: division by zero"),
        (Probe(states), "its features are a ndarray, expected a dictionary"),
        (Probe(lambda _: {}), "its features are empty, expected a dictionary"),
        (Probe(lambda rows: {"all": states(rows)}), "its features are a dict, expected"),
        (Probe(lambda rows: {"all": lambda: length(rows)}), "its feature 'all': returned a ndarray "
         "of float64, (60,), expected an array of numbers, (60, any)"),
        (Probe(lambda rows: {STATE: lambda: 2 * states(rows)}), "its feature "
         f"{STATE!r} has the name of vectors of the run, whose probes are shared, and is another"),
        (Distance(False, length, lambda *_: 0), "its vectors: returned a ndarray"),
        (Distance(False, states, lambda *given: np.ones(len(given[0]))),
         "its score of test vectors: returned a ndarray of float64, (40,), expected an array of "
         "numbers, (20)"),
        (Distance(False, states, lambda *given: np.full(len(given[2]), np.nan)),
         "its score of test vectors is not finite"),
    ],
)  # fmt: skip
def test_a_wrong_function_is_named(run: Run, method: Any, words: str) -> None:
    text = error_of(run, own(method))
    assert text.startswith("detector 'mine': ")
    assert words in text


def test_a_method_of_ones_own_is_checked(run: Run) -> None:
    class Wrong(Score):
        def risks(self, task: Any) -> Any:
            return np.full((1, len(task.truth)), np.nan)

    class Flagged(Score):
        def undefined(self, rows: Rows) -> Any:
            return np.zeros(len(rows))

    assert "risks: returned an array of float64, (1, 60), expected finite" in error_of(
        run, own(Wrong(length))
    )
    assert "undefined: returned an array of float64, (60,), expected an array of bool" in error_of(
        run, own(Flagged(length))
    )


def test_a_bug_of_a_registered_detector_is_not_hidden(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(DETECTORS["max_entropy"], method=Score(lambda rows: rows.signals["nothing"]))
    monkeypatch.setitem(DETECTORS, "max_entropy", broken)
    with pytest.raises(KeyError, match="nothing") as raised:
        detect(run, "max_entropy", SPEC)
    assert not isinstance(raised.value, InputError)


def test_names_are_its_own(run: Run) -> None:
    text = error_of(run, own(name="perplexity"), "max_entropy")
    assert "detector 'perplexity': is the name of a registered one" in text
    assert "detector 'states': is the name of a group too" in error_of(run, own(name="states"))
    assert "detector 'mine': is the name of another one" in error_of(run, own(), own())
    assert "found a function, expected names or Detectors" in error_of(run, length)


@pytest.mark.exhaustive
def test_registered_ones_may_be_given_as_objects(run: Run) -> None:
    given = detect(run, [DETECTORS["max_entropy"], own()], SPEC)
    named = detect(run, ["max_entropy", own()], SPEC)
    pd.testing.assert_frame_equal(given.table, named.table)
    assert detect(run, own(), SPEC)["mine"].title == "mine"


def test_a_series_counts_by_position(run: Run, tmp_path: Path) -> None:
    """Rows are left out by position; the index of a Series may be another order."""
    empty = detected_run(tmp_path / "run", truth_of(COUNT), empty=(3,))
    series = Score(lambda rows: pd.Series(length(rows), index=range(len(rows))[::-1]))
    found = [detect(empty, ["max_entropy", own(m)], SPEC)["mine"] for m in (None, series)]
    assert found[0] == found[1]
