"""``extract``: every row of a table through a model, into a run."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from typing import Any, Literal, cast

from vlmscope.api.options import spec_of
from vlmscope.api.runs import Run, open_run
from vlmscope.api.watching import check_observer, wants_bar, watching
from vlmscope.arguments import Layers, check_callable
from vlmscope.dataset import Data, InMemory, Mapped, Share, fields_of, in_memory, with_listed_paths
from vlmscope.errors import RowError, with_arguments, without_middle
from vlmscope.executors import (
    Observer,
    Outline,
    Request,
    Summary,
    planned_here,
    share_of,
)
from vlmscope.executors.ray import check_not_on_ray, load_driver
from vlmscope.model import VisionLanguageModel
from vlmscope.model import given_model as given_model
from vlmscope.model_options import ModelOptions
from vlmscope.positions import DEFAULT_POSITIONS, Positions
from vlmscope.sampling import DEFAULT_TEMPERATURE
from vlmscope.schema import (
    DEFAULT_LAYERS,
    DEFAULT_MAX_NEW_TOKENS,
    CaptureSpec,
    Compat,
    Failure,
    FieldSpec,
    VisionPooling,
)
from vlmscope.shown import count
from vlmscope.signals import DEFAULT_SIGNALS, Signals
from vlmscope.store import AnyRun, StoreDtype, frequent_reasons, path_of
from vlmscope.store.failures import FAILURES

Note = Callable[[str], None]
"""Told what the user should know and is no error."""


LONGEST_REASON = 240
"""Characters of a reason that a warning shows: its end says what to do."""


class FailedRowsWarning(UserWarning):
    """Rows of a table could not be captured."""


def extract(
    table: Data,
    model: str | PathLike[str] | VisionLanguageModel,
    out: AnyRun,
    *,
    images: str | PathLike[str] | None = None,
    map: Mapped | FieldSpec | None = None,  # noqa: A002 - as the command line calls it
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    number_rows: bool = False,
    text_only: bool = False,
    layers: Layers = DEFAULT_LAYERS,
    positions: Positions = DEFAULT_POSITIONS,
    vision_pooling: VisionPooling = "all",
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    compat: Compat = "",
    signals: Signals = DEFAULT_SIGNALS,
    samples: int = 0,
    temperature: float = DEFAULT_TEMPERATURE,
    seed: int = 0,
    spec: CaptureSpec | None = None,
    batch_size: int | Literal["auto"] = "auto",
    num_workers: int | Literal["auto"] = "auto",
    limit: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    store_dtype: StoreDtype | None = None,
    attention: str = "auto",
    revision: str | None = None,
    family: str | PathLike[str] | Mapping[str, Any] | None = None,
    adapter: str | PathLike[str] | None = None,
    quantize: str | None = None,
    allow_absolute_paths: bool = False,
    allow_pickle_weights: bool = False,
    strict: bool = False,
    time_limit: float | None = None,
    redo_damaged: bool = False,
    shard: str | Share | None = None,
    ray: bool = False,
    address: str | None = None,
    actors: int | None = None,
    writer: Literal["auto", "thread", "process"] = "auto",
    progress: bool | None = None,
    observer: Observer | None = None,
    note: Note | None = None,
) -> Run:
    """Run every question of a table through a model once, and open the run that holds the results.

    Call it again with the same arguments to continue, or to try failed rows again; rows that could
    not be captured are in ``Run.failures``. A table in memory is continued by its ids like a file:
    a row whose question or image is another one now is refused.

    Args:
        table: The path of a table, a pattern of paths, a hub id, or several paths that are one
            table together. Or the table itself: a ``pandas.DataFrame``, a ``datasets.Dataset``, a
            list of dictionaries, or an iterable of ``Sample``; an image in it is a path, the bytes
            of a file, a PIL image, or a NumPy array of uint8, or a list of these.
        model: Folder of a checkpoint, a hub id, or what ``load_model`` returned.
        out: The run folder, its URL in an object store, or the run itself; what is there is
            continued.
        images: Folder that relative paths of images start from (default: the table's folder; of a
            table in memory the current one).
        map: Column of ``id``, ``image``, ``question``, ``target`` or ``category``, where the names
            in use do not tell: ``{"id": "uid"}``; or a ``FieldSpec``, in place of this argument
            and the next four.
        records: Key of a JSON document that the rows stand under.
        image_pattern: Path of the image with columns in braces: ``{image_id:012d}.jpg``.
        question_template: Question with columns in braces: ``{question} {options}``.
        number_rows: Take the rows' numbers as ids: ``row_1``, ``row_2`` and so on.
        text_only: Take rows without an image as questions about none; else they fail.
        layers: Decoder layers: numbers, or a text such as ``"0,n/2,n-1"`` or ``"all"``.
        positions: Token positions, from ``vlmscope.positions.REPRESENTATIONS``.
        vision_pooling: Mean over ``all`` positions of the vision encoder, or the ``valid`` ones.
        max_new_tokens: Longest answer in tokens; 0 stops after the prefill, without an answer.
        compat: ``"halp"`` reads layers and positions as the original research did.
        signals: What else to record: names from ``vlmscope.signals.SIGNALS``, or ``"detectors"``
            for those that detectors use.
        samples: Sampled answers of each question, besides the greedy one.
        temperature: Temperature of the samples.
        seed: Seed of the samples: with the same seed, the same answers.
        spec: The last nine as one, instead of them.
        batch_size: Questions in the model at once, or ``"auto"``.
        num_workers: Processes that prepare images and prompts; 0 for threads; ``"auto"``: processes
            for a GPU, two fewer than there are processors, at most 16 and as many as the memory
            suffices for.
        limit: Only the first rows of the table.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``spread`` (layers over all GPUs), or
            ``auto``: a GPU if there is one, several if needed.
        store_dtype: Type on disk; ``float16`` takes half, checked for overflow. By default
            ``float32``, and ``float16`` for the signals ``image_tokens`` and ``answer_tokens``.
        attention: ``sdpa``, ``eager``, or ``auto``.
        revision: Branch, tag or commit of a hub checkpoint.
        family: TOML file, or what is in one, that describes the architecture.
        adapter: Folder of a LoRA adapter.
        quantize: ``4bit`` or ``8bit``: round the weights as they are loaded.
        allow_absolute_paths: Let paths of images lead out of their folder. Those of samples may.
        allow_pickle_weights: Read weights that are pickles, from somebody you trust.
        strict: Stop at the first row that fails.
        time_limit: Refused: only the command may end its process and begin again.
        redo_damaged: Set damaged files of the run aside, and capture their rows again.
        shard: Only the rows of one of several ranks: ``"3/8"``, or ``"auto"`` as the environment of
            torchrun or Slurm says.
        ray: Run on Ray: a model on every GPU of a cluster.
        address: Address of the Ray cluster.
        actors: Models at work on Ray.
        writer: What writes the run: a thread, or a process of its own; ``auto``: the latter for a
            GPU.
        progress: Whether to show a bar with counts on stderr (default: on a terminal and in a
            notebook).
        observer: Its ``advance(captured=…, failed=…, batch_size=…)`` is called with the rows of
            every published batch: see ``vlmscope.Observer``.
        note: Told what there is to say of the table before the model is loaded: ``print``.

    Warns:
        FailedRowsWarning: Rows failed; says how many, and the most frequent reason.

    Raises:
        InputError: The table or an argument is wrong; a ``ValueError`` too.
        ModelError: The checkpoint cannot be used.
        RowError: Every row failed, and the run holds none.
        RunMismatchError: The run folder holds rows made with other settings, or rows that are
            other questions in this table.
        StoreError: The run cannot be written. Published rows are kept.
        TableChangedError: The table changed after it was checked.
    """
    check_observer(observer)
    say, bar = _in_python(note), wants_bar(progress)
    arguments = (
        layers, positions, vision_pooling, max_new_tokens, compat, signals,
        samples, temperature, seed,
    )  # fmt: skip
    request = Request(
        data=_table(table),
        model=given_model(model),
        out=path_of(out),
        images=None if images is None else str(images),
        fields=fields_of(map, records, image_pattern, question_template, number_rows=number_rows),
        spec=spec_of(spec, *arguments),
        batch_size=batch_size,
        num_workers=num_workers,
        limit=limit,
        loading=ModelOptions(
            dtype, device, revision, attention, family, adapter, quantize, allow_pickle_weights
        ),
        store_dtype=store_dtype,
        allow_absolute_paths=allow_absolute_paths,
        strict=strict,
        time_limit=time_limit,
        redo_damaged=redo_damaged,
        text_only=text_only,
        shard=share_of(shard, os.environ) if isinstance(shard, str) else shard,
        writer=writer,
    )
    with _planned(request, say, address, actors, ray=ray) as (plan, run):
        with watching(plan.todo, observer, bar=bar) as watcher:
            summary = run(observer=watcher)
        found = open_run(request.out)
        if summary.failed:
            _tell_failures(found, plan, summary)
    return found


def _table(table: Data) -> str | tuple[str, ...] | InMemory:
    """Return a table in memory, or what names the table."""
    table = with_listed_paths(table)
    found = in_memory(table)
    if found is not None:
        return found
    named = cast("str | PathLike[str] | Sequence[str]", table)
    return str(named) if isinstance(named, str | PathLike) else tuple(str(name) for name in named)


def _in_python(note: Note | None) -> Note | None:
    """Return what passes notes on with arguments in the place of options.

    Raises:
        InputError: It is no function.
    """
    if note is None:
        return None
    check_callable("note", note)
    inner: Note = note
    return lambda text: inner(with_arguments(text))


@contextmanager
def _planned(
    request: Request, note: Note | None, address: str | None, actors: int | None, *, ray: bool
) -> Iterator[tuple[Outline, Callable[..., Summary]]]:
    """Return a plan, and what runs it: here, or on Ray."""
    if not ray:
        check_not_on_ray(address, actors)
        with planned_here(request, note=note) as made:
            yield made
        return
    driver = load_driver()
    with driver.plan_on_ray(request, address=address, workers=actors, note=note) as plan:
        yield plan, partial(driver.run_on_ray, plan)


def _tell_failures(run: Run, plan: Outline, summary: Summary) -> None:
    """Warn that rows failed.

    Raises:
        RowError: Every row failed, and the run holds none.
    """
    asked = frozenset(plan.scan.ids)
    failures = [failure for id_, failure in run.failures.items() if id_ in asked]
    stopped = ", and strict stopped the run" if summary.stopped else ""
    why = f"{stopped}{_reason(failures, plan.table.reader.source.name, summary.failed)}"
    if len(run):
        text = (
            f"{run.path}: {count(summary.failed, 'row')} failed{why}; run.failures has all, the "
            "same call tries them again"
        )
        warnings.warn(with_arguments(text), FailedRowsWarning, stacklevel=3)
        return
    every = "the only row" if summary.failed == 1 else f"all {summary.failed:,} rows"
    rows = count(summary.failed, "row") if summary.stopped else every
    raise RowError(
        Counter(each.stage for each in failures).most_common(1)[0][0] if failures else "capture",
        f"{run.path}: {rows} failed{why}; {FAILURES} there has all, the same call tries them again",
    )


def _reason(failures: Sequence[Failure], table: str, failed: int) -> str:
    """Return the most frequent reason as the end of a phrase about so many rows."""
    found = frequent_reasons((each.error for each in failures), table)
    if not found:
        return ""
    reason, often = found[0]
    most = f", most often ({often:,})" if often > 1 else ", one of them"
    return f"{most if failed > 1 else ''}: {without_middle(reason, LONGEST_REASON)}"
