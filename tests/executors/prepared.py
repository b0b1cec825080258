"""Comparison of what is prepared for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch

from vlmscope.engine import Batch
from vlmscope.schema import Failure

Prepared = tuple[Sequence[Batch], Sequence[Failure]]


def assert_same_prepared(found: Prepared, expected: Prepared) -> None:
    """Compare everything, bit by bit, down to the order of dimensions in memory."""
    assert list(found[1]) == list(expected[1])
    for one, other in zip(found[0], expected[0], strict=True):
        for each in fields(Batch):
            if each.name == "samples":
                pairs = zip(one.samples, other.samples, strict=True)
                assert all(mine is theirs for mine, theirs in pairs)
            elif each.name != "inputs":
                assert getattr(one, each.name) == getattr(other, each.name), each.name
        assert list(one.inputs) == list(other.inputs)
        for name, tensor in other.inputs.items():
            mine = one.inputs[name]
            assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape), name
            assert mine.stride() == torch.empty_like(tensor).stride(), name
            assert torch.equal(mine, tensor), name
