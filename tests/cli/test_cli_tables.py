"""Tables of benchmarks through the commands: read, said before the model loads, and read again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmscope import demo
from vlmscope.dataset import open_table, parse_mapping
from vlmscope.executors import Request, make_plan, plan
from vlmscope.report.prompt_view import token_view
from vlmscope.schema import Sample
from vlmscope.store import open_run, read_failures

Command = Callable[..., Any]

CASES = Path(__file__).parents[1] / "dataset" / "cases"
IMAGES = Path(demo.__file__).parent / "images"


@pytest.mark.exhaustive
def test_several_tables_with_ids_images_and_questions_made_of_columns(
    extract: Command, vlmscope: Command, tmp_path: Path
) -> None:
    """The run remembers how the tables were read, so that other commands read them again."""
    for number in (1, 2):
        text = f"Index,Question,Options\n{number},Is there a cup?,(a) Yes (b) No\n"
        (tmp_path / f"part{number}.csv").write_text(text)
    options = (
        *("--map", "id=Index,Options", "--image-pattern", "demo_{Index:04d}.jpg"),
        *("--question-template", "{Question} {Options}", "--images", IMAGES),
    )
    done = extract(*options, tmp_path / "part2.csv", data=tmp_path / "part1.csv")
    assert done.code == 0, done.err
    said = done.err.index("note: part1.csv and 1 more: no column with the ground truth")
    assert said < done.err.index("layers"), "before the model is loaded"
    run = open_run(tmp_path / "run")
    assert set(run.ids) == {"1_(a) Yes (b) No", "2_(a) Yes (b) No"}
    row = run["2_(a) Yes (b) No"]
    assert row.sample.question == "Is there a cup? (a) Yes (b) No"
    assert row.sample.image_id == "demo_0002.jpg"
    checked = vlmscope("verify", tmp_path / "run", "--sample", 2)
    assert checked.code == 0, checked.err
    again = extract(*options, data=str(tmp_path / "part*.csv"))
    assert "0 to do, 2 already done" in again.err


@pytest.mark.exhaustive
def test_a_mapped_category_is_that_of_the_run(
    extract: Command, vlmscope: Command, table: Path, tmp_path: Path
) -> None:
    """Of rows that are captured later too, and of what labels are broken down by."""
    table.write_text(table.read_text("utf-8").replace("gt_answer,category", "gt_answer,kind", 1))
    assert extract("--map", "category=kind", "--limit", 4).code == 0
    again = extract("--map", "category=kind", "--limit", 6)
    assert again.code == 0
    assert "stored rows keep their categories" not in " ".join(again.err.split())
    found = open_run(tmp_path / "run").to_pandas()
    assert "kind" not in found
    assert sorted(found["category"]) == ["attribute"] * 3 + ["existence"] * 3
    labelled = json.loads(vlmscope("label", tmp_path / "run", "--json").out)
    assert labelled["categories"].keys() == {"attribute", "existence"}
    forgotten = " ".join(extract("--limit", 7).err.split())
    assert "captured with --map category=kind, this command is without --map" in forgotten
    assert extract("--limit", 6, out="plain").code == 0
    assert "category" not in open_run(tmp_path / "plain").to_pandas()


def test_a_wrong_name_is_refused_before_torch_is_imported(
    vlmscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vlmscope.executors", None)  # importing it raises
    table = tmp_path / "t.csv"
    table.write_text("id,image,frage\n1,a.png,Is it red?\n")
    command = ("extract", "--model", "no-model", "--out", tmp_path / "run")
    question = ("--map", "question=frage")
    for arguments, said in (
        ((tmp_path / "gone.csv",), "gone.csv: no such file or folder"),
        ((table,), "for the question: give --map question=COLUMN"),
        ((table, *question, "--images", tmp_path / "none"), "none: no such image folder"),
    ):
        done = vlmscope(*command, *arguments)
        assert done.code == 2
        assert said in done.err


def test_images_stand_where_a_question_names_them(
    extract: Command, vlmscope: Command, tmp_path: Path, vlm: Any
) -> None:
    """MMMU's layout: placeholders in question and options, several columns of images."""
    header = "id,question,options,image_1,image_2,answer"
    cells = "demo_0000.jpg,demo_0001.jpg"
    rows = [
        f"a,Which is like <image 2>?,\"['<image 1>', 'a cup']\",{cells},A",
        f"b,What is it?,\"['a cat', 'a cup']\",{cells},A",
        "c,Is <image 2> it?,\"['yes', 'no']\",demo_0000.jpg,,A",
        "d,Is <image 1> it?,\"['yes', 'no']\",gone.jpg,demo_0001.jpg,A",
    ]
    data = tmp_path / "mmmu.csv"
    data.write_text("\n".join([header, *rows]))
    options = ("--question-template", "{question}\\n{options:A}", "--images", IMAGES)
    done = extract(*options, data=data)
    assert done.code == 3, done.err
    assert "1 question of 4 contains a placeholder such as '<image 2>' and will fail" in done.err
    failures = read_failures(tmp_path / "run")
    assert "names image 2 by a placeholder, and the row has 1 image" in failures["c"].error
    assert "gone.jpg: not found" in failures["d"].error
    run = open_run(tmp_path / "run")
    assert set(run.ids) == {"a", "b"}
    assert run["a"].sample.question == "Which is like <image 2>?\nA. <image 1>\nB. a cup"
    assert run["a"].image_sha256 == run["b"].image_sha256, "the order of the columns"
    assert vlmscope("verify", tmp_path / "run", "--sample", 2).code == 0
    fields = parse_mapping([], question_template=options[1])
    sample = next(row for row in open_table(data, images=IMAGES, fields=fields).rows())
    assert isinstance(sample, Sample)
    view = token_view(vlm.processor, run.manifest.model, run["a"], sample)
    assert [token.text for token in view.tokens].count("<|image|>") == 2
    assert "0 to do" in extract(*options, "--limit", 2, data=data).err


def test_base64_runs_and_is_written_nowhere(extract: Command, tmp_path: Path) -> None:
    data = tmp_path / "bad.tsv"
    image = (CASES / "mmbench_like.tsv").read_text().splitlines()[1].split("\t")[-1]
    rows = [f"1\t?\t{image}", f"2\t?\t{image[:1001]}", "3\t?\t1", f"4\t<image>\\nWhat?\t{image}"]
    data.write_text("\n".join(["index\tquestion\timage", *rows]))
    done = extract("--map", "id=index", data=data)
    assert done.code == 3, done.err
    assert set(open_run(tmp_path / "run").ids) == {"1", "3"}
    failures = read_failures(tmp_path / "run")
    assert set(failures) == {"2", "4"}
    assert "base64 that is cut or damaged" in failures["2"].error
    assert "'<image>', a placeholder of an image" in failures["4"].error
    written = [done.out, done.err, (tmp_path / "run" / "failures.jsonl").read_text()]
    written.append(json.dumps(dict(open_run(tmp_path / "run")["1"].sample.metadata)))
    assert not any(image[100:301] in text for text in written)


def test_what_is_missing_is_said_before_the_model_loads(
    vlmscope: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CASES / "mmvp_ok.csv", tmp_path)
    done = vlmscope(
        *("extract", tmp_path / "mmvp_ok.csv", "--model", tmp_path / "gone"),
        *("--out", tmp_path / "run"),
    )
    assert done.code == 2
    assert "--map id=Index --map image=COLUMN --map target=" in done.err


def test_python_offers_the_same(checkpoint: Path, tmp_path: Path, vlm: Any) -> None:
    files = tuple(map(str, sorted((CASES / "shards" / "data").iterdir())))
    request = Request(files, str(checkpoint), tmp_path / "run", images=str(IMAGES))
    heard: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "load_with", lambda *_, **__: heard.append("model") or vlm)
        made = make_plan(request, note=heard.append)
    assert made.scan.ids == ("s0", "s1", "s2")
    assert made.manifest.data.path == files
    assert heard[-1] == "model"
    assert "3 tables are read as one" in heard[0]
    assert not (tmp_path / "run").exists()
