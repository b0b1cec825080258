"""``verify`` and ``inspect``: a run held against the reference, one question explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from vlmscope.api.extracting import Note
from vlmscope.api.options import spec_of
from vlmscope.arguments import Layers, check_callable, whole_number
from vlmscope.dataset import Data, Mapped, Table, check_headers, fields_of, open_table
from vlmscope.errors import (
    InputError,
    ModelError,
    RowError,
    RunMismatchError,
    StoreError,
    ToleranceError,
    UnknownIdError,
    shortened,
    suggest_names,
)
from vlmscope.executors import describe_model
from vlmscope.inspection import Inspection, inspect_sample
from vlmscope.model import VisionLanguageModel, given_model, load_with, loaded, resolve_spec
from vlmscope.model.attention.implementations import requested_by
from vlmscope.model_options import ModelOptions
from vlmscope.positions import DEFAULT_POSITIONS, Positions
from vlmscope.probes import BinaryProbe, ProbeInfo
from vlmscope.probes import load_probe as read_probe
from vlmscope.risk import find_probe
from vlmscope.row_identity import ids_text, table_of_run
from vlmscope.sampling import DEFAULT_TEMPERATURE
from vlmscope.schema import (
    DEFAULT_MAX_NEW_TOKENS,
    CaptureSpec,
    Compat,
    Failure,
    FieldSpec,
    Sample,
    VisionPooling,
)
from vlmscope.signals import DEFAULT_SIGNALS, Signals
from vlmscope.store import AnyRun, Run, as_run, find_damage, model_differences
from vlmscope.verification import (
    RowCheck,
    check_rows,
    check_tolerance,
    choose_samples,
    tolerance_of,
)


def verify(
    run: AnyRun,
    *,
    sample: int = 8,
    seed: int = 0,
    files: bool = False,
    tolerance: float | None = None,
    model: str | PathLike[str] | VisionLanguageModel | None = None,
    adapter: str | PathLike[str] | None = None,
    data: Data | None = None,
    images: str | PathLike[str] | None = None,
    device: str = "auto",
    attention: str | None = None,
    allow_absolute_paths: bool = False,
    allow_pickle_weights: bool = False,
    note: Note | None = None,
) -> list[RowCheck]:
    """Check every checksum of a run, then recompute some rows by the reference and compare them.

    Args:
        run: The run, or its folder.
        sample: Rows to recompute.
        seed: Decides which.
        files: Check the files only: no model, no table.
        tolerance: Largest relative error (default: by the dtype).
        model: Current path of the model, or the loaded model (default: the one recorded in the
            run).
        adapter: Where its LoRA adapter is now.
        data: The table, or its current path (default: the one recorded in the run). Of a run that
            was made from a table in memory it must be given.
        images: Where its images are now.
        device: As in ``load_model``.
        attention: As in ``load_model`` (default: that of the run).
        allow_absolute_paths: As in ``extract``.
        allow_pickle_weights: As in ``load_model``.
        note: Told what the user should know and is no error.

    Returns:
        The comparison of each row; none with ``files``.

    Raises:
        InputError: The table cannot be read, or an argument is wrong.
        RunMismatchError: The table or the model is another one.
        StoreError: A file is damaged.
        ToleranceError: A row differs by more than the tolerance.
    """
    if note is not None:
        check_callable("note", note)
    check_tolerance(tolerance)
    opened = as_run(run)
    check_files(opened.path)
    if files:
        return []
    whole_number("--sample", sample, least=1)
    table = table_of_run(
        opened, data, images=images, allow_absolute_paths=allow_absolute_paths
    )  # fmt: skip
    samples = draw_samples(opened, table, sample, seed, note or _unsaid)
    vlm = model_of_run(
        opened, model, adapter=adapter, device=device, attention=attention,
        allow_pickle_weights=allow_pickle_weights,
    )  # fmt: skip
    checks = list(check_rows(opened, samples, vlm))
    judge(opened, checks, tolerance)
    return checks


def _unsaid(_: str) -> None:
    """Say nothing."""


def check_files(run: Path) -> None:
    """Check every checksum.

    Raises:
        StoreError: A file is damaged: names all that are.
    """
    if damage := find_damage(run):
        count = "1 damaged file" if len(damage) == 1 else f"{len(damage)} damaged files"
        raise StoreError(f"{count}: {'; '.join(each.text for each in damage)}")


def draw_samples(run: Run, table: Table, count: int, seed: int, note: Note) -> list[Sample]:
    """Return rows of a run to recompute; say how many its table does not have any more."""
    samples, gone = choose_samples(run, table, count, seed)
    if gone:
        are = "row of the run is" if len(gone) == 1 else "rows of the run are"
        note(
            f"{len(gone):,} {are} not in the table any more, and cannot be recomputed: "
            f"{ids_text(gone)}"
        )
    return samples


def model_of_run(
    run: Run,
    model: str | PathLike[str] | VisionLanguageModel | None = None,
    *,
    adapter: str | PathLike[str] | None = None,
    device: str = "auto",
    attention: str | None = None,
    allow_pickle_weights: bool = False,
) -> VisionLanguageModel:
    """Load the model of a run, and refuse another one.

    Args:
        run: The run.
        model: Where it is now, or the loaded model.
        adapter: Where its adapter is now.
        device: As in ``load_model``.
        attention: As in ``load_model``; None: that of the run.
        allow_pickle_weights: As in ``load_model``.

    Raises:
        ModelError: It cannot be loaded.
        RunMismatchError: It is another one.
    """
    manifest = run.manifest
    record = manifest.model
    given = given_model(record.name if model is None else model)
    if isinstance(given, VisionLanguageModel):
        vlm = given
    else:
        try:
            options = ModelOptions(
                dtype=manifest.dtype,
                device=device,
                revision=record.revision,
                attention=attention or requested_by(manifest.attention),
                family=record.description,
                adapter=record.adapter if adapter is None else adapter,
                quantize=record.quantization or None,
                allow_pickle_weights=allow_pickle_weights,
            )
            vlm = load_with(given or record.name, options)
        except ModelError as error:
            moved = "no such folder" in str(error)
            more = "; if it has moved, give --model or --adapter" if moved else ""
            raise ModelError(f"{error}{more}") from error
    _check_model(run, vlm, without_adapter=adapter is not None and record.adapter is None)
    return vlm


def _check_model(run: Run, vlm: VisionLanguageModel, *, without_adapter: bool) -> None:
    """Refuse a model that is not the one of a run, or computes in another type."""
    differ = model_differences(asdict(run.manifest.model), asdict(describe_model(vlm)))
    for part, why in differ.items():
        how = "give the one it was made with with --model"
        if without_adapter:
            how = "it was made without an adapter: leave --adapter out"
        raise RunMismatchError(
            f"{vlm.name}: not the model of this run, its {part} differs{why}; {how}"
        )
    dtype = str(vlm.dtype).removeprefix("torch.")
    if dtype != run.manifest.dtype:
        raise RunMismatchError(
            f"{vlm.name}: is loaded in {dtype}, and the run was made in {run.manifest.dtype}; load "
            f"it with --dtype {run.manifest.dtype}"
        )


def judge(run: Run, checks: Iterable[RowCheck], tolerance: float | None) -> None:
    """Raise where a row is not what the reference gives.

    Raises:
        ToleranceError: The first such row.
    """
    manifest = run.manifest
    limit = tolerance_of(manifest) if tolerance is None else tolerance
    for check in checks:
        if faults := check.faults(limit, manifest.dtype, manifest.states_dtype):
            raise ToleranceError(f"{check.id}: {'; '.join(faults)}")


def inspect(
    table: Data,
    model: str | PathLike[str] | VisionLanguageModel,
    id: str | None = None,  # noqa: A002 - as the command line calls it
    *,
    images: str | PathLike[str] | None = None,
    map: Mapped | FieldSpec | None = None,  # noqa: A002
    records: str | None = None,
    image_pattern: str | None = None,
    question_template: str | None = None,
    number_rows: bool = False,
    text_only: bool = False,
    layers: Layers = "all",
    positions: Positions = DEFAULT_POSITIONS,
    vision_pooling: VisionPooling = "all",
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    compat: Compat = "",
    signals: Signals = DEFAULT_SIGNALS,
    samples: int = 0,
    temperature: float = DEFAULT_TEMPERATURE,
    seed: int = 0,
    spec: CaptureSpec | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "auto",
    revision: str | None = None,
    family: str | PathLike[str] | Mapping[str, Any] | None = None,
    adapter: str | PathLike[str] | None = None,
    quantize: str | None = None,
    allow_absolute_paths: bool = False,
    allow_pickle_weights: bool = False,
) -> Inspection:
    """Explain one question: prompt, tokens and boundaries, tiles, shapes, vectors and the answer.

    Args:
        table: As in ``extract``.
        model: As in ``extract``.
        id: The question (default: the first row).
        images: As in ``extract``, and so is everything below.
        map: See there.
        records: See there.
        image_pattern: See there.
        question_template: See there.
        number_rows: See there.
        text_only: See there.
        layers: See there; here all by default.
        positions: See there.
        vision_pooling: See there.
        max_new_tokens: See there.
        compat: See there.
        signals: See there.
        samples: See there.
        temperature: See there.
        seed: See there.
        spec: See there.
        dtype: See there.
        device: See there.
        attention: See there.
        revision: See there.
        family: See there.
        adapter: See there.
        quantize: See there.
        allow_absolute_paths: See there.
        allow_pickle_weights: See there.

    Raises:
        InputError: The table or an argument is wrong.
        ModelError: The checkpoint cannot be used.
        RowError: The row cannot be captured.
        UnknownIdError: The table has no such question; a ``KeyError`` too.
    """
    wanted = spec_of(
        spec, layers, positions, vision_pooling, max_new_tokens, compat, signals,
        samples, temperature, seed, all_layers=True,
    )  # fmt: skip
    mapped = fields_of(map, records, image_pattern, question_template, number_rows=number_rows)
    opened = open_table(
        table, images=images, fields=mapped, text_only=text_only,
        allow_absolute_paths=allow_absolute_paths,
    )  # fmt: skip
    row = find_row(opened, id)
    check_headers(row)
    loading = ModelOptions(
        dtype, device, revision, attention, family, adapter, quantize, allow_pickle_weights
    )
    vlm = loaded(given_model(model), loading)
    return inspect_sample(row, vlm, resolve_spec(wanted, vlm))


def find_row(table: Table, id_: str | None) -> Sample:
    """Return a row of a table by its id, or the first one.

    Raises:
        RowError: It is not in order.
        UnknownIdError: There is no such row.
    """
    row = next((row for row in table.rows() if id_ is None or row.id == id_), None)
    if row is None:
        name = table.reader.source.name
        if id_ is None:
            raise InputError(f"{name}: 0 rows; expected at least one")
        ids = (row.id for row in table.rows())
        raise UnknownIdError(
            f"--id {shortened(id_)!r}: {name} contains no such question; {suggest_names(id_, ids)}"
        )
    if isinstance(row, Failure):
        raise RowError(row.stage, row.error)
    return row


def load_probe(path: AnyRun) -> tuple[BinaryProbe, ProbeInfo]:
    """Read a saved probe, and what is known of it.

    Args:
        path: Its folder; or a run that was probed, or the folder of one: then the probe of the
            layer that was chosen most often.

    Raises:
        InputError: There is no probe, or a damaged one.
    """
    return read_probe(find_probe(path))
