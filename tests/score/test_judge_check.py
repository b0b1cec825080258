"""The endpoint is tested once before the first row, and its failure says what to do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from judge_server import KEY, Reply, Server, always, failure, row, rows, said
from vlmscope.errors import InputError, VlmscopeError
from vlmscope.score.judge import Judge, JudgeSettings


def test_one_tiny_request_comes_before_the_rows(judge: Judge, server: Server) -> None:
    assert len(list(judge(rows(5)))) == 5
    assert len(server.checks) == 1
    assert len(str(server.checks[0])) < 600
    list(judge(rows(5)))  # all known: nobody is asked, not even this
    assert len(server.checks) == 1
    list(judge(rows(6)))
    assert len(server.checks) == 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failure(401), "refuses the key (401); set OPENAI_API_KEY"),
        (failure(404, "no model judge-1"), "no model judge-1 (404); check the model's name"),
        (failure(400, "bad model"), "it refuses the request: bad model (400); check the endpoint"),
        (failure(422, "odd"), "it refuses the request: odd (422)"),
        (failure(503, "overloaded"), "no reply in 3 attempts: overloaded (503)"),
        (failure(429, "slow down"), "no reply in 3 attempts: slow down (429)"),
        (failure(403, "not you"), "not you (403)"),
        (failure(307, location="http://other.example/v1"), "redirects to http://other.example"),
        ((200, {"content-type": "text/html"}, b"<html></html>"), "is not a chat completion; check"),
        ((200, {}, b"{torn"), "is not a chat completion"),
        ((200, {"content-encoding": "gzip"}, b"x"), "its reply is compressed"),
    ],
)
def test_a_failing_endpoint_is_said_before_any_row(
    judge: Judge, server: Server, tmp_path: Path, reply: Reply, message: str
) -> None:
    server.respond_to_check = lambda _: reply
    threads = threading.active_count()
    with pytest.raises(VlmscopeError) as caught:
        list(judge(rows(20)))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert KEY not in str(caught.value)
    assert not server.requests
    assert len(server.checks) <= 4
    assert not (tmp_path / "cache.jsonl").exists()
    assert threading.active_count() <= threads + 1  # the server's, not the loop's


def test_an_address_where_nobody_listens(settings: JudgeSettings, tmp_path: Path) -> None:
    nobody = JudgeSettings("m", "http://127.0.0.1:1/v1")
    with pytest.raises(InputError, match=r"no reply in 3 attempts.*check the endpoint's address"):
        list(Judge(nobody, tmp_path / "c")(rows(3)))


def test_what_passes_is_tried_again(judge: Judge, server: Server) -> None:
    replies = iter([failure(503), failure(429), said("ok")])
    server.respond_to_check = lambda _: next(replies)
    assert [score.hallucinated for score in judge(rows(2))] == [False, False]
    assert len(server.checks) == 3


def test_a_row_may_be_refused_after_a_check_that_went_well(judge: Judge, server: Server) -> None:
    server.respond = always(failure(400, "content filter"))
    (score,) = judge([row(0)])
    assert score.hallucinated is None
    assert "it refuses the request: content filter (400)" in score.evidence


@pytest.mark.parametrize(
    ("refused", "used", "checks"),
    [
        ((), {"temperature", "response_format"}, 1),
        (("response_format",), {"temperature"}, 2),
        (("temperature",), {"response_format"}, 3),
        (("temperature", "response_format"), set(), 4),
    ],
)
def test_the_check_finds_the_options_that_the_endpoint_accepts(
    judge: Judge, server: Server, refused: tuple[str, ...], used: set[str], checks: int
) -> None:
    def respond_to_check(body: dict[str, Any]) -> Reply:
        return failure(400, "unknown parameter") if body.keys() & set(refused) else said("ok")

    server.respond_to_check = respond_to_check
    server.respond = always(
        said('<think>{"verdict": "faithful"}?</think>\n```json\n{"verdict": "unclear"}\n```')
    )
    assert [score.evidence for score in judge(rows(5))] == ["unclear: the judge gave no reason"] * 5
    assert len(server.checks) == checks
    assert len(server.requests) == 5
    for request in server.requests:
        assert request.body.keys() == {"model", "messages", *used}
