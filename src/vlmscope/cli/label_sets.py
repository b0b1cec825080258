"""The label sets of a run, as ``vlmscope info`` shows them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from vlmscope.cli.output import command_line, stdout

OUTCOMES = ("hallucinated", "faithful", "unscorable", "unlabelled")


def describe_label_sets(run: Path) -> dict[str, dict[str, Any]]:
    """Return each label set of a run with its counts and the folder of its probes.

    A set whose file is damaged has an ``error`` instead of counts.
    """
    from vlmscope.errors import StoreError, UnreachableError
    from vlmscope.store import are_stale, label_sets, labels_file, open_run, read_labels

    names = label_sets(run)
    if not names:  # a run that is being extracted is looked at often, and sweeps load slowly
        return {}
    from vlmscope.sweeps import probes_folder

    found: dict[str, dict[str, Any]] = {}
    ids = open_run(run).ids
    for name in names:
        about: dict[str, Any] = {"file": labels_file(name)}
        try:
            labels = read_labels(run, name)
            counts: Counter[str] = Counter(score.outcome for score in labels.values())
            counts["unlabelled"] += sum(id_ not in labels for id_ in ids)
            about |= {outcome: counts[outcome] for outcome in OUTCOMES}
            about["stale"] = are_stale(run, name)
        except UnreachableError:
            raise
        except StoreError as error:
            about["error"] = str(error)
        probes = probes_folder(name)
        about["probes"] = probes if (run / probes / "results.json").is_file() else None
        found[name] = about
    return found


def show_label_sets(run: Path, sets: dict[str, dict[str, Any]]) -> None:
    """Print a line for each label set, with the state of its probes."""
    from vlmscope.store import read_manifest
    from vlmscope.store.labels import LABELS_FROM_ELSEWHERE

    if not sets:
        command = command_line("label", str(run))
        answers = read_manifest(run).capture.max_new_tokens > 0
        step = f"next: {command}" if answers else LABELS_FROM_ELSEWHERE.format(command=command)
        stdout.print(f"labels: none yet; {step}")
    for name, about in sets.items():
        if "error" in about:
            stdout.print(f"labels {name}: {about['error']}")
            continue
        shown = [name for name in OUTCOMES if about[name] or name != "unlabelled"]
        counts = ", ".join(f"{about[outcome]:,} {outcome}" for outcome in shown)
        stale = "; stale, the ground truth has changed since: label again" if about["stale"] else ""
        stdout.print(f"labels {name}: {counts}; {_probes(run, name, about)}{stale}")


def _probes(run: Path, name: str, about: dict[str, Any]) -> str:
    """Return the state of the probes of a label set as text."""
    from vlmscope.errors import StoreError, UnreachableError
    from vlmscope.store import open_run
    from vlmscope.sweeps import read_sweep

    if not about["probes"]:
        return "no probes yet"
    where = f"probes in {about['probes']}"
    try:
        found = read_sweep(open_run(run), name)
    except UnreachableError:
        raise
    except StoreError as error:
        return f"{where}, which cannot be read: {error}"
    if found is None:
        return "no probes yet"
    if found.stale:
        return f"{where}, out of date: {found.stale}"
    return f"{where}, selected {found['selected'].shown_auroc}"
