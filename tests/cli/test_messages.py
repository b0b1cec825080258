"""Errors tell a user of the command line what to do, in words of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import vlmscope
import vlmscope.store
from vlmscope import probes, sweeps

SOURCES = Path(vlmscope.__file__).parent

FUNCTIONS = {
    name
    for module in (vlmscope, vlmscope.store, probes, sweeps)
    for name in module.__all__
    if "_" in name and name.islower() and name != "question_id"  # which is a column, too
}
"""Functions of ours that a Python user calls: ``open_run``, ``save_probe`` ..."""

OTHERS = {"save_pretrained", "save_to_disk", "load_from_disk", "safe_serialization", "done_ids"}


def messages() -> Iterator[tuple[str, str]]:
    """Every text that an error is made of, and where it stands."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id.endswith("Error"):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.relative_to(SOURCES)}:{part.lineno}", part.value


def test_no_error_names_a_python_function() -> None:
    found = list(messages())
    assert len(found) > 300
    names = re.compile(rf"\b(?:{'|'.join(sorted(FUNCTIONS | OTHERS))})\b")
    assert {"open_run", "save_probe"} <= FUNCTIONS
    wrong = [(where, text) for where, text in found if names.search(text)]
    # Only those who call Python read these.
    python_only = ("probes/crossfit.py", "executors/manifest.py", "api/")
    assert [where for where, _ in wrong if not where.startswith(python_only)] == []
