"""The saved transfer: the probe of this run, tested on others by ``probe --test``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmscope.errors import one_line, shortened
from vlmscope.jsontext import load_json
from vlmscope.shown import distinct_names
from vlmscope.store import Run, read_document
from vlmscope.sweeps.save import RESULTS, probes_folder
from vlmscope.sweeps.transfer.save import KIND, SCHEMA_VERSION, TRANSFER


@dataclass(frozen=True, slots=True)
class Transfers:
    """The sentences of the report about a transfer."""

    sentences: tuple[str, ...] = ()
    """One for each test run, with its numbers."""
    missing: str = ""
    """Why a saved transfer is left out."""


def transfers(run: Run, labels: str) -> Transfers:
    """Return the sentences about the transfer saved with a run's sweep, if there is one.

    Args:
        run: The training run.
        labels: The label set that was probed.
    """
    folder = run.path / probes_folder(labels)
    try:
        found = load_json(read_document(folder / TRANSFER).decode())
        sweep = hashlib.sha256(read_document(folder / RESULTS)).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return Transfers()
    except (OSError, ValueError) as error:
        return _left_out(one_line(error))
    if not isinstance(found, Mapping) or found.get("kind") != KIND:
        return _left_out("it is not a transfer of vlmscope probe")
    if found.get("schema_version") != SCHEMA_VERSION:
        return _left_out("it is from another version of vlmscope")
    if found.get("results_sha256") != sweep:
        return _left_out("the probes were retrained since")
    try:
        names = distinct_names([str(test["run"]) for test in found["tests"]])
        return Transfers(tuple(map(_sentence, found["tests"], names)))
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        return _left_out(f"it is damaged ({type(error).__name__})")


def _sentence(test: Mapping[str, Any], name: str) -> str:
    """Return the result of the selected probe on a test run as text."""
    start = f"Transfer to {shortened(name)}, {test['relation']}, {test['rows']:,} answers:"
    row = next((each for each in test["results"] if each["kind"] == "selected"), None)
    if row is None:
        return f"{start} no layer can be transferred."
    if row["found_nothing"]:
        return f"{start} the probe has a constant risk there."
    text = f"{start} the probe's AUROC is {row['auroc']:.3f}"
    if row["auroc_low"] is not None:
        text += f" (95% interval {row['auroc_low']:.3f} to {row['auroc_high']:.3f})"
    if row["own_auroc"] is not None:
        text += f", {row['own_auroc']:.3f} trained there"
    joint = next((each for each in test["results"] if each["name"] == "joint"), None)
    if joint is not None and joint["auroc"] is not None and not joint["found_nothing"]:
        text += f"; the joint baseline, transferred in the same way, reaches {joint['auroc']:.3f}"
    return f"{text}."


def _left_out(why: str) -> Transfers:
    return Transfers(
        missing=f"The saved transfer is left out, {why}: `vlmscope probe` with `--test` again."
    )
