"""Keep what ``vlmscope probe`` found on the demo, for the documents that quote it.

    vlmscope demo --out runs/demo
    python scripts/quote_demo.py runs/demo

Writes ``docs/demo_findings.json``: the verdict and the numbers, with the hashes of the weights and
the questions they belong to. A test holds README.md and docs/probing.md against it, so that a new
model cannot leave old numbers behind.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "src" / "vlmscope" / "demo"
FINDINGS = ROOT / "docs" / "demo_findings.json"
QUOTED = ("model/model.safetensors", "questions.csv")
"""What the numbers depend on."""


def hashes() -> dict[str, str]:
    """Return the SHA-256 of what the numbers depend on, by name."""
    return {name: hashlib.sha256((DEMO / name).read_bytes()).hexdigest() for name in QUOTED}


def findings(run: Path) -> dict[str, object]:
    """Return what is quoted of a run's probes."""
    summary = json.loads((run / "probes" / "results.json").read_text("utf-8"))
    names = ("auroc", "auroc_low", "auroc_high", "ece")
    gains = ("above_joint", "above_joint_low", "above_joint_high")
    return {
        "made_of": hashes(),
        "verdict": summary["verdict"],
        "results": {
            row["name"]: {
                name: round(row[name], 6) for name in (*names, *gains) if row[name] is not None
            }
            for row in summary["results"]
        },
        "within_category": {
            name: round(found["auroc"], 6) for name, found in summary["within_category"].items()
        },
    }


if __name__ == "__main__":
    FINDINGS.write_text(json.dumps(findings(Path(sys.argv[1])), indent=2) + "\n", "utf-8")
