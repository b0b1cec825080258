"""What ``import vlmscope`` offers, and nothing else."""

from __future__ import annotations

import pytest

import vlmscope


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


def test_star_import_gives_the_same() -> None:
    found: dict[str, object] = {}
    exec("from vlmscope import *", found)  # noqa: S102 - it is what a user may write
    assert set(found) - {"__builtins__"} == set(vlmscope.__all__)
