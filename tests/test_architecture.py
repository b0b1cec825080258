"""The layers of the code, and its size: what docs/architecture.md and CONTRIBUTING.md promise."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "vlmscope").rglob("*.py"))


def test_a_module_imports_only_from_lower_ranks() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_import_vlmscope_is_light() -> None:
    code = (
        "import sys, vlmscope; vlmscope.Sample;"
        "heavy = {'torch', 'transformers', 'h5py', 'pandas', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "vlmscope.open_run; vlmscope.Run;"
        "assert 'torch' not in sys.modules, 'a run is read without it'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file opens by saying what it is and why"
    assert len(text.splitlines()) <= 500, "one subject a file"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # Signatures and docstrings are for the reader; the body is what has to be small.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


@pytest.mark.parametrize(
    "name",
    ["vlmscope", *(f"vlmscope.{each}" for each in (
        "dataset", "engine", "executors", "labelling", "metrics", "model", "plots", "probes",
        "report", "risk", "score", "store", "sweeps",
    ))],
)  # fmt: skip
def test_all_is_sorted_and_complete(name: str) -> None:
    module = import_module(name)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)
