"""Checks of a user's own detector: its description, and what its functions return.

Every message begins with the detector's name. Registered detectors are held by tests: an exception
of theirs is a bug, and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vlmscope.detectors.detector import GROUPS, KNOWN, PASSES, Detector, Paper
from vlmscope.detectors.methods import (
    BestHeads,
    Estimator,
    Flags,
    Method,
    Probe,
    ReturnedError,
    Task,
    candidates,
    numbers,
)
from vlmscope.detectors.missing import COLUMN, remedy
from vlmscope.detectors.registry import DETECTORS
from vlmscope.detectors.rows import ANSWER_LOGPROBS, Floats, Rows
from vlmscope.errors import InputError, VlmscopeError, one_line, suggest_names
from vlmscope.positions import VISION_ONLY

CHOICES = {"group": GROUPS, "known": KNOWN, "passes": PASSES}
"""Fields with one of some values."""

TEXTS = ("name", "title", "formula", "pitfalls", "adaptation")
"""Fields that are texts."""

METHOD = ("learned", "undefined", "risks")
"""What a method has."""

FORMS = (COLUMN, "signals/")
"""What stands before the names of columns and of signals."""


def is_own(detector: Any) -> bool:
    """Return whether something is a detector, and none of the registry."""
    return isinstance(detector, Detector) and DETECTORS.get(detector.name) is not detector


def check_detector(detector: Detector) -> None:
    """Raise for a description that tables and reports cannot show.

    Raises:
        InputError: A field has another type, or a value that is not one of those it may have.
    """
    for field in TEXTS:
        text = getattr(detector, field)
        if not isinstance(text, str) or (field in TEXTS[:2] and not text.strip()):
            raise _wrong(detector, f"{field} is {text!r}, expected a text")
    for field, known in CHOICES.items():
        value = getattr(detector, field)
        if value not in known:
            near = suggest_names(str(value), known)
            hint = near if near.startswith("did") else f"choose from {_listed(known)}"
            raise _wrong(detector, f"{field} is {value!r}, expected one of some texts; {hint}")
    if not (detector.paper is None or isinstance(detector.paper, Paper)):
        raise _wrong(detector, f"paper is {detector.paper!r}, expected a Paper or None")
    requires = detector.requires
    if not isinstance(requires, tuple | list) or not all(isinstance(n, str) for n in requires):
        raise _wrong(detector, f"requires is {requires!r}, expected a tuple of texts")
    _check_method(detector)


def _check_method(detector: Detector) -> None:
    """Raise if the method is none, or is a probe of an unknown estimator."""
    method: Any = detector.method
    if isinstance(method, type) or not all(hasattr(method, name) for name in METHOD):
        raise _wrong(
            detector,
            f"method is {_shown(method)}, expected Score(function), Probe(function) or Distance(…)",
        )
    if isinstance(method, Probe) and method.estimator not in get_args(Estimator):
        raise _wrong(
            detector,
            f"estimator is {method.estimator!r}, expected one of {_listed(get_args(Estimator))}",
        )


def check_requires(detector: Detector, rows: Rows) -> None:
    """Raise for a requirement that no run could have, such as a signal without ``signals/``.

    Raises:
        InputError: With the nearest names that the run or a registered detector has.
    """
    there = rows.available
    for name in detector.requires:
        if not rows.lacks([name]) or _is_form(name):
            continue
        full = next((f"{form}{name}" for form in FORMS[::-1] if f"{form}{name}" in there), "")
        every = dict.fromkeys((*there, *(n for each in DETECTORS.values() for n in each.requires)))
        near = f"did you mean {full!r}?" if full else suggest_names(name, every)
        raise _wrong(
            detector,
            f"requires {name!r}, expected a name such as 'signals/entropy', 'column answer', "
            f"'{ANSWER_LOGPROBS}' or 'query_token_representation'; {near}",
        )


def _is_form(name: str) -> bool:
    """Return whether a requirement has the form of one, so that a run may have it."""
    return name.startswith(COLUMN) or name.partition("/")[0] == VISION_ONLY or bool(remedy(name))


@contextmanager
def naming(detector: Detector, rows: Rows) -> Iterator[None]:
    """Name a user's own detector in errors of its functions.

    Args:
        detector: The detector whose functions are called.
        rows: The rows that they read.

    Raises:
        InputError: In place of another exception, which is its cause.
    """
    try:
        yield
    except VlmscopeError:
        raise
    except ReturnedError as error:
        raise _wrong(detector, str(error)) from error
    except Exception as error:
        if not is_own(detector):
            raise
        raise _wrong(detector, _raised(error, rows)) from error


def undefined_rows(detector: Detector, rows: Rows) -> Flags:
    """Return the rows that a detector has no value for, ``[N]``.

    Raises:
        InputError: A function of a user's own detector failed, or returned something else.
    """
    with naming(detector, rows):
        if is_own(detector):
            _check_shared(detector.method, rows)
        bad = np.asarray(detector.method.undefined(rows))
        if bad.shape != (len(rows),) or bad.dtype != np.bool_:
            raise ReturnedError(
                f"undefined: {_found(bad)}, expected an array of bool, ({len(rows)},)"
            )
    return bad


def _check_shared(method: Method, rows: Rows) -> None:
    """Raise if a feature has the name of vectors, whose fits are shared, and is another array."""
    if not isinstance(method, Probe | BestHeads):
        return
    for name, read in candidates(method.features(rows)).items():
        if name not in rows.vectors:
            continue
        matrix = numbers(read(), (len(rows), None), f"its feature {name!r}")
        if not np.array_equal(matrix, rows.vectors[name], equal_nan=True):
            raise ReturnedError(
                f"its feature {name!r} has the name of vectors of the run, whose probes are "
                "shared, and is another array; give it another name"
            )


def risks_of(detector: Detector, task: Task) -> Floats:
    """Return the risk of each row in each split, ``[R, N]``.

    Raises:
        InputError: A function of a user's own detector failed, or returned something else.
    """
    shape = len(task.splits), len(task.truth)
    with naming(detector, task.rows):
        found = np.asarray(detector.method.risks(task))
        if found.shape != shape or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
            raise ReturnedError(
                f"risks: {_found(found)}, expected finite numbers, {shape}, for splits and rows"
            )
    return found


def _raised(error: Exception, rows: Rows) -> str:
    """Return what a function raised, and for a missing name the nearest."""
    kind = type(error).__name__
    if not isinstance(error, KeyError):
        return f"its method raised {kind}: {one_line(error)}"
    every = (*rows.signals, *rows.vectors, *map(str, rows.table.columns))
    wanted = str(error.args[0]) if error.args else ""
    near = suggest_names(wanted.removeprefix("signals/").removeprefix("column "), every)
    return (
        f"its method read {wanted!r}, which the rows do not have; {near} List in requires what it "
        "reads, so that runs without it leave the detector out"
    )


def _found(values: NDArray[Any]) -> str:
    return f"returned an array of {values.dtype}, {values.shape}"


def _shown(value: Any) -> str:
    """Return what a value is, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _wrong(detector: Detector, finding: str) -> InputError:
    return InputError(f"detector {detector.name!r}: {finding}")
