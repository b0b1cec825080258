"""Damaged files on the command line: ``verify --files`` and ``extract --redo-damaged``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vlmscope.store import open_run

Command = Callable[..., Any]


def damage(run: Path) -> Path:
    [shard] = (run / "shards").glob("pack-*.h5")
    with h5py.File(shard, "r+") as file:
        file["_columns/query_token_representation/layer_4"][3, 5] += 1
    return shard


@pytest.mark.exhaustive
def test_damaged_rows_are_named_and_captured_again(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    assert extract().code == 0
    run = tmp_path / "run"
    before = open_run(run).matrix("query_token_representation", 4)
    sound = vlmscope("verify", run, "--files")
    assert (sound.code, "checksums of 10 rows are correct" in sound.err) == (0, True)
    shard = damage(run)
    found = vlmscope("verify", run, "--files")
    assert found.code == 1
    assert f"1 damaged file: {shard}: column query_token_representation/layer_4" in found.err
    assert "10 rows: 'question_comb_0'" in found.err
    again = extract("--redo-damaged")
    assert again.code == 0, again.err
    assert f"damaged, and set aside: {run / 'damaged' / shard.name}" in again.err
    assert "10 rows captured" in again.err
    assert vlmscope("verify", run, "--files").code == 0
    after = open_run(run).matrix("query_token_representation", 4)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
def test_with_nothing_damaged_nothing_is_redone(extract: Command, tmp_path: Path) -> None:
    extract()
    again = extract("--redo-damaged")
    assert again.code == 0
    assert "0 to do, 10 already done" in again.err
    assert not (tmp_path / "run" / "damaged").exists()


def test_a_time_limit_must_be_above_zero(extract: Command) -> None:
    refused = extract("--time-limit", "0")
    assert refused.code == 2
    assert "--time-limit 0: give a number of seconds above 0" in refused.err
