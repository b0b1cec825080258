"""Libraries' progress bars: not in notebooks and log files, unless somebody asks for them."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import datasets
import pytest
from transformers.utils import logging as transformers_logging

from vlmscope.dataset import read_samples
from vlmscope.model import load_model
from vlmscope.progress_bars import are_wanted, without_bars

hub_bars = import_module("huggingface_hub.utils.tqdm")
"""A module: the package has a class of this name."""

ASKED = "HF_HUB_DISABLE_PROGRESS_BARS"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_are_wanted_on_a_terminal_or_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASKED, raising=False)
    for stream, wanted in ((io.StringIO(), False), (Terminal(), True), (None, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert are_wanted() == wanted
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert not are_wanted()
    for value, wanted in (("0", True), ("False", True), ("1", False), ("", False)):
        monkeypatch.setenv(ASKED, value)
        assert are_wanted() == wanted


@pytest.mark.parametrize("shown", [True, False])
def test_a_library_is_left_as_it_was(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASKED, raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    state = [shown]

    def put(value: bool) -> Callable[[], None]:
        return lambda: state.append(value)

    with without_bars(lambda: state[-1], put(False), put(True)):
        assert not state[-1]
    with suppress(RuntimeError), without_bars(lambda: state[-1], put(False), put(True)):
        raise RuntimeError
    assert state[-1] is shown
    monkeypatch.setattr(sys, "stderr", Terminal())
    with without_bars(lambda: state[-1], put(False), put(True)):
        assert state[-1] is shown, "on a terminal they are let alone"


def test_loading_a_model_shows_no_bar(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though the library would; and with a terminal it does."""
    monkeypatch.delenv(ASKED, raising=False)
    monkeypatch.setattr(hub_bars, ASKED, None)
    monkeypatch.setattr(transformers_logging, "_tqdm_active", True)
    load_model(checkpoint, device="cpu", dtype="float32")
    assert capfd.readouterr().err == ""
    assert transformers_logging.is_progress_bar_enabled()
    monkeypatch.setenv(ASKED, "0")
    load_model(checkpoint, device="cpu", dtype="float32")
    assert "Loading weights" in capfd.readouterr().err


def test_reading_a_dataset_leaves_the_library_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ASKED, raising=False)
    monkeypatch.setattr(hub_bars, ASKED, None)
    seen: list[bool] = []
    load = datasets.load_from_disk
    monkeypatch.setattr(
        datasets, "load_from_disk",
        lambda path: seen.append(datasets.are_progress_bars_disabled()) or load(path),
    )  # fmt: skip
    rows = {"question_id": ["a"], "question": ["?"], "image": ["a.png"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    before = datasets.are_progress_bars_disabled()
    assert next(read_samples(tmp_path / "saved")).id == "a"
    assert seen == [True]
    assert datasets.are_progress_bars_disabled() == before
