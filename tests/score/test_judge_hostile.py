"""An endpoint, or a file of verdicts, that is a stranger's: a bad reply costs one row at most."""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from judge_server import KEY, Reply, Request, Server, always, failure, row, rows, said, verdict
from vlmscope.errors import InputError, StoreError, VlmscopeError
from vlmscope.schema import Score
from vlmscope.score.judge import Judge, JudgeSettings, Mask, Verdict, VerdictCache
from vlmscope.score.judge.cache import LARGEST_FILE, LONGEST_LINE
from vlmscope.score.judge.endpoint import LARGEST_REPLY
from vlmscope.score.judge.verdict import LONGEST_REASON, SHORTEST_KEY

DEEP = 200_000
LONG = "9" * 10_000


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"]}" * (depth // 2)


def chat(content: str) -> bytes:
    """A chat completion whose content is given as JSON text."""
    return b'{"choices": [{"message": {"content": ' + content.encode() + b"}}]}"


def second_row_gets(reply: Reply) -> Callable[[Request], Reply]:
    """All rows but the second are answered well."""

    def respond(request: Request) -> Reply:
        return reply if request.fields["question"] == "Is it 1?" else verdict("faithful")

    return respond


def only_the_second_fails(scores: list[Score]) -> str:
    """Return why it did."""
    assert [score.hallucinated for score in scores] == [False, None, False, False]
    assert scores[1].evidence.startswith("the judge gave no verdict: ")
    assert len(scores[1].evidence.splitlines()) == 1
    return scores[1].evidence


ODD: dict[str, Reply] = {
    "deep": (200, {}, nested(DEEP)),
    "deep beside": (200, {}, chat('"x"')[:-1] + b', "more": ' + nested(DEEP) + b"}"),
    "deep content": said(nested(DEEP).decode()),
    "deep verdict": said('{"verdict": ' + nested(900).decode() + "}"),
    "deep reason": said('{"verdict": "maybe", "reason": ' + nested(DEEP).decode() + "}"),
    "many openings": said('{"' * 25_000),
    "long number": (200, {}, b'{"choices": ' + LONG.encode() + b"}"),
    "long number in the verdict": said(f'{{"verdict": {LONG}}}'),
    "long number beside": said(f'{{"verdict": "faithful", "n": {LONG}}}'),
    "list": (200, {}, [1]),
    "number": (200, {}, b"1"),
    "nothing": (200, {}, b""),
    "no content": (204, {}, b""),
    "choices of numbers": (200, {}, {"choices": [1]}),
    "content of parts": (200, {}, {"choices": [{"message": {"content": [{"text": "x"}]}}]}),
    "not utf-8": (200, {}, b'{"choices": "\xff"}'),
    "odd charset": (200, {"content-type": "application/json; charset=idna"}, b"\xff" * 99),
    "bad request that is deep": (400, {}, b'{"error": {"message": ' + nested(900) + b"}}"),
    "bad request, deep code": (400, {}, b'{"error": {"code": ' + nested(800) + b"}}"),
    "bad request, deepest": (400, {}, nested(DEEP)),
    "server error that is deep": (500, {}, b'{"error": {"message": ' + nested(900) + b"}}"),
    "server error, long number": (500, {}, b'{"error": {"code": ' + LONG.encode() + b"}}"),
    "odd pause": (503, {"retry-after": "nan"}, b""),
    "odder pause": (503, {"retry-after": "Mon, 99 Foo -1 99:99:99 +9999999999"}, b""),
    "packed": (200, {"content-encoding": "gzip"}, gzip.compress(json.dumps(said("x")[2]).encode())),
    "packed oddly": (200, {"content-encoding": "br, gzip, zstd"}, b"\x1f\x8b"),
    "a packed error": (500, {"content-encoding": "deflate"}, b"\0" * 99),
}


@pytest.mark.first(5)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_costs_its_own_row_only(judge: Judge, server: Server, name: str) -> None:
    server.respond = second_row_gets(ODD[name])
    only_the_second_fails(list(judge(rows(4))))


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_reply_without_end_is_cut_off(judge: Judge, server: Server, status: int) -> None:
    endless = (status, {}, iter(itertools.repeat(b" " * 2**16, 2**14)))  # a gigabyte
    server.respond = second_row_gets(endless)
    why = only_the_second_fails(list(judge(rows(4))))
    assert "larger than 4 MiB" in why or status != 200
    assert server.sent < 8 * LARGEST_REPLY  # what the sockets held is lost


def test_a_reply_that_unpacks_to_a_gigabyte_is_not_unpacked(judge: Judge, server: Server) -> None:
    bomb = gzip.compress(gzip.compress(b" " * 2**24))
    server.respond = second_row_gets((200, {"content-encoding": "gzip, gzip"}, bomb))
    assert "compressed" in only_the_second_fails(list(judge(rows(4))))


def test_no_compression_is_asked_for(judge: Judge, server: Server) -> None:
    list(judge([row(0)]))
    assert server.headers["accept-encoding"] == "identity"


def drip(*first: bytes) -> Iterator[bytes]:
    yield from first
    for _ in range(200):
        time.sleep(0.02)
        yield b"x-a: b\r\n" if first else b" "


@pytest.mark.parametrize(
    ("status", "first"),
    [
        (200, ()),
        (500, ()),
        (0, (b"HTTP/1.1 200 OK\r\n",)),
        (0, (b"HTTP/1.1 100 Continue\r\n\r\n" * 99, b"HTTP/1.1 200 OK\r\n")),
    ],
    ids=["body", "error", "headers", "continue"],
)
def test_a_reply_that_drips_ends_at_the_time_limit(
    server: Server, settings: JudgeSettings, tmp_path: Path, status: int, first: tuple[bytes, ...]
) -> None:
    hasty = Judge(replace(settings, timeout=0.2, max_attempts=2), tmp_path / "cache.jsonl")

    def respond(request: Request) -> Reply:
        odd = request.fields["question"] == "Is it 1?"
        return (status, {}, drip(*first)) if odd else verdict("faithful")

    server.respond = respond
    begun = time.monotonic()
    why = only_the_second_fails(list(hasty(rows(4))))
    assert "no complete reply within 0.4 seconds" in why
    assert time.monotonic() - begun < 2


class Elsewhere(ThreadingHTTPServer):
    """Another host; it takes note of whoever comes."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), Visitor)


class Visitor(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_POST(self) -> None:
        self.server.seen.append(str(self.headers))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(verdict("hallucinated")[2]).encode())

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.first(2)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(
    judge: Judge,
    settings: JudgeSettings,
    server: Server,
    elsewhere: Elsewhere,
    tmp_path: Path,
    status: int,
) -> None:
    there = f"http://127.0.0.1:{elsewhere.server_port}/{KEY}/v1"
    away = (status, {"location": f"{there.replace('//', '//me:word@')}?key={KEY}#x"}, b"")
    server.respond = always(away)
    with pytest.raises(VlmscopeError) as caught:
        list(judge(rows(50)))
    port = elsewhere.server_port
    assert f"it redirects to http://127.0.0.1:{port}/***/v1 ({status}), and requests" in str(
        caught.value
    )
    assert "give the final address" in str(caught.value)
    assert len(server.requests) <= 2 * 4 + 3
    server.respond = second_row_gets(away)  # of an endpoint that has replied it is one bad reply
    one_by_one = Judge(replace(settings, concurrency=1), tmp_path / "cache.jsonl")
    assert "it redirects to" in only_the_second_fails(list(one_by_one(rows(4))))
    assert not elsewhere.seen


@pytest.mark.first(3)
@pytest.mark.parametrize(
    "location",
    ["/v1/chat/completions", "", "http://[", "//", "\x1b[2J", "x" * 9000, "http://a:b:c/"],
)
def test_odd_redirects(judge: Judge, server: Server, location: str) -> None:
    server.respond = always((307, {"location": location}, b""))
    with pytest.raises(VlmscopeError) as caught:
        list(judge(rows(50)))
    assert len(str(caught.value)) < 700
    assert len(str(caught.value).splitlines()) == 1
    assert len(server.requests) <= 40


FORMS: dict[str, str] = {
    "plain": KEY,
    "upper case": KEY.upper(),
    "in a header": f"Authorization: Bearer {KEY}",
    "spaced": " ".join(KEY),
    "over lines": "\n".join(re.findall("...", KEY)),
    "with tabs and blanks": KEY[:7] + " \t\n " + KEY[7:],
    "zero-width": "\u200b".join(KEY),
    "for a URL": quote(KEY, safe="").replace("-", "%2D"),
    "for a URL, whole": "".join(f"%{ord(sign):02X}" for sign in KEY),
    "twice for a URL": quote("".join(f"%{ord(sign):02x}" for sign in KEY)),
    "in JSON": "".join(f"\\u{ord(sign):04x}" for sign in KEY),
    "in JSON in JSON": "".join(f"\\\\u{ord(sign):04X}" for sign in KEY),
    "in Python": "".join(f"\\x{ord(sign):02x}" for sign in KEY),
    "in HTML": "".join(f"&#{ord(sign)};" for sign in KEY),
    "in HTML, as hex": "".join(f"&#x{ord(sign):X};" for sign in KEY),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of the header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 of a password": base64.urlsafe_b64encode(f"a:{KEY}!".encode()).decode(),
    "base64 over lines": base64.encodebytes(f"xx{KEY * 4}".encode()).decode(),
    "hex": KEY.encode().hex(),
}


def holds_key(text: str) -> bool:
    """Whether six characters of the key in a row can be read out of a text, or of its base64."""
    for _ in range(3):
        text = html.unescape(re.sub("%(?:25)+", "%", text))
        text = re.sub(r"(?:%|\\+x|\\+u00)([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), text)
        text = re.sub(r"[\s\u200b]", "", text)
    words = [
        w.replace("-", "+").replace("_", "/") for w in re.findall(r"[A-Za-z0-9+/_-]{12,}", text)
    ]
    decoded = [
        base64.b64decode(word[first : first + (len(word) - first) // 4 * 4])
        for word in words
        for first in range(4)
    ]
    decoded += [bytes.fromhex(found) for found in re.findall(r"(?:[0-9a-f]{2}){6,}", text)]
    parts = [KEY[i : i + 6].lower() for i in range(len(KEY) - 5)]
    places = [text.lower(), *(data.decode("latin-1").lower() for data in decoded)]
    return any(part in place for part in parts for place in places)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_would_give_the_key_away(form: str) -> None:
    assert holds_key(FORMS[form])


@pytest.mark.first(3)
@pytest.mark.parametrize("form", FORMS)
def test_the_key_is_neither_stored_nor_shown(
    judge: Judge, server: Server, tmp_path: Path, form: str
) -> None:
    echo = FORMS[form]
    replies = [
        verdict("hallucinated", f"You sent {echo}, is that so? " * 20),
        verdict("unclear", "x" * (LONGEST_REASON - 10) + echo),
        said(f"I think that {echo} is fine."),
        said("y" * 60 + echo),
        failure(500, f"bad key {echo}"),
        failure(500, "z" * 290 + echo),
        (500, {}, f"nothing but {echo}".encode()),
        failure(400, f"bad key {echo}"),
    ]

    def respond(request: Request) -> Reply:
        return replies[int(request.fields["question"][6:-1])]

    server.respond = respond
    evidence = [score.evidence for score in judge(rows(len(replies)))]
    assert "***" in evidence[0]
    assert evidence[0].endswith("…")
    found = [*evidence, (tmp_path / "cache.jsonl").read_text()]
    refusals = [failure(404, f"no {echo}"), (403, {}, echo.encode())]
    redirect = (307, {"location": quote(echo)}, b"")
    server.respond = always(redirect)
    found += [score.evidence for score in judge([row(100)])]
    for number, reply in enumerate((*refusals, redirect)):
        server.respond = always(reply)
        if number == len(refusals):
            server.respond_to_check = lambda _: redirect
        with pytest.raises(VlmscopeError) as caught:
            list(judge([row(100)]))
        found += [str(caught.value), "".join(traceback.format_exception(caught.value))]
    assert not [text for text in found if holds_key(text)]


def test_the_key_is_left_out_of_verdicts_that_were_kept_before(
    judge: Judge, server: Server, tmp_path: Path
) -> None:
    list(judge([row(0)]))
    path = tmp_path / "cache.jsonl"
    path.write_text(path.read_text().replace("because", f"it says {KEY}"))
    (score,) = judge([row(0)])
    assert (score.hallucinated, score.evidence) == (False, "it says ***")
    assert len(server.requests) == 1


def test_a_short_key_is_no_secret() -> None:
    assert Mask(["x" * (SHORTEST_KEY - 1)]).line("x" * 20, 99) == "x" * 20
    assert Mask(["x" * SHORTEST_KEY]).line("x" * SHORTEST_KEY, 99) == "***"
    assert Mask([]).line("a\n b" + "c" * 9, 5) == "a bcc…"


def test_a_key_that_is_a_verdict_hides_none(
    settings: JudgeSettings, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "faithful")
    (score,) = Judge(settings, tmp_path / "cache.jsonl")([row(0)])
    assert score.hallucinated is False


def test_masking_takes_no_time() -> None:
    for key in (KEY, "n" * 40, "\\" * 20, "%25" * 9, "a" * 200):
        mask = Mask([key])
        for text in (key[:-1] * 50_000, "\\n" * 99_999, "%" * 99_999, "n " * 99_999, " " * 10**6):
            begun = time.process_time()
            assert len(mask.line(text, 300)) <= 301
            assert time.process_time() - begun < 2


def test_a_password_in_the_address_is_not_kept(settings: JudgeSettings) -> None:
    secret = replace(settings, base_url="https://me:p%40ss-word@host:8000/v1?x=1")
    assert secret.record()["base_url"] == "https://host:8000/v1?x=1"
    assert secret.record().keys() == {"base_url", *(settings.record())}
    assert "***" in Mask(secret.secrets).line("no p@ss-word", 99)
    assert settings.record()["base_url"] == settings.base_url
    with pytest.raises(InputError, match="give a complete address"):
        replace(settings, base_url="https://[")


HOSTILE_LINES: dict[str, bytes] = {
    "deep": nested(DEEP),
    "deep verdict": b'{"key": "k", "verdict": ' + nested(900) + b"}",
    "deep key": b'{"verdict": "faithful", "key": ' + nested(60) + b"}",
    "long number": b'{"key": "k", "verdict": "faithful", "n": ' + LONG.encode() + b"}",
    "verdict in a list": b'{"key": "k", "verdict": ["faithful"]}',
    "no verdict": b'{"key": "k", "verdict": null}',
    "a number": b'{"key": "k", "verdict": 1}',
    "a list": b'["key", "verdict"]',
    "not utf-8": b'{"key": "k", "verdict": "faithful", "\xff": 1}',
    "zeros": b"\0" * 5000,
    "long": b'{"key": "k", "verdict": "faithful", "reason": "' + b"x" * LONGEST_LINE + b'"}',
    "long without end": b" " * (3 * LONGEST_LINE) + b'{"key": "k", "verdict": "faithful"}',
}


@pytest.mark.parametrize("name", HOSTILE_LINES)
def test_lines_of_a_stranger_are_skipped(tmp_path: Path, name: str) -> None:
    path = tmp_path / "judge.jsonl"
    good = b'{"key": "%s", "verdict": "unclear", "reason": 7}\n'
    path.write_bytes(good % b"a" + HOSTILE_LINES[name] + b"\n" + good % b"b")
    with VerdictCache(path, "m") as cache:
        assert cache.get("k") is None
        assert cache.get("a") == cache.get("b") == Verdict("unclear", "")
        cache.put("k", Verdict("faithful", "new"))
    path.write_bytes(path.read_bytes() + HOSTILE_LINES[name])  # torn: the next begins a new line
    with VerdictCache(path, "m") as cache:
        assert cache.get("k") == Verdict("faithful", "new")
        cache.put("z", Verdict("faithful", "later"))
    with VerdictCache(path, "m") as cache:
        assert cache.get("z") == Verdict("faithful", "later")


def test_a_line_of_a_gigabyte_fills_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "judge.jsonl"
    with path.open("wb") as file:
        file.truncate(2**26)  # sparse: zeros without a line break
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"key": "k", "verdict": "faithful"}\n')
    import tracemalloc

    tracemalloc.start()
    try:
        with VerdictCache(path, "m") as cache:
            assert cache.get("k") == Verdict("faithful", "")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["pipe", "folder", "huge", "device"])
def test_what_is_no_file_of_verdicts_is_refused(
    settings: JudgeSettings, server: Server, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "judge.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, LARGEST_FILE + 1)
    with pytest.raises(
        StoreError,
        match=r"judge\.jsonl: cannot read the judge's verdicts: .*(pipe|a dir|device|at most)",
    ):
        list(Judge(settings, path)(rows(2)))
    with pytest.raises(StoreError):
        VerdictCache(path, "m").put("k", Verdict("faithful", ""))
    assert not server.requests
