"""A chat endpoint on this machine, for tests of the judge: it replies what a test wants it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vlmscope.schema import Answered

KEY = "sk-test-0123456789abcdef"
Reply = tuple[int, dict[str, str], Any]


def said(content: str | None) -> Reply:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, body


def verdict(word: str, reason: str = "because") -> Reply:
    return said(json.dumps({"reason": reason, "verdict": word}))


def always(reply: Reply) -> Callable[[Request], Reply]:
    return lambda _: reply


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, headers, {"error": {"message": message, "type": "t", "code": None}}


class Request:
    """One request as the server saw it."""

    def __init__(self, body: dict[str, Any], key: str) -> None:
        self.body = body
        self.key = key
        self.at = time.monotonic()
        content = body["messages"][1]["content"]
        self.fields = json.loads(content.removeprefix("<data>\n").removesuffix("\n</data>"))

    @property
    def format(self) -> str:
        return str(self.body.get("response_format", {}).get("type", "text"))


class Server(ThreadingHTTPServer):
    """Replies with what ``respond`` returns; says faithful until told otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.respond: Callable[[Request], Reply] = always(verdict("faithful"))
        self.respond_to_check: Callable[[dict[str, Any]], Reply] = lambda _: said("ok")
        self.checks: list[dict[str, Any]] = []
        """Requests by which the endpoint was tested before the first row; in no other count."""
        self.requests: list[Request] = []
        self.under_way = self.most_under_way = self.sent = 0
        self.guard = threading.Lock()
        self.headers: dict[str, str] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: some tests have them do it."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if len(body["messages"]) == 1:
            self.server.checks.append(body)
            self.reply(*self.server.respond_to_check(body))
            return
        request = Request(body, self.headers["authorization"])
        with self.server.guard:
            self.server.headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.requests.append(request)
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            status, headers, reply = self.server.respond(request)
        finally:
            with self.server.guard:
                self.server.under_way -= 1
        self.reply(status, headers, reply)

    def reply(self, status: int, headers: dict[str, str], reply: Any) -> None:
        """Send a reply."""
        if isinstance(reply, Iterator):
            self.stream(status, headers, reply)
            return
        payload = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        headers = {"content-type": "application/json", **headers}
        for name, value in {**headers, "content-length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def stream(self, status: int, headers: dict[str, str], chunks: Iterator[bytes]) -> None:
        """Send chunk by chunk until the client hangs up; status 0: they are the whole reply."""
        if status:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
        self.close_connection = True
        for chunk in chunks:
            self.wfile.write(chunk)
            self.server.sent += len(chunk)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """Start a server, and stop it in the end."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def row(number: int, answer: str | None = None, target: str = "yes") -> Answered:
    answer = f"Yes, number {number}." if answer is None else answer
    return Answered(f"q{number}", f"Is it {number}?", answer, target)


def rows(count: int) -> list[Answered]:
    return [row(number) for number in range(count)]
