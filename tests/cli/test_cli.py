"""The command line as a user meets it: what it prints, its exit codes, what it leaves behind."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from rich.table import Table

from vlmscope.cli.inspect import _show_answer, _show_vectors
from vlmscope.cli.output import stdout
from vlmscope.positions import REPRESENTATIONS
from vlmscope.store import open_run
from vlmscope.store.format.checksums import SEAL_SIZE, seal_of

Command = Callable[..., Any]


def test_extract_shows_the_plan_and_the_result(extract: Command, tmp_path: Path) -> None:
    done = extract()
    assert done.code == 0, done.err
    assert "10 to do, 0 already done" in done.err
    assert "0, 2, 4, 6, 7" in done.err
    assert "10 rows captured" in done.err
    assert done.err.endswith(f"next: vlmscope label {tmp_path / 'run'}\n")
    assert "next:" not in extract("--shard", "0/2", out="rank").err, "other ranks may be at work"
    assert "next:" not in extract("--max-new-tokens", 0, out="prefill").err, "no answers"
    nothing = tmp_path / "nothing.csv"
    nothing.write_text("question_id,image_name,question,gt_answer\n1,missing.png,What is it?,No\n")
    assert "next:" not in extract(data=nothing, out="nothing").err, "nothing was captured"
    assert len(open_run(tmp_path / "run")) == 10
    again = extract("--json")
    assert again.code == 0
    assert "0 to do, 10 already done" in again.err
    assert json.loads(again.out)["already_done"] == 10


def forge(shard: Path) -> None:
    """Change numbers of a row and mend the checksums, so that only recomputing finds it."""
    import hashlib

    with h5py.File(shard, "r+") as file:
        for name, value in (("num_prompt_tokens", 3), ("first_token_entropy", 0.5)):
            column = file["_columns"][name]
            column[2] = value
            column.attrs["sha256"] = hashlib.sha256(column[:].tobytes()).hexdigest()
    image = shard.read_bytes()[SEAL_SIZE:]
    shard.write_bytes(seal_of(image) + image)


@pytest.mark.exhaustive
def test_verify_passes_and_then_finds_a_changed_number(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    extract()
    done = vlmscope("verify", tmp_path / "run", "--sample", 4, "--device", "cpu")
    assert done.code == 0, done.err
    assert "same answers: 4" in done.out
    checks = json.loads(vlmscope("verify", tmp_path / "run", "--device", "cpu", "--json").out)
    assert len(checks) == 8
    assert max(max(check["errors"].values()) for check in checks) < 1e-5
    strict = vlmscope("verify", tmp_path / "run", "--device", "cpu", "--tolerance", 1e-12,
                      "--sample", 1)  # fmt: skip
    assert strict.code == 1
    assert "tolerance 1e-12" in strict.err
    unknown = vlmscope("verify", tmp_path / "run", "--device", "cpu", "--tolerance", "nan")
    assert unknown.code == 2, "nothing was compared"
    assert "--tolerance nan: give a number of 0 or more" in unknown.err
    [shard] = (tmp_path / "run" / "shards").glob("*.h5")
    tampered = shutil.copytree(tmp_path / "run", tmp_path / "tampered")
    forge(tampered / "shards" / shard.name)
    forged = vlmscope("verify", tampered, "--sample", 10, "--device", "cpu")
    assert forged.code == 1
    assert "the num_prompt_tokens differs" in forged.err
    assert "first_token_entropy differs" in forged.err
    with h5py.File(shard, "r+") as file:
        file["_columns/query_token_representation/layer_4"][3, 5] += 1
    damaged = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert damaged.code == 1
    assert "query_token_representation/layer_4" in damaged.err


def test_verify_tells_each_tolerance_and_counts_one_row(
    extract: Command, vlmscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    styles: dict[str, object] = {}
    add_row = Table.add_row

    def noting(self: Table, *cells: object, style: object = None, **others: Any) -> None:
        styles[str(cells[0])] = style
        add_row(self, *cells, style=style, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "add_row", noting)
    options = ("--signals", "image_tokens", "--layers", "2", "--limit", 1)
    assert extract(*options, "--max-new-tokens", 0).code == 0
    done = vlmscope("verify", tmp_path / "run", "--sample", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert "checksums of 1 row are correct" in done.err
    said = " ".join(done.out.split())
    assert "1 row, tolerance 3e-05 (1e-03 for arrays of several tokens), float32" in said
    assert styles["signals/image_tokens/layer_2"] == ""
    assert "red" not in styles.values()
    strict = vlmscope("verify", tmp_path / "run", "--device", "cpu", "--tolerance", 1e-12)
    assert strict.code == 1
    assert styles["signals/image_tokens/layer_2"] == ""
    assert {name for name, style in styles.items() if style == "red"} >= {
        "query_token_representation/layer_2",
        "vision_token_representation/layer_2",
    }
    assert vlmscope("info", tmp_path / "run").out.startswith(f"{tmp_path / 'run'}: 1 row, 0 with")


@pytest.mark.exhaustive
def test_verify_of_a_half_precision_run_reads_the_stored_answers_tokens(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    positions = (
        "--positions",
        "last_prompt_token,first_answer_token,last_answer_token,answer_mean",
    )
    assert extract("--dtype", "bfloat16", "--max-new-tokens", 20, *positions).code == 0
    done = vlmscope("verify", tmp_path / "run", "--sample", 4, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 4


@pytest.mark.exhaustive
def test_verify_refuses_another_model_and_another_table(
    extract: Command, vlmscope: Command, tmp_path: Path, table: Path
) -> None:
    extract()
    other = tmp_path / "other"
    from tools.standin import build_standin

    build_standin(other, seed=1)
    wrong_model = vlmscope("verify", tmp_path / "run", "--model", other, "--device", "cpu")
    assert wrong_model.code == 2
    assert "weights_hash differs: other bytes in 'model.safetensors'; give" in wrong_model.err
    table.write_text(table.read_text("utf-8").replace("What is it?", "What was it?"), "utf-8")
    wrong_table = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert wrong_table.code == 2
    assert "--data" in wrong_table.err


def test_inspect_draws_the_images_of_the_seed(
    vlmscope: Command, table: Path, checkpoint: Path
) -> None:
    arguments = ("inspect", table, "--model", checkpoint, "--device", "cpu")
    arguments = (*arguments, "--signals", "attention")
    seen = vlmscope(*arguments, "--id", "question_comb_2", "--max-new-tokens", 5)
    assert seen.code == 0, seen.err
    assert re.search(r"^cross_attention_answer +\[3, 3, 4, 4\]", seen.out, re.M)
    for text in (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>",
        "vision_token_boundary",
        "query_token_boundary",
        "2 × 2 tiles of [56, 56] pixels",
        "[1, 1, 4, 3, 56, 56]",
        "[1, 1, 4, 17, 96]",
        "vision_only_representation [96]",
        "answer: 5 tokens, finish reason length",
    ):
        assert text in seen.out, text
    assert re.findall(r"^layer_\d+: after the final norm", seen.out, re.M) == [
        "layer_7: after the final norm"
    ]
    assert "-0.00" not in seen.out
    record = json.loads(vlmscope(*arguments, "--max-new-tokens", 0, "--json").out)
    assert record["id"] == "question_comb_0"
    assert record["boundaries"] == {"last_image_token": 5, "last_prompt_token": 19}
    assert record["tokens"][5]["text"] == "<|image|>"
    assert record["answer"] is None
    assert "layer_7" in record["outputs"]
    assert record["signals"]["attention_prompt"] == [5, 4, 4]
    assert record["outputs"]["projector"] == [1, 1, 4, 17, 64]
    assert record["lens"] == []
    missing = vlmscope(*arguments, "--id", "question_comb_99")
    assert missing.code == 2
    assert "question_comb_99" in missing.err


def test_inspect_shows_the_logit_lens_and_numbers(
    vlmscope: Command, table: Path, checkpoint: Path
) -> None:
    arguments = ("inspect", table, "--model", checkpoint, "--device", "cpu", "--layers", "0,7")
    arguments = (*arguments, "--signals", "lens,p_true", "--max-new-tokens", 2)
    record = json.loads(vlmscope(*arguments, "--json").out)
    places = [(line["position"], line["layer"]) for line in record["lens"]]
    assert places == [
        (position, layer)
        for position in ("last_image_token", "last_prompt_token")
        for layer in (0, 7)
    ]
    [(text, prob), *more] = record["lens"][3]["tokens"]
    assert len(more) == 4
    seen = vlmscope(*arguments)
    assert seen.code == 0, seen.err
    assert re.search(
        rf"^p_true +{record['numbers']['p_true']:.3f}".replace("-", "."), seen.out, re.M
    )
    assert record["signals"]["p_true"] == []
    [_, shown] = seen.out.split("Logit lens at last_prompt_token")
    assert re.search(rf"^ +7 +{re.escape(repr(text))} {prob:.2f}", shown, re.M)


def test_inspect_draws_the_attention_over_the_image(
    vlmscope: Command, table: Path, checkpoint: Path
) -> None:
    arguments = ("inspect", table, "--model", checkpoint, "--device", "cpu")
    arguments = (*arguments, "--signals", "attention_map", "--max-new-tokens", 3)
    record = json.loads(vlmscope(*arguments, "--json").out)
    lines = record["attention_maps"]
    layers = sorted({line["layer"] for line in lines})
    assert len(layers) == 3
    assert len(lines) == 2 * len(layers), "of the prompt and of the answer"
    seen = vlmscope(*arguments)
    assert seen.code == 0, seen.err
    pattern = r"^Attention to image 1, (.+), layer (\d+): ([0-9.]+), largest cell ([0-9.]+)"
    headings = re.findall(pattern, seen.out, re.M)
    ends = [str(layers[0]), str(layers[-1])]
    assert [(of, layer) for of, layer, *_ in headings] == [
        (of, layer) for layer in ends for of in ("last prompt token", "answer")
    ]
    first = lines[0]
    assert headings[0][2:] == (f"{first['share']:.3f}", f"{first['largest']:.4f}")
    [drawn] = re.findall(r"^Attention .+, answer, .+\n((?:  \|.*\|\n)+)Attention", seen.out, re.M)
    rows = drawn.splitlines()
    assert len(rows) == first["rows"]
    assert {len(row) for row in rows} == {2 * first["columns"] + 4}
    assert "██" in drawn
    none = vlmscope(*arguments, "--max-new-tokens", 0, "--json")
    assert {line["of"] for line in json.loads(none.out)["attention_maps"]} == {"prompt"}


def test_inspect_names_questions_that_are_there(
    vlmscope: Command, table: Path, checkpoint: Path
) -> None:
    ids = [row["question_id"] for row in csv.DictReader(table.read_text("utf-8").splitlines())]
    for asked, said in (
        (f"{ids[1]}_", f"did you mean '{ids[1]}'"),
        ("zz", f"there are '{ids[0]}', '{ids[1]}', '{ids[2]}' …"),
    ):
        done = vlmscope("inspect", table, "--model", checkpoint, "--id", asked)
        assert done.code == 2
        assert f"--id '{asked}': {table.name} contains no such question; {said}" in done.err


def test_export_names_the_option_that_overwrites(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    extract("--limit", 1)
    (tmp_path / "run.h5").touch()
    done = vlmscope("export", tmp_path / "run", tmp_path / "run.h5")
    assert done.code == 2
    assert "already there; give another name, or pass --overwrite" in done.err


def test_inspect_of_one_row_does_not_stumble_over_another(
    vlmscope: Command, tmp_path: Path, table: Path, checkpoint: Path
) -> None:
    arguments = ("inspect", bad_rows(tmp_path), "--model", checkpoint, "--device", "cpu")
    assert vlmscope(*arguments, "--id", "../we ird/é.", "--max-new-tokens", 0).code == 0
    for id_, message in (("silent", "bad.csv line 7"), ("missing", "nowhere.png")):
        refused = vlmscope(*arguments, "--id", id_)
        assert refused.code == 2
        assert message in refused.err


def test_a_missing_image_of_inspect_costs_no_loading(
    vlmscope: Command, tmp_path: Path, table: Path
) -> None:
    arguments = ("inspect", bad_rows(tmp_path), "--model", "no-model")
    assert "no-model" in vlmscope(*arguments, "--id", "../we ird/é.").err
    refused = vlmscope(*arguments, "--id", "missing")
    assert refused.code == 2
    assert "nowhere.png: not found" in refused.err
    assert "no-model" not in refused.err


def test_inspect_cuts_nothing_off_on_a_narrow_terminal(
    vlmscope: Command, table: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    seen = vlmscope(
        *("inspect", table, "--model", checkpoint, "--device", "cpu"),
        *("--id", "question_comb_2", "--max-new-tokens", 0),
    )
    assert "…" not in seen.out
    text = re.sub(r"[\s│]+", "", seen.out)
    assert "orarocket,oracup?<|eot_id|><|start_header_id|>assistant<|end_header_id|>" in text


@pytest.mark.parametrize("positions", [2, 8])
def test_the_headings_of_inspect_are_not_split_inside_a_word(
    positions: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(stdout, "_width", None)
    groups = dict(list(REPRESENTATIONS.items())[:positions])
    names = [f"{group}/layer_{layer}" for group in groups.values() for layer in (0, 31)]
    seen = SimpleNamespace(
        capture=SimpleNamespace(vectors={name: np.ones(4096) for name in names}),
        norms=dict.fromkeys(names, 123.456),
    )
    _show_vectors(seen, 31)
    lines = capsys.readouterr().out.splitlines()
    table = lines[1 : next(i for i, line in enumerate(lines) if line.startswith("layer_0"))]
    words = {word for name in groups for word in name.split("_")} | {"layer"}
    assert {word for line in table for word in re.findall("[a-z]+", line)} == words
    assert max(map(len, lines)) <= 80
    assert "last_image_token: stored as vision_token_representation" in lines
    assert "last_prompt_token: stored as query_token_representation" in lines
    assert not any(line.startswith("first_image_token") for line in lines[-2:]), "its own name"


def test_a_run_that_somebody_is_writing_is_refused_before_the_model_is_loaded(
    extract: Command, tmp_path: Path
) -> None:
    from filelock import FileLock

    assert extract("--limit", 1).code == 0
    with FileLock(tmp_path / "run" / ".lock-000"):
        busy = extract("--model", "nowhere")
    assert busy.code == 2
    assert "another vlmscope is writing" in busy.err


def test_a_run_that_lost_its_manifest_is_not_written_into(extract: Command, tmp_path: Path) -> None:
    assert extract("--limit", 1).code == 0
    (tmp_path / "run" / "run.json").unlink()
    lost = extract()
    assert lost.code == 2
    assert "restore run.json" in lost.err


@pytest.mark.exhaustive
def test_verify_after_a_move_says_what_to_give(
    extract: Command, vlmscope: Command, tmp_path: Path, table: Path, checkpoint: Path
) -> None:
    model = shutil.copytree(checkpoint, tmp_path / "model")
    assert extract("--model", model, "--limit", 2).code == 0
    shutil.move(model, tmp_path / "moved")
    lost = vlmscope("verify", tmp_path / "run", "--device", "cpu")
    assert lost.code == 2
    assert "give --model" in lost.err
    moved = ("--model", tmp_path / "moved")
    assert vlmscope("verify", tmp_path / "run", "--device", "cpu", *moved).code == 0
    shutil.move(table, tmp_path / "elsewhere.csv")
    lost = vlmscope("verify", tmp_path / "run", "--device", "cpu", *moved)
    assert lost.code == 2
    assert "give --data" in lost.err


def test_export_refuses_to_hand_on_damage(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    assert extract("--limit", 2).code == 0
    [shard] = (tmp_path / "run" / "shards").glob("*.h5")
    with h5py.File(shard, "r+") as file:
        file["_columns/query_token_representation/layer_4"][1, 5] += 1
    refused = vlmscope("export", tmp_path / "run", tmp_path / "out.npz")
    assert refused.code == 1
    assert "query_token_representation/layer_4" in refused.err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.exhaustive
def test_brackets_in_names_and_data_are_shown_as_they_are(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    assert extract(out="run[b]").code == 0
    assert "run[b]" in vlmscope("info", tmp_path / "run[b]").out
    exported = vlmscope("export", tmp_path / "run[b]", tmp_path / "[b]out.h5")
    assert "[b]out.h5" in exported.out


def test_info_and_export(
    extract: Command, vlmscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_tall_0.png").unlink()
    assert extract().code == 3
    with monkeypatch.context() as without:  # it would take most of the time of the command
        without.setitem(sys.modules, "vlmscope.sweeps", None)
        told = vlmscope("info", tmp_path / "run")
    assert told.code == 0
    assert "9 rows" in told.out
    assert "failures: 1 row (image 1)" in told.out
    assert "question_comb_3" in told.out
    assert "0, 2, 4, 6, 7 of 8" in told.out
    assert f"labels: none yet; next: vlmscope label {tmp_path / 'run'}\n" in told.out
    record = json.loads(vlmscope("info", tmp_path / "run", "--json").out)
    assert record["rows"] == 9
    assert record["failures"][0]["id"] == "question_comb_3"
    for suffix in ("h5", "parquet", "npz"):
        exported = vlmscope("export", tmp_path / "run", tmp_path / f"out.{suffix}")
        assert exported.code == 0, exported.err
        assert "9 rows" in exported.out
    assert vlmscope("export", tmp_path / "run", tmp_path / "out.h5").code == 2
    assert vlmscope("export", tmp_path / "run", tmp_path / "out.xyz").code == 2
    assert "9 rows" in vlmscope("info", tmp_path / "out.h5").out
    with h5py.File(tmp_path / "out.h5") as file:
        vector = file["question_comb_4/query_token_representation/layer_6"][:]
    stored = open_run(tmp_path / "run")["question_comb_4"]
    np.testing.assert_array_equal(vector, stored.vectors["query_token_representation/layer_6"])


@pytest.mark.exhaustive
def test_the_seeds_tree_read_with_plain_h5py(extract: Command, tmp_path: Path) -> None:
    extract()
    with h5py.File(tmp_path / "run" / "index.h5") as file:
        assert file.attrs["model_type"] == "mllama"
        assert file.attrs["num_samples"] == 10
        row = file["question_comb_0"]
        assert row["question"].asstr()[()] == "Is the forest lit by a full moon?"
        assert row["image_id"].asstr()[()] == "one_0.png"
        assert row["ground_truth_answer"].asstr()[()] == "Yes"
        assert isinstance(row["answer"].asstr()[()], str)
        assert row["vision_only_representation"].shape == (96,)
        assert row["vision_only_representation"].dtype == np.float32
        for group in ("vision_token_representation", "query_token_representation"):
            assert list(row[group]) == ["layer_0", "layer_2", "layer_4", "layer_6", "layer_7"]
        assert row.attrs["vision_token_boundary"] == 5
        assert row.attrs["query_token_boundary"] == 19


def bad_rows(tmp_path: Path) -> Path:
    """Write a table in which every row but the first and the last is bad in its own way."""
    (tmp_path / "text.png").write_text("this is no image")
    whole = (tmp_path / "four_0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    path = tmp_path / "bad.csv"
    path.write_bytes(
        "\ufeffquestion_id,image_name,question,gt_answer\r\n"
        "fine,one_0.png,What is it?,nan\r\n"
        "missing,nowhere.png,What is it?,Yes\r\n"
        "text,text.png,What is it?,Yes\r\n"
        "cut,cut.png,What is it?,Yes\r\n"
        "empty,empty.png,What is it?,Yes\r\n"
        "silent,one_0.png,  ,Yes\r\n"
        "placeholder,one_0.png,What is <|image|>?,Yes\r\n"
        "../we ird/é.,one_0.png,What is it?,7\r\n".encode()
    )
    return path


def test_bad_rows_are_recorded_and_the_rest_goes_on(
    extract: Command, vlmscope: Command, tmp_path: Path, table: Path
) -> None:
    done = extract(data=bad_rows(tmp_path))
    assert done.code == 3
    assert "6 rows failed" in done.err
    assert "next: vlmscope label" in done.err
    run = open_run(tmp_path / "run")
    assert run.ids == ("fine", "../we ird/é.")
    assert run["fine"].sample.target == ""
    assert run["../we ird/é."].sample.target == "7"
    stages = {id_: failure.stage for id_, failure in run.failures.items()}
    assert stages == {
        "missing": "image", "text": "image", "cut": "image", "empty": "image",
        "silent": "input", "placeholder": "prompt",
    }  # fmt: skip
    lines = ("missing", "text", "cut", "empty", "silent", "placeholder")
    for number, id_ in enumerate(lines, start=3):
        assert f"bad.csv line {number}" in run.failures[id_].error
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question_id,image_name,question\n", "0 rows"),
        ("question_id,image_name,question\na,x.png,Q\na,x.png,Q\n", "'a'"),
        ("id,picture,question\na,x.png,Q\n", "--map image="),
        ("question_id,image_name,question\na,x.png,Q,1,2\n", "line 2"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(
    extract: Command, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(content)
    done = extract(data=path)
    assert done.code == 2
    assert message in done.err
    assert "broken.csv" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch-size", "many"], "--batch-size"),
        (["--layers", "n"], "layers 0 to 7"),
        (["--positions", "nose"], "last_image_token"),
        (["--vision-pooling", "some"], "all, valid"),
        (["--map", "colour=red"], "colour"),
        (["--device", "cuda:9"], "cuda"),
        (["--dtype", "int4"], "bfloat16"),
        (["--store-dtype", "int4"], "float16"),
        (["--images", "nowhere"], "nowhere"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(
    extract: Command, tmp_path: Path, extra: list[str], message: str
) -> None:
    done = extract(*extra)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_other_settings_in_the_same_folder_are_refused(extract: Command) -> None:
    assert extract("--limit", 2).code == 0
    other = extract("--layers", "all")
    assert other.code == 2
    assert "capture.layers" in other.err


def test_strict_stops_with_the_code_of_failed_rows(extract: Command, tmp_path: Path) -> None:
    (tmp_path / "two_wide_0.png").unlink()
    done = extract("--strict")
    assert done.code == 3
    assert "1 row failed" in done.err


def test_no_arguments_show_the_help(vlmscope: Command) -> None:
    shown = vlmscope("--help")
    assert shown.code == 0
    for command in ("extract", "inspect", "info", "verify", "export", "demo"):
        assert command in shown.out
    assert vlmscope("--version").out.startswith("vlmscope 0.")


@pytest.mark.exhaustive
def test_the_demo_runs_on_what_ships_with_vlmscope(vlmscope: Command, tmp_path: Path) -> None:
    folder = tmp_path / "my demo"
    done = vlmscope("demo", "--out", folder, "--limit", 24)
    assert done.code == 0, done.err
    table = open_run(folder).to_pandas()
    assert len(table) == 24
    assert set(table["finish_reason"]) == {"stop"}
    yes_no = table[table["answer_type"] == "yes/no"]
    assert set(yes_no["answer"].str.extract(r"^(\w+)")[0]) == {"Yes", "No"}
    assert table["image_id"][0] in done.out
    _, *suggested = done.out.split("Next:")[1].splitlines()
    commands = [shlex.split(line) for line in suggested]
    assert [program for program, *_ in commands] == ["vlmscope"] * 4
    for _, *command in commands:
        assert vlmscope(*command).code == 0, command
    assert "Before the answer is written, a linear probe" in " ".join(done.out.split())
    assert "hallucinated" in done.out
    assert "What colour is the tree?" in done.out
    assert (folder / "report.html").stat().st_size < 15_000_000


@pytest.mark.exhaustive
def test_the_demo_names_the_program_as_it_was_called(python: str, tmp_path: Path) -> None:
    command = [python, "-m", "vlmscope", "demo", "--out", tmp_path / "demo", "--limit", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    info = done.stdout.split("Next:")[1].splitlines()[1].strip()
    shown = subprocess.run(shlex.split(info), capture_output=True, text=True, check=True)
    assert "4 rows" in shown.stdout
    assert "not probed: " in done.stderr, "of four rows nothing can be learnt, and that is said"
    assert (tmp_path / "demo" / "report.html").exists()


def test_a_certain_first_token_has_no_negative_zero(capsys: pytest.CaptureFixture[str]) -> None:
    capture = SimpleNamespace(
        first_token_ids=[1, 2], first_token_logprobs=[-0.0004, -7.891], first_token_entropy=-0.0,
        answer=None, samples=(),
    )  # fmt: skip
    vlm = SimpleNamespace(processor=SimpleNamespace(tokenizer=SimpleNamespace(decode=str)))
    _show_answer(SimpleNamespace(capture=capture), vlm)
    out = capsys.readouterr().out
    assert "'[1]' 0.00, '[2]' -7.89" in out
    assert "0.000 nats" in out
    assert "-0.0" not in out


def test_layers_before_the_final_norm_are_not_said_to_be_after_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"query_token_representation/layer_{layer}" for layer in (0, 7)]
    seen = SimpleNamespace(
        capture=SimpleNamespace(vectors={name: np.ones(4) for name in names}),
        norms=dict.fromkeys(names, 2.0),
    )
    _show_vectors(seen, None)
    assert "final norm" not in capsys.readouterr().out
    _show_vectors(seen, 7)
    assert capsys.readouterr().out.count("layer_7: after the final norm") == 1
