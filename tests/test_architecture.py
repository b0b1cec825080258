"""The layers of the code, and its size: what docs/architecture.md and CONTRIBUTING.md promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "vlmscope"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tools").rglob("*.py")])


def test_a_module_imports_only_from_lower_ranks() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_package_ships_the_demo_as_data_without_what_made_it() -> None:
    """A wheel has every file below ``src/vlmscope``."""
    folder = PACKAGE / "demo"
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    names = [path.relative_to(folder).as_posix() for path in files]
    kinds = {re.sub(r"demo_\d{4}\.jpg", "demo_NNNN.jpg", name) for name in names}
    model = {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
        "training.json",
    }  # fmt: skip
    data = {"__init__.py", "questions.csv", "images/demo_NNNN.jpg"}
    assert kinds == data | {f"model/{name}" for name in model}
    assert len(names) == len(kinds) - 1 + 600
    assert not [p for p in PACKAGE.rglob("*.py") if re.search(r"\btools[. ]", p.read_text("utf-8"))]


def test_import_vlmscope_is_light() -> None:
    code = (
        "import sys, vlmscope; vlmscope.Sample;"
        "heavy = {'torch', 'transformers', 'h5py', 'pandas', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "vlmscope.open_run; vlmscope.Run;"
        "assert 'torch' not in sys.modules, 'a run is read without it'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def violations(path: Path) -> Iterator[str]:
    """Yield what of a file is too large, or does not say what it is."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    if not ast.get_docstring(tree):
        yield "opens without saying what it is and why"
    if (lines := len(text.splitlines())) > 500:
        yield f"has {lines} lines, more than 500: more than one subject"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Signatures and docstrings are for the reader; the body is what has to be small.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > 40:
                yield f"{node.name} has {lines} lines, more than 40"


def test_files_and_functions_are_small_and_say_what_they_are() -> None:
    assert len(SOURCES) > 100
    found = [f"{path.relative_to(ROOT)}: {each}" for path in SOURCES for each in violations(path)]
    assert not found, "\n".join(found)


def unnamed(package: Path) -> list[str]:
    """Return the modules and subfolders of a package that its front does not name."""
    front = ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8"))) or ""
    named = set(re.findall(r"\b_?[a-z]\w*", front))
    inside = {path.stem for path in package.glob("*.py")} - {"__init__"}
    inside |= {path.parent.name for path in package.glob("*/__init__.py")}
    return sorted(inside - named)


def test_the_front_of_a_package_says_what_is_in_it(tmp_path: Path) -> None:
    fronts = [path.parent for path in SOURCES if path.name == "__init__.py"]
    packages = [front for front in fronts if front.name != "vlmscope"]
    assert len(packages) > 15
    found = {str(package.relative_to(ROOT)): unnamed(package) for package in packages}
    assert not {name: missing for name, missing in found.items() if missing}
    (tmp_path / "__init__.py").write_text('"""Parts: ``known``."""')
    for name in ("known", "new"):
        (tmp_path / f"{name}.py").touch()
    assert unnamed(tmp_path) == ["new"]


def test_violations_are_found(tmp_path: Path) -> None:
    path = tmp_path / "large.py"
    body = "    pass\n" * 41
    path.write_text(f"def large():\n{body}async def late():\n{body}" + "\n" * 420)
    assert list(violations(path)) == [
        "opens without saying what it is and why",
        "has 504 lines, more than 500: more than one subject",
        "large has 41 lines, more than 40",
        "late has 41 lines, more than 40",
    ]


@pytest.mark.parametrize(
    "name",
    ["vlmscope", *(f"vlmscope.{each}" for each in (
        "dataset", "detectors", "engine", "executors", "labelling", "metrics", "model", "plots",
        "probes", "report", "risk", "score", "store", "sweeps",
    ))],
)  # fmt: skip
def test_all_is_sorted_and_complete(name: str) -> None:
    module = import_module(name)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)


PHRASES = (ast.Name, ast.BinOp, ast.Subscript)
"""Forms of ``Progress``, ``Progress | None`` and ``Callable[[str], None]``."""


def callbacks(path: Path) -> Iterator[str]:
    """Yield the parameters of a file that take phrases, and are called otherwise than elsewhere."""
    wanted = {"Progress": "progress", "Note": "note", "Callable[[str], None]": "note"}
    text = path.read_text("utf-8")
    if not any(kind in text for kind in wanted):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.arg) and isinstance(node.annotation, PHRASES):
            kind = ast.unparse(node.annotation).removesuffix(" | None")
            if wanted.get(kind, node.arg) != node.arg:
                yield f"{path.name}:{node.lineno}: {node.arg}: {kind}"


def test_what_is_being_done_is_told_by_one_name(tmp_path: Path) -> None:
    """``progress`` is told what is being done, ``note`` what a person should know."""
    found = [each for path in PACKAGE.rglob("*.py") for each in callbacks(path)]
    assert not found, "\n".join(found)
    odd = tmp_path / "odd.py"
    odd.write_text("def work(report: Progress, *, say: Callable[[str], None] | None = None): ...\n")
    assert len(list(callbacks(odd))) == 2


ONCE = {
    r'\.encode\("utf-8", "replace"\)\.decode\(': {"shown.py"},
    r"str\(error\)\.split(lines)?\(\)\)? or ": {"errors.py"},
    r"is a folder; name a file in it": {"paths.py", "file.py"},
    r"file\.seek\(-1, os\.SEEK_END\)": {"jsontext.py"},
}
"""What is written once: pattern → the files that have it. An image is a file that is read."""


@pytest.mark.parametrize("pattern", ONCE)
def test_small_helpers_exist_once(pattern: str) -> None:
    texts = {path: path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert {path.name for path, text in texts.items() if re.search(pattern, text)} == ONCE[pattern]
