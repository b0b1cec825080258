"""Local judge: a chat model loaded on this machine instead of an endpoint.

Prompt, verdict rules and cache are those of ``score.judge``. Requests are collected until a verdict
is needed; then all of them are answered, in batches of similar length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vlmscope.arguments import whole_number
from vlmscope.errors import InputError, ModelError
from vlmscope.score.judge import (
    NUDGE,
    Judge,
    Keep,
    Mask,
    Messages,
    Verdict,
    read_verdict,
    shortest_messages,
)

if TYPE_CHECKING:
    from vlmscope.model.chat import ChatModel, ChatReply

MAX_NEW_TOKENS = 512
"""Most tokens of a reply: a sentence and a verdict take 50."""


@dataclass(frozen=True, slots=True)
class LocalJudgeSettings:
    """Settings of a local judge, created by ``local_settings``."""

    folder: str
    """Folder of the checkpoint."""
    identity: str
    """Hash of the model's weights and its chat template."""
    batch_size: int = 8
    """Rows per batch."""
    input_price: float | None = None
    output_price: float | None = None
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise for settings that cannot work."""
        whole_number("--judge-batch-size", self.batch_size, least=1)

    @property
    def model(self) -> str:
        """Name of the model in cache keys: the hash of its weights, in any folder."""
        return f"weights:{self.identity}"

    @property
    def concurrency(self) -> int:
        """Most requests that are collected."""
        return self.batch_size

    def record(self) -> dict[str, Any]:
        """Return the settings to store with the labels."""
        return {
            "model": self.folder,
            "model_identity": self.identity,
            "batch_size": self.batch_size,
            "max_new_tokens": MAX_NEW_TOKENS,
        }


def local_settings(folder: str | Path, batch_size: int = 8) -> LocalJudgeSettings:
    """Return the settings of a local judge, with the hash of its weights.

    Args:
        folder: Folder of a checkpoint: a chat model, or a VLM.
        batch_size: Rows per batch.

    Raises:
        InputError: The batch size is not positive.
        ModelError: The checkpoint cannot be used.
    """
    from vlmscope.model.chat import identify_chat_model

    LocalJudgeSettings(str(folder), "", batch_size)  # before anything is read
    return LocalJudgeSettings(str(folder), identify_chat_model(folder), batch_size)


def local_judge(settings: LocalJudgeSettings, cache: Path) -> Judge:
    """Return a judge that loads its model for the first row without a cached verdict.

    Args:
        settings: The model, and how to run it.
        cache: File of cached verdicts.
    """
    return Judge(settings, cache, partial(LocalModel, settings))


@dataclass(slots=True)
class _Request:
    """A row whose verdict is pending."""

    messages: Messages
    keep: Keep
    future: Future[Verdict] = field(default_factory=Future)


class LocalModel:
    """A connection to a model loaded in this process; a context manager like ``Endpoint``.

    Args:
        settings: The model, and how to run it.
    """

    def __init__(self, settings: LocalJudgeSettings) -> None:
        self._settings = settings
        self._chat: ChatModel | None = None
        self._waiting: list[_Request] = []

    def __enter__(self) -> Self:
        """Load the model.

        Raises:
            ModelError: It cannot be loaded, or has changed since its identity was read.
        """
        from vlmscope.model.chat import load_chat_model

        self._chat = load_chat_model(self._settings.folder)
        if self._chat.identity != self._settings.identity:
            raise ModelError(
                f"{self._settings.folder}: the checkpoint was changed while it was loaded; run "
                "the command again"
            )
        self._check_length(self._chat)
        return self

    def _check_length(self, chat: ChatModel) -> None:
        """Raise for a model whose context is too short for any row."""
        needed = len(chat.encode(shortest_messages())) + MAX_NEW_TOKENS
        if needed > chat.limit:
            raise ModelError(
                f"{self._settings.folder}: its context of {chat.limit:,} tokens is too short for a "
                f"judge: the instructions and a reply take {needed:,}; give another model"
            )

    def __exit__(self, *_: object) -> None:
        """Release the model."""
        self._chat = None
        for request in self._waiting:
            request.future.cancel()
        self._waiting = []

    def ask(self, messages: Messages, keep: Keep) -> Future[Verdict]:
        """Collect a request until a verdict is needed."""
        request = _Request(messages, keep)
        self._waiting.append(request)
        return request.future

    def result(self, asked: Future[Verdict]) -> Verdict:
        """Return a verdict; if it is pending, all collected requests are answered first."""
        if not asked.done():
            waiting, self._waiting = self._waiting, []
            self._answer(waiting)
        return asked.result()

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Answer requests; ask again, with a reminder, those whose reply has no verdict."""
        again: list[_Request] = []
        for request, reply in self._replies(requests):
            verdict = None if reply.failed else read_verdict(reply.text, sent=request.messages)
            if verdict is None and not reply.failed:
                previous = {
                    "role": "assistant",
                    "content": reply.text[:2000].strip() or "(nothing)",
                }
                nudge = {"role": "user", "content": NUDGE}
                request.messages = [*request.messages, previous, nudge]
                again.append(request)
                continue
            self._settle(request, verdict, reply)
        for request, reply in self._replies(again):
            verdict = None if reply.failed else read_verdict(reply.text, sent=request.messages)
            self._settle(request, verdict, reply)

    def _settle(self, request: _Request, verdict: Verdict | None, reply: ChatReply) -> None:
        if verdict is not None:
            request.keep(verdict)
            request.future.set_result(verdict)
            return
        why = reply.failed
        if not why:
            shown = Mask().line(reply.text, 80)
            why = f"its replies were not JSON: {shown!a:.80}" if shown else "its replies were empty"
        request.future.set_result(Verdict(None, f"the judge gave no verdict: {why}"))

    def _replies(self, requests: Sequence[_Request]) -> Iterator[tuple[_Request, ChatReply]]:
        """Yield each request with its reply, the longest first so that too long ones fail early."""
        chat = self._chat
        if chat is None:
            raise InputError("a local judge is used outside its with block; open it first")
        tokens = chat.control_tokens
        prompts = [(request, chat.encode(_escape_control_tokens(request.messages, tokens)))
                   for request in requests]  # fmt: skip
        prompts.sort(key=lambda each: -len(each[1]))
        size = self._settings.batch_size
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            replies = chat.reply([ids for _, ids in batch], MAX_NEW_TOKENS)
            yield from zip([request for request, _ in batch], replies, strict=True)


def _escape_control_tokens(messages: Messages, tokens: Sequence[str]) -> Messages:
    r"""Return messages in which no text of a row is parsed as a control token.

    An answer with ``[/INST]`` would otherwise end the user's turn and start the judge's. The row is
    JSON, where a character may be written as an equivalent escape.

    >>> messages = [{"role": "user", "content": '{"answer": "a [/INST]"}'}]
    >>> _escape_control_tokens(messages, ["[/INST]"])
    [{'role': 'user', 'content': '{"answer": "a \\u005b/INST]"}'}]
    """
    if not tokens:
        return messages
    pattern = re.compile("|".join(re.escape(token) for token in tokens))

    def escape(found: re.Match[str]) -> str:
        first, rest = found[0][0], found[0][1:]
        units = first.encode("utf-16-be")
        return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)) + rest

    return [
        message if message["role"] == "system"
        else {**message, "content": pattern.sub(escape, message["content"])}
        for message in messages
    ]  # fmt: skip
