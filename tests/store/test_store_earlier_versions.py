"""Runs of earlier versions: what they lack is named, and they are not called damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from store_support import make_captures, make_manifest
from vlmscope.errors import EarlierVersionError, InputError, RunMismatchError, StoreError
from vlmscope.schema import Score
from vlmscope.signals import TOKEN_STATISTICS
from vlmscope.store import (
    RunWriter,
    check_columns_of_run,
    check_same,
    export_run,
    find_damage,
    open_run,
    read_labels,
    read_manifest,
    write_labels,
    write_manifest,
)
from vlmscope.store.format.checksums import SEAL_SIZE, seal_of

THUMBNAIL = "image_thumbnail"
LAYER = "query_token_representation/layer_2"


def sealed(rest: bytes) -> bytes:
    """Return a file whose seal matches, as a version writes it that has no such column."""
    return seal_of(rest) + rest


def bare(rest: bytes) -> bytes:
    """Return a file of one of the first versions, which had no seal."""
    return rest


Form = Callable[[bytes], bytes]


def remove(run: Path, column: str, form: Form | None) -> Path:
    """Remove a column of the only shard of a run; without a form its seal stays as it was."""
    [shard] = (run / "shards").glob("*.h5")
    with h5py.File(shard, "r+") as file:
        del file[f"_columns/{column}"]
    if form:
        shard.write_bytes(form(shard.read_bytes()[SEAL_SIZE:]))
    return shard


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunWriter(tmp_path / "run", make_manifest()) as writer:
        writer.add(make_captures(range(3)))
    return tmp_path / "run"


@pytest.mark.parametrize("form", [sealed, bare])
def test_rows_without_a_later_column_are_of_an_earlier_version(
    run: Path, tmp_path: Path, form: Form
) -> None:
    matrix = open_run(run).matrix("last_prompt_token", layer=2)
    shard = remove(run, THUMBNAIL, form)
    before = shard.read_bytes()
    opened = open_run(run)
    reads = (
        lambda: opened[opened.ids[0]],
        opened.to_pandas,
        opened.check,
        lambda: list(opened.answers()),
        lambda: find_damage(run),
        lambda: export_run(run, tmp_path / "run.h5"),
        lambda: check_columns_of_run(run, make_manifest()),
    )
    for read in reads:
        with pytest.raises(EarlierVersionError, match=f"has no {THUMBNAIL}, an earlier") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "damage" not in str(caught.value)
    assert (opened.matrix("last_prompt_token", layer=2) == matrix).all(), "it has these numbers"
    assert shard.read_bytes() == before


def test_a_changed_file_without_a_column_is_damaged(run: Path) -> None:
    shard = remove(run, THUMBNAIL, None)
    [damage] = find_damage(run)
    assert damage.path == shard
    with pytest.raises(StoreError, match="damaged") as caught:
        open_run(run).to_pandas()
    assert not isinstance(caught.value, EarlierVersionError)


@pytest.mark.parametrize(("form", "said"), [(sealed, "an earlier version"), (None, "damaged")])
def test_a_missing_matrix_is_named(run: Path, form: Form | None, said: str) -> None:
    remove(run, LAYER, form)
    with pytest.raises(StoreError, match=said) as caught:
        open_run(run).matrix("last_prompt_token", layer=2)
    assert LAYER in str(caught.value)


@pytest.fixture
def signals(tmp_path: Path) -> Path:
    """A run with a number for each token of the answer, in three arrays."""
    rows = [
        replace(row, signals=dict.fromkeys(TOKEN_STATISTICS, np.abs(row.answer_logprobs)))
        for row in make_captures(range(3))
        if row.answer_logprobs is not None
    ]
    with RunWriter(tmp_path / "run", make_manifest(capture={"signals": ("entropy",)})) as writer:
        writer.add(rows)
    return tmp_path / "run"


def test_arrays_that_were_added_to_a_signal_later_are_not_there(
    signals: Path, tmp_path: Path
) -> None:
    remove(signals, "signals/margin", sealed)
    run = open_run(signals)
    assert run.signals == ("entropy", "max_logprob")
    with pytest.raises(InputError, match="no signal 'margin'"):
        run.signal("margin")
    assert len(run.signal("entropy")) == 3
    with np.load(export_run(run, tmp_path / "run.npz")) as arrays:
        assert "signals/entropy" in arrays
        assert "signals/margin" not in arrays


def test_arrays_that_a_changed_file_lost_are_missed(signals: Path) -> None:
    remove(signals, "signals/margin", None)
    run = open_run(signals)
    assert "margin" in run.signals
    with pytest.raises(StoreError, match=r"has no signals/margin; .*verify"):
        run.signal("margin")


def test_rows_with_other_arrays_are_not_added(run: Path) -> None:
    check_columns_of_run(run, make_manifest())
    more = make_manifest(capture={"signals": ("entropy",)})
    with pytest.raises(RunMismatchError, match="its rows lack signals/entropy, an earlier"):
        check_columns_of_run(run, more)
    fewer = make_manifest(capture={"layers": (0, 2)})
    with pytest.raises(RunMismatchError, match="have query_token_representation/layer_3"):
        check_columns_of_run(run, fewer)


def test_rows_with_arrays_of_another_size_are_not_added(run: Path) -> None:
    """The layers whose attention is recorded follow from the model, and are not settings."""
    wider = make_manifest(model={"hidden_size": 9})
    with pytest.raises(RunMismatchError, match=r"have another size of .*layer_0, an earlier"):
        check_columns_of_run(run, wider)


def test_a_run_without_rows_takes_any(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    check_columns_of_run(tmp_path, make_manifest(capture={"signals": ("entropy",)}))


def test_a_run_without_entropy_is_of_an_earlier_version() -> None:
    asked = make_manifest(capture={"signals": ("entropy", "heads")})
    with pytest.raises(RunMismatchError, match=r"earlier version .* not record entropy") as caught:
        check_same(make_manifest(), asked)
    assert "settings" not in str(caught.value), "no setting continues it"


def test_a_manifest_without_a_hash_may_be_of_an_earlier_version(run: Path) -> None:
    path = run / "run.json"
    record = json.loads(path.read_text())
    del record["model"]["generation_hash"]
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"of an earlier version, no model\.generation_hash"):
        read_manifest(run)


def test_labels_without_kinds_of_errors_are_of_an_earlier_version(run: Path) -> None:
    path = write_labels(run, [Score("q", True, "vqa", "no")], {})
    pq.write_table(pq.read_table(path).drop_columns(["error_kind"]), path)
    with pytest.raises(StoreError, match=r"of an earlier version, .* --overwrite|overwrite=True"):
        read_labels(run)
