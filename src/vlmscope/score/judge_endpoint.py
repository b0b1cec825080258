"""Asking a chat endpoint for verdicts: patiently, several at a time, and never in vain.

Requests run on an event loop in a thread of its own. The caller stays a plain generator, which also
works where a loop is running already (a notebook), and unlike a thread that waits for a socket, a
task can be cancelled: Ctrl-C stops at once.

What can go wrong is of three kinds. What may pass (rate limits, server errors, timeouts) is tried
again, later and later. What is one row's own fault costs that row its verdict. What would meet
every row alike (a wrong key, an unknown model) stops everything, before it costs more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from json import JSONDecodeError
from types import ModuleType, TracebackType
from typing import Any, Self

from vlmscope.errors import InputError, VlmscopeError
from vlmscope.score.judge_patience import may_pass, pause_before_retry
from vlmscope.score.judge_settings import JudgeSettings
from vlmscope.score.judge_verdict import WORDS, Verdict, read_verdict

FAILURES_BEFORE_GIVING_UP = 3
"""So many failed rows above those under way, before a single reply, are not the rows' fault."""

SHORTEST_KEY = 8
"""Shorter keys are placeholders for endpoints that ask for none, and may be parts of words."""

_SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},  # first, so that the model reasons before it decides
        "verdict": {"type": "string", "enum": list(WORDS)},
    },
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
_STRUCTURED = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "strict": True, "schema": _SCHEMA},
}

DIALECTS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "response_format": _STRUCTURED},
    {"temperature": 0, "response_format": {"type": "json_object"}},
    {"temperature": 0},
    {"response_format": _STRUCTURED},
    {},
)
"""What endpoints understand, best first. Some know no schema, some models no temperature."""

_NUDGE = "That was not the JSON object asked for. Reply with that object and nothing else."

Messages = list[dict[str, str]]


class _NoVerdictError(Exception):
    """One row has no verdict; the message says why."""


class Endpoint:
    """A connection to the judge, opened with ``with``, used with ``ask`` and ``result``.

    Args:
        settings: Which model, and how to ask.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._openai = _import_openai()
        self._client = self._connect()
        self._places = asyncio.Semaphore(settings.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dialect = 0
        self._replied = False
        self._failed = 0
        self._stopped_by: Exception | None = None

    def __enter__(self) -> Self:
        """Start the loop."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is under way and close the connections."""
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, messages: Messages, keep: Callable[[Verdict], None]) -> Future[Verdict]:
        """Begin to ask; ``keep`` gets the verdict the moment it comes, if one comes."""
        return asyncio.run_coroutine_threadsafe(self._guarded(messages, keep), self._loop)

    def result(self, asked: Future[Verdict]) -> Verdict:
        """Wait for a verdict.

        Raises:
            VlmscopeError: No row can be judged any more, whichever row found out.
        """
        try:
            return asked.result()
        except CancelledError:
            if self._stopped_by is None:
                raise
            raise self._stopped_by from None

    def _connect(self) -> Any:
        try:
            client = self._openai.AsyncOpenAI(
                base_url=self._settings.base_url,
                timeout=self._settings.timeout,
                max_retries=0,  # ours keep count, wait with jitter and say what happened
            )
        except self._openai.OpenAIError:
            client = None
        key = client.api_key if client is not None else ""
        if not key:
            raise InputError(
                "the judge needs an API key: set OPENAI_API_KEY "
                "(to any word, where the endpoint asks for none)"
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise InputError("OPENAI_API_KEY holds a blank, a line break or a letter no key has")
        return client

    async def _guarded(self, messages: Messages, keep: Callable[[Verdict], None]) -> Verdict:
        """Ask for one verdict; an error that concerns every row stops the others too."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: we run in a task
        self._tasks.add(task)
        try:
            if self._stopped_by is not None:
                raise self._stopped_by
            async with self._places:
                verdict = await self._verdict(messages)
            if verdict.word is not None:
                keep(verdict)
            return verdict
        except Exception as error:  # noqa: BLE001 - raised again, by every row
            if self._stopped_by is None:
                self._stopped_by = error
                for other in self._tasks - {task}:
                    other.cancel()
            raise self._stopped_by from None
        finally:
            self._tasks.discard(task)

    async def _verdict(self, messages: Messages) -> Verdict:
        """Return the judge's verdict, asked for a second time where the reply held none."""
        try:
            reply = await self._reply(messages)
            verdict = read_verdict(reply)
            if verdict is None:
                said = {"role": "assistant", "content": reply[:2000] or "(nothing)"}
                again = [*messages, said, {"role": "user", "content": _NUDGE}]
                reply = await self._reply(again)
                verdict = read_verdict(reply)
        except _NoVerdictError as why:
            return Verdict(None, f"the judge gave no verdict: {why}")
        if verdict is None:
            return Verdict(
                None, f"the judge gave no verdict: its replies were no JSON: {reply!a:.80}"
            )
        return verdict

    async def _reply(self, messages: Messages) -> str:
        """Send in the first dialect that the endpoint accepts, and remember which that was.

        A request may be refused for its form or for what it says. Only a dialect that went well is
        remembered, and once one has, a refusal is the row's own.
        """
        refused: dict[int, Exception] = {}
        dialect = self._dialect
        while dialect < len(DIALECTS) and dialect not in refused:
            try:
                reply = await self._patiently(messages, DIALECTS[dialect])
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
                refused[dialect] = error
                dialect = self._dialect if self._replied else dialect + 1
                continue
            if not self._replied:
                self._replied, self._dialect = True, dialect
            return reply
        first = next(iter(refused.values()))
        raise self._failure(f"the endpoint refused the request: {self._plain(first)}")

    async def _patiently(self, messages: Messages, options: dict[str, Any]) -> str:
        """Send a request until it is answered, as often as the settings allow."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._send(messages, options)
            except self._openai.APIError as error:
                if not may_pass(error):
                    self._sort_out(error)
                    raise
                if attempt == self._settings.max_attempts:
                    why = f"no reply in {attempt} attempts: {self._plain(error)}"
                    raise self._failure(why) from None
                pause = pause_before_retry(error, attempt, self._settings.backoff)
            await asyncio.sleep(pause)

    async def _send(self, messages: Messages, options: dict[str, Any]) -> str:
        """Return the text of one reply; what is no chat completion has none."""
        try:
            reply = await self._client.chat.completions.create(
                model=self._settings.model, messages=messages, **options
            )
        except (self._openai.APIResponseValidationError, JSONDecodeError, UnicodeDecodeError):
            return ""
        choices = getattr(reply, "choices", None)
        first = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(first, "message", None)
        text = getattr(message, "content", None) or getattr(message, "refusal", None)
        return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else ""

    def _sort_out(self, error: Any) -> None:
        """Raise what an error that will not pass means; return where the request may be changed."""
        status = getattr(error, "status_code", None)
        if status in (400, 422):
            return
        judge = f"the judge {self._settings.model}"
        if status == 413:
            raise self._failure("the row is too long for the endpoint") from None
        if status == 401:
            raise InputError(f"{judge}: the endpoint refuses the key (401); set OPENAI_API_KEY")
        said = f"{judge}: {self._plain(error)}"
        if status == 404:
            raise InputError(f"{said}; check the model's name and the endpoint's address")
        raise VlmscopeError(f"{said}; verdicts so far are kept, put this right and run again")

    def _failure(self, why: str) -> _NoVerdictError:
        """Return what fails one row, or raise if by now it is clear that every row will fail."""
        self._failed += 1
        limit = self._settings.concurrency + FAILURES_BEFORE_GIVING_UP
        if not self._replied and self._failed >= limit:
            raise VlmscopeError(
                f"the judge {self._settings.model}: {self._failed} rows failed before any went "
                f"well; check the endpoint's address and the model's name; last: {why}"
            ) from None
        return _NoVerdictError(why)

    def _plain(self, error: Exception) -> str:
        """Return an error as one line, without the key should the endpoint have echoed it."""
        body, status = getattr(error, "body", None), getattr(error, "status_code", None)
        said = body.get("message") if isinstance(body, dict) else None
        text = f"{said} ({status})" if said and status else str(error)
        if error.__cause__ is not None and status is None:
            text = f"{text} ({error.__cause__})"  # "Connection error." alone tells nothing
        if len(self._client.api_key) >= SHORTEST_KEY:
            text = text.replace(self._client.api_key, "***")
        line = " ".join(text.split())
        return line if len(line) <= 300 else f"{line[:300]}…"

    async def _wind_up(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()


def _import_openai() -> ModuleType:
    """Return the client's package, which only the judge needs."""
    try:
        import openai
    except ImportError as error:
        raise InputError(
            'the judge needs the openai package: pip install "vlmscope[judge]"'
        ) from error
    return openai
