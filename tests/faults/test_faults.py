"""Faults in real processes, each once: the short form of ``make faults``."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.outcome import Outcome
from faults.setting import Setting, make_setting

from faults import disks, killing, rows

ROWS = 12


@pytest.fixture(scope="module")
def setting(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("faults")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)  # a user without rights reads the table there
    return make_setting(folder, checkpoint, ROWS)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(3)  # noqa: S311 - moments, no secrets


def assert_well(outcome: Outcome, tries: int = 1) -> None:
    assert not outcome.wrong, outcome.row()
    assert outcome.tries >= tries


@pytest.mark.parametrize("how", ["process group", "writer", "driver beside its writer"])
def test_a_kill_loses_nothing(setting: Setting, rng: random.Random, how: str) -> None:
    assert_well(killing.killed(setting, how, 1, rng))


@pytest.mark.parametrize("harm", ["nan", "host-memory", "hang"])
def test_a_row_that_harms_the_model_is_recorded(
    setting: Setting, rng: random.Random, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LIMIT", "1.5")
    assert_well(rows.poisoned(setting, harm, 1, rng))


def test_a_row_that_kills_the_process_is_recorded(setting: Setting, rng: random.Random) -> None:
    assert_well(rows.poisoned(setting, "kill-in-prepare", 1, rng))


def test_a_hang_that_nothing_interrupts_ends_the_process(
    setting: Setting, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LIMIT", "1.5")
    assert_well(rows.locked_hang(setting, 1, rng))


@pytest.mark.parametrize(
    "fault",
    [
        disks.file_limit, disks.full_disk, disks.read_only, rows.two_writers, rows.changed_table,
        rows.vanishing, rows.clock,
    ],
    ids=lambda fault: fault.__name__,
)  # fmt: skip
def test_what_happens_around_a_run(
    setting: Setting,
    rng: random.Random,
    fault: Callable[[Setting, int, random.Random], Outcome],
) -> None:
    outcome = fault(setting, 1, rng)
    assert_well(outcome, tries=0 if "no right to mount" in outcome.note else 1)
