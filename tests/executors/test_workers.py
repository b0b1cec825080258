"""Worker processes prepare exactly what threads do, and nothing that dies with them is lost."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from logging.handlers import BufferingHandler
from multiprocessing import Pipe
from pathlib import Path
from subprocess import PIPE, Popen
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import vlmscope
from executors.prepared import assert_same_prepared
from material import make_image
from threads import TIMEOUT, Worker
from vlmscope.api.extracting import FailedRowsWarning
from vlmscope.engine import CaptureSession, prepare
from vlmscope.executors import plan, runner
from vlmscope.executors.batching import BatchSizer
from vlmscope.executors.request import Request
from vlmscope.executors.runner import ResilientRunner
from vlmscope.executors.workers import Workers, WorkersError, pool, process
from vlmscope.executors.workers.process import Answer, Task
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.schema import Capture, CaptureSpec, Failure, Sample
from vlmscope.shown_once import forget_shown

SPEC = CaptureSpec(layers="0", max_new_tokens=0)


class Doing:
    """Calls a function of a library in the process in which it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def deadly(number: int = signal.SIGKILL) -> Any:
    """Return an image that ends the process that receives it."""
    return Doing(signal.raise_signal, number)


@pytest.fixture
def workers(worker_processes: Workers, vlm: VisionLanguageModel) -> Workers:
    """Two workers for the tiny model, started anew."""
    worker_processes.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
    return worker_processes


def row(image: Any, id_: str = "q", question: str = "Is it lit?") -> Sample:
    return Sample(id_, image, question, target="Yes", metadata={"free": object()}, origin="t 3")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def kinds_of_images(folder: Path) -> list[Any]:
    """Return images as files, bytes, arrays and PIL images, valid and not."""
    photo = make_image("two_wide")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photo, "JPEG", exif=exif)
    (folder / "turned.jpg").write_bytes(turned)
    (folder / "short.png").write_bytes(encoded(photo, "PNG")[:-300])
    see_through = photo.convert("P")
    see_through.info["transparency"] = 3
    lazy = Image.open(BytesIO(turned))
    # Neither is pickled: an orientation that was set, and a palette with transparency.
    oriented, clear = photo.copy(), photo.convert("P")
    oriented.getexif()[0x0112] = 6
    clear.putpalette([part for i in range(256) for part in (i, 255 - i, 3, i)], "RGBA")
    return [
        "turned.jpg", folder / "turned.jpg", "missing.jpg", turned, bytearray(turned),
        memoryview(turned), photo, see_through, lazy, oriented, clear, photo.convert("LA"),
        np.asarray(photo),
        np.asarray(photo)[::2, ::2, 0], np.zeros((3, 3), float), "short.png",
        Image.open(BytesIO((folder / "short.png").read_bytes())), [photo, "turned.jpg"], None, 7,
        b"",
    ]  # fmt: skip


def kinds_of_rows(folder: Path) -> list[Sample]:
    """Return rows of every kind, among them some that no one can prepare."""
    rows = [row(image, f"q{i}") for i, image in enumerate(kinds_of_images(folder))]
    rows += [row(make_image("one"), "empty", " "), row(make_image("one"), "odd", 3)]  # type: ignore[arg-type]
    return [*rows, row(make_image("four"), "same id"), row(make_image("four"), "same id", "Why?")]


def test_every_kind_of_row_is_prepared_as_by_a_thread(
    workers: Workers, vlm: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = kinds_of_rows(tmp_path)
    expected = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    assert len(expected[0]) > 1
    assert len(expected[1]) > 5
    found = workers.prepare(rows)
    assert_same_prepared(found, expected)
    assert {id(each) for batch in found[0] for each in batch.samples} <= set(map(id, rows))
    assert not workers.problem


@pytest.mark.exhaustive
def test_every_kind_of_row_alone_is_prepared_as_by_a_thread(
    workers: Workers, vlm: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here: list[Any] = []
    original = workers._prepared_here
    monkeypatch.setattr(
        workers, "_prepared_here", lambda rows: here.append(rows[0].image) or original(rows)
    )
    for each in kinds_of_rows(tmp_path):
        assert_same_prepared(workers.prepare([each]), prepare([each], vlm, resolve_spec(SPEC, vlm)))
    [unreadable] = here  # a PIL image is decoded in this process
    assert isinstance(unreadable, Image.Image)
    assert not workers.problem


def test_settings_of_pillow_and_the_folder_are_those_of_this_process(
    workers: Workers, vlm: VisionLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("short.png"), row("turned.jpg")]
    before = workers.prepare(rows)
    assert "not found" in before[1][0].error
    kinds_of_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    found = workers.prepare(rows)
    assert not found[1]
    assert_same_prepared(found, prepare(rows, vlm, resolve_spec(SPEC, vlm)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    _, failures = workers.prepare(rows)
    assert all("too many pixels" in failure.error for failure in failures)
    assert len(failures) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_row_that_ends_its_worker_is_recorded_alone(
    workers: Workers, vlm: VisionLanguageModel, number: int
) -> None:
    rows = [row(make_image("one"), f"q{i}") for i in range(4)]
    rows[2] = row(deadly(number), "q2")
    journal = Recorded()
    spec = resolve_spec(SPEC, vlm)
    resilient = ResilientRunner(
        vlm, spec, BatchSizer(4), CaptureSession(vlm, spec, 4), journal=journal, workers=workers
    )
    results = [item for piece in (*resilient.run(rows), *resilient.drain()) for item in piece]
    [failure] = [item for item in results if isinstance(item, Failure)]
    assert (failure.id, failure.stage) == ("q2", "prepare")
    assert failure.error.startswith("t 3: ")
    assert signal.Signals(number).name in failure.error
    assert {item.sample.id for item in results if isinstance(item, Capture)} == {"q0", "q1", "q3"}
    assert not journal.working
    assert journal.finished == {row.id for row in rows}


class Recorded:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.working: set[str] = set()
        self.finished: set[str] = set()

    def begin(self, _stage: str, ids: Sequence[str]) -> None:
        self.working |= set(ids)

    def leave(self, ids: Sequence[str]) -> None:
        self.working -= set(ids)

    def finish(self, ids: Sequence[str]) -> None:
        self.leave(ids)
        self.finished |= set(ids)


def test_workers_that_die_with_every_row_end_the_run(
    worker_processes: Workers, vlm: VisionLanguageModel
) -> None:
    workers = Workers(1)
    workers._server = worker_processes._server  # started already
    workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
    spec = resolve_spec(SPEC, vlm)
    resilient = ResilientRunner(
        vlm, spec, BatchSizer(4), CaptureSession(vlm, spec, 4), workers=workers
    )
    with pytest.raises(WorkersError, match=r"SIGKILL.*num_workers"):
        list(resilient.run([row(deadly(), f"q{i}") for i in range(3)]))
    workers._stop_idle()


def test_a_row_is_not_blamed_for_the_death_of_the_server(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, deaths = workers._prepared, [True, False]

    def dies(samples: Any, task: Any) -> Any:
        if deaths.pop(0):
            raise pool._DiedError(pool.WITH_SERVER)
        return prepared(samples, task)

    monkeypatch.setattr(workers, "_prepared", dies)
    batches, failures = workers._one_by_one([row(make_image("one"), "q0")])
    assert [sample.id for batch in batches for sample in batch.samples] == ["q0"]
    assert failures == []


def test_rows_are_tried_again_without_workers_that_are_closed(
    vlm: VisionLanguageModel, worker_processes: Workers
) -> None:
    spec = resolve_spec(SPEC, vlm)
    closed = Workers(1)
    resilient = ResilientRunner(
        vlm, spec, BatchSizer(2), CaptureSession(vlm, spec, 2), workers=closed
    )
    resilient.prepare_here()
    closed.close()
    rows = [row(make_image("one"), f"q{i}") for i in range(2)]
    results = [item for piece in (*resilient.run(rows), *resilient.drain()) for item in piece]
    assert [type(item) for item in results] == [Capture, Capture]


def processes(workers: Workers) -> list[int]:
    """Return the ids of the server and of its workers."""
    assert workers._server is not None
    server = workers._server._process.pid
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return [server, *map(int, children)]


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_a_worker_keeps_nothing_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inputs are freed before the next rows are prepared: they are half of its memory."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def answer(task: Task, _: Any) -> tuple[list[dict[str, torch.Tensor]], Answer]:
        alive.append(sum(each() is not None for each in made))
        tensor = torch.full((4,), len(task.samples))
        made.append(weakref.ref(tensor))
        return [{"pixel_values": tensor}], Answer()

    monkeypatch.setattr(process, "_answer", answer)
    ours, theirs = Pipe()
    setup: Any = None
    with ours, theirs:
        serving = Worker(lambda: process._serve_tasks(theirs, setup, []))
        for rows in range(3):
            task = Task((Sample("0", "a.png", "Why?"),) * rows, None, None, False, False)
            ours.send(task)
            assert ours.poll(TIMEOUT)
            assert ours.recv() == Answer()
            assert os.read(ours.fileno(), 32) == torch.full((4,), rows).numpy().tobytes()
        with socket.socket(fileno=os.dup(ours.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        with pytest.raises(EOFError):
            serving.result()
    assert alive == [0, 0, 0]


def test_no_descriptor_is_left(workers: Workers) -> None:
    rows = [row(make_image("one"), f"q{i}") for i in range(2)]
    workers.prepare(rows)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        workers.prepare(rows)
        workers.prepare([row(deadly()), *rows])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_messages_of_workers_are_shown_once(
    workers: Workers, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_shown()
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", False)  # true where CI is set
    before = logger.level
    logger.setLevel(logging.INFO)
    records = BufferingHandler(100)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
        for number in (1, 2):
            images = [
                Doing(warnings.warn, f"pixel {number} is odd", UserWarning),
                Doing(logger.info, f"an image has {number} sides"),
                Doing(logger.debug, "nothing"),
            ]
            logger.addHandler(records)
            try:
                workers.prepare([row(images)])
            finally:
                logger.removeHandler(records)
    logger.setLevel(before)
    assert [str(each.message) for each in shown] == ["pixel 1 is odd"]
    assert [record.getMessage() for record in records.buffer] == ["an image has 1 sides"]


class OfAScript:
    """An object whose class no installed library defines."""


def test_what_a_script_defines_is_prepared_by_threads(
    workers: Workers, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(make_image("one"))]
    expected = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    found = workers.prepare([row(OfAScript()), *rows])
    assert "OfAScript" in found[1][0].error
    assert not workers.problem
    monkeypatch.setattr(vlm.processor, "of_a_script", OfAScript(), raising=False)
    told: list[str] = []
    monkeypatch.setattr("vlmscope.executors.workers.pool.warn", told.append)
    with Workers(1) as others:
        others.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
        for _ in range(2):
            assert_same_prepared(others.prepare(rows), expected)
    [text] = told
    assert "OfAScript" in text


def test_a_run_is_the_same_with_workers(
    workers: Workers, vlm: VisionLanguageModel, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table.parent / "four_0.png").write_bytes(b"no image")
    ended: list[bool] = []
    monkeypatch.setattr(plan, "make_workers", lambda _: workers)
    monkeypatch.setattr(workers, "close", lambda: ended.append(True))  # others need them
    monkeypatch.setattr(workers, "_prepared_here", None)
    runs = []
    for count_, name in ((2, "processes"), (0, "threads")):
        if not count_:
            monkeypatch.undo()
        with pytest.warns(FailedRowsWarning, match="3 rows failed"):
            runs.append(
                vlmscope.extract(
                    table, vlm, table.parent / name, max_new_tokens=2, num_workers=count_,
                    batch_size=3,
                )
            )  # fmt: skip
    one, other = runs
    assert ended
    assert one.failures == other.failures
    assert one.ids == other.ids
    for id_ in one.ids:
        mine, theirs = one[id_], other[id_]
        assert (mine.answer, mine.image_sha256) == (theirs.answer, theirs.image_sha256)
        for name, vector in theirs.vectors.items():
            np.testing.assert_array_equal(mine.vectors[name], vector)


def test_a_plugin_of_pillow_is_not_missed(
    workers: Workers, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker would refuse a format that only a plugin of this process reads."""
    pool = "vlmscope.executors.workers.pool"
    monkeypatch.setattr(f"{pool}.known_formats", lambda: ["PNG", "NEW"])
    monkeypatch.setattr(f"{pool}.warn", lambda _: None)
    server = workers._server
    monkeypatch.setattr(type(server), "interrupt", lambda _: None)  # the others need it
    workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
    assert len(workers.prepare([row(make_image("one"))])[0]) == 1
    assert workers.problem.startswith("RuntimeError: NEW is read by a plugin")
    assert workers._server is server


def test_threads_prepare_rows_where_no_process_can_be_started(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(make_image("one"))]
    expected = prepare(rows, vlm, resolve_spec(SPEC, vlm))
    told: list[str] = []
    monkeypatch.setattr("vlmscope.executors.workers.pool.warn", told.append)
    monkeypatch.setattr("vlmscope.executors.workers.server.START_SECONDS", 0.2)
    for executable in ("/nothing/here", "/bin/sleep"):
        monkeypatch.setattr(sys, "executable", executable)
        with Workers(1) as others:
            others.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
            assert_same_prepared(others.prepare(rows), expected)
    assert "No such file" in told[0]
    assert len(told) == 2


@pytest.mark.parametrize("answers", [["ready"], ["ready", None]])
def test_rows_do_not_wait_forever_for_a_process_that_stopped_answering(
    answers: list[str | None], vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set up, or starts a worker, and hangs."""
    rows, told = [row(make_image("one"))], list[str]()
    ours, theirs = Pipe()
    with theirs, Popen(["/bin/sleep", "60"]) as hanging:
        for answer in answers:
            theirs.send(answer)
        given = SimpleNamespace(pipe=ours, process=hanging, owner=os.getpid())
        monkeypatch.setattr("vlmscope.executors.workers.server.take_server", lambda: given)
        monkeypatch.setattr("vlmscope.executors.workers.server.START_SECONDS", 0.2)
        monkeypatch.setattr("vlmscope.executors.workers.pool.warn", told.append)
        with Workers(1) as others, ThreadPoolExecutor(1) as threads:
            others.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
            found = threads.submit(others.prepare, rows)
            try:
                prepared = found.result(TIMEOUT)
            finally:
                hanging.kill()
                others.close()
    assert_same_prepared(prepared, prepare(rows, vlm, resolve_spec(SPEC, vlm)))
    assert len(told) == 1
    assert "within 0.2 seconds" in told[0]


def test_workers_end_before_the_command_begins_again(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    results: Any = SimpleNamespace(
        wait=lambda: done.append("write"), release=lambda: done.append("release"), captured=0
    )
    workers: Any = SimpleNamespace(begin=lambda *_: None, close=lambda: done.append("end workers"))
    monkeypatch.setattr(runner, "end_process", lambda *_, **__: done.append("restart"))
    request = Request("none.csv", vlm, Path("none"), spec=SPEC, time_limit=1)
    loop = runner.Loop(
        vlm, request, results, BatchSizer(1), went_well=True, stop=threading.Event(),
        workers=workers,
    )  # fmt: skip
    loop._expired()
    assert done == ["write", "release", "end workers", "restart"]


def test_no_batch_waits_for_workers_while_later_ones_are_prepared(
    vlm: VisionLanguageModel,
) -> None:
    """More threads than may prepare rows at once, as a long prefetch has."""
    workers = Workers(1, wait=False)
    rows = [row(make_image("one"))]
    with workers, ThreadPoolExecutor(6) as threads, workers._lock:  # so that they cannot start
        workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
        found = [threads.submit(workers.prepare, rows) for _ in range(6)]
        for each in found:
            assert not each.result(timeout=60)[1]
        assert not workers._begun.is_set()


def test_rows_wait_for_workers_that_only_have_to_be_forked(
    workers: Workers, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of eight threads would prepare a whole batch, while all share one interpreter lock."""
    workers.wait()
    rows, here = [row(make_image("one"))], list[Any]()
    monkeypatch.setattr(workers, "_wait", False)
    monkeypatch.setattr(workers, "_prepared_within", lambda *given: here.append(given))
    with ThreadPoolExecutor(1) as threads:
        with workers._lock:  # so that they cannot start yet
            workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
            found = threads.submit(workers.prepare, rows)
            assert not workers._begun.wait(0.3)
        assert_same_prepared(found.result(TIMEOUT), prepare(rows, vlm, resolve_spec(SPEC, vlm)))
    assert not here


def test_rows_wait_no_longer_for_workers_that_are_not_forked(
    workers: Workers, vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.wait()
    rows = [row(make_image("one"))]
    monkeypatch.setattr(workers, "_wait", False)
    monkeypatch.setattr(pool, "MOST_SECONDS_TO_FORK", 0.1)
    with workers._lock:  # so that they cannot start
        workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
        found = workers.prepare(rows)
        assert not workers._begun.is_set()
    assert_same_prepared(found, prepare(rows, vlm, resolve_spec(SPEC, vlm)))


def test_the_first_rows_need_not_wait(vlm: VisionLanguageModel) -> None:
    workers = Workers(1, wait=False)
    lock = workers._lock
    rows = [row(make_image("one"))]
    with workers:
        with lock:  # so that they cannot start
            workers.begin(vlm.preprocessing, resolve_spec(SPEC, vlm))
            found = [workers.prepare(rows) for _ in range(4)]
        for each in found:
            assert_same_prepared(each, prepare(rows, vlm, resolve_spec(SPEC, vlm)))


SCRIPT = """
import os, sys, threading, time
from pathlib import Path
with open({ran!r}, "a") as file:
    file.write("once ")
import vlmscope
from vlmscope.executors.workers import Workers
from vlmscope.model import load_model, resolve_spec
from vlmscope.schema import CaptureSpec, Sample

class Sleep:
    def __reduce__(self):
        return time.sleep, (600,)

workers = Workers(1)
workers.start()
vlm = load_model({model!r}, device="cpu")
assert workers._server._pipe.poll(120)
maps = Path(f"/proc/{{workers._server._process.pid}}/maps").read_text()
assert "tokenizers" in maps, "what processors need is imported while the model loads"
workers.begin(vlm.preprocessing, resolve_spec(CaptureSpec(), vlm))
[batch], _ = workers.prepare([Sample("a", {image!r}, "Is it lit?")])
rows = [Sample("b", Sleep(), "?")]
threading.Thread(target=workers.prepare, args=(rows,), daemon=True).start()
while not workers._busy:
    time.sleep(0.01)
server = workers._server._process.pid
children = Path(f"/proc/{{server}}/task/{{server}}/children").read_text()
print(os.getpid(), server, children, flush=True)
sys.stdin.readline()
os.execv({real!r}, [{real!r}, "-c", "import time; time.sleep(600)"])
"""


@pytest.mark.exhaustive
def test_workers_of_a_script_do_not_run_it_again_and_end_when_it_becomes_another_program(
    python: str, talkative: Path, tmp_path: Path
) -> None:
    image, script = tmp_path / "one.png", tmp_path / "script.py"
    make_image("one").save(image)
    names = {"ran": tmp_path / "ran", "model": talkative, "image": image, "real": sys.executable}
    script.write_text(SCRIPT.format(**{name: str(path) for name, path in names.items()}))
    with Popen([python, str(script)], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        own, *ids = map(int, process.stdout.readline().split())
        try:
            assert len(ids) == 2
            assert not any(map(is_gone, ids))
            process.stdin.write("\n")
            process.stdin.flush()
            wait_until(lambda: all(map(is_gone, ids)))
            assert not is_gone(own)
        finally:
            os.kill(own, signal.SIGKILL)
    assert (tmp_path / "ran").read_text() == "once "


@pytest.mark.exhaustive
def test_killed_processes_are_replaced_and_closing_ends_all(workers: Workers) -> None:
    """The last test here: it ends the processes that the others share."""
    rows = [row(make_image("one"), f"q{i}") for i in range(3)]
    workers.prepare(rows)
    _, *own = processes(workers)
    for each in own:
        os.kill(each, signal.SIGKILL)
    batches, failures = workers.prepare(rows)
    assert not failures
    assert [sample.id for batch in batches for sample in batch.samples] == ["q0", "q1", "q2"]
    waiting = Worker(lambda: workers.prepare([row(Doing(time.sleep, 600))]))
    wait_until(lambda: bool(workers._busy))
    [asleep] = workers._busy
    server, *own = processes(workers)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, own)))
    assert own
    # The row is tried again, alone, by a worker of another server, and others are prepared.
    [batch], _ = workers.prepare(rows)
    assert [sample.id for sample in batch.samples] == ["q0", "q1", "q2"]
    # What an earlier server started is no child of this one, which must not mind.
    assert "process that started it" in str(workers._death_of(asleep))
    assert len(workers.prepare(rows)[0]) == 1
    wait_until(lambda: bool(workers._busy))
    ids = processes(workers)
    assert server not in ids
    start = time.monotonic()
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result()
    wait_until(lambda: all(map(is_gone, ids)))
    assert time.monotonic() - start < 5
    workers.close()
