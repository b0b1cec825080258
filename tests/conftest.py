"""What holds for all tests: the environment, their order, and when garbage is looked for.

Shapes and dtypes in the signatures of the numerical modules are enforced while their own tests run.

The process that hands out tests to workers runs none: torch, transformers and the fixtures of
``shared_fixtures.py`` are imported only where tests run.
"""

from __future__ import annotations

import gc
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ["VLMSCOPE_CACHE"] = os.devnull  # no folder: no test may write into the user's cache
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every command compiles all modules again
sys.dont_write_bytecode = False  # or every process of tests compiles all of them again
os.environ["OMP_NUM_THREADS"] = "1"  # commands started by tests share the cores with them

gc.disable()  # until the tests are collected: collecting them makes objects that all stay

from collections import Counter  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

OF_TRITON = ["model/test_triton_kernels.py", "model/compiled_kernels.py"]
collect_ignore = [] if find_spec("triton") else OF_TRITON
"""Without Triton, as in ``make test``, its kernels are not tested; ``make test-extras`` has it."""


def pytest_configure(config: pytest.Config) -> None:
    """Import what tests share, in a process that runs them."""
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        return
    import jaxtyping

    typed = ["vlmscope.selection", "vlmscope.engine"]
    jaxtyping.install_import_hook(typed, "beartype.beartype").__enter__()

    import shared_fixtures

    config.pluginmanager.register(shared_fixtures)


CHECKED = ("engine", "test_conformance.py", "test_selection.py")
"""Tests in which shapes are enforced; it takes an eighth of what runs a model."""

LONG = (
    "test_benchmarks.py",
    "test_cli_ray.py",
    "test_kill.py",
    "test_docs.py",
    "test_recipes.py",
    "test_faults.py",
    "test_tables_page.py",
    "test_scripts.py",
    "test_cli_shard.py",
    "test_signals.py",
    "test_cli.py",
    "test_writing.py",
    "test_cli_s3.py",
    "test_store_remote.py",
)
"""Files whose tests take longest, or start commands: they begin first.

So none is left alone at the end, and few workers need the server of commands.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take longest first; mark all but the first parameters as exhaustive."""
    seen: Counter[tuple[Path, str]] = Counter()
    for item in items:
        if first := item.get_closest_marker("first"):
            key = item.path, item.name.partition("[")[0]
            seen[key] += 1
            if seen[key] > first.args[0]:
                item.add_marker(pytest.mark.exhaustive)
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Enforce shapes in the tests of the numerical modules."""
    import jaxtyping

    checked = {item.path.parent.name, item.path.name} & set(CHECKED)
    jaxtyping.config.update("jaxtyping_disable", not checked)


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among the objects of tests, not in all of torch.

    And more seldom than Python does: a parsed file alone is many times 700 objects.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()
