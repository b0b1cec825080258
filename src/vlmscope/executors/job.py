"""``vlmscope.extract``: the main job from Python, with the same guarantees as the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

from vlmscope.executors.local import Observer, run_plan
from vlmscope.executors.plan import make_plan
from vlmscope.executors.request import Request
from vlmscope.store import Run, open_run, place


def extract(
    data: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    model: str | PathLike[str],
    out: str | PathLike[str],
    observer: Observer | None = None,
    note: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Capture every row of a table into a run folder, and open it.

    Call it again with the same arguments to continue, or to try failed rows again; rows that could
    not be captured are in ``Run.failures``.

    Args:
        data: Path of the table, a pattern of paths or a hub id; several are one table together.
        model: Folder of a checkpoint, or a hub id.
        out: The run folder, or its URL in an object store.
        observer: Told about every published batch.
        note: Told what the command line says of the table before the model is loaded.
        options: Further fields of ``executors.Request``: ``images``, ``fields``, ``spec``,
            ``limit``, ``batch_size``, ``dtype``, ``device``, ``attention``,
            ``store_dtype``, ``revision``, ``family``, ``adapter``, ``quantize``, ``text_only``,
            ``strict``, ``time_limit``, ``redo_damaged``, ``allow_absolute_paths``,
            ``allow_pickle_weights``, ``shard``, ``writer``.

    Raises:
        InputError: The table or an option is wrong.
        ModelError: The checkpoint cannot be used.
        RunMismatchError: The run folder holds rows made with other settings.
        StoreError: The run cannot be written.
    """
    tables: str | tuple[str, ...]
    tables = str(data) if isinstance(data, str | PathLike) else tuple(map(str, data))
    request = Request(data=tables, model=str(model), out=place(out), **options)
    run_plan(make_plan(request, note=note), observer=observer)
    return open_run(request.out)
