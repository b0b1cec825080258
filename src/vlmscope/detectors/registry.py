"""The registry: every detector, by name."""

from __future__ import annotations

from collections.abc import Iterable

from vlmscope.arguments import several_names
from vlmscope.detectors import (
    answer,
    asked,
    attention,
    contrast,
    lens,
    no_model,
    samples,
    states,
)
from vlmscope.detectors.detector import GROUPS, Detector
from vlmscope.errors import InputError, suggest_names

DETECTORS: dict[str, Detector] = {
    each.name: each
    for module in (no_model, answer, attention, states, contrast, lens, samples, asked)
    for each in module.DETECTORS
}
"""Name → detector, by group."""


def chosen(names: str | Iterable[str] | None) -> tuple[Detector, ...]:
    """Return the detectors with some names, in the order of the registry; all for None.

    The baselines that need no model are always included: others are compared with them.

    Args:
        names: Names of detectors or of groups; one, several, or a comma-separated text.

    Raises:
        InputError: A name is neither, or there is none.

    >>> [each.name for each in chosen("asked")][-2:]
    ['p_true', 'verbalised']
    """
    wanted = named(names)
    return tuple(each for name, each in DETECTORS.items() if name in wanted or each.is_model_free)


def named(names: str | Iterable[str] | None) -> frozenset[str]:
    """Return the names of the detectors that are asked for: without the baselines added to them.

    The arguments and errors are those of ``chosen``.

    >>> sorted(named("asked")), len(named(None)) == len(DETECTORS)
    (['p_true', 'verbalised'], True)
    """
    if names is None:
        return frozenset(DETECTORS)
    wanted = set(several_names(names))
    if not wanted:
        raise InputError(
            f"--detectors {names!r}: names no detector; choose from {', '.join(GROUPS)}, or omit "
            "it to evaluate all"
        )
    if unknown := sorted(wanted - {*DETECTORS, *GROUPS}):
        near = suggest_names(unknown[0].lower(), (*GROUPS, *DETECTORS))
        raise InputError(
            f"--detectors: {unknown[0]!r} is not a detector; "
            + (
                near
                if near.startswith("did")
                else f"choose from {', '.join(GROUPS)}, or from {', '.join(DETECTORS)}"
            )
        )
    return frozenset(n for n, each in DETECTORS.items() if n in wanted or each.group in wanted)
