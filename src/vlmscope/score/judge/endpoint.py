"""The judge at an OpenAI-compatible endpoint, called through the ``openai`` client.

The client retries rate limits, server errors, timeouts and lost connections. A failure of one row
makes that row unscorable; a failure that affects every row (a wrong key, an unknown model, an
unreachable server) stops the run with one error.

An endpoint may be untrusted. A reply is read up to ``LARGEST_REPLY`` bytes and never decompressed,
redirects are not followed, so that the key goes to the given address only, and JSON is parsed
within limits of depth.

Requests run on an event loop in a thread of its own, so that the caller is a plain generator, which
also works in a notebook, and Ctrl-C cancels what is in progress.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from vlmscope.errors import InputError, VlmscopeError
from vlmscope.jsontext import load_json
from vlmscope.score.judge.verdict import WORDS, Keep, Mask, Messages, Verdict, read_verdict
from vlmscope.shown import encodable

FAILURES_BEFORE_GIVING_UP = 3
"""Number of consecutive failed rows, beyond those in progress, that indicates a failed endpoint.
"""

LARGEST_REPLY = 4 * 2**20
"""Bytes of a reply that are read; a long chain of thought takes a tenth of it."""

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

REQUEST_OPTIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0, "response_format": _STRUCTURED},
    {"temperature": 0},
    {"response_format": _STRUCTURED},
    {},
)
"""Request options to try, best first: some endpoints refuse a schema, some models a temperature."""

NUDGE = "That was not the JSON object asked for. Reply with that object and nothing else."

CHECK: Messages = [
    {"role": "user", "content": 'Reply with {"reason": "ok", "verdict": "unclear"} and no more.'}
]
"""The test request before the first row."""

CHECK_ATTEMPTS = 3
"""Most attempts of the test request."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Settings of a judge at an endpoint. The API key is read from ``OPENAI_API_KEY``."""

    model: str
    """The judge's name at the endpoint."""
    base_url: str | None = None
    """Address of an OpenAI-compatible endpoint; None for the client's default."""
    concurrency: int = 8
    """Most requests in progress at a time."""
    timeout: float = 60.0
    """Seconds to wait for one reply."""
    max_attempts: int = 8
    """Most attempts of one request before its row is unscorable."""
    input_price: float | None = None
    """Price of a million input tokens, for the estimate."""
    output_price: float | None = None
    """Price of a million output tokens, for the estimate."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """User and password in the endpoint's address, as written there and decoded."""
        address = self.base_url or os.environ.get("OPENAI_BASE_URL", "")
        try:
            parts = urlsplit(address)
            given = (parts.username or "", parts.password or "")
        except ValueError:
            return ()
        return (*given, *map(unquote, given))

    def record(self) -> dict[str, Any]:
        """Return the settings as stored with the labels, without user and password.

        >>> JudgeSettings("m", "https://me:word@host/v1").record()["base_url"]
        'https://host/v1'
        """
        record = asdict(self)
        if self.base_url is not None and "@" in self.base_url:
            record["base_url"] = _without_user(self.base_url)
        return record

    def __post_init__(self) -> None:
        """Raise for invalid settings."""
        if not self.model.strip():
            raise InputError("the judge has no model: give its name at the endpoint")
        if not (self.base_url or "https://").startswith(("http://", "https://")):
            raise InputError("the judge's endpoint: give an address that begins with https://")
        try:
            urlsplit(self.base_url or "")
        except ValueError as error:
            raise InputError(f"the judge's endpoint: {error}; give a complete address") from None
        if self.concurrency < 1 or self.max_attempts < 1:
            raise InputError("the judge's concurrency and attempts: give 1 or more")
        if not self.timeout > 0:
            raise InputError("the judge's timeout: give more than 0 seconds")


class _NoVerdictError(Exception):
    """One row has no verdict; the message says why."""


class _RefusedError(_NoVerdictError):
    """The endpoint refuses the content or an option of a request."""


class Endpoint:
    """A connection to the judge: opened with ``with``, used with ``ask`` and ``result``.

    Args:
        settings: The model and the options of requests.

    Raises:
        InputError: The client is not installed, or there is no usable key.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._openai = _import_openai()
        self._client = _make_client(self._openai, settings)
        self._mask = Mask([self._client.api_key, *settings.secrets])
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._options = REQUEST_OPTIONS[0]
        self._replied = False
        self._failed = 0
        self._fatal: Future[Verdict] = Future()
        """Fails with the error that ends the run, whichever row detects it."""
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start the event loop, and send a test request to the endpoint.

        Raises:
            InputError: The endpoint does not answer. No row was sent.
        """
        from anyio.from_thread import start_blocking_portal

        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._portal.call(self._check)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is in progress and close the connections."""
        self._open.__exit__(kind, error, trace)

    def ask(self, messages: Messages, keep: Keep) -> Future[Verdict]:
        """Send a request; ``keep`` is called with the verdict as soon as it arrives."""
        return self._portal.start_task_soon(self._ask, messages, keep)

    def result(self, asked: Future[Verdict]) -> Verdict:
        """Wait for a verdict.

        Raises:
            VlmscopeError: The run has failed and no row can be judged any more.
        """
        wait([asked, self._fatal], return_when=FIRST_COMPLETED)
        return (self._fatal if self._fatal.done() else asked).result()

    async def _check(self) -> None:
        """Determine the options that the endpoint accepts, with one tiny request each."""
        why = ""
        attempts = min(CHECK_ATTEMPTS, self._settings.max_attempts)
        for options in REQUEST_OPTIONS:
            try:
                reply = await self._send(CHECK, options, attempts)
            except _RefusedError as error:
                why = why or str(error)
                continue
            except _NoVerdictError as error:
                why = str(error)
                break
            self._options = options
            why = "" if reply else "its reply to a test request is not a chat completion"
            break
        if why:
            raise InputError(
                f"the judge {self._settings.model}: {why}; check the endpoint's address (most end "
                "in /v1), the model's name and that the endpoint is up, and run again; no row was "
                "sent"
            )

    async def _ask(self, messages: Messages, keep: Keep) -> Verdict:
        """Request one verdict; an error that affects every row stops all of them."""
        try:
            async with self._slots:
                if self._fatal.done():
                    return self._fatal.result()
                verdict = await self._verdict(messages)
            if verdict.word is not None:
                keep(verdict)
            return verdict
        except Exception as error:
            if not self._fatal.done():
                self._fatal.set_exception(error)
            raise

    async def _verdict(self, messages: Messages) -> Verdict:
        """Return the judge's verdict, requested a second time if the reply contains none."""
        try:
            reply = await self._reply(messages)
            verdict = read_verdict(reply, self._mask, messages)
            if verdict is None:
                previous = {"role": "assistant", "content": reply[:2000] or "(nothing)"}
                reply = await self._reply([*messages, previous, {"role": "user", "content": NUDGE}])
                verdict = read_verdict(reply, self._mask, messages)
        except _NoVerdictError as why:
            return Verdict(None, f"the judge gave no verdict: {why}")
        if verdict is None:
            shown = f"no JSON: {self._mask.line(reply, 80)!a:.80}" if reply else "no readable text"
            return Verdict(None, f"the judge gave no verdict: its replies were {shown}")
        return verdict

    async def _reply(self, messages: Messages) -> str:
        """Return the reply to a row, and count the rows that fail in succession.

        Raises:
            _NoVerdictError: This row failed.
            VlmscopeError: So many failed that every row will.
        """
        try:
            reply = await self._send(messages, self._options, self._settings.max_attempts)
        except _NoVerdictError as error:
            if not (isinstance(error, _RefusedError) and self._replied):
                self._failed += 1
            if self._failed < self._settings.concurrency + FAILURES_BEFORE_GIVING_UP:
                raise
            raise VlmscopeError(
                f"the judge {self._settings.model}: {self._failed} rows in succession failed, the "
                f"last because: {error}; check that the endpoint is up and run again; verdicts so "
                "far are kept"
            ) from None
        self._replied, self._failed = True, 0
        return reply

    async def _send(self, messages: Messages, options: dict[str, Any], attempts: int) -> str:
        """Send a request, up to ``attempts`` times, and return the text of the reply.

        Raises:
            _NoVerdictError: There is no usable reply.
            VlmscopeError: No request will have one.
        """
        client = self._client.with_options(max_retries=attempts - 1)
        create = client.chat.completions.with_raw_response.create
        limit = (
            self._settings.timeout * attempts
        )  # the client's timeout applies to each read of a reply
        try:
            async with asyncio.timeout(limit):
                sent = await create(model=self._settings.model, messages=messages, **options)
            return _content(sent.http_response)
        except self._openai.APIStatusError as error:
            raise self._error_for_status(error, attempts) from None
        except TimeoutError:
            raise _NoVerdictError(f"no complete reply within {limit:g} seconds") from None
        except _NoVerdictError:
            raise
        except self._openai.APIConnectionError as error:
            raise _NoVerdictError(
                f"no reply in {attempts} attempts: {self._one_line(error)}"
            ) from None
        except Exception as error:  # noqa: BLE001 - a reply may be invalid in any way
            why = f"its reply cannot be read: {type(error).__name__}: {self._one_line(error)}"
            raise _NoVerdictError(why) from None

    def _error_for_status(self, error: Any, attempts: int) -> Exception:
        """Return the error for an HTTP status, of one row or of all rows."""
        status, message = error.status_code, self._one_line(error)
        judge = f"the judge {self._settings.model}"
        if 300 <= status < 400:
            return _NoVerdictError(_redirect(error, self._mask))
        if status in (400, 422):
            return _RefusedError(f"it refuses the request: {message}")
        if status == 413:
            return _RefusedError("the row is too long for the endpoint")
        if status == 401:
            return InputError(f"{judge}: the endpoint refuses the key (401); set OPENAI_API_KEY")
        if status == 404:
            return InputError(
                f"{judge}: {message}; check the model's name and the endpoint's address"
            )
        may_pass = status in (408, 409, 425, 429) or status >= 500
        if may_pass and error.code != "insufficient_quota":  # a permanent 429
            return _NoVerdictError(f"no reply in {attempts} attempts: {message}")
        return VlmscopeError(f"{judge}: {message}; fix this and run again; verdicts are stored")

    def _one_line(self, error: Exception) -> str:
        """Return an error as one line, with the key masked in case the endpoint echoed it."""
        body, status = getattr(error, "body", None), getattr(error, "status_code", None)
        message = body.get("message") if isinstance(body, dict) else None
        text = (
            f"{message} ({status})"
            if isinstance(message, str) and message and status
            else str(error)
        )
        if error.__cause__ is not None and status is None:
            text = f"{text} ({error.__cause__})"  # "Connection error." alone is not informative
        return self._mask.line(text, LONGEST_ERROR)


def _import_openai() -> ModuleType:
    """Return the client's package, which only the judge needs."""
    try:
        import openai
    except ImportError as error:
        raise InputError(
            'the judge needs the openai package: pip install "vlmscope[judge]"'
        ) from error
    return openai


def _make_client(openai: ModuleType, settings: JudgeSettings) -> Any:
    """Return an asynchronous client of the endpoint.

    Raises:
        InputError: There is no key, or one that is invalid in a header.
    """
    try:
        client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            timeout=settings.timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=_limited_http_client(openai),
        )
    except openai.OpenAIError:
        client = None
    key = client.api_key if client is not None else ""
    if not key:
        raise InputError(
            "the judge needs an API key: set OPENAI_API_KEY "
            "(to any text, if the endpoint needs none)"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(
            "OPENAI_API_KEY contains a space, a line break or another invalid character; correct it"
        )
    return client


_FLAW = "vlmscope_flaw"
_DROPPED_HEADERS = frozenset(
    {"content-encoding", "content-length", "content-type", "transfer-encoding"}
)


def _limited_http_client(openai: ModuleType) -> Any:
    """Return the ``openai`` package's HTTP client with limits on what it reads."""

    class Limited(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, name-defined]
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            """Send a request and return its reply, read up to the limits."""
            del stream
            self.cookies.clear()  # cookies of one reply are not sent with the next request
            reply = await super().send(request, stream=True, **options)
            try:
                body, flaw = await _read(reply)
            finally:
                await reply.aclose()
            headers = [
                item for item in reply.headers.multi_items() if item[0] not in _DROPPED_HEADERS
            ]
            return type(reply)(
                reply.status_code,
                headers=headers,
                content=body,
                request=request,
                extensions={_FLAW: flaw},
            )

    return Limited(follow_redirects=False)


async def _read(reply: Any) -> tuple[bytes, str]:
    """Return the body of a reply, and the reason not to use it."""
    compressed = reply.headers.get("content-encoding", "").strip().lower()
    if compressed not in ("", "identity"):
        return b"", "its reply is compressed, although this was not requested"
    body = bytearray()
    async with aclosing(reply.aiter_raw()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > LARGEST_REPLY:
                return b"", f"its reply is larger than {LARGEST_REPLY // 2**20} MiB"
    return bytes(body), ""


def _content(reply: Any) -> str:
    """Return the model's text in a reply; empty if it is not a chat completion.

    Raises:
        _NoVerdictError: The reply is too large, or compressed.
    """
    if flaw := reply.extensions.get(_FLAW):
        raise _NoVerdictError(flaw)
    try:
        found = load_json(reply.content.decode("utf-8", "replace"))
    except ValueError:
        return ""
    choices = found.get("choices") if isinstance(found, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        return ""
    text = message.get("content") or message.get("refusal")
    return encodable(text) if isinstance(text, str) else ""


def _redirect(error: Any, mask: Mask) -> str:
    """Return the error message for a redirect, with its target masked."""
    try:
        location = _without_user(error.response.headers.get("location", ""))
        target = unquote(urlsplit(location)._replace(query="", fragment="").geturl())
    except ValueError:
        target = ""
    where = f" to {mask.line(target, 200)}" if target else ""
    return (
        f"it redirects{where} ({error.status_code}), and requests with a key are not redirected; "
        "give the final address"
    )


def _without_user(address: str) -> str:
    """Return an address without a user's name and password."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
