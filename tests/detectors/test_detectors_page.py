"""docs/detectors.md is up to date with the registry."""

from __future__ import annotations

import re

import pytest

import detectors_table
from vlmscope.detectors import DETECTORS, GROUPS, KNOWN, PASSES


def test_the_page_has_the_table_of_the_registry() -> None:
    page = detectors_table.PAGE.read_text("utf-8")
    assert detectors_table.tables() in page, "run scripts/detectors_table.py"
    assert re.findall(r"^\| `(\w+)`", page, re.M) == list(detectors_table.DETECTORS)
    titles = re.findall(r"^\| `\w+`[^|]*\| ([^|]+) \|", page, re.M)
    assert titles == [each.title for each in DETECTORS.values()], "as tables and reports show them"


def test_every_paper_of_a_detector_is_linked() -> None:
    tables = detectors_table.tables()
    for each in DETECTORS.values():
        if each.paper is not None:
            assert bool(each.paper.arxiv) != bool(each.paper.doi)
            assert f"[{each.paper.citation}]({each.paper.link})" in tables
            assert each.paper.title in tables


def test_papers_are_told_apart_by_authors_and_year() -> None:
    papers = {each.paper for each in DETECTORS.values() if each.paper is not None}
    assert len({paper.citation for paper in papers}) == len({paper.link for paper in papers})
    assert len(papers) == len({paper.link for paper in papers}), "one description of each"


def test_adding_a_detector_takes_twenty_lines() -> None:
    page = detectors_table.PAGE.read_text("utf-8")
    code, *_ = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    assert len(list(filter(None, code.splitlines()))) <= 20


@pytest.mark.parametrize(
    ("field", "values"), [("group", GROUPS), ("known", KNOWN), ("passes", PASSES)]
)
def test_the_values_of_each_field_are_listed(field: str, values: tuple[str, ...]) -> None:
    page = detectors_table.PAGE.read_text("utf-8")
    listed = ", ".join(f'`"{value}"`' for value in values)
    assert f"`{field}` | {listed} |" in page
