"""What ``import vlmscope`` offers, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import vlmscope

NAME = re.compile(r"(?<![\w/.-])vlmscope\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def test_dir_shows_what_is_public_and_nothing_else() -> None:
    """Also once modules were imported: they are attributes of a package."""
    import vlmscope.report
    import vlmscope.store

    assert dir(vlmscope) == sorted((*vlmscope.__all__, "__version__"))
    for name in ("extract", "verify", "inspect", "load_probe", "read_labels", "open_run", "Run"):
        assert name in vlmscope.__all__
    assert all(getattr(vlmscope, name).__doc__ for name in vlmscope.__all__)
    with pytest.raises(AttributeError, match="'vlmscope' has no attribute 'extrat'"):
        vlmscope.extrat  # noqa: B018


def test_what_is_raised_and_returned_is_public() -> None:
    """Also an error that is added later, and the modules that the documentation names."""
    for name, value in vars(vlmscope.errors).items():
        if isinstance(value, type) and issubclass(value, vlmscope.VlmscopeError):
            assert getattr(vlmscope, name) is value
            assert name in dir(vlmscope)
    names = {"Risk", "Observer", "FailedRowsWarning", "Inspection", "RowCheck", "TransferResult"}
    assert names <= set(vlmscope.__all__)
    code = (
        "import sys, vlmscope\n"
        "assert not {'torch', 'numpy', 'vlmscope.errors'} & set(sys.modules)\n"
        "assert vlmscope.errors.RowError is vlmscope.RowError\n"
        "assert vlmscope.positions.REPRESENTATIONS\n"
        "assert not {'errors', 'schema', 'api'} & set(dir(vlmscope))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_in_the_documentation_is_there_without_another_import() -> None:
    root = Path(__file__).parent.parent
    front = {*vlmscope.__all__, "__version__", *vlmscope._MODULES}
    pages = [page.read_text() for page in (root / "README.md", *(root / "docs").rglob("*.md"))]
    names = {name for page in pages for name in NAME.findall(page)}
    assert {"metrics.agreement", "model.model_lock", "extract"} <= names
    for name in names:
        assert name.partition(".")[0] in front, name
        assert attrgetter(name)(vlmscope) is not None
    listed = (root / "docs" / "python.md").read_text().partition("is public too")[0]
    assert all(f"`{module}`" in listed for module in vlmscope._MODULES)


def test_star_import_gives_the_same() -> None:
    found: dict[str, object] = {}
    exec("from vlmscope import *", found)  # noqa: S102 - it is what a user may write
    assert set(found) - {"__builtins__"} == set(vlmscope.__all__)
