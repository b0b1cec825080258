"""Docs cannot rot: commands and code are run, help is generated, links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import quote_demo
from material import QUESTIONS, make_image
from vlmscope.model import VisionLanguageModel
from vlmscope.model.families import read_description
from vlmscope.model.vision_rows import RULES
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY
from vlmscope.schema import Score
from vlmscope.shown import rounded_difference
from vlmscope.store import Run, write_labels

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


@pytest.fixture
def example_folder(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the README's examples name."""
    (tmp_path / "images").mkdir()
    make_image("four").save(tmp_path / "images" / "haloquest_1236.png")
    shutil.copytree(checkpoint, tmp_path / "models" / "Llama-3.2-11B-Vision-Instruct")
    with (tmp_path / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "image_id", "question", "ground_truth_answer", "category"])
        for i, question in enumerate(QUESTIONS):
            row = [f"question_comb_{1732 + i}", "haloquest_1236.png", question, "No", "visual"]
            writer.writerow(row)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.exhaustive
def test_the_readme_works(example_folder: Path, python: str) -> None:
    [commands] = blocks(ROOT / "README.md", "bash")
    script = f'set -euo pipefail\nvlmscope() {{ "{python}" -m vlmscope "$@"; }}\n{commands}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vision_token_boundary" in done.stdout
    assert (example_folder / "first.h5").exists()
    [code] = blocks(ROOT / "README.md", "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), names := {})  # noqa: S102 - the test's purpose
    assert names["X"].shape == (len(QUESTIONS), 64)
    assert list(names["table"]["category"]) == ["visual"] * len(QUESTIONS)
    assert printed.getvalue().startswith("question_comb_1732 ")


@pytest.mark.exhaustive
def test_the_page_on_python_works(example_folder: Path, vlm: VisionLanguageModel) -> None:
    """With a stand-in of few layers, and truths that some of its answers contradict."""
    with (example_folder / "questions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [f"haloquest_{i}.png" for i in range(24)]
    for i, name in enumerate(names):
        make_image("four", i).save(example_folder / "images" / name)
    many = [
        {**rows[i % len(rows)], "question_id": f"question_comb_{1732 + i}", "image_id": name}
        for i, name in enumerate(names)
    ]
    with (example_folder / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(many[0]))
        writer.writeheader()
        writer.writerows(many)
    found: dict[str, Any] = {}
    printed = io.StringIO()
    page = ROOT / "docs" / "python.md"
    for code in blocks(page, "python"):
        code = code.replace("0, 20, 39", "0, 4, 7").replace("layer=20", "layer=4")
        code = code.replace("layers=20", "layers=4").replace(
            "max_new_tokens=64", "max_new_tokens=4"
        )
        code = code.replace("vlmscope.label(run)", "vlmscope.label(run), relabel(run)")
        found |= {"relabel": call_half_hallucinated}
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), found)  # noqa: S102 - the test's purpose
    assert len(found["run"]) == 24
    assert "AUROC" in printed.getvalue()
    for library in ("sklearn", "torch"):
        [code] = [code for code in blocks(page, "python") if f"{library}." in code]
        assert len(list(filter(None, code.splitlines()))) < 10, "a classifier in under ten lines"


def call_half_hallucinated(run: Run) -> None:
    """Label as if every second answer were hallucinated: those of random weights are not."""
    scores = [Score(id_, i % 2 == 0, "column", "") for i, id_ in enumerate(run.ids)]
    write_labels(run.path, scores, {})


def test_the_page_on_describing_a_model_works(tmp_path: Path) -> None:
    """Its TOML is a description with every value what the text says, its Python runs."""
    [code] = blocks(ROOT / "docs" / "adding-a-model.md", "python")
    exec(compile(code, "adding-a-model.md", "exec"), {})  # noqa: S102 - the test's purpose
    [toml] = blocks(ROOT / "docs" / "adding-a-model.md", "toml")
    file = tmp_path / "acme.toml"
    file.write_text(toml, encoding="utf-8")
    assert read_description(file)["layers"] == "steps"


def test_the_page_on_describing_a_model_names_every_rule() -> None:
    page = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
    assert all(f'`"{rule}"`' in page for rule in RULES)


def test_the_page_on_the_demo_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    for code in blocks(ROOT / "docs" / "demo.md", "python"):
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "demo.md", "exec"), {})  # noqa: S102 - the test's purpose
    assert printed.getvalue().startswith("demo_0001,more_0000.jpg,")
    assert printed.getvalue().count(" | ") == 6


@pytest.mark.exhaustive
def test_the_page_on_probing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    """Its commands and code, on fewer questions."""
    bundled = ROOT / "src" / "vlmscope" / "demo"
    (tmp_path / "MODEL").symlink_to(bundled / "model")
    (tmp_path / "images").symlink_to(bundled / "images")
    rows = (bundled / "questions.csv").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "questions.csv").write_text("".join(rows[:9]), "utf-8")
    monkeypatch.chdir(tmp_path)
    fewer = '$([ "$1" != demo ] || echo --limit 60)'
    vlmscope = f'vlmscope() {{ "{python}" -m vlmscope "$@" {fewer}; }}'
    commands = "".join(blocks(ROOT / "docs" / "probing.md", "bash"))
    script = f"set -euo pipefail\n{vlmscope}\n{commands}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "demo" / "report.html").exists()
    assert (tmp_path / "risks.parquet").exists()
    printed = io.StringIO()
    for code in blocks(ROOT / "docs" / "probing.md", "python"):
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "probing.md", "exec"), {})  # noqa: S102 - the test's purpose
    assert printed.getvalue().count("Risk(id=") == 8


def test_the_code_of_the_model_card_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [code] = blocks(ROOT / "src" / "vlmscope" / "demo" / "model" / "README.md", "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "model card", "exec"), {})  # noqa: S102 - the test's purpose
    assert re.fullmatch(r"There (is one cup|are \w+ cups)\.\n", printed.getvalue())


def test_the_command_reference_is_the_commands_own_help() -> None:
    command = [sys.executable, "-m", "typer", "vlmscope.cli", "utils", "docs", "--name", "vlmscope"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written.strip() == done.stdout.strip(), "run 'make docs'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_in_shown_commands_exist(page: Path) -> None:
    """Of the commands that the tests above do not run, because they need a model or an hour."""
    reference = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ (vlmscope [a-z].*(?:\n {4}.*)*)", block, re.M):
            command = re.split(r"\s#", line.replace("\\\n", " "))[0].split()
            own = reference.split(f"## `vlmscope {command[1]}`")[1].split("\n## ")[0]
            for option in (word for word in command if word.startswith("--")):
                assert f"`{option}" in own or f", {option}" in own, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_glossary_holds_words_that_are_used() -> None:
    """In alphabetical order; a word that pages and code do not use any more is removed."""
    glossary = ROOT / "docs" / "glossary.md"
    entries = re.findall(r"^\*\*(.+?)\*\* ", glossary.read_text("utf-8"), re.M)
    assert entries == sorted(entries, key=str.lower)
    files = [*(ROOT / "src").rglob("*.py"), *(page for page in PAGES if page != glossary)]
    used = " ".join(re.sub(r"[-\s]+", " ", file.read_text("utf-8").lower()) for file in files)
    words = [word for entry in entries for word in entry.lower().replace("-", " ").split(", ")]
    assert len(words) > 30
    assert [word for word in words if not re.search(rf"\b{re.escape(word)}s?\b", used)] == []


def test_pages_connect_the_names_of_a_position_and_its_vectors() -> None:
    """Of the two positions whose group is not named after them, and that of the vision encoder."""
    named = {p: g for p, g in REPRESENTATIONS.items() if g != f"{p}_representation"}
    assert len(named) == 2
    for page in ("README.md", "docs/glossary.md"):
        rows = re.findall(r"^\|(.*)\|$", (ROOT / page).read_text("utf-8"), re.M)
        assert any(f"`{VISION_ONLY}` | vision only" in row for row in rows), page
        for position, group in named.items():
            text = group.removesuffix("_representation").replace("_", " ")
            assert any(f"`{position}` | `{group}` | {text}" in row for row in rows), page


@pytest.mark.parametrize("page", ["README.md", "docs/format.md"])
def test_the_tree_shows_where_other_columns_are(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    [tree] = [block for block in text.split("```")[1::2] if "├─" in block]
    assert re.search(r"└─ _columns/.*\n   └─ metadata ", tree)
    assert "`category`" in text.split(tree)[1][:400]


def extras() -> dict[str, list[Requirement]]:
    """The extras of pyproject.toml, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = project["optional-dependencies"]
    return {name: list(map(Requirement, packages)) for name, packages in found.items()}


def test_the_table_of_extras_is_that_of_the_package() -> None:
    """Every extra with its packages; those of the tests are too many for a table."""
    page = (ROOT / "docs" / "installing.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9]+)` \| (.+?) \| (.+?) \|$", page, re.M)
    shown = {name: packages for name, packages, _ in rows}
    assert len(rows) == len(shown)
    known = extras()
    assert shown.keys() == known.keys()
    for name in known.keys() - {"dev"}:
        assert re.findall(r"`([^`]+)`", shown[name]) == [each.name for each in known[name]]
        linux = any("linux" in str(each.marker) for each in known[name])
        assert ("Linux only" in shown[name]) == linux
    reference = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for option in re.findall(r"`(--[a-z-]+)", page):
        assert f"`{option}" in reference or f", {option}" in reference, option


def test_every_extra_that_is_named_exists() -> None:
    """In messages and pages: ``pip install 'vlmscope[s3]'``, ``pip install '.[s3,ray]'``."""
    files = [*PAGES, *(ROOT / "src").rglob("*.py")]
    install = r"pip install \S*?(?:vlmscope|\.)\[([a-z0-9,]+)\]"
    named = {
        name
        for file in files
        for names in re.findall(install, file.read_text("utf-8"))
        for name in names.split(",")
    }
    assert {"s3", "ray", "judge", "flash"} <= named
    assert named <= extras().keys()


def test_every_option_named_in_a_message_exists() -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "cli.md").read_text("utf-8")))
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if re.search("--[a-z]", text) else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", node.value))
                assert named <= known, f"{path.name} line {node.lineno}: {named - known}"


def test_what_is_quoted_of_the_demo_is_what_was_found() -> None:
    """Renew it with scripts/quote_demo.py, after a change of the demo's model or questions."""
    found = json.loads(quote_demo.FINDINGS.read_text("utf-8"))
    assert found["made_of"] == quote_demo.hashes(), "run scripts/quote_demo.py"
    readme = " ".join((ROOT / "README.md").read_text("utf-8").replace("\n> ", " ").split())
    sentences = found["verdict"]
    for sentence in (*sentences[:4], sentences[8]):  # three in short, and what the probe adds
        assert sentence in readme, sentence
    page = " ".join((ROOT / "docs" / "probing.md").read_text("utf-8").split())
    for name in (
        "selected",
        "combined",
        "first_token_in_category",
        "category",
        "question_words",
        "joint",
        "joint_and_probe",
    ):
        row = found["results"][name]
        quoted = f"| {row['auroc']:.3f} | {row['auroc_low']:.3f} to {row['auroc_high']:.3f} |"
        assert quoted in page, name
    for name in ("selected", "joint_and_probe"):
        row = found["results"][name]
        shown = rounded_difference(row["auroc"], found["results"]["joint"]["auroc"])
        gain = [f"{each:+.3f}" for each in (shown, row["above_joint_low"], row["above_joint_high"])]
        assert "{} ({} to {})".format(*gain) in page, name
    for number in re.findall(r" [\d.]+ \([\d.]+ to [\d.]+\)", " ".join(sentences[6:8])):
        assert number in page, number


def test_the_speeds_of_the_readme_are_those_that_were_measured() -> None:
    """Each rate with its ratio, the newest of docs/performance.md."""
    measured: dict[str, dict[str, str]] = {}
    name = ""
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    table = text.partition("**Complete runs of 2,000 rows**")[2].partition("These are not all")[0]
    for line in table.splitlines():
        cells = [cell.strip().strip("*").strip() for cell in line.strip("|").split("|")]
        if len(cells) == 10 and re.match(r"(answers|no answers)", cells[1]):
            name = cells[0].partition(",")[0] or name
            mode = re.sub(r", [\d,]+ rows$", "", cells[1])
            rate, times = cells[5].strip("*"), cells[6].strip("*")
            measured.setdefault(name, {})[mode] = f"{rate} ({times}×)" if times else rate
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.partition("| rows per second |")[2].partition("\n\n")[0].splitlines()
    modes = [cell.strip() for cell in shown[0].strip("|").split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown[2:]]
    assert [row[0] for row in rows] == list(measured)
    for row in rows:
        for mode, cell in zip(modes, row[1:], strict=True):
            assert cell == measured[row[0]][mode], (row[0], mode)
