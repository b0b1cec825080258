"""The judge: a language model reads question, truth and answer, and says whether they agree.

The research that we follow let GPT-4 label its answers by lenient criteria. This is that scorer for
any OpenAI-compatible endpoint, or a model that is loaded here, with what a label needs to be
trusted: the prompt is a file in this package, every verdict has its reason, what the judge cannot
tell or did not answer is unscorable and never silently faithful, and no verdict is paid for twice.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Self

from vlmscope.schema import Answered, Score
from vlmscope.score.judge_cache import VerdictCache, cache_key
from vlmscope.score.judge_connection import Connect, Connection, Messages, Settings
from vlmscope.score.judge_endpoint import Endpoint
from vlmscope.score.judge_mask import Mask
from vlmscope.score.judge_settings import JudgeSettings
from vlmscope.score.judge_verdict import Verdict

__all__ = ["Estimate", "Judge", "JudgeSettings", "judge_prompt", "shortest_messages"]

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English; the estimate is one."""

TOKENS_PER_REPLY = 50
"""A short sentence and a verdict as JSON."""

ROWS_AHEAD = 4
"""Rows held per request under way, so that one slow reply does not leave the others idle."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What judging some rows would take, before it is begun."""

    rows: int
    """All rows."""
    unscorable: int
    """Rows without an answer or without a truth: never asked."""
    cached: int
    """Rows whose verdict is known already."""
    to_ask: int
    """Requests to send."""
    equal: int
    """Rows that are asked with one of these requests, as an earlier row is equal to them."""
    characters: int
    """Length of those requests."""
    input_price: float | None = None
    """Price of a million input tokens."""
    output_price: float | None = None
    """Price of a million output tokens."""

    @property
    def input_tokens(self) -> int:
        """Tokens to send, roughly."""
        return -(-self.characters // CHARACTERS_PER_TOKEN)

    @property
    def output_tokens(self) -> int:
        """Tokens to receive, roughly; a model that reasons at length needs many more."""
        return self.to_ask * TOKENS_PER_REPLY

    @property
    def cost(self) -> float | None:
        """What they cost, roughly, in the prices' currency; None unless both prices are known."""
        if self.input_price is None or self.output_price is None:
            return None
        tokens = self.input_tokens * self.input_price + self.output_tokens * self.output_price
        return tokens / 1e6


class Judge:
    """Scores answers by asking a language model.

    Args:
        settings: Which model, and how it is asked.
        cache: File that keeps the verdicts; made when the first one comes.
        connect: Opens what is asked through; by default the endpoint of the settings.
    """

    def __init__(self, settings: Settings, cache: Path, connect: Connect | None = None) -> None:
        if connect is None:
            if not isinstance(settings, JudgeSettings):
                raise TypeError("a judge without connect needs JudgeSettings")
            connect = partial(Endpoint, settings)
        self.name = "judge"
        self._settings = settings
        self._path = cache
        self._connect = connect

    def __call__(self, rows: Iterable[Answered]) -> Iterator[Score]:
        """Yield a score for every row, in order, while later rows are being asked.

        Raises:
            InputError: The client is not installed, or the endpoint refuses key or model.
            VlmscopeError: No row can be judged any more. The verdicts so far are kept.
            StoreError: The cache cannot be read or written.
        """
        with _Hearing(self._settings, self._path, self._connect) as hearing:
            ahead = ROWS_AHEAD * self._settings.concurrency
            waiting: deque[tuple[Answered, Future[Verdict]]] = deque()
            for row in rows:
                waiting.append((row, hearing.begin(row)))
                if len(waiting) >= ahead:
                    yield self._score(*waiting.popleft(), hearing)
            while waiting:
                yield self._score(*waiting.popleft(), hearing)

    def estimate(self, rows: Iterable[Answered]) -> Estimate:
        """Return what judging ``rows`` would take. Nothing is asked and no key is needed."""
        counted = unscorable = cached = characters = 0
        seen: set[str] = set()
        settings = self._settings
        with _cache(self._path, settings) as kept:
            for row in rows:
                counted += 1
                if _why_unscorable(row):
                    unscorable += 1
                    continue
                key = _key(row, settings.model)
                if kept.get(key) is not None:
                    cached += 1
                elif key not in seen:
                    seen.add(key)
                    characters += sum(len(message["content"]) for message in _messages(row))
        return Estimate(
            rows=counted,
            unscorable=unscorable,
            cached=cached,
            to_ask=len(seen),
            equal=counted - unscorable - cached - len(seen),
            characters=characters,
            input_price=settings.input_price,
            output_price=settings.output_price,
        )

    def _score(self, row: Answered, asked: Future[Verdict], hearing: _Hearing) -> Score:
        verdict = hearing.end(row, asked)
        return Score(row.id, verdict.hallucinated, self.name, verdict.evidence)


class _Hearing:
    """One run of the judge: the cache, the requests under way and, once needed, the connection.

    The connection is opened for the first row that has to be asked, so that a run whose verdicts
    are all there needs neither a key nor the client, nor a model in memory.
    """

    def __init__(self, settings: Settings, path: Path, connect: Connect) -> None:
        self._settings = settings
        self._open = ExitStack()
        self._kept = _cache(path, settings)
        self._connect = connect
        self._connection: Connection | None = None
        self._under_way: dict[str, Future[Verdict]] = {}

    def __enter__(self) -> Self:
        self._open.enter_context(self._kept)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def begin(self, row: Answered) -> Future[Verdict]:
        """Return the verdict to come: known, under way for an equal row, or asked for now."""
        why = _why_unscorable(row)
        if why:
            return _known(Verdict(None, why))
        key = _key(row, self._settings.model)
        kept = self._kept.get(key)
        if kept is not None:
            return _known(kept)
        if key not in self._under_way:
            if self._connection is None:
                self._connection = self._open.enter_context(self._connect())
            keep = partial(self._kept.put, key)
            self._under_way[key] = self._connection.ask(_messages(row), keep)
        return self._under_way[key]

    def end(self, row: Answered, asked: Future[Verdict]) -> Verdict:
        """Wait for the verdict on ``row``."""
        if self._connection is None:
            return asked.result()
        verdict = self._connection.result(asked)
        self._under_way.pop(_key(row, self._settings.model), None)
        return verdict


@cache
def judge_prompt() -> str:
    """Return what the judge is told: ``judge_prompt.md``."""
    return resources.files("vlmscope.score").joinpath("judge_prompt.md").read_text("utf-8")


def _cache(path: Path, settings: Settings) -> VerdictCache:
    """Return the verdicts in a file; whoever wrote it may have kept a reason with the key in it."""
    secrets = (os.environ.get("OPENAI_API_KEY", ""), *settings.secrets)
    return VerdictCache(path, settings.model, Mask(secrets))


def _known(verdict: Verdict) -> Future[Verdict]:
    future: Future[Verdict] = Future()
    future.set_result(verdict)
    return future


def _why_unscorable(row: Answered) -> str:
    """Return why a row need not be asked; empty where it has to be."""
    if row.answer is None:
        return "there is no answer: the run stopped after the prefill"
    if not row.answer.strip():
        return "the answer is empty"
    return "" if row.target.strip() else "there is no ground truth"


def _key(row: Answered, model: str) -> str:
    return cache_key(judge_prompt(), model, row.question, row.target, row.answer or "")


def shortest_messages() -> Messages:
    """Return what asking about a row without any text would send."""
    return _messages(Answered("", "", "", ""))


def _messages(row: Answered) -> Messages:
    """Return the prompt and, apart from it, the row as data that cannot leave its delimiters.

    Inside JSON a quote ends nothing, and without "<" no answer can close ``<data>``.
    """
    fields = {"question": row.question, "reference": row.target, "answer": row.answer}
    encoded = json.dumps(fields, ensure_ascii=False).replace("<", "\\u003c")
    encoded = encoded.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair
    return [
        {"role": "system", "content": judge_prompt()},
        {"role": "user", "content": f"<data>\n{encoded}\n</data>"},
    ]
