"""Write the table of docs/detectors.md from the registry.

    python scripts/detectors_table.py

The text between the two markers of the page is replaced. A test compares the page with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlmscope.detectors import DETECTORS, GROUPS, Detector, Paper

PAGE = Path(__file__).parent.parent / "docs" / "detectors.md"
BEGIN = "<!-- Begin of what scripts/detectors_table.py wrote -->"
END = "<!-- End of what scripts/detectors_table.py wrote -->"

TITLES = {
    "no_model": "Without the model",
    "answer": "One number of the answer",
    "attention": "Attention",
    "states": "Hidden states",
    "lens": "Lens",
    "samples": "Sampled answers",
    "asked": "Asked",
}


def tables() -> str:
    """Return a table for each group, and the papers, including the markers."""
    lines = [BEGIN, ""]
    for group in GROUPS:
        lines += [f"### {TITLES[group]}", "", *_table(group), ""]
    lines += ["### Papers", "", *_papers(), ""]
    return "\n".join([*lines, END])


def _table(group: str) -> Iterator[str]:
    yield "| detector | title | formula, higher is hallucinated | needs | known, passes | notes |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for each in DETECTORS.values():
        if each.group == group:
            cells = (
                f"`{each.name}` {_paper(each.paper)}".rstrip(),
                each.title,
                each.formula + (" (trained)" if each.learned else ""),
                ", ".join(f"`{name}`" for name in each.requires),
                f"{each.known}; {each.passes}",
                _notes(each),
            )
            yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _paper(paper: Paper | None) -> str:
    if paper is None:
        return ""
    return f"[{paper.citation}]({paper.link})"


def _papers() -> list[str]:
    """Return a line for each paper: authors and year, title, and where it was published."""
    papers = {each.paper for each in DETECTORS.values() if each.paper is not None}
    return [
        f"- [{paper.citation}]({paper.link}), *{paper.title}*{paper.venue and f', {paper.venue}'}"
        for paper in sorted(papers, key=lambda paper: (paper.authors, paper.year, paper.title))
    ]


def _notes(each: Detector) -> str:
    """Return the pitfalls, and what differs from the paper."""
    return each.pitfalls + (f" *Differs:* {each.adaptation}" if each.adaptation else "")


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + tables() + after, "utf-8")
