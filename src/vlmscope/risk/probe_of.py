"""Which probe is meant, and whether the model is the one that it was trained on.

Is this the model that a probe was trained on? A probe is a direction in the space of one layer of
one model behind one prompt. In another space the same numbers mean nothing, and nothing about the
risk that comes out would show it. So the hashes that a run keeps of its model travel with its
probes, and every difference refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from vlmscope.clock import check_time
from vlmscope.errors import InputError, StoreError
from vlmscope.executors import describe_model
from vlmscope.model import VisionLanguageModel
from vlmscope.probes import ProbeInfo
from vlmscope.probes.storage import DESCRIPTION
from vlmscope.store import (
    STATE_HASHES,
    AnyRun,
    check_reachable,
    is_child_name,
    label_sets,
    model_differences,
    path_of,
    read_document,
)
from vlmscope.sweeps.save import PROBES, RESULTS, probes_folder

MEANINGS: Mapping[str, str] = {
    "config_hash": "configuration",
    "weights_hash": "weights",
    "processor_hash": "processor",
    "chat_template_hash": "chat template (the prompt)",
}
"""What must be equal, as a person calls it."""


def check_match(place: Path, info: ProbeInfo, vlm: VisionLanguageModel) -> None:
    """Refuse a model that is not the one the probe was trained on.

    Args:
        place: Where the probe was read, for the message.
        info: Its description.
        vlm: The loaded model.

    Raises:
        InputError: The probe does not say what it was trained on, or it was something else.
    """
    trained = info.model
    missing = [name for name in STATE_HASHES if not trained.get(name)]
    if missing:
        raise InputError(
            f"{place}: does not say which model it was trained on (no {missing[0]}); "
            "train it with vlmscope probe on a run of vlmscope extract"
        )
    found = asdict(describe_model(vlm))
    odd = [
        MEANINGS[name] + why
        for name, why in model_differences(trained, found).items()
        if name in STATE_HASHES
    ]
    if trained.get("description") != found["description"]:
        odd.append("the description of its architecture (--family)")
    if odd:
        raise InputError(
            f"{place}: trained on {trained.get('name')}, from which {vlm.name} differs in "
            f"{_and(odd)}; give --model the model of the probe, or train a probe on this one"
        )


def trained_at(place: Path, info: ProbeInfo) -> str | None:
    """Return the local time that the chat template was shown for a probe's training rows.

    Args:
        place: The probe's folder.
        info: Its description.

    Returns:
        The time; None where the template did not ask for it.

    Raises:
        InputError: What it says is no time.
    """
    told = info.model.get("prompt_time")
    try:
        return None if told is None else check_time(told)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{place}: its prompt_time {told!r} is no local time; train the probe again"
        ) from error


def _and(words: list[str]) -> str:
    """Join words as a sentence does.

    >>> _and(["weights"]), _and(["a", "b", "c"])
    ('weights', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_SUMMARY = Path(PROBES) / RESULTS


def find_probe(path: AnyRun) -> Path:
    """Return the folder of the probe that ``path`` names.

    Args:
        path: The folder of a saved probe; or a run that ``vlmscope probe`` was used on, its
            folder, or the folder that its ``--out`` named: then the probe of the layer that
            selection inside training chose most often.

    Raises:
        InputError: It is neither.
        StoreError: The run's summary of its probes is damaged.
    """
    folder = path_of(path)
    check_reachable(folder)
    if (folder / DESCRIPTION).is_file():
        return folder
    summary = next((f for f in (folder / _SUMMARY, folder / RESULTS) if f.is_file()), None)
    if summary is None:
        raise InputError(f"{folder}: is {_kind(folder)}")
    try:
        name = json.loads(read_document(summary).decode())["selected_probe"]
        if not is_child_name(name):
            raise ValueError(name)
        found = summary.parent / str(name)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise StoreError(f"{summary}: names no selected probe; run vlmscope probe again") from error
    if not (found / DESCRIPTION).is_file():
        raise StoreError(f"{found}: is gone or incomplete; run vlmscope probe again")
    return found


def _kind(folder: Path) -> str:
    """Return what a folder without probes is, and what to do."""
    if not (folder / "run.json").is_file():
        return "no probe; give a folder in RUN/probes, or a run that vlmscope probe was used on"
    for name in label_sets(folder):
        found = folder / probes_folder(name)
        if (found / RESULTS).is_file():
            return f"a run whose default label set has no probes; give {found}, or probe it too"
    return "a run without probes; run vlmscope probe on it"
