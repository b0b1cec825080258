"""How the judge is asked. Plain data without a key; ``record`` is written beside the labels."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from vlmscope.errors import InputError


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Which model judges, and how it is asked. The key is the client's own ``OPENAI_API_KEY``."""

    model: str
    """The judge's name at the endpoint."""
    base_url: str | None = None
    """An OpenAI-compatible endpoint; None: the client's own default."""
    concurrency: int = 8
    """Most requests under way at a time."""
    timeout: float = 60.0
    """Seconds to wait for one reply."""
    max_attempts: int = 6
    """How often one request is sent before its row counts as unscorable."""
    backoff: float = 1.0
    """Seconds before the first retry; each further one waits twice as long."""
    input_price: float | None = None
    """Price of a million input tokens, for the estimate."""
    output_price: float | None = None
    """Price of a million output tokens, for the estimate."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """User and password in the endpoint's address, as they stand there and as meant."""
        address = self.base_url or os.environ.get("OPENAI_BASE_URL", "")
        try:
            parts = urlsplit(address)
            given = (parts.username or "", parts.password or "")
        except ValueError:
            return ()
        return (*given, *map(unquote, given))

    def record(self) -> dict[str, Any]:
        """Return the settings to be kept: the endpoint without a user's name or password.

        >>> JudgeSettings("m", "https://me:word@host/v1").record()["base_url"]
        'https://host/v1'
        """
        record = asdict(self)
        if self.base_url is not None and "@" in self.base_url:
            address = urlsplit(self.base_url)
            host = address.netloc.rpartition("@")[2]
            record["base_url"] = address._replace(netloc=host).geturl()
        return record

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if not self.model.strip():
            raise InputError("the judge has no model: give the name the endpoint knows it by")
        if not (self.base_url or "https://").startswith(("http://", "https://")):
            raise InputError("the judge's endpoint: give an address that begins with https://")
        try:
            urlsplit(self.base_url or "")
        except ValueError as error:
            raise InputError(f"the judge's endpoint: {error}; give a whole address") from None
        if self.concurrency < 1 or self.max_attempts < 1:
            raise InputError("the judge's concurrency and attempts: give 1 or more")
        if not (self.timeout > 0 and self.backoff >= 0):
            raise InputError("the judge's timeout: give more than 0 seconds; its backoff 0 or more")
