"""The locks themselves: a forked child, signals, warnings, tokenizers, images."""

from __future__ import annotations

import io
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threads import Worker, at_once
from vlmscope import locking
from vlmscope.dataset import hash_image, load_image
from vlmscope.dataset.images.file import without_warnings
from vlmscope.engine import capture, prepare
from vlmscope.errors import InputError
from vlmscope.locking import ProcessLock, model_lock, tokenizer_lock, warnings_lock
from vlmscope.model import VisionLanguageModel
from vlmscope.model.attention.padded import PADDED
from vlmscope.model.attention.switch import GROUPED, attending_with, grouped_attention, masking_keys
from vlmscope.model.attention.tiles import splitting_attention
from vlmscope.model.computing import full_float32, removing_hooks
from vlmscope.plots.canvas import without_glyph_warnings
from vlmscope.prompt import encode, render, with_tokenizer_lock
from vlmscope.schema import CaptureSpec, Sample

PROMPT = CaptureSpec(max_new_tokens=0)


@contextmanager
def held_elsewhere(lock: Callable[[], Any]) -> Iterator[None]:
    """Let another thread hold a lock while the block runs."""
    has_it, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock():
            has_it.set()
            may_go.wait(30)

    holder = Worker(hold)
    assert has_it.wait(10)
    try:
        yield
    finally:
        may_go.set()
        holder.result()


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, and return what the child makes of it: a value or an error. If it hangs, fail."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            found: Any = work()
        except BaseException as error:  # noqa: BLE001 - sent to the parent
            found = error
        os.write(writing, pickle.dumps(found))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}: a deadlock"
    return pickle.loads(data)  # noqa: S301 - our own


def numbers(vlm: VisionLanguageModel, sample: Sample) -> list[bytes]:
    [found] = capture([sample], vlm, PROMPT)
    return [vector.tobytes() for vector in found.vectors.values()]


def test_a_child_that_was_forked_between_two_passes_computes_the_same(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    expected = numbers(vlm, samples[0])
    assert in_child(lambda: numbers(vlm, samples[0])) == expected
    with model_lock():  # held by the thread that forks, which the child has
        assert in_child(lambda: numbers(vlm, samples[0])) == expected


def test_a_child_that_was_forked_in_the_middle_of_a_pass_computes_the_same(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """It has the hooks and the settings of a thread that it does not have."""
    expected, inside, may_go = numbers(vlm, samples[0]), threading.Event(), threading.Event()

    def stay(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            may_go.wait(30)

    hook = vlm.layers[2].register_forward_hook(stay)
    try:
        passing = Worker(lambda: numbers(vlm, samples[1]))
        assert inside.wait(10)
        assert in_child(lambda: numbers(vlm, samples[0])) == expected
    finally:
        may_go.set()
        hook.remove()
    assert passing.result() == numbers(vlm, samples[1])


def test_a_tokenizer_in_use_is_refused_in_a_child(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    with held_elsewhere(tokenizer_lock):
        error = in_child(lambda: numbers(vlm, samples[0]))
    assert isinstance(error, InputError)
    assert "forked while another thread used a tokenizer" in str(error)


def test_what_a_child_does_not_need_whole_is_free_in_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    with held_elsewhere(warnings_lock):
        assert in_child(lambda: load_image(buffer.getvalue()).size) == (9, 9)


def test_a_lock_that_is_waited_for_yields_to_ctrl_c() -> None:
    """In the main thread, which a signal is for; afterwards the lock is not half held."""
    lock = ProcessLock()
    with held_elsewhere(lock.held):
        timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt), lock.held():
            time.sleep(5)
    Worker(lambda: lock.held().__enter__()).result(5)


def test_signals_at_any_moment_leave_no_lock_held(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """A timer interrupts captures at many different moments; another thread can always go on."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    expected, before = numbers(vlm, samples[0]), signal.signal(signal.SIGALRM, interrupt)
    times = 0
    try:
        for wait in np.linspace(0.001, 0.02, 12):
            try:
                signal.setitimer(signal.ITIMER_REAL, wait)
                numbers(vlm, samples[0])
            except Interrupted:
                times += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert Worker(lambda: numbers(vlm, samples[0])).result(20) == expected
    finally:
        signal.signal(signal.SIGALRM, before)
    assert times
    assert not torch.is_inference_mode_enabled()


def test_the_next_pass_undoes_what_an_interrupted_one_left(
    vlm: VisionLanguageModel, samples: list[Sample]
) -> None:
    """Interrupted as it cleaned up: its blocks never end, or end in the middle of that pass."""
    expected = numbers(vlm, samples[0])
    [batch], _ = prepare(samples[1:2], vlm)
    attending = attending_with(GROUPED, grouped_attention, vlm.decoder)
    hooked, seen = (
        removing_hooks(),
        masking_keys(list(vlm.layers), torch.zeros(1, 9, dtype=torch.bool)),
    )
    during: list[str] = []
    left = [full_float32(), attending, seen, splitting_attention(vlm, batch.inputs), hooked]
    for block in left[:-1]:
        block.__enter__()
    hooked.__enter__().append(
        vlm.layers[0].register_forward_hook(lambda _m, _a, output: output * 2)
    )
    assert vlm.layers[0].self_attn.config._attn_implementation == GROUPED

    def end_them(*_: Any) -> None:
        while left:
            left.pop().__exit__(None, None, None)
        during.append(vlm.layers[0].self_attn.config._attn_implementation)

    hook = vlm.layers[1].register_forward_hook(end_them)
    try:
        assert numbers(vlm, samples[0]) == expected
    finally:
        hook.remove()
    assert left == []
    assert during == [PADDED]  # the pass's own change is still in force
    assert vlm.layers[0].self_attn.config._attn_implementation == "sdpa"
    assert numbers(vlm, samples[0]) == expected


def test_warning_filters_are_changed_by_one_thread_at_a_time() -> None:
    """Else the last to leave would put back what the other one had set."""
    before, inside = list(warnings.filters), threading.Event()

    def draw() -> None:
        with without_glyph_warnings():
            inside.set()
            time.sleep(0.1)

    def read() -> None:
        inside.wait(10)
        with without_warnings():
            time.sleep(0.2)

    at_once([draw, read])
    assert list(warnings.filters) == before


def test_a_tokenizer_pads_as_it_is_asked_to(
    vlm: VisionLanguageModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow method does not pad, a batch does; the tokenizer remembers what it was told last."""
    tokenizer, original = (
        vlm.processor.tokenizer,
        vlm.processor.tokenizer.set_truncation_and_padding,
    )
    texts = [render(vlm.processor, sample.question, 0) for sample in samples[:3]]

    def padded() -> list[list[int]]:
        return encode(vlm.processor, texts, [[]] * 3)["input_ids"].tolist()  # type: ignore[no-any-return]

    def plain() -> list[list[int]]:
        return with_tokenizer_lock(vlm.processor).tokenizer(texts)["input_ids"]  # type: ignore[no-any-return]

    def slowly(*args: Any, **options: Any) -> None:
        original(*args, **options)
        time.sleep(0.02)  # another thread comes between the setting and its use

    expected = [padded(), plain()]
    assert len(set(map(len, expected[0]))) == 1 < len(set(map(len, expected[1])))
    monkeypatch.setattr(
        type(tokenizer), "set_truncation_and_padding", lambda _, *a, **o: slowly(*a, **o)
    )
    assert at_once([padded, plain] * 3) == expected * 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_that_is_opened_and_not_yet_read(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(noise), io.BytesIO()
    exif = image.getexif()
    exif[274] = 6  # to be turned
    image.save(buffer, kind, exif=exif)
    expected = hash_image(load_image(buffer.getvalue()))
    for _ in range(3):
        opened = Image.open(io.BytesIO(buffer.getvalue()))
        works = [lambda shared=opened: hash_image(load_image(shared))] * 8
        assert at_once(works) == [expected] * 8


def test_images_seldom_share_a_lock_and_one_has_always_the_same() -> None:
    images = [Image.new("RGB", (2, 2)) for _ in range(64)]
    locks = {id(locking.image_lock(image)) for image in images}
    assert len(locks) > 8
    assert locking.image_lock(images[0]) is locking.image_lock(images[0])
