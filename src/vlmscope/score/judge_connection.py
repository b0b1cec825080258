"""What a judge asks through: an endpoint, or a model that is loaded here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from vlmscope.score.judge_verdict import Verdict

Messages = list[dict[str, str]]
"""A chat: ``role`` and ``content`` of each message."""

Keep = Callable[[Verdict], None]
"""Gets a verdict the moment it comes, to store it."""


class Connection(Protocol):
    """Asks a model for verdicts. Used within the ``with`` block of what ``Connect`` returns."""

    def ask(self, messages: Messages, keep: Keep) -> Future[Verdict]:
        """Begin to ask; ``keep`` gets the verdict the moment it comes, if one comes."""
        ...

    def result(self, asked: Future[Verdict]) -> Verdict:
        """Wait for a verdict.

        Raises:
            VlmscopeError: No row can be judged any more, whichever row found out.
        """
        ...


Connect = Callable[[], AbstractContextManager[Connection]]
"""Opens a connection. Entering it fails, in one line, where no row could be judged."""


class Settings(Protocol):
    """What a judge needs to know of how it asks: ``JudgeSettings``, or those of a local model."""

    @property
    def model(self) -> str:
        """What names the model in the keys of kept verdicts."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests under way at a time."""
        ...

    @property
    def input_price(self) -> float | None:
        """Price of a million input tokens, for the estimate."""
        ...

    @property
    def output_price(self) -> float | None:
        """Price of a million output tokens, for the estimate."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that are never stored or shown."""
        ...

    def record(self) -> dict[str, Any]:
        """Return the settings to be kept with the labels."""
        ...
