"""Fuzzed: what a judge's endpoint replies, and a file of verdicts.

One row is asked about, over the real client, which speaks to a transport in this process. Whatever
comes back, the row has a score, or one of our errors ends the labelling; and no text shows the key.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import openai

from vlmscope.errors import VlmscopeError
from vlmscope.schema import Answered
from vlmscope.score.judge import Judge, JudgeSettings, Verdict, VerdictCache
from vlmscope.score.judge.endpoint import CHECK
from vlmscope.score.judge.verdict import WORDS

KEY = "sk-fuzz-0123456789"
STATUS = (200, 200, 200, 204, 307, 400, 401, 404, 413, 429, 500, 503)
OK = b'{"choices": [{"message": {"content": "ok"}}]}'
HEADERS = ("content-type", "location", "retry-after", "content-encoding", "set-cookie")
"""Which status and header a reply has, its first byte says."""

_HTTPX: Any = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]]
_Client: Any = openai.DefaultAsyncHttpxClient


def ask(folder: Path, data: bytes) -> None:
    """Reply with these bytes: a status, a line for a header, and the body, which quotes the key."""
    head, _, body = data[1:].partition(b"\n")
    which = data[0] if data else 0
    status, name = STATUS[which % len(STATUS)], HEADERS[which // len(STATUS) % len(HEADERS)]
    value = bytes(byte for byte in head if byte >= 32).replace(b"KEY", KEY.encode())
    replies = [body.replace(b"KEY", KEY.encode())] * 20

    def reply(request: Any) -> Any:
        assert request.url.host == "judge.test"
        if len(data) % 4 and json.dumps(CHECK[0]["content"]).encode() in request.content:
            return _HTTPX.Response(200, stream=_Stream(OK))
        content = replies.pop()
        return _HTTPX.Response(status, headers=[(name.encode(), value)], stream=_Stream(content))

    class _Stream(_HTTPX.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, content: bytes) -> None:
            self.content = content

        async def __aiter__(self) -> Any:
            yield self.content

    class Offline(_Client):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(transport=_HTTPX.MockTransport(reply), **options)

    settings = JudgeSettings("m", "http://judge.test/v1", 1, timeout=5, max_attempts=1)
    os.environ["OPENAI_API_KEY"] = KEY
    openai.DefaultAsyncHttpxClient = Offline  # type: ignore[misc]
    path = folder / "judge.jsonl"
    try:
        (score,) = Judge(settings, path)([Answered("q", "Is it?", "Yes.", "yes")])
        said = score.evidence
    except VlmscopeError as error:
        said = str(error)
    finally:
        openai.DefaultAsyncHttpxClient = _Client  # type: ignore[misc]
    assert len(replies) < 20
    said += path.read_text() if path.exists() else ""
    assert len(said) < 2000
    assert KEY not in said


def read_verdicts(folder: Path, data: bytes) -> None:
    """Read a file of verdicts, add one, and read it again."""
    path = folder / "judge.jsonl"
    path.write_bytes(data)
    with VerdictCache(path, "m") as cache:
        before = dict(cache._verdicts)
    assert all(verdict.word in WORDS for verdict in before.values())
    assert all(len(verdict.reason.splitlines()) <= 1 for verdict in before.values())
    with VerdictCache(path, "m") as cache:
        cache.put("new", Verdict("faithful", "because"))
    with VerdictCache(path, "m") as cache:
        assert cache.get("new") == Verdict("faithful", "because")
