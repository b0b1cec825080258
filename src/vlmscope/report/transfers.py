"""The saved transfer: the probe of this run, tested on others by ``probe --test``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmscope.errors import one_line, shortened
from vlmscope.jsontext import load_json
from vlmscope.shown import distinct_names
from vlmscope.store import DEFAULT, Run, read_document
from vlmscope.sweeps.results import read_count, read_share
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
        tests = found["tests"]
        for test in tests:
            _check(test)
        names = distinct_names([test["run"] for test in tests])
        return Transfers(tuple(_sentence(*each, labels) for each in zip(tests, names, strict=True)))
    except KeyError as error:
        return _left_out(f"it is damaged (it lacks {error})")
    except (AttributeError, TypeError) as error:
        return _left_out(f"it is damaged ({type(error).__name__})")
    except ValueError as error:
        return _left_out(f"it is damaged ({one_line(error)})")


_SHARES = ("auroc", "auroc_low", "auroc_high", "own_auroc")
"""Numbers of a result that are told."""


def _check(test: Mapping[str, Any]) -> None:
    """Check the type and range of what is told about a test run.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: Something is missing, of another type, or
            out of range.
    """
    for name in ("run", "relation"):
        if not isinstance(test[name], str):
            raise ValueError(f"{name} is {shortened(repr(test[name]))}, expected a text")
    read_count("rows", test["rows"])
    for row in test["results"]:
        name, constant = shortened(repr(row["name"])), row["found_nothing"]
        if not isinstance(constant, bool):
            raise ValueError(f"found_nothing of {name} is {shortened(repr(constant))}")
        for each in _SHARES:
            if row[each] is not None:
                read_share(f"{each} of {name}", row[each])
        if not constant and row["auroc"] is None:
            raise ValueError(f"auroc of {name} is missing")


def _sentence(test: Mapping[str, Any], name: str, labels: str) -> str:
    """Return the result of the selected probe on a test run as text.

    Test runs use their default label sets.
    """
    told = "" if labels == DEFAULT else f" (its default labels; the probe learned {labels!r})"
    start = f"Transfer to {shortened(name)}{told}, {test['relation']}, {test['rows']:,} answers:"
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
