"""Is this the model that a probe was trained on?

A probe is a direction in the space of one layer of one model behind one prompt. In another space
the same numbers mean nothing, and nothing about the risk that comes out would show it. So the
hashes that a run keeps of its model travel with its probes, and every difference refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from vlmscope.errors import InputError
from vlmscope.executors import describe_model
from vlmscope.model import VisionLanguageModel
from vlmscope.probe import ProbeInfo
from vlmscope.store import other_weights

MEANINGS: Mapping[str, str] = {
    "config_hash": "configuration",
    "weights_hash": "weights",
    "processor_hash": "processor",
    "chat_template_hash": "chat template (the prompt)",
}
"""What must be equal, and what it is to a person. How answers are generated does not matter."""


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
    missing = [name for name in MEANINGS if not trained.get(name)]
    if missing:
        raise InputError(
            f"{place}: does not say which model it was trained on (no {missing[0]}); "
            "train it with vlmscope probe on a run of vlmscope extract"
        )
    found = asdict(describe_model(vlm))
    odd = [
        meaning + (other_weights(trained, found) if name == "weights_hash" else "")
        for name, meaning in MEANINGS.items()
        if trained[name] != found[name]
    ]
    if trained.get("description") != found["description"]:
        odd.append("the description of its architecture (--family)")
    if odd:
        raise InputError(
            f"{place}: trained on {trained.get('name')}, from which {vlm.name} differs in "
            f"{_and(odd)}; give --model the model of the probe, or train a probe on this one"
        )


def _and(words: list[str]) -> str:
    """Join words as a sentence does.

    >>> _and(["weights"]), _and(["a", "b", "c"])
    ('weights', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
