"""The groups that the folds of a sweep do not split, for accurate captions."""

from __future__ import annotations

from vlmscope.sweeps import SavedSweep
from vlmscope.sweeps.splitting import IMAGE, QUESTION


def held_out(sweep: SavedSweep | None) -> str:
    """Return the group that folds do not split: ``image``, ``question``, ``value of source``."""
    if sweep is None:
        return IMAGE
    by = str(sweep.summary["group_by"])
    if by == IMAGE and not sweep.summary["images"]:
        return QUESTION
    return by if by in (IMAGE, QUESTION) else f"value of {by}"


def unseen(sweep: SavedSweep) -> str:
    """Return the description of held-out answers: ``about images`` or ``to questions``."""
    what = held_out(sweep)
    if what == IMAGE:
        return "about images"
    if what == QUESTION:
        return "to questions"
    return what.replace("value ", "of values ", 1)
