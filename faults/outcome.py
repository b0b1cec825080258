"""What came of a fault, tried many times: a row of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """What came of the tries of one fault."""

    fault: str
    """What was done."""
    came: Counter[str] = field(default_factory=Counter)
    """What came of it → how often."""
    wrong: list[str] = field(default_factory=list)
    """What should not have come of it."""
    note: str = ""
    """Further numbers."""

    @property
    def tries(self) -> int:
        """How often it was tried."""
        return self.came.total() + len(self.wrong)

    def add(self, what: str, wrong: Iterable[str] = ()) -> None:
        """Take note of a try: ``what`` came of it, unless something was wrong."""
        if faults := list(wrong):
            self.wrong.append("; ".join(faults[:3]))
        else:
            self.came[what] += 1

    def row(self) -> str:
        """Return the row of the Markdown table."""
        parts = [f"{what} ({often}×)" if often > 1 else what for what, often in self.came.items()]
        if self.wrong:
            parts.append(f"**WRONG {len(self.wrong)}×: {self.wrong[0]}**")
        if self.note:
            parts.append(self.note)
        return f"| {self.fault} | {self.tries} | {'; '.join(parts)} |"


HEADER = "| fault | tries | what came of it |\n| --- | ---: | --- |"
