"""A scorer that threads share gives each the risk that it asked for, bit for bit."""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probe_on_disk import save
from threads import Worker, at_once
from vlmscope import extract
from vlmscope.engine import capture
from vlmscope.errors import RowError
from vlmscope.executors import plan
from vlmscope.executors.runner import ResilientRunner
from vlmscope.locking import tokenizer_lock
from vlmscope.model import VisionLanguageModel, model_lock
from vlmscope.risk import Risk, RiskScorer
from vlmscope.schema import CaptureSpec, Failure, Sample
from vlmscope.store import Run

PROMPT = CaptureSpec(layers="all", max_new_tokens=0)


@pytest.fixture(scope="module")
def probe(
    vlm: VisionLanguageModel, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of a probe, on a vector whose risks lie far apart."""
    folder = tmp_path_factory.mktemp("threads") / "probe"
    save(folder, vlm, list(capture(samples, vlm, PROMPT)))
    return folder


@pytest.fixture
def scorer(vlm: VisionLanguageModel, probe: Path) -> RiskScorer:
    return RiskScorer(vlm, probe, batch_size=4)


def ask(scorer: RiskScorer, sample: Sample) -> float:
    return scorer.risk(sample.image, sample.question)


@pytest.mark.exhaustive
def test_eight_threads_get_their_own_risks(scorer: RiskScorer, samples: list[Sample]) -> None:
    """All ask as ``question``, some about the same image object, each in an order of its own."""
    expected = [ask(scorer, sample) for sample in samples]
    assert len(set(expected)) == len(samples)

    def from_(start: int) -> dict[int, float]:
        order = islice(cycle(range(len(samples))), start, start + 2)
        return {i: ask(scorer, samples[i]) for i in order}

    for found in at_once([lambda i=i: from_(i) for i in range(8)]):
        assert found == {i: expected[i] for i in found}


@pytest.mark.exhaustive
def test_tables_at_once_and_scorers_of_one_model(
    vlm: VisionLanguageModel, probe: Path, scorer: RiskScorer, samples: list[Sample]
) -> None:
    """Equal ids mean other questions in each table; bad rows stay with the table they are in."""

    def table(first: int) -> list[Sample]:
        rows = [Sample(str(i), s.image, s.question) for i, s in enumerate(samples[first:])]
        return [*rows[:2], Sample("bad", "no.png", f"Is it {first}?"), *rows[2:4]]

    def run(own: RiskScorer, first: int) -> list[Risk | Failure]:
        return list(own.score(table(first)))

    expected = [run(scorer, first) for first in range(3)]
    assert all(isinstance(found[2], Failure) for found in expected)
    other = RiskScorer(vlm, probe, batch_size=4)
    works = [lambda s=s, i=i: run(s, i) for i in range(3) for s in (scorer, other)]
    assert at_once(works) == [found for found in expected for _ in range(2)]


@pytest.mark.exhaustive
def test_beside_an_extract_of_the_same_model(
    vlm: VisionLanguageModel,
    scorer: RiskScorer,
    table: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "load_with", lambda *_, **__: vlm)
    done = threading.Event()

    def run(name: str) -> Run:
        try:
            spec = CaptureSpec(max_new_tokens=3)
            return extract(table, model="-", out=tmp_path / name, spec=spec, batch_size=4, limit=4)
        finally:
            done.set()

    alone, expected = run("alone"), [ask(scorer, sample) for sample in samples[:2]]
    done.clear()
    running, found = Worker(lambda: run("beside")), list[list[float]]()
    while not found or not done.is_set():
        found.append([ask(scorer, sample) for sample in samples[:2]])
    assert found == [expected] * len(found)
    beside = running.result()
    assert sorted(beside.ids) == sorted(alone.ids)
    for id_ in alone.ids:
        assert beside[id_].answer == alone[id_].answer
        for name, vector in alone[id_].vectors.items():
            assert np.array_equal(beside[id_].vectors[name], vector), name


def test_from_an_event_loop(scorer: RiskScorer, samples: list[Sample]) -> None:
    expected = [ask(scorer, sample) for sample in samples[:4]]

    async def serve() -> list[float]:
        return await asyncio.gather(
            *(asyncio.to_thread(ask, scorer, sample) for sample in samples[:4])
        )

    assert Worker(lambda: asyncio.run(serve())).result() == expected


def test_a_risk_is_asked_for_between_two_captures(
    scorer: RiskScorer, vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    expected = [ask(scorer, sample) for sample in samples[:4]]
    spec = CaptureSpec(max_new_tokens=3)
    alone = [item.answer for item in capture(samples[:4], vlm, spec, batch_size=2)]
    found = [
        (item.answer, ask(scorer, item.sample), risk.risk)  # type: ignore[union-attr]
        for item, risk in zip(
            capture(samples[:4], vlm, spec, batch_size=2), scorer.score(samples[:4]), strict=True
        )
    ]
    assert [(answer, risk) for answer, risk, _ in found] == list(zip(alone, expected, strict=True))
    assert [batched for *_, batched in found] == [
        risk.risk
        for risk in scorer.score(samples[:4])  # type: ignore[union-attr]
    ]


def test_no_row_is_lost_when_the_batches_grow_while_rows_are_drawn(
    vlm: VisionLanguageModel, probe: Path, samples: list[Sample]
) -> None:
    """Whoever else uses the scorer, another thread or the rows' own source, may make them grow."""
    scorer = RiskScorer(vlm, probe)
    first = scorer._sizer.size

    def drawn() -> Iterator[Sample]:
        for sample in samples[:6]:
            ask(scorer, sample)
            yield sample

    found = list(scorer.score(drawn()))
    assert [item.id for item in found] == [sample.id for sample in samples[:6]]
    assert scorer._sizer.size > first


def test_a_failure_is_raised_where_it_was_asked_for(
    scorer: RiskScorer, samples: list[Sample]
) -> None:
    expected = ask(scorer, samples[0])

    def bad(i: int) -> str:
        with pytest.raises(RowError) as caught:
            scorer.risk(f"no_{i}.png", "What is it?")
        return str(caught.value)

    works: list[Callable[[], Any]] = [lambda i=i: bad(i) for i in range(3)]
    *said, found = at_once([*works, lambda: ask(scorer, samples[0])])
    assert [f"no_{i}.png" in line for i, line in enumerate(said)] == [True] * 3
    assert found == expected


def test_who_holds_the_lock_may_ask(scorer: RiskScorer, samples: list[Sample]) -> None:
    """A server that asks for the risk and writes the answer in one go: others wait for both."""
    expected = [ask(scorer, sample) for sample in samples[:3]]

    def ask_all() -> list[float]:
        with model_lock():
            risks = [ask(scorer, sample) for sample in samples[:2]]
            return [*risks, next(iter(scorer.score(samples[2:3]))).risk]  # type: ignore[union-attr]

    assert at_once([ask_all] * 2) == [expected] * 2


@pytest.mark.exhaustive
def test_an_abandoned_table_is_collected_by_a_thread_that_holds_a_lock(
    scorer: RiskScorer, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its preparing threads wait for that lock, so nobody may wait for them."""
    may_prepare, original = threading.Event(), ResilientRunner.prepare

    def prepare(self: ResilientRunner, rows: Any) -> Any:
        assert rows[0].id == samples[0].id or may_prepare.wait(10)
        return original(self, rows)

    def begin() -> weakref.ref[Any]:
        cycle: list[Any] = [scorer.score(samples)]
        cycle.append(cycle)
        next(cycle[0])  # the second batch is being prepared
        return weakref.ref(cycle[0])

    def collect() -> None:
        with tokenizer_lock():
            may_prepare.set()
            gc.collect()

    monkeypatch.setattr(ResilientRunner, "prepare", prepare)
    gc.disable()
    try:
        abandoned = begin()
        assert abandoned() is not None
        Worker(collect).result(10)
    finally:
        gc.enable()
    assert abandoned() is None


@pytest.mark.exhaustive
def test_one_lazily_opened_image_in_eight_threads(
    scorer: RiskScorer, samples: list[Sample]
) -> None:
    """PIL reads a file when its pixels are first asked for, and stops half-way for nobody."""
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(noise), io.BytesIO()
    exif = image.getexif()
    exif[274] = 6  # to be turned
    image.save(buffer, "JPEG", exif=exif)
    expected = scorer.risk(buffer.getvalue(), "What is it?")
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    assert at_once([lambda: scorer.risk(opened, "What is it?")] * 8) == [expected] * 8


def test_a_scorer_is_copied_and_shown_as_before(scorer: RiskScorer, samples: list[Sample]) -> None:
    twin = copy.deepcopy(scorer)
    assert (
        at_once([lambda s=s: ask(s, samples[0]) for s in (scorer, twin)])
        == [ask(scorer, samples[0])] * 2
    )
    assert "lock" not in repr(scorer)
