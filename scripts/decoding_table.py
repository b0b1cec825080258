"""Write the tables of how answers are decoded into docs/architecture.md, from the conditions.

    python scripts/decoding_table.py

The text between the two markers of the page is replaced. A test compares the page with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vlmscope.engine.decoding.support import AS_GRAPH, IN_SLOTS
from vlmscope.model import FAMILIES
from vlmscope.model.support import TESTED_DECODERS

PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
BEGIN = "<!-- Begin of what scripts/decoding_table.py wrote -->"
END = "<!-- End of what scripts/decoding_table.py wrote -->"
IN_SLOTS_TITLE = "in slots"
BY_GENERATE = "by `generate`: no decoder was verified step by step"


def ways() -> dict[str, list[str]]:
    """Return how answers are decoded → titles of the families."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, family in FAMILIES.items():
        verified = bool(TESTED_DECODERS[key])
        found[IN_SLOTS_TITLE if verified else BY_GENERATE].append(family.title)
    return found


def tables() -> str:
    """Return both tables, including the markers."""
    return "\n".join([BEGIN, "", *_by_family(), "", *_by_checkpoint(), "", END])


def _by_family() -> Iterator[str]:
    yield "| answers are decoded | families |"
    yield "| --- | --- |"
    for way, titles in ways().items():
        yield f"| {way} | {', '.join(titles)} |"


def _by_checkpoint() -> Iterator[str]:
    yield "| condition | effect |"
    yield "| --- | --- |"
    for condition in IN_SLOTS:
        yield f"| {condition.unmet} | `generate` decodes the answers |"
    for condition in AS_GRAPH:
        yield f"| {condition.unmet} | slots, without a CUDA graph |"


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(before + tables() + after, "utf-8")
