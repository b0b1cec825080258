"""A judge and the endpoint that it asks."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from judge_server import KEY, Server, serving
from vlmscope.schema import Answered
from vlmscope.score import Auto
from vlmscope.score.judge import Judge, JudgeSettings

next(Auto()([Answered("q", "What is it?", "a sofa", "couch")]))  # reads the table of words once


@pytest.fixture(scope="module", autouse=True)
def certificates_once() -> Iterator[None]:
    """A client reads all certificates, which takes longer than a test; no endpoint here has one."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(ssl.create_default_context)
        patch.setattr(ssl, "create_default_context", once)
        yield


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client waits before it sends a request again: it does not really wait."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    return found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture
def settings(server: Server) -> JudgeSettings:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return JudgeSettings("judge-1", url, concurrency=4, timeout=5.0, max_attempts=3)


@pytest.fixture
def judge(settings: JudgeSettings, tmp_path: Path) -> Judge:
    return Judge(settings, tmp_path / "cache.jsonl")
