"""``Judge``: scores answers with a language model, by lenient criteria.

HALP labelled its answers with GPT-4. Here any OpenAI-compatible endpoint can be used, or a model on
this machine. Every verdict has a reason, answers that the judge cannot decide are unscorable and
never silently faithful, and no verdict is requested twice.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Protocol

from vlmscope.schema import Answered, Score
from vlmscope.score.judge.cache import VerdictCache, cache_key
from vlmscope.score.judge.endpoint import Endpoint, JudgeSettings
from vlmscope.score.judge.verdict import Keep, Mask, Messages, Verdict
from vlmscope.shown import encodable

CHARACTERS_PER_TOKEN = 4
"""Rule of thumb for English, for the estimate."""

TOKENS_PER_REPLY = 50
"""Estimated length of a reply: a short sentence and a verdict as JSON."""

ROWS_AHEAD = 4
"""Rows held per request in progress, so that one slow reply does not leave the others idle."""


class Connection(Protocol):
    """Interface of an open connection to a model, used in a ``with`` block of ``Connect``."""

    def ask(self, messages: Messages, keep: Keep) -> Future[Verdict]:
        """Send a request; ``keep`` is called with the verdict as soon as it arrives."""
        ...

    def result(self, asked: Future[Verdict]) -> Verdict:
        """Wait for a verdict.

        Raises:
            VlmscopeError: The run has failed and no row can be judged any more.
        """
        ...


Connect = Callable[[], AbstractContextManager[Connection]]
"""Opens a connection. Entering it raises an error of one line if no row can be judged."""


class Settings(Protocol):
    """Interface of a judge's settings: ``JudgeSettings``, or those of a local model."""

    @property
    def model(self) -> str:
        """Name of the model in the keys of the cache."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests in progress at a time."""
        ...

    @property
    def input_price(self) -> float | None:
        """Price of a million input tokens."""
        ...

    @property
    def output_price(self) -> float | None:
        """Price of a million output tokens."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that are never stored or shown."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of judging some rows."""

    rows: int
    """All rows."""
    unscorable: int
    """Rows without an answer or without a ground truth: never sent."""
    cached: int
    """Rows with a cached verdict."""
    to_ask: int
    """Requests to send."""
    equal: int
    """Rows that share one of these requests, because they are equal to an earlier row."""
    characters: int
    """Length of those requests."""
    input_price: float | None = None
    """Price of a million input tokens."""
    output_price: float | None = None
    """Price of a million output tokens."""

    @property
    def input_tokens(self) -> int:
        """Estimated number of tokens to send."""
        return -(-self.characters // CHARACTERS_PER_TOKEN)

    @property
    def output_tokens(self) -> int:
        """Estimated number of tokens to receive; a reasoning model needs many more."""
        return self.to_ask * TOKENS_PER_REPLY

    @property
    def cost(self) -> float | None:
        """Estimated cost in the prices' currency; None unless both prices are known."""
        if self.input_price is None or self.output_price is None:
            return None
        tokens = self.input_tokens * self.input_price + self.output_tokens * self.output_price
        return tokens / 1e6


class Judge:
    """Score answers with a language model.

    Args:
        settings: The model and the options of requests.
        cache: File that stores the verdicts; created with the first one.
        connect: Function that connects to the model; by default to the endpoint of the settings.
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
        """Yield a score for every row, in order, while later requests are in progress.

        Raises:
            InputError: The client is not installed, or the endpoint refuses key or model.
            VlmscopeError: The run has failed. The verdicts so far are stored.
            StoreError: The cache cannot be read or written.
        """
        with ExitStack() as stack:
            known = stack.enter_context(self._cache())
            session = _Session(self._settings.model, known, stack, self._connect)
            ahead = ROWS_AHEAD * self._settings.concurrency
            waiting: deque[tuple[Answered, Future[Verdict]]] = deque()
            for row in rows:
                waiting.append((row, session.ask(row)))
                if len(waiting) >= ahead:
                    yield self._score(*waiting.popleft(), session)
            while waiting:
                yield self._score(*waiting.popleft(), session)

    def estimate(self, rows: Iterable[Answered]) -> Estimate:
        """Return the estimated cost of judging ``rows``. Sends no request and needs no key."""
        counted = unscorable = cached = characters = 0
        seen: set[str] = set()
        with self._cache() as known:
            for row in rows:
                counted += 1
                if _why_unscorable(row):
                    unscorable += 1
                    continue
                key = _key(row, self._settings.model)
                if known.get(key) is not None:
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
            input_price=self._settings.input_price,
            output_price=self._settings.output_price,
        )

    def _cache(self) -> VerdictCache:
        """Return the cached verdicts; a key in their reasons is masked."""
        secrets = (os.environ.get("OPENAI_API_KEY", ""), *self._settings.secrets)
        return VerdictCache(self._path, self._settings.model, Mask(secrets))

    def _score(self, row: Answered, asked: Future[Verdict], session: _Session) -> Score:
        verdict = session.result(row, asked)
        return Score(row.id, verdict.hallucinated, self.name, verdict.evidence)


class _Session:
    """One run of the judge: cached verdicts, requests in progress and, once needed, a connection.

    The connection is opened for the first row without a cached verdict, so that a run whose
    verdicts are all cached needs neither a key nor the client, nor a model in memory.
    """

    def __init__(self, model: str, known: VerdictCache, stack: ExitStack, connect: Connect) -> None:
        self._model = model
        self._known = known
        self._stack = stack
        self._connect = connect
        self._connection: Connection | None = None
        self._in_progress: dict[str, Future[Verdict]] = {}

    def ask(self, row: Answered) -> Future[Verdict]:
        """Return the pending verdict: cached, requested for an equal row, or requested now."""
        why = _why_unscorable(row)
        if why:
            return _done(Verdict(None, why))
        key = _key(row, self._model)
        known = self._known.get(key)
        if known is not None:
            return _done(known)
        if key not in self._in_progress:
            if self._connection is None:
                self._connection = self._stack.enter_context(self._connect())
                self._stack.callback(self._cancel)
            keep = partial(self._known.put, key)
            self._in_progress[key] = self._connection.ask(_messages(row), keep)
        return self._in_progress[key]

    def result(self, row: Answered, asked: Future[Verdict]) -> Verdict:
        """Wait for the verdict on ``row``."""
        if self._connection is None:
            return asked.result()
        verdict = self._connection.result(asked)
        self._in_progress.pop(_key(row, self._model), None)
        return verdict

    def _cancel(self) -> None:
        for asked in self._in_progress.values():
            asked.cancel()


@cache
def judge_prompt() -> str:
    """Return the judge's instructions: ``prompt.md``."""
    return resources.files("vlmscope.score.judge").joinpath("prompt.md").read_text("utf-8")


def shortest_messages() -> Messages:
    """Return the messages for a row without any text."""
    return _messages(Answered("", "", "", ""))


def _messages(row: Answered) -> Messages:
    """Return the prompt and, separately, the row as data that cannot leave its delimiters.

    Quotes are escaped in JSON, and without "<" no answer can close ``<data>``.
    """
    fields = {"question": row.question, "reference": row.target, "answer": row.answer}
    encoded = json.dumps(fields, ensure_ascii=False).replace("<", "\\u003c")
    return [
        {"role": "system", "content": judge_prompt()},
        {"role": "user", "content": f"<data>\n{encodable(encoded)}\n</data>"},
    ]


def _key(row: Answered, model: str) -> str:
    return cache_key(judge_prompt(), model, row.question, row.target, row.answer or "")


def _why_unscorable(row: Answered) -> str:
    """Return why a row is not sent to the judge; empty if it is."""
    if row.answer is None:
        return "there is no answer: the run stopped after the prefill"
    if not row.answer.strip():
        return "the answer is empty"
    return row.unreadable or ("" if row.target.strip() else "there is no ground truth")


def _done(verdict: Verdict) -> Future[Verdict]:
    future: Future[Verdict] = Future()
    future.set_result(verdict)
    return future
