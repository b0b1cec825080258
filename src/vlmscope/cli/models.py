"""``vlmscope models``: the families of models, and their verification status."""

from __future__ import annotations

import json
from typing import Any

from rich.table import Table
from rich.text import Text

from vlmscope.cli import options
from vlmscope.cli.output import show, stdout


def _particular(standing: Any) -> str:
    """Return what must be installed, and what the family does not support."""
    family = standing.family
    found = [f"needs {family.needs}"] if family.needs else []
    if not family.text_only:
        found.append("no questions without an image")
    return "; ".join(found)


def models(as_json: options.Json = False) -> None:
    """List the families of models that are supported.

    For each, the versions of transformers on which every check passed.
    """
    from importlib.metadata import version

    from vlmscope.model.support import family_support

    found = list(family_support())
    if as_json:
        stdout.print_json(json.dumps([
            {"title": s.family.title, "model_type": s.key, "proven_on": list(s.verified_on),
             "failed_on": {v: list(names) for v, names in s.failed.items()},
             "needs": s.family.needs, "takes_questions_without_a_picture": s.family.text_only}
            for s in found
        ]))  # fmt: skip
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("family", "model type", "every check passed on transformers", "notes"):
        table.add_column(heading, header_style="dim")
    for standing in found:
        proven = ", ".join(standing.verified_on)
        if standing.failed:
            proven += "; failed on " + ", ".join(standing.failed)
        if not proven:
            proven = f"not run yet: needs {standing.family.needs}"
        table.add_row(
            Text(standing.family.title),
            Text(standing.key),
            Text(proven),
            Text(_particular(standing)),
        )
    show(table)
    stdout.print(
        f"\nInstalled: transformers {version('transformers')}. Every model is verified again when "
        "it is loaded.\nOne that is not listed works if it follows the library's conventions; if "
        "not, --family FILE describes it.",
        highlight=False,
    )
