"""Run the conformance suite and write down which family passed which check.

    python scripts/record_families.py                 the record and docs/families.md
    python scripts/record_families.py --tables-only   docs/families.md alone

Results of other versions of transformers, and of families that cannot run on this machine, are kept
as they are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from vlmscope.model import FAMILIES
from vlmscope.model.support import CHECKS, TESTED_DECODERS, Record, family_support, read_record

ROOT = Path(__file__).parent.parent
PROVEN = ROOT / "src" / "vlmscope" / "model" / "proven.json"
DOCUMENT = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- begin: written by scripts/record_families.py -->", "<!-- end -->"

PAIRS_BEGIN, PAIRS_END = "<!-- begin: pairs -->", "<!-- end: pairs -->"

KEYS = {"pixtral": "llava/pixtral", "fastvlm": "fast_vlm"}
"""Name in the suite → key of the description, where they differ."""


def run_suite() -> dict[str, dict[str, bool]]:
    """Run the suite in a process of its own; return family → check → whether it passed."""
    suite = ROOT / "tests" / "families" / "test_conformance.py"
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
        subprocess.run([*command, str(suite), f"--junitxml={report}"], cwd=ROOT, check=False)
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - just written
            name, _, family = str(case.get("name")).rstrip("]").partition("[")
            check = name.removeprefix("test_")
            if check in CHECKS:
                found[KEYS.get(family, family)][check] = not len(case)
    return found


def main() -> int:
    """Run, record, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables-only", action="store_true")
    parser.add_argument("--out", type=Path, default=PROVEN, help="where the record goes")
    options = parser.parse_args()
    if not options.tables_only:
        write_record(options.out, run_suite())
    if options.out == PROVEN:
        write_tables()
    return 0


def write_record(path: Path, found: dict[str, dict[str, bool]]) -> None:
    """Add what was found to the record."""
    import transformers

    record = json.loads(PROVEN.read_text(encoding="utf-8")) if PROVEN.exists() else {}
    own = record.setdefault(transformers.__version__, {})
    for family, checks in found.items():
        own[family] = {check: checks[check] for check in CHECKS if check in checks}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_tables() -> None:
    """Put the tables into docs/families.md."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n{tables()}{END}{after}"
    before, _, rest = text.partition(PAIRS_BEGIN)
    _, _, after = rest.partition(PAIRS_END)
    text = f"{before}{PAIRS_BEGIN}\n{pairs()}{PAIRS_END}{after}"
    DOCUMENT.write_text(text, encoding="utf-8")


def pairs() -> str:
    """Return the table of wrappers and the decoders that the suite tests them with."""
    lines = ["| wrapper | tested decoders (`model_type`) |", "| --- | --- |"]
    for key, decoders in TESTED_DECODERS.items():
        tested = ", ".join(f"`{name}`" for name in sorted(decoders))
        lines.append(
            f"| {FAMILIES[key].title} | {tested or 'none: each checkpoint is checked at loading'} |"
        )
    return "\n".join(lines) + "\n"


def tables(record: Record | None = None) -> str:
    """Return the conformance table of the newest version, and where each family was proven."""
    record = read_record() if record is None else record
    newest = max(record, key=lambda version: [int(part) for part in version.split(".")])
    lines = [
        f"transformers {newest}; ✓ passed, ✗ failed, – not run.",
        "",
        "| family | `model_type` | " + " | ".join(CHECKS.values()) + " | every check on |",
        "| --- | --- |" + " :-: |" * len(CHECKS) + " --- |",
    ]
    for support in family_support(record):
        checks = record[newest].get(support.key, {})
        marks = [{True: "✓", False: "✗", None: "–"}[checks.get(check)] for check in CHECKS]
        needs = f"not run: needs {support.family.needs}" if support.family.needs else "–"
        where = ", ".join(support.verified_on) or needs
        lines.append(
            f"| {support.family.title} | `{support.key}` | {' | '.join(marks)} | {where} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
