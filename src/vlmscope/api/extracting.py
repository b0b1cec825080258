"""``extract``: every row of a table through a model, into a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, cast

from vlmscope.api.runs import Run, open_run
from vlmscope.arguments import Layers
from vlmscope.dataset import Data, InMemory, Share, in_memory, parse_mapping
from vlmscope.errors import InputError, option_of, with_arguments
from vlmscope.executors import Observer, Request, make_plan, run_plan, share_of
from vlmscope.executors.ray import check_not_on_ray, load_driver
from vlmscope.model import VisionLanguageModel
from vlmscope.model_options import ModelOptions
from vlmscope.schema import (
    DEFAULT_LAYERS,
    DEFAULT_MAX_NEW_TOKENS,
    DEFAULT_POSITIONS,
    CaptureSpec,
    Compat,
    FieldSpec,
    Positions,
    VisionPooling,
)
from vlmscope.store import StoreDtype, place

Columns = Mapping[str, str | int | Sequence[str]]
"""Field (``id``, ``image``, ``question``, ``target``) → its column, or several."""

Note = Callable[[str], None]
"""Told what the user should know and is no error."""


def extract(
    table: Data,
    model: str | PathLike[str] | VisionLanguageModel,
    out: str | PathLike[str],
    *,
    images: str | PathLike[str] | None = None,
    map: Columns | FieldSpec | None = None,  # noqa: A002 - as the command line calls it
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
    spec: CaptureSpec | None = None,
    batch_size: int | Literal["auto"] = "auto",
    limit: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    store_dtype: StoreDtype = "float32",
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
            of a file, or a PIL image, or a list of these.
        model: Folder of a checkpoint, a hub id, or what ``load_model`` returned.
        out: The run folder, or its URL in an object store; an unfinished run is continued.
        images: Folder that relative paths of images start from (default: the table's folder; of a
            table in memory the current one).
        map: Which column holds ``id``, ``image``, ``question`` or ``target``, where the names in
            use do not tell: ``{"id": "uid"}``.
        records: Key of a JSON document that the rows stand under.
        image_pattern: Path of the image with columns in braces: ``{image_id:012d}.jpg``.
        question_template: Question with columns in braces: ``{question} {options}``.
        number_rows: Take the rows' numbers as ids: ``row_1``, ``row_2`` and so on.
        text_only: Take rows without an image as questions about none; else they fail.
        layers: Decoder layers: numbers, or a text such as ``"0,n/2,n-1"`` or ``"all"``.
        positions: Token positions, from ``vlmscope.schema.REPRESENTATIONS``.
        vision_pooling: Mean over ``all`` positions of the vision encoder, or the ``valid`` ones.
        max_new_tokens: Longest answer in tokens; 0 stops after the prefill, without an answer.
        compat: ``"halp"`` reads layers and positions as the original research did.
        spec: The last five as one, instead of them.
        batch_size: Questions in the model at once, or ``"auto"``.
        limit: Only the first rows of the table.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on a GPU.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``.
        store_dtype: Type of the vectors on disk; ``float16`` takes half, checked for overflow.
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
        observer: Its ``advance(captured=…, failed=…, batch_size=…)`` is called with the rows of
            every published batch.
        note: Told what there is to say of the table before the model is loaded.

    Raises:
        InputError: The table or an argument is wrong; a ``ValueError`` too.
        ModelError: The checkpoint cannot be used.
        RunMismatchError: The run folder holds rows made with other settings, or rows that are
            other questions in this table.
        StoreError: The run cannot be written. What was published is safe.
        TableChangedError: The table changed after it was checked.
    """
    arguments = (layers, positions, vision_pooling, max_new_tokens, compat)
    request = Request(
        data=_table(table),
        model=given_model(model),
        out=place(out),
        images=None if images is None else str(images),
        fields=fields_of(map, records, image_pattern, question_template, number_rows=number_rows),
        spec=spec_of(spec, *arguments),
        batch_size=batch_size,
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
    say = None if note is None else _in_python(note)
    if ray:
        _run_on_ray(request, address, actors, observer, say)
    else:
        check_not_on_ray(address, actors)
        run_plan(make_plan(request, note=say), observer=observer)
    return open_run(request.out)


def _table(table: Data) -> str | tuple[str, ...] | InMemory:
    """Return a table in memory, or what names the table."""
    found = in_memory(table)
    if found is not None:
        return found
    named = cast("str | PathLike[str] | Sequence[str]", table)
    return str(named) if isinstance(named, str | PathLike) else tuple(str(name) for name in named)


def given_model(
    model: str | PathLike[str] | VisionLanguageModel,
) -> str | VisionLanguageModel:
    """Return a loaded model as it is, and the folder or hub id of one as text.

    Raises:
        InputError: It is neither, but a model of transformers for example.
    """
    if isinstance(model, VisionLanguageModel):
        return model
    if isinstance(model, str | PathLike):
        return str(model)
    raise InputError(
        f"--model: found {type(model).__name__}, expected the folder of a checkpoint, a hub id, or "
        "what load_model returned"
    )


def fields_of(
    columns: Columns | FieldSpec | None,
    records: str | None,
    image_pattern: str | None,
    question_template: str | None,
    *,
    number_rows: bool,
) -> FieldSpec:
    """Return the mapping of columns."""
    options = {
        "records": records, "image_pattern": image_pattern, "question_template": question_template,
        "number_rows": number_rows,
    }  # fmt: skip
    if isinstance(columns, FieldSpec):
        if given := [name for name, value in options.items() if value]:
            raise InputError(
                f"{option_of(given[0])}: give it in the FieldSpec, or --map as a dictionary"
            )
        return columns
    if not isinstance(columns, Mapping | None):
        raise InputError(f"--map {columns!r}: expected a dictionary such as {{'id': 'uid'}}")
    items = [f"{field}={_column(column)}" for field, column in (columns or {}).items()]
    return parse_mapping(items, **options)  # type: ignore[arg-type]


def _column(column: str | int | Sequence[str]) -> str:
    """Return a column, or several, as the command line writes them."""
    return str(column) if isinstance(column, str | int) else ",".join(column)


def spec_of(
    spec: CaptureSpec | None,
    layers: Layers,
    positions: Positions,
    vision_pooling: VisionPooling,
    max_new_tokens: int,
    compat: Compat,
) -> CaptureSpec:
    """Return what to record; a specification is given whole, or not at all."""
    made = CaptureSpec(layers, positions, vision_pooling, max_new_tokens, compat)
    if spec is None:
        return made
    if made not in (CaptureSpec(), CaptureSpec(layers="all")):
        raise InputError("spec: give it, or layers, positions and the like, and not both")
    return spec


def _in_python(note: Note) -> Note:
    """Return what passes notes on with arguments in the place of options."""
    return lambda text: note(with_arguments(text))


def _run_on_ray(
    request: Request,
    address: str | None,
    actors: int | None,
    observer: Observer | None,
    note: Note | None,
) -> None:
    driver = load_driver()
    with driver.plan_on_ray(request, address=address, workers=actors, note=note) as plan:
        driver.run_on_ray(plan, observer=observer)
