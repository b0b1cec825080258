"""The connection to a judge's endpoint, and how much of what it sends is let in.

An endpoint may be anybody's, or be mistaken for one. Its reply is read up to ``LARGEST_REPLY``
bytes and never unpacked, a redirect is not followed, so that the key goes to the address that was
given and nowhere else, and what the reply holds is parsed within limits of depth.
"""

from __future__ import annotations

from contextlib import aclosing
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from vlmscope.errors import InputError
from vlmscope.jsontext import load_json
from vlmscope.score.judge_mask import Mask
from vlmscope.score.judge_settings import JudgeSettings

LARGEST_REPLY = 4 * 2**20
"""Bytes of a reply that are read; a long chain of thought takes a tenth of it."""

_FLAW = "vlmscope_flaw"
_NOT_KEPT = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class UnusableReplyError(Exception):
    """A reply that is not read; the message says why."""


def import_openai() -> ModuleType:
    """Return the client's package, which only the judge needs."""
    try:
        import openai
    except ImportError as error:
        raise InputError(
            'the judge needs the openai package: pip install "vlmscope[judge]"'
        ) from error
    return openai


def connect(openai: ModuleType, settings: JudgeSettings) -> Any:
    """Return an asynchronous client of the endpoint.

    Raises:
        InputError: There is no key, or none that a header can hold.
    """
    try:
        client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,  # ours keep count, wait with jitter and say what happened
            default_headers={"Accept-Encoding": "identity"},
            http_client=_bounded_client(openai),
        )
    except openai.OpenAIError:
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


def _bounded_client(openai: ModuleType) -> Any:
    """Return the HTTP client that the package would make, but with limits."""

    class Bounded(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, name-defined]
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            """Send a request and return its reply, read as far as it may be."""
            del stream
            self.cookies.clear()  # what one reply sets is no part of the next request
            reply = await super().send(request, stream=True, **options)
            try:
                body, flaw = await _read(reply)
            finally:
                await reply.aclose()
            headers = [item for item in reply.headers.multi_items() if item[0] not in _NOT_KEPT]
            return type(reply)(
                reply.status_code,
                headers=headers,
                content=body,
                request=request,
                extensions={_FLAW: flaw},
            )

    return Bounded(follow_redirects=False)


async def _read(reply: Any) -> tuple[bytes, str]:
    """Return the body of a reply, and why it is not to be used."""
    packed = reply.headers.get("content-encoding", "").strip().lower()
    if packed not in ("", "identity"):
        return b"", "its reply is compressed, which was not asked for"
    body = bytearray()
    async with aclosing(reply.aiter_raw()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > LARGEST_REPLY:
                return b"", f"its reply is larger than {LARGEST_REPLY // 2**20} MiB"
    return bytes(body), ""


def content_of(reply: Any) -> str:
    """Return what the model says in a reply; what is no chat completion says nothing.

    Raises:
        UnusableReplyError: The reply is too large, or compressed.
    """
    if flaw := reply.extensions.get(_FLAW):
        raise UnusableReplyError(flaw)
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
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else ""


def redirect_of(error: Any, mask: Mask) -> str:
    """Return where a reply that is a redirect leads, as a message may show it; else nothing."""
    if not 300 <= (getattr(error, "status_code", None) or 0) < 400:
        return ""
    try:
        address = urlsplit(error.response.headers.get("location", ""))
        host = address.netloc.rpartition("@")[2]  # without a user's name or password
        place = unquote(address._replace(netloc=host, query="", fragment="").geturl())
    except ValueError:
        place = ""
    where = f" to {mask.line(place, 200)}" if place else ""
    return f"it redirects{where} ({error.status_code}), and no request with a key is sent on"
