"""When to ask again, and how long to wait: exponential backoff with jitter, unless we are told."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_BACKOFF = 60.0
"""Seconds at which doubling the pause stops."""

LONGEST_WISH = 300.0
"""Seconds up to which the endpoint's own wish is followed: a quota that renews tomorrow is no
reason to sleep until then. The row is unscorable now and asked again by the next run."""

_MAY_PASS = frozenset({408, 409, 425, 429})


def may_pass(error: Any) -> bool:
    """Return whether asking again can help: rate limits, server errors, broken connections."""
    if getattr(error, "code", None) == "insufficient_quota":  # a 429 that only money ends
        return False
    status = getattr(error, "status_code", None)
    if status is None:
        return True  # no reply at all: the connection failed or timed out
    return bool(status in _MAY_PASS or status >= 500)


def pause_before_retry(error: Any, attempt: int, backoff: float) -> float:
    """Return the seconds to wait after the ``attempt``-th failure, counted from 1.

    Jitter keeps rows that failed together from coming back together.
    """
    jitter = random.random()  # noqa: S311 - guards nothing
    doubled = min(backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
    response = getattr(error, "response", None)
    wished = _wish(response.headers.get("retry-after")) if response is not None else 0.0
    return max(doubled * (0.5 + jitter), wished + backoff * jitter if wished else 0.0)


def _wish(header: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or as a date.

    >>> _wish("7"), _wish(None), _wish("-1"), _wish("soon"), _wish("1e9")
    (7.0, 0.0, 0.0, 0.0, 300.0)
    >>> _wish("Fri, 31 Dec 1999 23:59:59 GMT")
    0.0
    """
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError, OSError, TypeError, IndexError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_WISH)
