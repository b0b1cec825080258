"""Rows and manifests as a session of this version makes them: with the tokens' statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from store import store_support
from vlmscope.schema import Capture
from vlmscope.signals import DEFAULT_SIGNALS, TOKEN_STATISTICS
from vlmscope.store import Manifest


def make_capture(i: int, id_: str | None = None, **changes: Any) -> Capture:
    """Return row ``i`` of ``store_support``, with statistics of its tokens."""
    capture = store_support.make_capture(i, id_, **changes)
    logprobs = capture.answer_logprobs
    if logprobs is None:
        return capture
    return replace(capture, signals={name: np.abs(logprobs) for name in TOKEN_STATISTICS})


def make_manifest(**changes: Any) -> Manifest:
    """Return the manifest of such rows."""
    capture = {"signals": DEFAULT_SIGNALS, **changes.pop("capture", {})}
    return store_support.make_manifest(capture=capture, **changes)
