"""``--compat halp`` from the command line to the risk: stored, verified, never mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from families.checkpoints import BUILDERS
from probe_on_disk import CALIBRATION, save
from vlmscope.dataset import open_table
from vlmscope.metrics import Platt
from vlmscope.model import load_model
from vlmscope.risk import RiskScorer
from vlmscope.schema import Sample
from vlmscope.store import export_run, open_run
from vlmscope.store.format.hdf5_links import walk
from vlmscope.sweeps.source import model_of

Command = Callable[..., Any]
QUERY = "query_token_representation"
ONLY_QUERY = ("--compat", "halp", "--positions", "last_prompt_token")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = BUILDERS[name](tmp_path_factory.mktemp("halp") / name)
        return built[name]

    return build


@pytest.fixture
def run_halp(
    vlmscope: Command, table: Path, tmp_path: Path, folder: Callable[[str], Path]
) -> Command:
    """``vlmscope extract`` of a tiny family; ``--compat halp`` is up to the caller."""

    def run(name: str, *extra: object) -> Any:
        return vlmscope(
            "extract", table, "--model", folder(name), "--out", tmp_path / name,
            "--layers", "0,n-1", "--max-new-tokens", 2, "--device", "cpu", "--dtype", "float32",
            *extra,
        )  # fmt: skip

    return run


@pytest.mark.exhaustive
def test_a_run_says_what_it_is_and_is_verified(
    run_halp: Command, vlmscope: Command, tmp_path: Path
) -> None:
    refused = run_halp("gemma3", "--compat", "halp")
    assert refused.code == 2
    assert "min(255, length // 2)" in refused.err
    assert "--positions last_prompt_token" in refused.err
    assert not (tmp_path / "gemma3").exists()

    done = run_halp("gemma3", *ONLY_QUERY)
    assert done.code == 0, done.err
    assert "layer_k is block output, as in halp" in done.err
    assert "note:" not in done.err
    record = json.loads((tmp_path / "gemma3" / "run.json").read_text())["capture"]
    assert (record["compat"], record["layer_k"]) == ("halp", "block output")
    checked = vlmscope("verify", tmp_path / "gemma3", "--device", "cpu", "--sample", 3)
    assert checked.code == 0, checked.err
    assert "compat" in vlmscope("info", tmp_path / "gemma3").out

    mixed = run_halp("gemma3", "--positions", "last_prompt_token")
    assert mixed.code == 2
    assert 'capture.compat is "halp", asked for ""' in mixed.err


@pytest.mark.exhaustive
def test_no_vector_before_the_norm_is_said_to_be_after_it(
    run_halp: Command, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    assert run_halp("gemma3", *ONLY_QUERY).code == 0
    last = load_model(folder("gemma3"), device="cpu").num_layers - 1
    run = open_run(tmp_path / "gemma3")
    exported = export_run(run, tmp_path / "all.h5")
    [pack] = (tmp_path / "gemma3" / "shards").glob("*.h5")
    with h5py.File(pack) as shard, h5py.File(exported) as copy:
        assert shard.attrs["compat"] == copy.attrs["compat"] == "halp"
        for path, column in walk(shard["_columns"]):
            assert not column.attrs.get("final_norm", False), path
        for file in (shard, copy):
            row = file[run.ids[0]]
            assert "final_norm" not in row[f"{QUERY}/layer_{last}"].attrs
            assert "vision_token_representation" not in row


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize(
    "path", [f"{QUERY}/layer_0", f"{QUERY}/layer_2", "vision_only_representation"]
)
def test_a_probe_is_scored_as_its_run_was_read(
    run_halp: Command, tmp_path: Path, table: Path, folder: Callable[[str], Path], path: str
) -> None:
    """SmolVLM2, of which the original also averaged another part of the encoder."""
    assert run_halp("smolvlm", *ONLY_QUERY, "--layers", "0,2").code == 0
    run = open_run(tmp_path / "smolvlm")
    vlm = load_model(folder("smolvlm"), device="cpu", dtype="float32")
    rows = [run[id_] for id_ in run.ids]
    probe = save(tmp_path / "probe", vlm, rows, path, model=model_of(run))
    scorer = RiskScorer(vlm, tmp_path / "probe")
    samples = [row for row in open_table(table).rows() if isinstance(row, Sample)]
    found = {risk.id: risk.risk for risk in scorer.score(samples)}  # type: ignore[union-attr]
    stored = np.stack([row.vectors[path] for row in rows])
    expected = Platt(*CALIBRATION).apply(probe.decision_function(stored))
    assert [found[id_] for id_ in run.ids] == pytest.approx(expected.tolist(), abs=1e-4)
    assert model_of(run) == asdict(run.manifest.model) | {
        "vision_pooling": "all",
        "compat": "halp",
        "dtype": "float32",
        "prompt_time": run.manifest.model.prompt_time,
    }


@pytest.mark.exhaustive
def test_a_vision_vector_that_is_not_the_originals_is_noted(run_halp: Command) -> None:
    done = run_halp("llava_next", *ONLY_QUERY)
    assert done.code == 0, done.err
    assert "note: vision_only_representation is vlmscope's own" in " ".join(done.err.split())


def test_inspect_shows_what_a_run_would_hold(
    vlmscope: Command, table: Path, checkpoint: Path
) -> None:
    """Of Llama-3.2-Vision, which the original read as we do."""
    command = ("inspect", table, "--model", checkpoint, "--max-new-tokens", 2, "--json")
    ours, theirs = vlmscope(*command), vlmscope(*command, "--compat", "halp")
    assert theirs.code == 0, theirs.err
    assert json.loads(theirs.out) == json.loads(ours.out)


def test_another_model_is_refused(
    vlmscope: Command, table: Path, tmp_path: Path, folder: Callable[[str], Path]
) -> None:
    for command in (("extract", "--out", tmp_path / "run"), ("inspect",)):
        refused = vlmscope(
            command[0], table, *command[1:], "--model", folder("idefics3"), "--compat", "halp"
        )
        assert refused.code == 2
        assert "idefics3 is not one of HALP's models" in refused.err
    assert not (tmp_path / "run").exists()
