"""docs/detectors.md is up to date with the registry."""

from __future__ import annotations

import re

import detectors_table
from vlmscope.detectors import DETECTORS


def test_the_page_has_the_table_of_the_registry() -> None:
    page = detectors_table.PAGE.read_text("utf-8")
    assert detectors_table.tables() in page, "run scripts/detectors_table.py"
    assert re.findall(r"^\| `(\w+)`", page, re.M) == list(detectors_table.DETECTORS)


def test_every_paper_of_a_detector_is_linked() -> None:
    tables = detectors_table.tables()
    for each in DETECTORS.values():
        if each.paper is not None and each.paper.arxiv:
            assert f"[{each.paper.citation}](https://arxiv.org/abs/{each.paper.arxiv})" in tables


def test_adding_a_detector_takes_twenty_lines() -> None:
    page = detectors_table.PAGE.read_text("utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    assert len(list(filter(None, code.splitlines()))) <= 20
