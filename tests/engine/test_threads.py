"""Captures at the same time: each gets what it would get alone, bit for bit, or nobody hangs."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from families.conformance import ONE_IMAGE, build
from threads import Worker, at_once
from vlmscope.engine import CaptureSession, capture, prepare
from vlmscope.errors import InputError
from vlmscope.inspection import inspect_sample
from vlmscope.model import VisionLanguageModel, load_model, model_lock, resolve_spec
from vlmscope.model.loading import load
from vlmscope.reference import reference
from vlmscope.schema import Capture, CaptureSpec, Sample

SPEC = CaptureSpec(max_new_tokens=4, positions=("last_prompt_token", "answer_mean"))
ANSWER = CaptureSpec(max_new_tokens=3)
PROMPT = CaptureSpec(layers="all", max_new_tokens=0)


@pytest.fixture(scope="module", params=["mllama", "qwen2_5_vl", "smolvlm"])
def any_vlm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> VisionLanguageModel:
    """Images encoded beforehand; positions kept in the model; two calls of the tokenizer."""
    if request.param == "mllama":
        return request.getfixturevalue("talkative_vlm")  # type: ignore[no-any-return]
    folder = build(request.param, tmp_path_factory.mktemp("family") / request.param)
    return load_model(folder, device="cpu", dtype="float32")


def bits(item: Capture) -> tuple[Any, ...]:
    """Return everything that was computed of a row, for comparison without a tolerance."""
    numbers = {**item.vectors, "first": item.first_token_logprobs, "ids": item.first_token_ids}
    if item.answer_logprobs is not None:
        numbers |= {"answer": item.answer_logprobs, "tokens": item.answer_token_ids}  # type: ignore[dict-item]
    return (
        item.sample.id,
        item.answer,
        item.first_token_entropy,
        tuple(sorted(item.boundaries.items())),
        tuple((name, values.tobytes()) for name, values in sorted(numbers.items())),
    )


def captured(
    rows: Sequence[Sample], vlm: VisionLanguageModel, spec: CaptureSpec = SPEC, size: int = 2
) -> list[tuple[Any, ...]]:
    return [bits(item) for item in capture(rows, vlm, spec, batch_size=size)]


def state_of(vlm: VisionLanguageModel) -> Any:
    """Return what a pass changes for its own time: of the model, and of the process."""
    return (
        [
            (len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m.__dict__))
            for m in vlm.model.modules()
        ],
        [m.config._attn_implementation for m in vlm.model.modules() if hasattr(m, "config")],
        (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        (torch.get_default_dtype(), torch.is_inference_mode_enabled(), torch.load),
    )


@pytest.mark.first(1)
def test_eight_threads_get_what_one_gets(any_vlm: VisionLanguageModel) -> None:
    works: list[Callable[[], Any]] = [
        lambda: captured(ONE_IMAGE[:3], any_vlm, ANSWER, size=3),
        lambda: captured(ONE_IMAGE[:2], any_vlm, ANSWER, size=1),
        lambda: captured(ONE_IMAGE, any_vlm, PROMPT, size=3),
        lambda: bits(reference(ONE_IMAGE[1], any_vlm, ANSWER)),
        lambda: bits(inspect_sample(ONE_IMAGE[3], any_vlm, resolve_spec(PROMPT, any_vlm)).capture),
    ]
    expected, before = [work() for work in works], state_of(any_vlm)
    order = [0, 1, 2, 3, 4, 0, 1, 3]
    assert at_once([works[i] for i in order]) == [expected[i] for i in order]
    assert state_of(any_vlm) == before


@pytest.mark.exhaustive
@pytest.mark.first(1)
def test_two_models_share_the_process(
    vlm: VisionLanguageModel, any_vlm: VisionLanguageModel
) -> None:
    rows, both = ONE_IMAGE[:2], (vlm, any_vlm)
    expected = [captured(rows, each, ANSWER) for each in both]
    works = [lambda m=each: captured(rows, m, ANSWER) for each in both * 3]
    assert at_once(works) == expected * 3


@pytest.mark.exhaustive
def test_a_model_is_loaded_while_another_one_computes(
    checkpoint: Path, talkative_vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library sets the default dtype, which is the process's, while it loads in bfloat16."""
    expected, rows = captured(ONE_IMAGE[:2], talkative_vlm), ONE_IMAGE[:2]
    loads, may_go_on, original = threading.Event(), threading.Event(), load.load_weights

    def slowly(*args: Any, **options: Any) -> Any:
        torch.set_default_dtype(torch.bfloat16)
        try:
            loads.set()
            may_go_on.wait(10)
        finally:
            torch.set_default_dtype(torch.float32)
        return original(*args, **options)

    monkeypatch.setattr(load, "load_weights", slowly)
    loader = Worker(lambda: load_model(checkpoint, device="cpu", dtype="bfloat16"))
    assert loads.wait(10)
    capturing = Worker(lambda: captured(rows, talkative_vlm))
    waits = not capturing.is_done_within(0.3)
    may_go_on.set()
    assert loader.result().dtype == torch.bfloat16
    assert capturing.result() == expected
    assert waits


@pytest.mark.exhaustive
def test_models_are_loaded_at_once_and_used_at_once(
    checkpoint: Path, vlm: VisionLanguageModel
) -> None:
    """In two types: each is loaded, proven and run in its own."""
    rows = ONE_IMAGE[:1]

    def load_and_run(dtype: str) -> tuple[torch.dtype, list[tuple[Any, ...]]]:
        loaded = load_model(checkpoint, device="cpu", dtype=dtype)
        return loaded.dtype, captured(rows, loaded, PROMPT)

    half = load_and_run("bfloat16")
    both = at_once([lambda d=dtype: load_and_run(d) for dtype in ("float32", "bfloat16")])
    assert both == [(torch.float32, captured(rows, vlm, PROMPT)), half]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.exhaustive
def test_sessions_take_turns_with_their_rows_half_answered(
    talkative_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """Each thread submits batch after batch while rows of all sessions are in their slots."""

    def run(rows: Sequence[Sample]) -> list[tuple[Any, ...]]:
        session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 2)
        found = []
        for row in rows:
            [batch], _ = prepare([row], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
            found += session.submit(batch)
        return sorted(bits(item) for item in found + session.drain() if isinstance(item, Capture))

    shares = [samples[:3], samples[4:6], samples[7:9]]
    expected = [run(share) for share in shares]
    assert [len(found) for found in expected] == [3, 2, 2]
    assert at_once([lambda s=share: run(s) for share in shares]) == expected


def test_a_session_that_threads_share_returns_every_row_once(
    talkative_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    session, samples = (
        CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 4),
        samples[:6],
    )

    def submit(rows: Sequence[Sample]) -> list[Any]:
        found = []
        for row in rows:
            [batch], _ = prepare([row], talkative_vlm, resolve_spec(SPEC, talkative_vlm))
            found += session.submit(batch)
        return found + session.drain()

    found = at_once([lambda i=i: submit(samples[i::3]) for i in range(3)])
    assert sorted(item.sample.id for item in chain(*found)) == sorted(
        sample.id for sample in samples
    )
    assert session.pop_failed() == []


@pytest.mark.exhaustive
def test_generators_take_turns_in_one_thread(
    talkative_vlm: VisionLanguageModel, any_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    many, few = samples[:4], ONE_IMAGE
    expected = list(zip(captured(many, talkative_vlm), captured(few, any_vlm, PROMPT), strict=True))
    found = zip(
        capture(many, talkative_vlm, SPEC, batch_size=2),
        capture(few, any_vlm, PROMPT, batch_size=2),
        strict=True,
    )
    assert [(bits(one), bits(other)) for one, other in found] == expected


@pytest.mark.exhaustive
def test_a_consumer_that_stops_keeps_nobody_waiting(
    talkative_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """Suspended, closed in another thread, or left to the garbage collector."""
    expected = captured(samples[:2], talkative_vlm)
    suspended = capture(samples, talkative_vlm, SPEC, batch_size=2)
    next(suspended)
    assert Worker(lambda: captured(samples[:2], talkative_vlm)).result() == expected
    Worker(suspended.close).result()  # type: ignore[attr-defined]
    cycle: list[Any] = [capture(samples, talkative_vlm, SPEC, batch_size=2)]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    Worker(gc.collect).result()
    assert Worker(lambda: captured(samples[:2], talkative_vlm)).result() == expected


class AskedToStop(BaseException):
    """As a signal handler or a debugger may raise it anywhere."""


@pytest.mark.first(1)
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("prefill", ValueError("no such kernel")),
        ("prefill", torch.OutOfMemoryError("CUDA out of memory")),
        ("prefill", StopIteration()),
        ("prefill", AskedToStop()),
        ("vision", GeneratorExit()),
        ("vision", KeyboardInterrupt()),
        ("step", KeyboardInterrupt()),
        ("step", torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_an_error_leaves_the_model_free_and_as_it_was(
    talkative_vlm: VisionLanguageModel, samples: list[Sample], error: BaseException, where: str
) -> None:
    rows, failed = samples[:2], list[BaseException]()
    expected, before = captured(rows, talkative_vlm), state_of(talkative_vlm)

    def fail(_module: Any, _args: Any, output: Any) -> None:
        prefills = where == "vision" or output.shape[1] > 1
        if prefills == (where != "step"):
            raise error

    part = talkative_vlm.vision_encoder if where == "vision" else talkative_vlm.layers[2]
    session = CaptureSession(talkative_vlm, resolve_spec(SPEC, talkative_vlm), 2)
    [batch], _ = prepare(rows, talkative_vlm, resolve_spec(SPEC, talkative_vlm))
    hook = part.register_forward_hook(fail)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that after an error ``generate`` writes the answers
            session.submit(batch)
            session.drain()
    except BaseException as caught:  # noqa: BLE001 - whichever it is
        failed.append(caught)
    finally:
        hook.remove()
    # In a step, the session gives up the rows and says which.
    assert failed == [error] or (where == "step" and len(session.pop_failed()) == len(rows))
    assert state_of(talkative_vlm) == before
    assert Worker(lambda: captured(rows, talkative_vlm)).result() == expected


def test_hooks_that_cannot_all_be_registered_leave_none(
    talkative_vlm: VisionLanguageModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, last = state_of(talkative_vlm), talkative_vlm.final_norm
    with monkeypatch.context() as patch:

        def register(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(type(last), "register_forward_hook", register, raising=False)
        with pytest.raises(KeyboardInterrupt):
            captured(samples[:1], talkative_vlm)
    assert state_of(talkative_vlm) == before


def test_the_model_is_not_run_from_within_itself(
    talkative_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """By a hook, or by a handler of a signal that comes while it runs."""
    expected, said = captured(samples[:1], talkative_vlm), []

    def again(*_: Any) -> None:
        if not said:
            with pytest.raises(InputError, match="runs in the same thread") as caught:
                captured(samples[1:2], talkative_vlm)
            said.append(caught)

    hook = talkative_vlm.layers[1].register_forward_hook(again)
    try:
        assert captured(samples[:1], talkative_vlm) == expected
    finally:
        hook.remove()
    assert said
    assert captured(samples[:1], talkative_vlm) == expected


@pytest.mark.first(1)
@pytest.mark.parametrize("after", ["vision", "prefill", "step"])
def test_a_call_beside_a_capture_is_refused_unless_it_holds_the_lock(
    talkative_vlm: VisionLanguageModel, samples: list[Sample], after: str
) -> None:
    """It would meet the hooks and the attention of the capture, and spoil both results."""
    expected = captured(samples[:1], talkative_vlm)
    [batch], _ = prepare(samples[1:2], talkative_vlm)
    inputs, refused, holding = batch.model_inputs(), [], []

    def call() -> Any:
        return talkative_vlm.model(**inputs).logits

    def call_holding() -> Any:
        with model_lock():
            return call()

    alone = call()

    def beside(_module: Any, _args: Any, output: Any) -> None:
        right = after == "vision" or (output.shape[1] == 1) == (after == "step")
        if threading.current_thread() is threading.main_thread() and right and not refused:
            with pytest.raises(InputError, match="model_lock") as caught:
                Worker(call).result()
            refused.append(caught)
            holding.append(Worker(call_holding))

    part = talkative_vlm.vision_encoder if after == "vision" else talkative_vlm.layers[2]
    hook = part.register_forward_hook(beside)
    try:
        assert captured(samples[:1], talkative_vlm) == expected
    finally:
        hook.remove()
    assert refused
    assert torch.equal(holding[0].result(), alone)


@pytest.mark.exhaustive
def test_captures_go_on_in_threads_that_come_and_go(
    talkative_vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """A generator may be resumed by another thread each time, as a server's workers do."""
    expected = captured(samples[:4], talkative_vlm)
    generator = capture(samples[:4], talkative_vlm, SPEC, batch_size=2)
    assert [Worker(lambda: bits(next(generator))).result() for _ in expected] == expected
