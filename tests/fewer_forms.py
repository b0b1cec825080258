"""Sweeps that choose the joint baseline from fewer forms: half of the time of a small sweep.

How the form is chosen is tested with the baselines, in ``tests/probes``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import pytest

from vlmscope.probes import baselines
from vlmscope.probes.baselines import BaselineInputs, regression
from vlmscope.probes.candidates import Candidate
from vlmscope.probes.features import main_effects
from vlmscope.sweeps.transfer import fits

_ALL = baselines.joint_candidates


def _one_form(inputs: BaselineInputs) -> Mapping[str, Candidate]:
    return {"few": regression(main_effects(baselines._known(inputs)), 0.3)}


@contextlib.contextmanager
def fewer_forms() -> Iterator[None]:
    """One form of the joint baseline instead of ten, and one penalty of the question's words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "WORD_GRID", (1.0,))
        for module in (baselines, fits):
            patch.setattr(module, "joint_candidates", _one_form)
        yield


@contextlib.contextmanager
def all_forms() -> Iterator[None]:
    """The forms as they are, within ``fewer_forms``."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (baselines, fits):
            patch.setattr(module, "joint_candidates", _ALL)
        yield
