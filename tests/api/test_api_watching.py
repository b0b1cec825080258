"""Who watches ``extract`` is checked before anything is loaded, and told of every row."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import vlmscope
from vlmscope.api.watching import check_observer, wants_bar
from vlmscope.arguments import listener
from vlmscope.errors import InputError
from vlmscope.executors import Request, local
from vlmscope.model import VisionLanguageModel
from vlmscope.progress_bars import is_watched
from vlmscope.schema import Sample

ASKED = "HF_HUB_DISABLE_PROGRESS_BARS"
ALWAYS_WRONG = Path("no such table")


class Counter:
    """An observer as the documentation shows it."""

    def __init__(self) -> None:
        self.captured = self.failed = 0

    def advance(self, *, captured: int, failed: int, batch_size: int) -> None:
        assert batch_size >= 1
        self.captured += captured
        self.failed += failed


class OfNothing:
    def advance(self) -> None:
        """Takes nothing."""


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (print, r"^observer: found builtin_function_or_method, .* progress=True shows a bar"),
        (True, r"^observer: found bool"),
        (Counter, r"^observer: Counter is a class, .* give Counter\(\.\.\.\)"),
        (OfNothing(), r"^observer: advance of OfNothing is called as .* does not take that"),
    ],
)
def test_a_wrong_observer_is_refused_first(observer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        vlmscope.extract(ALWAYS_WRONG, "no model", "run", observer=observer)
    assert "\n" not in str(caught.value)


def test_a_note_is_a_function(tmp_path: Path) -> None:
    for note in (True, "loud", 3):
        with pytest.raises(InputError, match=r"^note .*: expected a function that takes a text"):
            vlmscope.extract(ALWAYS_WRONG, "no model", "run", note=note)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"^note .*: expected a function that takes a text"):
            vlmscope.verify(tmp_path, note=note)  # type: ignore[arg-type]


def test_observers_that_are_one() -> None:
    class Loose:
        def advance(self, **told: int) -> None:
            """Takes anything."""

    for observer in (None, Counter(), Loose(), types.SimpleNamespace(advance=lambda **_: None)):
        check_observer(observer)


def test_progress_of_the_other_functions(capsys: pytest.CaptureFixture[str]) -> None:
    for nobody in (None, False):
        listener("progress", nobody)("hidden")
    listener("progress", True)("baselines")
    told: list[str] = []
    listener("progress", told.append)("one")
    assert told == ["one"]
    assert capsys.readouterr().err == "baselines\n"
    for call in (vlmscope.sweep, vlmscope.write_report):
        with pytest.raises(InputError, match=r"^progress 'yes': expected a function"):
            call("no run", progress="yes")  # type: ignore[operator]
    with pytest.raises(InputError, match=r"^progress 'yes': expected a function"):
        vlmscope.transfer("no run", [], progress="yes")  # type: ignore[arg-type]


def test_processes_of_a_run_that_does_not_start_are_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C in a notebook, before the first row."""
    closed: list[bool] = []
    workers = types.SimpleNamespace(close=lambda: closed.append(True))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    request = Request("t.csv", "no model", tmp_path / "run")
    plan = types.SimpleNamespace(workers=workers, todo=3, vlm=None, request=request)
    monkeypatch.setattr(local, "make_plan", lambda *_, **__: plan)
    monkeypatch.setattr(local, "sizer_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        vlmscope.extract("t.csv", "no model", tmp_path / "run")
    assert closed


def test_a_bar_is_shown_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASKED, raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not is_watched()
    shell = types.SimpleNamespace(kernel=object())
    notebook = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", notebook)  # type: ignore[arg-type]
    assert is_watched()
    assert wants_bar(None)
    monkeypatch.setenv(ASKED, "1")
    assert not is_watched()
    assert wants_bar(True)
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        assert not is_watched(), "on a terminal too"
        patch.delenv(ASKED)
        assert is_watched()
    monkeypatch.delenv(ASKED)
    del shell.kernel  # IPython on a terminal that is redirected
    assert not is_watched()
    with pytest.raises(InputError, match=r"^progress: found str"):
        wants_bar("yes")


def test_the_bar_counts_rows_that_failed_too(
    samples: list[Sample], vlm: VisionLanguageModel, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = pd.DataFrame(
        {"question_id": [s.id for s in samples[:3]], "image": [s.image for s in samples[:3]],
         "question": ["Is it?", " ", "Why?"], "answer": "Yes"}
    )  # fmt: skip
    counter = Counter()
    options: dict[str, Any] = {"layers": 0, "max_new_tokens": 0, "observer": counter}
    with pytest.warns(vlmscope.FailedRowsWarning):
        vlmscope.extract(rows, vlm, tmp_path / "run", progress=True, **options)
    bar = capsys.readouterr()
    assert bar.out == ""
    assert "3/3" in bar.err
    assert "failed=1" in bar.err
    assert (counter.captured, counter.failed) == (2, 1)
    good = rows.drop(index=1)
    vlmscope.extract(good, vlm, tmp_path / "quiet", progress=False, **options)
    vlmscope.extract(good, vlm, tmp_path / "quiet", progress=True, **options)
    assert capsys.readouterr().err == "", "nothing is left to do"
    watcher: vlmscope.Observer = counter
    assert watcher is counter
