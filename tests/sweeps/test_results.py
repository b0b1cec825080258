"""A result is one flat set of values: in memory, in ``results.json`` and read back."""

from __future__ import annotations

import json
import math
from dataclasses import Field, fields, replace
from typing import Any

import pytest

from vlmscope.sweeps import ProbeResult
from vlmscope.sweeps.results import without_nan
from vlmscope.sweeps.transfer.run import TransferredResult

RESULT = ProbeResult(
    name="query_token_representation/layer_9", title="query token, layer 9", kind="probe",
    known="before", representation="query_token_representation", layer=9, estimator="logistic",
    auroc=0.8412, auroc_low=0.8, auroc_high=0.88, auprc=0.5, brier=0.1, ece=0.02, recall_at_5=0.4,
    count=120, constant=0.25, chosen_c=(1e-3, 1e-2), grid_edge="low", above_joint=0.02,
    above_joint_low=-0.01, above_joint_high=0.05,
)  # fmt: skip


def saved(result: ProbeResult) -> Any:
    """The result as a document holds it."""
    return json.loads(json.dumps(without_nan(result.to_dict()), allow_nan=False))


def test_a_result_is_read_back_as_it_was() -> None:
    document = saved(RESULT)
    assert list(document) == [each.name for each in fields(ProbeResult)]
    assert document["auprc_low"] is None, "NaN, which JSON does not have"
    again = ProbeResult.from_dict(document | {"added_later": 1})
    assert saved(again) == document
    assert again.chosen_c == (1e-3, 1e-2)
    assert math.isnan(again.auprc_low)


def wrong(kind: str) -> list[object]:
    """Values that a field of this annotation does not have."""
    if kind.startswith("float"):
        return [{}, [0.5], True, "0.5"]
    if kind.startswith("int"):
        return [{}, [3], True, "3", 3.0]
    if kind.startswith("tuple"):
        return [{}, ["x"], [True], "x", 0.5]
    return [{}, ["x"], 0.5, "true" if kind == "bool" else True]


@pytest.mark.parametrize("field", fields(ProbeResult), ids=lambda each: each.name)
def test_a_value_of_another_type_is_named(field: Field[Any]) -> None:
    """A file may be anybody's: what is read of it has the type that the field says."""
    for value in wrong(str(field.type)):
        with pytest.raises(ValueError, match=f"has a result whose {field.name} is "):
            ProbeResult.from_dict(saved(RESULT) | {field.name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("auroc", 7), ("auroc_high", -1), ("ece_low", 1e308), ("above_joint_p", 2)]
)
def test_a_share_beyond_all_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} of 'x' is .*, expected a number from 0 to 1"):
        ProbeResult.from_dict(saved(replace(RESULT, name="x")) | {name: value})


def test_what_a_result_lacks_has_its_default_or_is_named() -> None:
    few = {name: value for name, value in saved(RESULT).items() if "above" not in name}
    assert ProbeResult.from_dict(few).above("joint") is None
    del few["ece"]
    with pytest.raises(ValueError, match="without ece"):
        ProbeResult.from_dict(few)


def test_differences_are_those_of_the_auroc_as_they_are_shown() -> None:
    rival = replace(RESULT, name="joint", auroc=0.93449)
    one = replace(RESULT, auroc=0.88251)
    assert one.shown_above(rival) == -0.051
    nothing = replace(rival, found_nothing=True)
    assert one.shown_above(nothing) is nothing.shown_above(one) is None
    assert (one.shown_auroc, nothing.shown_auroc) == ("AUROC 0.883", "constant risk")
    gap = one.above("joint")
    assert gap is not None
    assert (gap.value, gap.interval.low, gap.interval.high) == (0.02, -0.01, 0.05)
    assert math.isnan(gap.p_value), "not planned"
    assert one.above("baseline") is None


def test_a_metric_of_a_transfer_is_named_as_in_a_sweep() -> None:
    own = {"source_auroc", "own_auroc", "above_own"}
    names = {each.name for each in fields(TransferredResult)}
    theirs = {name for name in names if not any(name.startswith(start) for start in own)}
    assert theirs < {each.name for each in fields(ProbeResult)}
