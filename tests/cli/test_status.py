"""What takes long is named, also where no spinner turns."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from rich.console import Console

from vlmscope.cli import output
from vlmscope.cli.output import status


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "FIRST_LINE", 0.01)
    monkeypatch.setattr(output, "NEXT_LINE", 0.01)


@pytest.mark.usefixtures("soon")
def test_a_log_names_what_lasts_once(capsys: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    with contextlib.suppress(ValueError), status("loading the model") as update:
        time.sleep(0.1)
        update("probing")
        time.sleep(0.1)
        raise ValueError
    assert capsys.readouterr().err.splitlines() == ["loading the model …", "probing …"]
    assert threading.active_count() == threads


@pytest.mark.usefixtures("soon")
def test_names_of_files_are_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither markup, which ``[v2]`` and ``[/b]`` are, nor characters that steer a terminal."""
    for terminal in (False, True):
        console = Console(stderr=True, force_terminal=terminal, width=60, markup=False)
        monkeypatch.setattr(output, "stderr", console)
        with status("reading a[v2]") as update:
            time.sleep(0.2)
            update("reading b[/b]\x1b[31m.h5")
            time.sleep(0.2)
        shown = capsys.readouterr().err
        assert "reading a[v2]" in shown
        assert "reading b[/b]\ufffd[31m.h5" in shown


def test_a_log_has_no_line_of_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    with status("loading the model") as update:
        update("probing")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("soon")
def test_a_terminal_shows_it_at_once_and_removes_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "stderr", Console(stderr=True, force_terminal=True, width=60))
    with status("loading the model") as update:
        update("probing")
        time.sleep(0.2)
    shown = capsys.readouterr().err
    assert "probing" in shown
    assert "probing …" not in shown
    assert shown.endswith("\x1b[2K"), "the line is empty again"
