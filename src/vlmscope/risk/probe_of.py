"""Find a saved probe, and check that the model is the one it was trained on.

A probe is a direction in the space of one layer of one model after one prompt. In another space the
same numbers have no meaning, and the resulting risk would not show it. So the hashes that a run
stores of its model are stored with its probes, and any difference is an error.
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
from vlmscope.positions import IMAGE_REPRESENTATIONS, REPRESENTATIONS
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
"""Hash that must be equal → its name in messages."""


def check_match(folder: Path, info: ProbeInfo, vlm: VisionLanguageModel) -> None:
    """Raise an error if the model is not the one that the probe was trained on.

    Args:
        folder: The probe's folder, for the message.
        info: Its description.
        vlm: The loaded model.

    Raises:
        InputError: The probe does not record what it was trained on, or it was another model.
    """
    trained = info.model
    missing = [name for name in STATE_HASHES if not trained.get(name)]
    if missing:
        raise InputError(
            f"{folder}: does not record which model it was trained on (no {missing[0]}); "
            "train it with vlmscope probe on a run of vlmscope extract"
        )
    found = asdict(describe_model(vlm))
    differing = [
        MEANINGS[name] + why
        for name, why in model_differences(trained, found).items()
        if name in STATE_HASHES
    ]
    if trained.get("description") != found["description"]:
        differing.append("the description of its architecture (--family)")
    if differing:
        raise InputError(
            f"{folder}: trained on {trained.get('name')}, from which {vlm.name} differs in "
            f"{_join_words(differing)}; give --model the model of the probe, or train a probe on "
            "this one"
        )


def other_kind(info: ProbeInfo) -> tuple[bool, str] | None:
    """Return which questions a probe cannot score, as it was trained on none like them.

    Without an image a prompt is another one, and its states lie elsewhere, where a risk has no
    meaning.

    Args:
        info: The probe's description.

    Returns:
        Whether these questions have an image, and the reason to give for each; None if the probe
        was trained on questions of both kinds, or does not record on which.
    """
    if info.images == "all":
        return False, (
            "the question has no image, and all questions that the probe was trained on have one; "
            "train a probe on questions without an image"
        )
    if info.images == "none":
        return True, (
            "the question has an image, and no question that the probe was trained on has one; "
            "train a probe on questions with an image"
        )
    return None


def reason_without_risk(info: ProbeInfo, *, has_image: bool) -> str:
    """Return why a probe gives no risk to a question with an image or without; empty if it does.

    Args:
        info: The probe's description.
        has_image: Whether the question has an image.
    """
    other = other_kind(info)
    if other is not None and other[0] == has_image:
        return other[1]
    if has_image or info.representation not in IMAGE_REPRESENTATIONS:
        return ""
    return (
        f"the question has no image, and the probe reads {info.representation}; use a probe of "
        f"another representation, {REPRESENTATIONS['last_prompt_token']} for example"
    )


def trained_at(folder: Path, info: ProbeInfo) -> str | None:
    """Return the local time that the chat template was given for a probe's training rows.

    Args:
        folder: The probe's folder.
        info: Its description.

    Returns:
        The time; None if the template does not read it.

    Raises:
        InputError: The recorded time is invalid.
    """
    recorded = info.model.get("prompt_time")
    try:
        return None if recorded is None else check_time(recorded)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: its prompt_time {recorded!r} is not a local time; train the probe again"
        ) from error


def _join_words(words: list[str]) -> str:
    """Join words with commas and "and".

    >>> _join_words(["weights"]), _join_words(["a", "b", "c"])
    ('weights', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_SUMMARY = Path(PROBES) / RESULTS


def find_probe(path: AnyRun) -> Path:
    """Return the folder of the probe that ``path`` names.

    Args:
        path: The folder of a saved probe; or a run that ``vlmscope probe`` was run on, its folder,
            or the folder given as its ``--out``: then the probe of the layer that selection inside
            training chose most often.

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
        raise InputError(f"{folder}: is {_describe(folder)}")
    try:
        name = json.loads(read_document(summary).decode())["selected_probe"]
        if not is_child_name(name):
            raise ValueError(name)
        found = summary.parent / str(name)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise StoreError(f"{summary}: names no selected probe; run vlmscope probe again") from error
    if not (found / DESCRIPTION).is_file():
        raise StoreError(f"{found}: is missing or incomplete; run vlmscope probe again")
    return found


def _describe(folder: Path) -> str:
    """Return a description of a folder without probes, and what to do."""
    if not (folder / "run.json").is_file():
        return "not a probe; give a folder in RUN/probes, or a run that vlmscope probe was run on"
    for name in label_sets(folder):
        found = folder / probes_folder(name)
        if (found / RESULTS).is_file():
            return f"a run whose default label set has no probes; give {found}, or probe it too"
    return "a run without probes; run vlmscope probe on it"
