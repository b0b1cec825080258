"""Thumbnails of the table's images: each image is decoded once, and no pixels are kept.

An image is shown only if its pixels are those that were captured: the run has their hash. The size
is chosen at the end, by what fits, so each image is encoded in every size while it is decoded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING

from PIL import features

from vlmscope.dataset import Table, hash_image, load_image
from vlmscope.errors import InputError, RowError
from vlmscope.report.document import ReportSpec
from vlmscope.report.rows import hashes_of
from vlmscope.row_identity import table_of_run
from vlmscope.schema import Failure, Progress, Sample
from vlmscope.store import Run

if TYPE_CHECKING:
    from vlmscope.schema import ImageLike


SIDES = (256, 192, 128, 96)
"""Longest sides of thumbnails in pixels: the largest that fits into the page is used."""

FORMAT = "webp" if features.check("webp") else "jpeg"
"""WebP needs a third less space; not every Pillow can write it."""

OPTIONS = {"quality": 75, "method": 2}
"""Encoder options; ``method`` is for WebP: half the time of the default, 3% larger."""

CHUNK = 64
"""Number of images processed at a time."""

THREADS = min(8, os.cpu_count() or 1)
"""Number of threads; Pillow decodes and encodes without holding Python's lock."""


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """The thumbnails of the available images."""

    sizes: tuple[Mapping[str, bytes], ...]
    """One entry for each size that may fit, largest first: hash of an image → its file."""
    note: str
    """Why images are missing, or empty."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One image to be opened."""

    sha256: str
    image: ImageLike | None
    """None if the number of the row's images has changed."""

    name: str
    """Names of the row's images, for messages."""

    error: str = ""
    """The error of the row."""


@dataclass(frozen=True, slots=True)
class _Coded:
    """One image, found or not."""

    sha256: str
    files: tuple[bytes, ...] = ()
    """One for each of ``SIDES``."""
    why: str = ""
    """Why there are none."""
    example: str = ""
    """The error for this image."""


def find_table(run: Run, spec: ReportSpec) -> tuple[Table | None, str]:
    """Return the run's table, or None and why it cannot be read."""
    try:
        table = table_of_run(
            run,
            spec.data,
            images=spec.images,
            allow_absolute_paths=spec.allow_absolute_paths,
        )
    except InputError as error:
        return None, f"No images: {error}."
    return table, ""


def find_sample(table: Table, id_: str) -> Sample | None:
    """Return one row of the table, if it exists and is valid."""
    try:
        found = next((row for row in table.rows() if row.id == id_), None)
    except InputError:
        return None
    return found if isinstance(found, Sample) else None


def thumbnails(
    table: Table, wanted: Mapping[str, str], limit: int, progress: Progress
) -> Thumbnails:
    """Return a thumbnail of each distinct image that the table still has.

    Args:
        table: The run's table.
        wanted: Question id → hashes of its images, as ``Capture.image_sha256`` has them.
        limit: Maximum total bytes of the images of a size; larger sizes are dropped.
        progress: Called with the current step.
    """
    different = {sha256 for joined in wanted.values() for sha256 in hashes_of(joined)}
    sizes: list[dict[str, bytes]] = [{} for _ in SIDES]
    totals = [0] * len(SIDES)
    missing: list[_Coded] = []
    broken = ""
    try:
        for number, coded in enumerate(_coded(table, wanted)):
            if not number % CHUNK:
                progress(f"images, {number:,} of {len(different):,}")
            if coded.why:
                missing.append(coded)
                continue
            files = coded.files[-len(sizes) :]
            for size, file in zip(sizes, files, strict=True):
                size[coded.sha256] = file
            totals = [total + len(file) for total, file in zip(totals, files, strict=True)]
            while totals and totals[0] > limit:
                del sizes[0], totals[0]
            if not sizes:
                return Thumbnails((), too_many(len(different)))
    except InputError as error:
        broken = str(error)
    unseen = different.difference(sizes[-1], (coded.sha256 for coded in missing))
    missing += [_Coded(sha256, why="not in the table", example=broken) for sha256 in unseen]
    return Thumbnails(tuple(sizes), _note(missing, len(different)))


def too_many(count: int) -> str:
    """Return the note that no size is small enough."""
    return f"No images: {count:,} do not fit into the page; give fewer --samples."


def _coded(table: Table, wanted: Mapping[str, str]) -> Iterator[_Coded]:
    """Yield each image once, in the order of the table."""
    tasks = _first_of_each(table, wanted)
    with ThreadPoolExecutor(THREADS) as pool:
        while chunk := list(islice(tasks, CHUNK)):
            yield from pool.map(_code, chunk)


def _first_of_each(table: Table, wanted: Mapping[str, str]) -> Iterator[_Task]:
    """Yield each image at its first row.

    If the number of a row's images has changed, its images cannot be identified.
    """
    seen: set[str] = set()
    refused: dict[str, str] = {}
    for row in table.rows():
        hashes = hashes_of(wanted.get(row.id, ""))
        if isinstance(row, Failure):
            refused.update((sha256, row.error) for sha256 in hashes)
            continue
        same_number = len(hashes) == len(row.images)
        for index, sha256 in enumerate(hashes):
            if sha256 not in seen:
                seen.add(sha256)
                yield _Task(sha256, row.images[index] if same_number else None, row.image_id)
    for sha256 in sorted(refused.keys() - seen):
        yield _Task(sha256, None, "", refused[sha256])


def _code(task: _Task) -> _Coded:
    """Open an image, verify its hash, and encode it in every size."""
    sha256 = task.sha256
    if task.error:
        return _Coded(sha256, why="refused", example=task.error)
    try:
        image = None if task.image is None else load_image(task.image)
    except RowError as error:
        return _Coded(sha256, why="could not be opened", example=str(error))
    if image is None or hash_image(image) != sha256:
        return _Coded(sha256, why="changed since the run was made", example=task.name)
    files = []
    for side in SIDES:
        image.thumbnail((side, side))  # from the previous size: equal quality, and faster
        with BytesIO() as buffer:
            image.save(buffer, FORMAT, **OPTIONS)
            files.append(buffer.getvalue())
    return _Coded(sha256, tuple(files))


def _note(missing: Collection[_Coded], total: int) -> str:
    """Return a note on missing images, with the reasons and an example of each."""
    if not missing:
        return ""
    examples = {coded.why: coded.example for coded in reversed(list(missing))}
    parts = [
        f"{count:,} {why}" + (f" ({examples[why]})" if examples[why] else "")
        for why, count in Counter(coded.why for coded in missing).most_common()
    ]
    return f"{len(missing):,} of {total:,} images are missing: {'; '.join(parts)}."
