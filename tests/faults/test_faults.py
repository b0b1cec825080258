"""Faults in real processes, one of each sort; ``make faults`` does them all, and many times."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from faults import disks, killing, rows
from faults.outcome import Outcome
from faults.setting import Setting, make_setting

ROWS = 12


@pytest.fixture(scope="module")
def setting(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("faults"), checkpoint, ROWS)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(3)  # noqa: S311 - moments, no secrets


def assert_well(outcome: Outcome) -> None:
    assert not outcome.wrong, outcome.row()
    assert outcome.tries, "it was not tried"


@pytest.mark.exhaustive
def test_a_kill_of_the_whole_process_group_loses_nothing(
    setting: Setting, rng: random.Random
) -> None:
    assert_well(killing.killed(setting, "process group", 1, rng))


@pytest.mark.exhaustive
def test_a_row_that_kills_the_process_is_recorded(setting: Setting, rng: random.Random) -> None:
    assert_well(rows.poisoned(setting, "kill-in-prepare", 1, rng))


@pytest.mark.exhaustive
def test_a_full_disk_loses_nothing(setting: Setting, rng: random.Random) -> None:
    """Imitated, so that it needs no right to mount one; ``make faults`` mounts one where it may."""
    outcome = disks.full_disk(setting, 1, rng, mount=False)
    assert_well(outcome)
    assert list(outcome.came) == ["exit code 1, then resumed to equal rows"]
