"""What the code never calls: nothing that unpickles, nothing that runs a checkpoint's own code."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import pytest

import vlmscope

SOURCES = sorted(Path(vlmscope.__file__).parent.rglob("*.py"))
FORBIDDEN_MODULES = {
    "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "subprocess", "yaml",
}  # fmt: skip
STARTS_ITSELF = {
    "executors/watchdog.py", "early_server.py", "executors/workers/server.py",
    "store/format/hdf5_screening.py",
}  # fmt: skip
"""Each starts one process, of a file of ours, or waits for it: to end this one when nothing in it
can run any more; to prepare images; to find out what HDF5 makes of a file."""
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {"torch.load", "np.load", "numpy.load", "pd.read_pickle", "os.system"}
CSV_WRITERS = {"plots/files.py", "demo/bundle.py", "labelling/external.py"}
"""The first neutralises formulas, the second writes our own questions, the third a user's table."""


def dotted(function: ast.expr) -> str:
    """Return the name of what is called, ``""`` in it for what is no name."""
    if isinstance(function, ast.Attribute):
        return f"{dotted(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    kinds = (ast.Import, ast.ImportFrom, ast.Call, ast.keyword)
    found: list[tuple[str, ast.AST]] = []
    for path in SOURCES:
        name = path.relative_to(Path(vlmscope.__file__).parent).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        found += ((name, node) for node in ast.walk(tree) if isinstance(node, kinds))
    return found


def test_nothing_unpickles_and_nothing_is_evaluated() -> None:
    for name, node in nodes():
        if isinstance(node, ast.Import):
            imported = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {(node.module or "").partition(".")[0]}
        else:
            imported = set()
        forbidden = imported & FORBIDDEN_MODULES
        assert not forbidden or (name in STARTS_ITSELF and forbidden == {"subprocess"}), name
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            assert called not in FORBIDDEN_CALLS | FORBIDDEN_METHODS, f"{name}: {called}"
            if called.startswith("csv.") and called.endswith("riter"):
                assert name in CSV_WRITERS, name


def test_code_of_a_checkpoint_is_never_run() -> None:
    calls = 0
    for name, node in nodes():
        if not isinstance(node, ast.keyword | ast.Call):
            continue
        if isinstance(node, ast.keyword):
            if node.arg in ("trust_remote_code", "allow_pickle"):
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            owner = ast.unparse(node.func.value)
            if owner.startswith(("Auto", "auto_class")):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}, name
                calls += 1
    assert calls >= 6


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "＝1"])
def test_no_cell_of_a_csv_is_a_formula(value: str) -> None:
    import csv
    import io

    import matplotlib.figure

    from vlmscope.plots import csv_text
    from vlmscope.plots.canvas import Plot

    plot = Plot("x", "t", "c", "d", {value: [value]}, matplotlib.figure.Figure())
    for [cell] in list(csv.reader(io.StringIO(csv_text(plot), newline="")))[:2]:
        assert cell == f"'{value}", json.dumps(cell)
