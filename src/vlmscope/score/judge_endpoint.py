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
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self

from vlmscope.errors import InputError, VlmscopeError
from vlmscope.score.judge_client import (
    UnusableReplyError,
    connect,
    content_of,
    import_openai,
    redirect_of,
)
from vlmscope.score.judge_connection import Keep, Messages
from vlmscope.score.judge_mask import Mask
from vlmscope.score.judge_patience import may_pass, pause_before_retry
from vlmscope.score.judge_settings import JudgeSettings
from vlmscope.score.judge_verdict import WORDS, Verdict, read_verdict

FAILURES_BEFORE_GIVING_UP = 3
"""So many failed rows above those under way, before a single reply, are not the rows' fault."""

LONGEST_ERROR = 300
"""Characters of an error that are shown."""

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

NUDGE = "That was not the JSON object asked for. Reply with that object and nothing else."

CHECK: Messages = [{"role": "user", "content": "Reply with the word ok."}]
"""What the endpoint is asked once before the first row."""

CHECK_ATTEMPTS = 3
"""How often, at most: nobody has waited for anything yet."""


class _NoVerdictError(Exception):
    """One row has no verdict; the message says why."""


class Endpoint:
    """A connection to the judge, opened with ``with``, used with ``ask`` and ``result``.

    Args:
        settings: Which model, and how to ask.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._openai = import_openai()
        self._client = connect(self._openai, settings)
        self._mask = Mask([self._client.api_key, *settings.secrets])
        self._places = asyncio.Semaphore(settings.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dialect = 0
        self._replied = False
        self._failed = 0
        self._stopped_by: Exception | None = None

    def __enter__(self) -> Self:
        """Start the loop, and ask the endpoint once whether it answers at all.

        Raises:
            InputError: It does not: says why and what to do. No row was sent.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._check(), self._loop).result()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is under way and close the connections."""
        self._close()

    def _close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, messages: Messages, keep: Keep) -> Future[Verdict]:
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

    async def _check(self) -> None:
        """Send one tiny request, in the plainest dialect."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: we run in a task
        self._tasks.add(task)
        try:
            reply = await self._patiently(CHECK, {}, CHECK_ATTEMPTS)
            why = "" if reply else "its reply to a test request is no chat completion"
        except _NoVerdictError as error:
            why = str(error)
        except (self._openai.BadRequestError, self._openai.UnprocessableEntityError) as error:
            why = f"it refuses a test request: {self._plain(error)}"
        finally:
            self._tasks.discard(task)
        self._failed = 0
        if why:
            raise InputError(
                f"the judge {self._settings.model}: {why}; check the endpoint's address (most end "
                "in /v1), the model's name and that the endpoint is up, and run again; no row was "
                "sent"
            )

    async def _guarded(self, messages: Messages, keep: Keep) -> Verdict:
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
            verdict = read_verdict(reply, self._mask, messages)
            if verdict is None:
                said = {"role": "assistant", "content": reply[:2000] or "(nothing)"}
                again = [*messages, said, {"role": "user", "content": NUDGE}]
                reply = await self._reply(again)
                verdict = read_verdict(reply, self._mask, messages)
        except _NoVerdictError as why:
            return Verdict(None, f"the judge gave no verdict: {why}")
        if verdict is None:
            shown = f"no JSON: {self._mask.line(reply, 80)!a:.80}" if reply else "no readable text"
            return Verdict(None, f"the judge gave no verdict: its replies were {shown}")
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

    async def _patiently(
        self, messages: Messages, options: dict[str, Any], most: int | None = None
    ) -> str:
        """Send a request until it is answered, as often as the settings allow, or ``most``."""
        attempts = min(self._settings.max_attempts, most or self._settings.max_attempts)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._send(messages, options)
            except (self._openai.APIError, TimeoutError) as error:
                if not may_pass(error):
                    self._sort_out(error)
                    raise
                if attempt == attempts:
                    why = f"no reply in {attempt} attempts: {self._plain(error)}"
                    raise self._failure(why) from None
                pause = pause_before_retry(error, attempt, self._settings.backoff)
            await asyncio.sleep(pause)

    async def _send(self, messages: Messages, options: dict[str, Any]) -> str:
        """Return the text of one reply, which must be there whole within the time limit."""
        create = self._client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._settings.timeout):
                sent = await create(model=self._settings.model, messages=messages, **options)
            return content_of(sent.http_response)
        except (self._openai.APIError, TimeoutError):
            raise
        except UnusableReplyError as error:
            raise self._failure(str(error)) from None
        except Exception as error:  # noqa: BLE001 - a reply may be odd in ways nobody foresaw
            why = f"its reply cannot be read: {type(error).__name__}: {self._plain(error)}"
            raise self._failure(why) from None

    def _sort_out(self, error: Any) -> None:
        """Raise what an error that will not pass means; return where the request may be changed."""
        status = getattr(error, "status_code", None)
        if status in (400, 422):
            return
        judge = f"the judge {self._settings.model}"
        if redirect := redirect_of(error, self._mask):
            if self._replied:
                raise self._failure(redirect) from None
            raise InputError(f"{judge}: {redirect}; give the address that answers") from None
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
        if isinstance(said, str) and said and status:
            text = f"{said} ({status})"
        elif isinstance(error, TimeoutError):
            text = f"no whole reply within {self._settings.timeout:g} seconds"
        else:
            text = str(error)
        if error.__cause__ is not None and status is None:
            text = f"{text} ({error.__cause__})"  # "Connection error." alone tells nothing
        return self._mask.line(text, LONGEST_ERROR)

    async def _wind_up(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
