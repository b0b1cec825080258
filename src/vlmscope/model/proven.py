"""Which families are proven, by which checks, on which versions of transformers.

``proven.json`` is written by ``scripts/record_families.py`` from a run of the conformance suite
(tests/families); nothing in it is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from vlmscope.model.families import FAMILIES, Family

CHECKS: Mapping[str, str] = {
    "one_pass_equals_three": "one pass = three",
    "a_batch_equals_each_row_alone": "batch = alone",
    "vision_only_is_the_encoders_output": "encoder before projector",
    "positions_are_those_the_decoder_saw": "positions as decoded",
    "several_pictures_in_one_question": "several pictures",
    "no_picture_in_the_question": "no picture",
    "the_question_does_not_reach_the_image_tokens": "question unseen by image",
    "the_picture_reaches_every_representation": "picture seen by all",
}
"""Test of the suite → heading of its column."""

Record = Mapping[str, Mapping[str, Mapping[str, bool]]]
"""Version of transformers → family → check → whether it passed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One family and what is known about it."""

    key: str
    """Its key in ``FAMILIES``."""
    family: Family
    """Its description."""
    proven: tuple[str, ...]
    """Versions of transformers on which it passed every check, newest last."""
    failed: Mapping[str, tuple[str, ...]]
    """Version → checks that it did not pass there."""


def read_record() -> Record:
    """Return what the conformance suite found when it was last recorded."""
    path = resources.files("vlmscope.model").joinpath("proven.json")
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record


def standings(record: Record | None = None) -> Iterator[Standing]:
    """Yield every family that has a description, in the order of the table."""
    record = read_record() if record is None else record
    versions = sorted(record, key=lambda version: [int(part) for part in version.split(".")])
    for key, family in FAMILIES.items():
        found = {version: record[version].get(key, {}) for version in versions}
        yield Standing(
            key=key,
            family=family,
            proven=tuple(
                version
                for version, checks in found.items()
                if checks.keys() == CHECKS.keys() and all(checks.values())
            ),
            failed={
                version: tuple(name for name, passed in checks.items() if not passed)
                for version, checks in found.items()
                if not all(checks.values())
            },
        )
