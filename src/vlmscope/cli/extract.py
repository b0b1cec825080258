"""``vlmscope extract``: capture hidden states and answers of a table of questions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmscope.cli import options
from vlmscope.cli.output import (
    human_size,
    quiet_libraries,
    show_next,
    show_note,
    status,
    stderr,
    stdout,
)
from vlmscope.early_server import start_early
from vlmscope.errors import InputError
from vlmscope.model_options import ModelOptions

if TYPE_CHECKING:
    from vlmscope.dataset import Share
    from vlmscope.executors import Outline, Request, Summary


def extract(
    data: options.Data,
    model: options.Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            parser=options.path_or_url,
            help="Run folder, or a URL such as s3://bucket/run; an unfinished one is continued.",
            show_default=False,
        ),
    ],
    images: options.Images = None,
    fields: options.Map = [],  # noqa: B006 - typer copies it
    records: options.Records = None,
    image_pattern: options.ImagePattern = None,
    question_template: options.QuestionTemplate = None,
    number_rows: options.NumberRows = False,
    text_only: options.TextOnly = False,
    layers: options.Layers = options.LAYERS,
    positions: options.Positions = options.POSITIONS,
    vision_pooling: options.VisionPooling = "all",
    max_new_tokens: options.MaxNewTokens = options.MAX_NEW_TOKENS,
    compat: options.Compat = "",
    signals: options.Signals = options.SIGNALS_DEFAULT,
    samples: options.Samples = 0,
    temperature: options.Temperature = options.TEMPERATURE,
    seed: options.Seed = 0,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Questions decoded at once, or auto.")
    ] = "auto",
    num_workers: Annotated[
        str,
        typer.Option(
            "--num-workers",
            metavar="N",
            help="Processes that prepare images and prompts; 0: threads; auto: processes for a "
            "GPU, two fewer than there are processors, at most 16.",
        ),
    ] = "auto",
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Only the first N rows of the table.", show_default=False),
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    store_dtype: Annotated[
        str | None,
        typer.Option(
            "--store-dtype",
            help="float32, or float16: half the disk, checked for overflow (default: float32; "
            "float16 for image_tokens and answer_tokens).",
            show_default=False,
        ),
    ] = None,
    attention: options.Attention = "auto",
    revision: options.Revision = None,
    family: options.FamilyFile = None,
    adapter: options.Adapter = None,
    quantize: options.Quantize = None,
    allow_absolute_paths: options.AllowAbsolutePaths = False,
    allow_pickle_weights: options.AllowPickleWeights = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first row that fails.")
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            help="Time limit of the model for a batch; at the limit the command restarts itself, "
            "and a row that takes longer alone is recorded as failed (default: none).",
            show_default=False,
        ),
    ] = None,
    redo_damaged: Annotated[
        bool,
        typer.Option(
            "--redo-damaged",
            help="Move damaged files of the run to its folder damaged/ and capture their rows "
            "again.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Only this rank's share of the rows, rank I of N counted from 0; all ranks write "
            "into the same run; auto: from the environment of torchrun or Slurm.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Run on Ray: a model on every GPU of the cluster, rows are assigned on demand. "
            "Without a cluster one is started on this machine.",
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Address of the Ray cluster, or local to always start a new one (default: the "
            "one running on this machine).",
            show_default=False,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors",
            help="Number of models on Ray (default: one for each GPU, without GPUs one).",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Start without confirmation a run that stores over 100 GB of states of tokens.",
        ),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Store hidden states and the greedy answer of every question.

    Every row goes through the model once. Run the same command again to continue, or to try
    failed rows again.

    Hidden states at the position last_image_token are stored as vision_token_representation, those
    at last_prompt_token as query_token_representation, and others under their own names.

    Exit codes: 0 all rows done; 1 stopped by an error, published rows are safe; 2 invalid
    usage or input, nothing was done; 3 finished, but rows failed (listed in failures.jsonl);
    130 and 143 stopped by Ctrl-C and SIGTERM after the answers in progress were finished; 124
    the model repeatedly took longer than --time-limit.
    """
    workers = _early_workers(num_workers, device, ray=ray)
    from vlmscope.dataset import parse_mapping

    spec = options.build_spec(
        layers, positions, vision_pooling, max_new_tokens, compat, signals,
        samples, temperature, seed,
    )  # fmt: skip
    mapping = parse_mapping(
        fields, records=records, image_pattern=image_pattern,
        question_template=question_template, number_rows=number_rows,
    )  # fmt: skip
    _check_table(data, images=images, fields=mapping, limit=limit, text_only=text_only)
    arguments = {
        "data": options.one_or_several(data),
        "model": model,
        "out": out,
        "images": images,
        "fields": mapping,
        "spec": spec,
        "limit": limit,
        "batch_size": parse_batch_size(batch_size),
        "num_workers": workers,
        "loading": ModelOptions(
            dtype, device, revision, attention, family, adapter, quantize, allow_pickle_weights
        ),
        "store_dtype": store_dtype,
        "strict": strict,
        "time_limit": time_limit,
        "redo_damaged": redo_damaged,
        "text_only": text_only,
        "allow_absolute_paths": allow_absolute_paths,
        "shard": _share(shard),
    }
    executor = _executor(address, actors, ray=ray)
    code = run_extract(arguments, as_json=as_json, executor=executor, yes=yes)
    if code in (0, 3) and shard is None and max_new_tokens and _has_rows(out):
        show_next("label", str(out))
    if code:
        raise typer.Exit(code)


def _early_workers(text: str, device: str, *, ray: bool) -> int | str:
    """Return the number of workers; start their process, which makes the same imports as this."""
    workers = number_or_auto("--num-workers", text)
    if not ray:
        start_early(workers, device)
    return workers


def _check_table(data: list[str], **columns: Any) -> None:
    """Refuse a table, its columns or its images' folder before torch is imported: that takes long.

    The plan opens the table again, so this is only for one file of a format whose columns are found
    without reading all of it.

    Raises:
        InputError: As ``open_table``.
    """
    from vlmscope.dataset import open_table

    first, *more = data
    if not more and not has_magic(first) and Path(first).suffix.lower() in (".csv", ".parquet"):
        open_table(first, **columns)


def _share(text: str | None) -> Share | None:
    """Return this rank's share of the rows."""
    from vlmscope.executors import share_of

    return None if text is None else share_of(text, os.environ)


def _has_rows(run: Path) -> bool:
    """Return whether anything was captured."""
    from vlmscope.store import open_run

    return bool(open_run(run).ids)


Executor = Callable[["Request"], AbstractContextManager[tuple["Outline", Callable[..., "Summary"]]]]
"""Makes a plan, and a function that runs it."""


@contextmanager
def _here(request: Request) -> Iterator[tuple[Outline, Callable[..., Summary]]]:
    """Plan for one model in this process."""
    from vlmscope.executors import planned_here

    with planned_here(request, note=show_note) as made:
        yield made


def _executor(address: str | None, actors: int | None, *, ray: bool) -> Executor:
    """Return the executor for the options."""
    if ray:
        return _on_ray(address, actors)
    from vlmscope.executors.ray import check_not_on_ray

    check_not_on_ray(address, actors)
    return _here


def _on_ray(address: str | None, actors: int | None) -> Executor:
    """Return the executor for a Ray cluster."""
    from vlmscope.executors.ray import load_driver

    driver = load_driver()

    @contextmanager
    def executor(request: Request) -> Iterator[tuple[Outline, Callable[..., Summary]]]:
        with driver.plan_on_ray(request, address=address, workers=actors, note=show_note) as plan:
            yield plan, partial(driver.run_on_ray, plan)

    return executor


LARGE = 100 * 10**9
"""Bytes of a run with states of tokens from which confirmation is asked for."""


def confirm_size(plan: Outline, *, yes: bool) -> None:
    """Ask for confirmation before states of tokens fill a disk; not if the run is continued.

    Raises:
        InputError: It was refused, or nobody can be asked.
    """
    names = sorted({name.partition("/")[0] for name in plan.manifest.token_widths()})
    if yes or not names or plan.done or plan.bytes_todo <= LARGE:
        return
    size = f"--signals {','.join(names)}: about {human_size(plan.bytes_todo)} on disk"
    if not sys.stdin.isatty():
        raise InputError(
            f"{size}, over {human_size(LARGE)}; give --yes to start without confirmation, or "
            "choose fewer --layers or rows (--limit)"
        )
    if not typer.confirm(f"{size}. Go ahead?", err=True):
        raise InputError(f"{size}: not started, nothing was done")


def run_extract(
    arguments: dict[str, Any],
    *,
    as_json: bool = False,
    executor: Executor = _here,
    yes: bool = False,
) -> int:
    """Make, show and run a plan; return the exit code."""
    from vlmscope.cli.progress import RunProgress, show_plan, show_summary
    from vlmscope.cli.stopping import stop_on_signals
    from vlmscope.executors import Request

    quiet_libraries()
    with ExitStack() as stack:
        try:
            with status("loading the table and the model"):
                plan, run = stack.enter_context(executor(Request(**arguments)))
        except KeyboardInterrupt:
            stderr.print("interrupted before the first row; nothing was changed")
            return 130
        show_plan(plan)
        confirm_size(plan, yes=yes)
        with stop_on_signals() as request, RunProgress(plan) as progress:
            summary = run(observer=progress, stop=request.event)
        show_summary(plan, summary)
    if as_json:
        stdout.print_json(json.dumps(asdict(summary)))
    if request.signum:
        return request.exit_code
    return 3 if summary.failed else 0


def parse_batch_size(text: str) -> int | str:
    """Return the batch size as a number, or ``auto``.

    >>> parse_batch_size("8"), parse_batch_size("auto")
    (8, 'auto')
    """
    return number_or_auto("--batch-size", text)


def number_or_auto(option: str, text: str) -> int | str:
    """Return the value of an option as a number, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{option} {text!r}: give a number or auto") from None
