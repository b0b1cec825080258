"""Full disks, folders that cannot be written, files that are damaged afterwards."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults.child import finish, start
from faults.killing import ONE_BY_ONE, undisturbed
from faults.outcome import Outcome
from faults.setting import Setting, differences
from vlmscope.errors import VlmscopeError
from vlmscope.schema import Capture
from vlmscope.store import Run, find_damage, open_run

NOBODY = 65534
ROW_BYTES = 15_000
"""Less than a row takes on the disk, so that a disk with room for so many is full in time."""


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _become_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def file_limit(setting: Setting, tries: int, rng: random.Random) -> Outcome:
    """Let the system refuse writes beyond a random size, in the middle of a shard; then resume."""
    outcome, folder = Outcome("writes refused in the middle of a shard"), setting.folder / "limit"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    for _ in range(tries):
        out = folder / "run"
        before = functools.partial(_limit_files, rng.randint(1_000, 500_000))
        code = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log, before=before))
        again = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log))
        _judge(outcome, (code, again), (1, 0), out, expected)
    return outcome


@contextlib.contextmanager
def _mounted(place: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a small disk, if this user may; yield whether it is there."""
    place.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    with contextlib.suppress(FileNotFoundError):
        there = subprocess.run(["mount", *options], capture_output=True, check=False)
        if there.returncode == 0:
            try:
                yield True
            finally:
                subprocess.run(["umount", str(place)], check=True)
            return
    yield False


def _refuse_beyond(folder: Path, room: int) -> None:
    """Let this process write so many bytes into a folder, and no more: as a full disk does."""
    written, original = 0, Path.open

    class SmallFile(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal written
            written += len(data)
            if written > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def open_small(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "wb" and folder in path.parents:
            return io.BufferedWriter(SmallFile(path, "wb"))
        return original(path, mode, *rest, **options)

    Path.open = open_small  # type: ignore[method-assign, assignment]


def full_disk(setting: Setting, tries: int, rng: random.Random, *, mount: bool = True) -> Outcome:
    """Fill a small disk, make room, and resume; without the right to mount one, imitate it."""
    outcome, folder = Outcome("disk full (tmpfs)"), setting.folder / "full"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    for _ in range(tries):
        room = rng.randint(30_000, ROW_BYTES * setting.rows)
        small = _mounted(folder / "disk", 4_000) if mount else contextlib.nullcontext(False)
        with small as there:
            ballast, out = folder / "disk" / "ballast", folder / "disk" / "run"
            before = None if there else functools.partial(_refuse_beyond, out, room)
            ballast.parent.mkdir(exist_ok=True)
            if there:
                ballast.write_bytes(bytes(4_000_000 - room))
            else:
                outcome.fault = "disk full (writes refused with ENOSPC)"
            log.unlink(missing_ok=True)
            code = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log, before=before))
            said = "No space left on device" in log.read_text("utf-8")
            ballast.unlink(missing_ok=True)
            again = finish(start(setting.arguments(table, out, *ONE_BY_ONE), log))
            if not said:
                outcome.add("", [f"the disk was not full: exit codes {code}, {again}"])
            _judge(outcome, (code, again), (1, 0), out, expected)
    return outcome


def read_only(setting: Setting, tries: int, _rng: random.Random) -> Outcome:
    """Take the right to write a run away, for its folder or for its shards; give it back."""
    outcome, folder = Outcome("a read-only folder"), setting.folder / "readonly"
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    log.touch()
    log.chmod(0o666)
    for i in range(tries):
        out = folder / "run"
        (out / "shards").mkdir(parents=True)
        closed = [out, out / "shards"][i % 2 :]
        for place in closed:
            place.chmod(0o555)
        arguments = setting.arguments(table, out, *ONE_BY_ONE)
        code = finish(start(arguments, log, before=_become_nobody))
        for place in closed:
            place.chmod(0o777)
        again = finish(start(arguments, log))
        _judge(outcome, (code, again), (1, 0), out, expected)
    return outcome


def _judge(
    outcome: Outcome, codes: tuple[int, int], wanted: tuple[int, int], out: Path, expected: Run
) -> None:
    """Take note of a try: refused with one line, then resumed; and remove the run."""
    if codes == (0, 0):
        outcome.add("there was room enough", differences(out, expected))
    elif codes != wanted:
        outcome.add("", [f"exit codes {codes}"])
    else:
        outcome.add("exit code 1, then resumed to equal rows", differences(out, expected))
    shutil.rmtree(out)


def _flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit of a shard flipped": _flip,
    "a shard truncated": _cut,
}


def damaged(
    setting: Setting, how: str, tries: int, rng: random.Random, *, redone: int = 3
) -> Outcome:
    """Damage a shard: it must be found and named, never read as data, and captured again."""
    outcome, folder = Outcome(how), setting.folder / how.replace(" ", "-")
    table, log = setting.table(folder.name), folder / "log"
    expected = undisturbed(setting, table)
    whole = {capture.sample.id: capture for capture in expected}
    out = shutil.copytree(expected.path, folder / "run")
    [shard] = (out / "shards").glob("*.h5")
    original = shard.read_bytes()
    read = 0
    for _ in range(tries):
        shard.write_bytes(DAMAGES[how](original, rng))
        found = [damage.path for damage in find_damage(out)]
        wrong = [] if found == [shard] else [f"found damaged: {found}"]
        with contextlib.suppress(VlmscopeError):
            wrong += [
                f"{row.sample.id} read wrong" for row in open_run(out) if not _same(row, whole)
            ]
            read += 1
        outcome.add("found by verify --files and named", wrong)
    for _ in range(redone):
        shard.write_bytes(DAMAGES[how](original, rng))
        checked = finish(start(["verify", str(out), "--files"], log))
        arguments = setting.arguments(table, out, *ONE_BY_ONE, "--redo-damaged")
        again = finish(start(arguments, log))
        wrong = [f"exit codes {checked}, {again}"] if (checked, again) != (1, 0) else []
        outcome.add("set aside and captured again, equal", [*wrong, *differences(out, expected)])
        [shard] = (out / "shards").glob("*.h5")
        original = shard.read_bytes()
    outcome.note = f"{tries - read} reads refused, {read} without effect on readers"
    return outcome


def _same(row: Capture, whole: dict[str, Capture]) -> bool:
    """Return whether a row that was read is the one that was written, bit for bit."""
    other = whole.get(row.sample.id)
    if other is None or row.vectors.keys() != other.vectors.keys():
        return False
    texts = [
        (r.sample, r.answer, r.boundaries, r.image_sha256, r.finish_reason, r.first_token_entropy)
        for r in (row, other)
    ]
    arrays = [
        [r.answer_token_ids, r.answer_logprobs, r.first_token_ids, r.first_token_logprobs]
        for r in (row, other)
    ]
    pairs = [*zip(*arrays, strict=True)] + [(row.vectors[n], v) for n, v in other.vectors.items()]
    return texts[0] == texts[1] and all(np.array_equal(one, two) for one, two in pairs)
