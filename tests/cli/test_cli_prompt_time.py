"""Chat templates that write the date: a run has one, whatever day it is read or goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.utils import chat_template_utils

from families.llava_checkpoints import build_llava
from forced_chat import TEMPLATE, write_forced_chat
from probe_on_disk import QUERY, save
from vlmscope import clock, prompt
from vlmscope.dataset import open_table
from vlmscope.engine import capture
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.chat import load_chat_model
from vlmscope.report.prompt_view import token_view
from vlmscope.risk import RiskScorer
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.store import open_run, read_manifest

Command = Callable[..., Any]


@pytest.fixture
def prepared_commands() -> None:
    """Every command loads the model, as in its own process: a model keeps the day it found."""


Clock = Callable[[str], None]

DATED = "{{ 'Today is ' + strftime_now('%A, %d %B %Y') + '. ' }}"
FOUR = ("--limit", 4)
SUNDAY, WEDNESDAY = "2026-11-29T23:50:00", "2026-12-02T08:00:00"


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the library's clock, and ours."""

    def set_(time: str) -> None:
        fixed = datetime.fromisoformat(time)

        class Fixed(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                del tz
                return fixed

        monkeypatch.setattr(chat_template_utils, "datetime", Fixed)
        monkeypatch.setattr(clock, "datetime", Fixed)

    set_(SUNDAY)
    return set_


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_llava(tmp_path_factory.mktemp("dated") / "model", num_hidden_layers=2)
    path = folder / "chat_template.jinja"
    path.write_text(DATED + path.read_text())
    return folder


def extract(vlmscope: Command, folder: Path, table: Path, out: Path, *more: object) -> Any:
    return vlmscope(
        "extract", table, "--model", folder, "--out", out, "--device", "cpu",
        "--max-new-tokens", 3, "--batch-size", 4, *more,
    )  # fmt: skip


def lengths(run: Path) -> dict[str, int]:
    opened = open_run(run)
    return {id_: opened[id_].num_prompt_tokens for id_ in opened.ids}


@pytest.mark.exhaustive
def test_a_run_that_goes_on_another_day_keeps_its_date(
    vlmscope: Command, folder: Path, table: Path, tmp_path: Path, set_clock: Clock
) -> None:
    """Half of the rows fail on Sunday, for want of their images."""
    images = sorted(tmp_path.glob("*.png"))
    hidden = {image: image.read_bytes() for image in images[::2]}
    for image in hidden:
        image.unlink()
    extract(vlmscope, folder, table, tmp_path / "run", *FOUR)
    early = set(lengths(tmp_path / "run"))
    set_clock(WEDNESDAY)
    for image, data in hidden.items():
        image.write_bytes(data)
    done = extract(vlmscope, folder, table, tmp_path / "run", *FOUR)
    assert done.code == 0, done.err
    assert 0 < len(early) < len(lengths(tmp_path / "run")) == 4
    assert read_manifest(tmp_path / "run").model.prompt_time == SUNDAY
    done = vlmscope("verify", tmp_path / "run", "--sample", 2, "--device", "cpu")
    assert done.code == 0, done.err
    set_clock(SUNDAY)
    extract(vlmscope, folder, table, tmp_path / "at once", *FOUR)
    assert lengths(tmp_path / "run") == lengths(tmp_path / "at once")
    set_clock(WEDNESDAY)
    extract(vlmscope, folder, table, tmp_path / "later", *FOUR)
    assert lengths(tmp_path / "run") != lengths(tmp_path / "later")


def test_a_time_that_is_none_is_refused(
    vlmscope: Command, folder: Path, table: Path, tmp_path: Path, set_clock: Clock
) -> None:
    set_clock(SUNDAY)
    extract(vlmscope, folder, table, tmp_path / "run", "--limit", 2)
    path = tmp_path / "run/run.json"
    manifest = json.loads(path.read_text())
    for time in ("yesterday", "2026-11-29T23:50:00+00:00", 3):
        manifest["model"]["prompt_time"] = time
        path.write_text(json.dumps(manifest))
        done = vlmscope("verify", tmp_path / "run", "--device", "cpu")
        assert done.code != 0
        assert "model.prompt_time is invalid" in done.err


@pytest.mark.exhaustive
def test_the_expanded_prompt_of_a_report(
    vlmscope: Command, folder: Path, table: Path, tmp_path: Path, set_clock: Clock
) -> None:
    extract(vlmscope, folder, table, tmp_path / "run")
    set_clock(WEDNESDAY)
    run = open_run(tmp_path / "run")
    rows = {row.id: row for row in open_table(table).rows()}
    sample = rows[run.ids[0]]
    assert isinstance(sample, Sample)
    vlm = load_model(folder, device="cpu")
    view = token_view(vlm.processor, run.manifest.model, run[run.ids[0]], sample)
    assert "Sunday" in "".join(token.text for token in view.tokens)


@pytest.fixture
def vlm(folder: Path, set_clock: Clock) -> VisionLanguageModel:
    set_clock(SUNDAY)
    return load_model(folder, device="cpu", dtype="float32")


def test_a_loaded_model_has_one_date(
    vlm: VisionLanguageModel, samples: list[Sample], set_clock: Clock
) -> None:
    """Also where a run goes on past midnight."""
    spec = CaptureSpec(layers="n-1", max_new_tokens=0)
    [before] = capture(samples[:1], vlm, spec)
    set_clock(WEDNESDAY)
    [after] = capture(samples[:1], vlm, spec)
    assert before.num_prompt_tokens == after.num_prompt_tokens
    for name, vector in before.vectors.items():
        np.testing.assert_array_equal(after.vectors[name], vector)


def test_a_risk_is_told_of_the_prompt_that_the_probe_was_trained_on(
    vlm: VisionLanguageModel,
    folder: Path,
    samples: list[Sample],
    tmp_path: Path,
    set_clock: Clock,
) -> None:
    from vlmscope.executors import describe_model

    captures = list(capture(samples, vlm, CaptureSpec(layers="all", max_new_tokens=2)))
    record = asdict(describe_model(vlm)) | {"vision_pooling": "all"}
    assert record["prompt_time"] == SUNDAY
    save(tmp_path / "probe", vlm, captures, f"{QUERY}/layer_1", model=record)
    wanted = [risk.risk for risk in RiskScorer(vlm, tmp_path / "probe").score(samples)]  # type: ignore[union-attr]
    set_clock(WEDNESDAY)
    later = load_model(folder, device="cpu", dtype="float32")
    assert prompt.prompt_time(later.processor) == WEDNESDAY
    found = [risk.risk for risk in RiskScorer(later, tmp_path / "probe").score(samples)]  # type: ignore[union-attr]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert prompt.prompt_time(later.processor) == WEDNESDAY


def test_a_probe_without_the_date_of_its_rows_says_so(
    samples: list[Sample], tmp_path: Path, set_clock: Clock, vlm: VisionLanguageModel, folder: Path
) -> None:
    from vlmscope.executors import describe_model

    captures = list(capture(samples, vlm, CaptureSpec(layers="1", max_new_tokens=2)))
    record = asdict(describe_model(vlm)) | {"vision_pooling": "all"}
    del record["prompt_time"]
    save(tmp_path / "probe", vlm, captures, f"{QUERY}/layer_1", model=record)
    set_clock(WEDNESDAY)
    scorer = RiskScorer(load_model(folder, device="cpu", dtype="float32"), tmp_path / "probe")
    assert prompt.prompt_time(scorer._vlm.processor) == WEDNESDAY
    assert "does not record the date" in scorer.note


@pytest.mark.first(1)
@pytest.mark.parametrize("time", ["yesterday", "2026-11-29T23:50:00+00:00", 3, [], {}])
def test_a_probe_with_a_time_that_is_none_is_refused(
    vlm: VisionLanguageModel, samples: list[Sample], tmp_path: Path, time: object
) -> None:
    from vlmscope.executors import describe_model

    captures = list(capture(samples, vlm, CaptureSpec(layers="1", max_new_tokens=0)))
    record = asdict(describe_model(vlm)) | {"vision_pooling": "all", "prompt_time": time}
    save(tmp_path / "probe", vlm, captures, f"{QUERY}/layer_1", model=record)
    with pytest.raises(InputError, match="is not a local time; train the probe again"):
        RiskScorer(vlm, tmp_path / "probe")


def test_templates_without_a_clock_have_no_time(tmp_path: Path) -> None:
    vlm = load_model(build_llava(tmp_path / "model", num_hidden_layers=1), device="cpu")
    assert prompt.prompt_time(vlm.processor) is None


def test_a_judge_is_asked_the_same_every_day(tmp_path: Path, set_clock: Clock) -> None:
    folder = write_forced_chat(tmp_path / "judge", template=DATED + TEMPLATE)
    chat = load_chat_model(folder)
    question = [{"role": "user", "content": "Is it?"}]
    before = chat.encode(question)
    set_clock(WEDNESDAY)
    assert chat.encode(question) == before
