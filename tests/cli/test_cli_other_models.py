"""Other families on the command line: what a run was made with is found again by every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from adapter_folder import write_adapter
from families import strangers
from families.checkpoints import BUILDERS
from families.conformance import NUMPY_2, TALL, WIDE
from families.llava_checkpoints import build_llava
from vlmscope.probes import MeanDifferenceProbe, ProbeInfo, save_probe
from vlmscope.store import open_run
from vlmscope.sweeps.source import model_of

Command = Callable[..., Any]

pytestmark = [  # a warning of peft, too
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    *NUMPY_2,
]

DESCRIPTION = """
vision_encoder = "eyes.left"
decoder = "mind"
layers = "steps"
final_norm = "last"
image_token = "image_token"
"""


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS["llava"](tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Questions about one image, two and none."""
    WIDE.save(tmp_path / "wide.png")
    TALL.save(tmp_path / "tall.png")
    rows = [
        {"id": "one", "image": "wide.png", "question": "What is it?"},
        {"id": "two", "image": ["tall.png", "wide.png"], "question": "Which one is it?"},
        {"id": "none", "image": None, "question": "Why is the sky blue?"},
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run_of(vlmscope: Command, tmp_path: Path) -> Command:
    def run(table: Path, model: Path, *extra: object) -> Any:
        return vlmscope(
            *("extract", table, "--model", model, "--out", tmp_path / "run", "--device", "cpu"),
            *("--max-new-tokens", 3, *extra),
        )

    return run


def test_what_would_fail_on_every_row_is_refused_first(
    run_of: Command, mixed: Path, tmp_path: Path
) -> None:
    paligemma = BUILDERS["paligemma"](tmp_path / "paligemma")
    end = run_of(mixed, paligemma, "--positions", "last_question_token")
    assert end.code == 2
    assert "omit that position" in end.err
    table = tmp_path / "words.jsonl"
    table.write_text(mixed.read_text().splitlines()[2] + "\n")
    blind = run_of(table, paligemma, "--text-only")
    assert blind.code == 2
    assert "PaliGemma takes no question without one" in blind.err
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
@pytest.mark.first(1)
@pytest.mark.parametrize("family", ["gemma3", "janus"])
def test_the_report_shows_the_prompt_of_a_family_whose_processor_names_another_token(
    run_of: Command, vlmscope: Command, mixed: Path, tmp_path: Path, family: str
) -> None:
    assert run_of(mixed, BUILDERS[family](tmp_path / family), "--text-only").code == 0
    reported = vlmscope("report", tmp_path / "run")
    assert reported.code == 0
    assert "is not shown" not in reported.err


def save_random_probe(folder: Path) -> Path:
    """Save a probe of random numbers for the model of the run in ``folder``."""
    run = open_run(folder / "run")
    width = run.manifest.model.hidden_size
    matrix = np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)
    probe = MeanDifferenceProbe().fit(matrix, np.arange(20) % 2 == 0)
    info = ProbeInfo(
        representation="query_token_representation",
        layer=1,
        width=width,
        estimator="MeanDifferenceProbe",
        rows=20,
        model=model_of(run),
    )
    save_probe(folder / "probe", probe, info)
    return folder / "probe"


@pytest.mark.exhaustive
def test_rows_with_one_image_two_and_none(
    run_of: Command, vlmscope: Command, mixed: Path, llava: Path, tmp_path: Path
) -> None:
    first = run_of(mixed, llava)
    assert first.code == 3
    assert "--text-only" in (tmp_path / "run" / "failures.jsonl").read_text()
    again = run_of(mixed, llava, "--text-only")
    assert again.code == 0
    assert "1 of 3 rows has no image" in again.err
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu").code == 0
    with h5py.File(tmp_path / "run" / "index.h5") as file:
        assert "vision_only_representation" in file["two"]
        assert "vision_token_boundary" in file["two"].attrs
        assert "vision_only_representation" not in file["none"]
        assert "vision_token_boundary" not in file["none"].attrs
        assert "query_token_representation" in file["none"]


@pytest.mark.parametrize("id_", ["one", "two", "none"])
def test_inspect_shows_any_question(vlmscope: Command, mixed: Path, llava: Path, id_: str) -> None:
    command = ("inspect", mixed, "--model", llava, "--device", "cpu", "--text-only", "--id", id_)
    shown = vlmscope(*command, "--max-new-tokens", 0)
    assert shown.code == 0
    # Nine image tokens an image; the prompt's last one is marked and stands alone.
    assert ("× 9" in shown.out) == (id_ == "two")
    assert ("× 8" in shown.out) == (id_ != "none")
    record = json.loads(vlmscope(*command, "--max-new-tokens", 0, "--json").out)
    assert record["tiles"] is None
    assert ("last_image_token" in record["boundaries"]) == (id_ != "none")


@pytest.mark.exhaustive
def test_an_adapter_belongs_to_the_run(
    run_of: Command, vlmscope: Command, mixed: Path, llava: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(llava, tmp_path / "adapter")
    assert run_of(mixed, llava, "--text-only", "--adapter", adapter).code == 0
    without = run_of(mixed, llava, "--text-only")
    assert without.code == 2
    assert "other weights" in without.err
    assert "asked for no adapter" in without.err
    told = json.loads(vlmscope("info", tmp_path / "run", "--json").out)
    assert told["attrs"]["adapter"] == str(adapter)
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu").code == 0
    shutil.move(adapter, tmp_path / "moved")
    lost = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert lost.code == 2
    assert "--adapter" in lost.err
    found = ("--adapter", tmp_path / "moved")
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu", *found).code == 0


@pytest.mark.exhaustive
def test_a_description_belongs_to_the_run(
    run_of: Command, vlmscope: Command, mixed: Path, llava: Path, tmp_path: Path
) -> None:
    strangers.register()
    odd = strangers.build_odd(llava, tmp_path / "odd")
    family = tmp_path / "odd.toml"
    family.write_text(DESCRIPTION)
    unknown = run_of(mixed, odd, "--text-only")
    assert unknown.code == 2
    assert "describe it with" in unknown.err
    done = run_of(mixed, odd, "--text-only", "--family", family)
    assert done.code == 0
    assert open_run(tmp_path / "run").manifest.model.description == {
        "vision_encoder": "eyes.left",
        "decoder": "mind",
        "layers": "steps",
        "final_norm": "last",
        "image_token": "image_token",
    }
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu").code == 0
    probe = save_random_probe(tmp_path)
    asked = ("score", tmp_path / "wide.png", "What is it?", "--model", odd, "--device", "cpu")
    assert vlmscope(*asked, "--probe", probe, "--json").code == 0
    family.write_text(DESCRIPTION + 'vision_rows = "whole"\n')
    other = run_of(mixed, odd, "--text-only", "--family", family)
    assert other.code == 2
    assert "model.description" in other.err


@pytest.mark.exhaustive
def test_a_probe_is_scored_with_the_adapter_it_was_trained_with(
    run_of: Command, vlmscope: Command, mixed: Path, llava: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(llava, tmp_path / "adapter")
    assert run_of(mixed, llava, "--text-only", "--adapter", adapter).code == 0
    probe = save_random_probe(tmp_path)
    command = ("score", tmp_path / "wide.png", "What is it?", "--model", llava, "--device", "cpu")
    scored = vlmscope(*command, "--probe", probe, "--json")
    assert scored.code == 0, scored.err
    shutil.move(adapter, tmp_path / "moved")
    lost = vlmscope(*command, "--probe", probe)
    assert lost.code == 2
    assert "give its current path as --adapter" in lost.err
    assert vlmscope(*command, "--probe", probe, "--adapter", tmp_path / "moved").code == 0
    other = write_adapter(llava, tmp_path / "other", r=2)
    refused = vlmscope(*command, "--probe", probe, "--adapter", other)
    assert refused.code == 2
    assert "weights" in refused.err


@pytest.mark.exhaustive
def test_the_attention_belongs_to_the_run(
    run_of: Command, vlmscope: Command, mixed: Path, llava: Path, tmp_path: Path
) -> None:
    """``verify`` takes the run's; another one does not continue it."""
    asked = ("--text-only", "--attention", "eager")
    done = run_of(mixed, llava, *asked)
    assert done.code == 0
    assert "attention is eager: slower than sdpa" in " ".join(done.err.split())
    assert open_run(tmp_path / "run").manifest.attention == "eager"
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu").code == 0
    other = ("verify", tmp_path / "run", "--device", "cpu", "--attention")
    assert vlmscope(*other, "sdpa").code == 0
    assert "choose from auto, sdpa, eager" in vlmscope(*other, "fast").err
    refused = run_of(mixed, llava, "--text-only")
    assert refused.code == 2
    assert 'attention is "eager", asked for "sdpa"' in refused.err
    probe = save_random_probe(tmp_path)
    scored = ("score", tmp_path / "wide.png", "What is it?", "--model", llava, "--device", "cpu")
    assert vlmscope(*scored, "--probe", probe, "--attention", "eager", "--json").code == 0
    shown = ("inspect", mixed, "--model", llava, "--device", "cpu", "--attention", "eager")
    assert vlmscope(*shown, "--max-new-tokens", 0).code == 0


@pytest.mark.exhaustive
def test_a_run_whose_parts_attend_in_different_ways(
    run_of: Command, vlmscope: Command, mixed: Path, tmp_path: Path
) -> None:
    capped = {"model_type": "gemma2", "num_hidden_layers": 3, "query_pre_attn_scalar": 14}
    model = build_llava(tmp_path / "capped", **capped)
    assert run_of(mixed, model, "--text-only").code == 0
    assert open_run(tmp_path / "run").manifest.attention == "eager, vision encoder sdpa"
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu").code == 0
    assert run_of(mixed, model, "--text-only").code == 0
