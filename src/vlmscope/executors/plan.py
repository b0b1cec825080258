"""The plan of a run: all checks and notes before the first row is captured.

Cheap checks come first: the table is read and refused before the model is loaded, so that a
duplicate id is reported after seconds, not after minutes of loading.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmscope.arguments import check_batch_size, whole_number
from vlmscope.dataset import (
    Table,
    TableScan,
    folder_of_images,
    open_table,
    shown_data,
    table_notes,
)
from vlmscope.engine.decoding.support import why_not_in_slots
from vlmscope.errors import InputError, RowError, StoreError
from vlmscope.executors.manifest import capture_record, make_manifest, states_dtype
from vlmscope.executors.measuring import mean_image_tokens, rows_to_measure
from vlmscope.executors.request import Request
from vlmscope.executors.time_limit import check_time_limit
from vlmscope.executors.workers import Workers, is_supported, keep_for, make_workers
from vlmscope.model import (
    VisionLanguageModel,
    load_with,
    refuse_options,
    resolve_spec,
    resolve_spec_for,
)
from vlmscope.prompt import at_time, count_after_question, render, takes_images_anywhere
from vlmscope.row_identity import RowComparison, compare_rows, ids_text, is_same_table
from vlmscope.shown import count
from vlmscope.store import (
    Manifest,
    bytes_per_row,
    check_columns_of_run,
    check_free,
    check_outside_runs,
    check_reachable,
    check_same,
    find_damage,
    label_sets,
    made_from_ground_truths,
    open_run,
    read_manifest,
    set_aside,
)


class Outline:
    """What is common to plans of all executors."""

    __slots__ = ()

    request: Request
    """The request."""

    table: Table
    """The table."""

    scan: TableScan
    """The ids of the rows, and the fingerprint of the complete table."""

    manifest: Manifest
    """The manifest of the run."""

    done: frozenset[str]
    """Ids of the table that are already in the run."""

    notes: tuple[str, ...]
    """Notes for the user before the start, which are not errors."""

    comparison: RowComparison
    """The comparison of the rows in the run with the table."""

    image_tokens: tuple[float, float]
    """The mean number of image tokens of a row, and of what layers attend to, if they were counted:
    see ``mean_image_tokens``."""

    @property
    def title(self) -> str:
        """The name of the model's family."""
        raise NotImplementedError

    @property
    def total(self) -> int:
        """Rows of the finished run, or of this rank's share."""
        return len(self.scan.ids)

    @property
    def todo(self) -> int:
        """Rows still to capture."""
        return self.total - len(self.done)

    @property
    def bytes_todo(self) -> int:
        """Expected size on disk of the rows still to capture."""
        return self.todo * bytes_per_row(self.manifest, *self.image_tokens)


@dataclass(frozen=True, slots=True)
class Plan(Outline):
    """A checked request: ready to run."""

    request: Request
    table: Table
    scan: TableScan
    vlm: VisionLanguageModel
    """The loaded and verified model."""
    manifest: Manifest
    done: frozenset[str]
    notes: tuple[str, ...] = ()
    comparison: RowComparison = field(default_factory=RowComparison)
    workers: Workers | None = field(default=None, repr=False, compare=False)
    """Processes that prepare rows, which are being started; None for threads."""
    image_tokens: tuple[float, float] = (0, 0)

    @property
    def title(self) -> str:
        """The name of the model's family."""
        return self.vlm.family.title


def make_plan(request: Request, *, note: Callable[[str], None] | None = None) -> Plan:
    """Check everything that can be checked before the first row.

    Args:
        request: The request.
        note: Receives notes about the table, before the model is loaded.

    Raises:
        InputError: The table or an option is invalid.
        ModelError: The checkpoint cannot be used.
        RunMismatchError: The run has rows made with other settings, or from another table.
    """
    table, scan, comparison = open_checked(request, note=note)
    workers = make_workers(request)
    try:
        vlm, manifest, notes = load_checked(request, scan)
        workers = keep_for(vlm, workers, request)
        done, more = compare(request, scan, manifest, comparison)
        measured = rows_to_measure(table, scan, request.spec)
        tokens = mean_image_tokens(measured, vlm, request.spec)
    except BaseException:
        if workers is not None:
            workers.close()
        raise
    manifest = as_compared(manifest, comparison)
    notes = (*notes, *more)
    return Plan(
        request, table, scan, vlm, manifest, done, notes, comparison, workers, tokens
    )  # fmt: skip


def as_compared(manifest: Manifest, comparison: RowComparison) -> Manifest:
    """Return the manifest with a record that the rows were compared with another table version.

    Without this record a writer must not add to a run that was made from another version.
    """
    if not comparison.table_changed:
        return manifest
    return replace(manifest, data=replace(manifest.data, several_tables=True))


def open_checked(
    request: Request, *, patience: float = 0, note: Callable[[str], None] | None = None
) -> tuple[Table, TableScan, RowComparison]:
    """Check everything that can be checked without the model.

    Return the table, its scan, and the comparison of the rows in the run with it. Later reads of
    the table are compared with the scan, because loading the model takes minutes.

    Args:
        request: The request.
        patience: Seconds to wait for another writer of the run to end.
        note: Receives notes about the table.

    Raises:
        InputError: The table or an option is invalid.
        RunMismatchError: The run has rows made with other settings, or from another table.
    """
    _check_options(request)
    _check_folder(request.out, request.writes_as, patience)
    table = open_table(
        request.data,
        images=request.images,
        fields=request.fields,
        limit=request.limit,
        text_only=request.text_only,
        allow_absolute_paths=request.allow_absolute_paths,
        share=request.shard,
    )
    scan = table.scan()
    comparison = _check_early(request, table, scan)
    if note is not None:
        for text in table_notes(table, scan):
            note(text)
    return table.as_scanned(scan), scan, comparison


def load_checked(
    request: Request, scan: TableScan
) -> tuple[VisionLanguageModel, Manifest, tuple[str, ...]]:
    """Load the model; return it with the manifest of the run and notes for the user.

    Raises:
        InputError: The model does not support the request.
        ModelError: The checkpoint cannot be used.
    """
    vlm = _model(request)
    _check_prompts(request, scan, vlm)
    spec = resolve_spec(request.spec, vlm)
    notes = (*_notes_on_rows(request, scan, vlm), *spec.notes)
    return vlm, make_manifest(request, scan, vlm), notes


def _model(request: Request) -> VisionLanguageModel:
    """Load the model, unless the request has a loaded one."""
    if isinstance(request.model, VisionLanguageModel):
        # A copy, because the time of the run is set on it and the caller's model must not change.
        return replace(request.model, processor=at_time(request.model.processor, None))
    return load_with(request.model, request.loading)


def _check_model(request: Request) -> None:
    """Refuse loading options for a loaded model, and a loaded model in training mode."""
    vlm = request.model
    if not isinstance(vlm, VisionLanguageModel):
        return
    refuse_options(request.loading)
    if vlm.model.training:
        raise InputError(
            f"{vlm.name}: the model is in training mode, in which dropout is active; call .eval() "
            "on it first"
        )


def compare(
    request: Request, scan: TableScan, manifest: Manifest, comparison: RowComparison
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Compare with an existing run; return the ids in it, and notes on the differences.

    Damaged files are set aside first, if requested.

    Args:
        request: The request.
        scan: The scan of the table.
        manifest: The manifest that a new run would have.
        comparison: The comparison of the rows in the run with the table.

    Raises:
        RunMismatchError: It was made with other settings.
    """
    if not (request.out / "run.json").exists():
        return frozenset(), ()
    stored = read_manifest(request.out)
    check_same(stored, manifest)
    notes = _set_damage_aside(request) if request.redo_damaged else ()
    check_columns_of_run(request.out, manifest)
    ids = open_run(request.out).ids
    done = frozenset(scan.ids).intersection(ids)
    changes = (
        *_notes_on_changes(request.out, stored, scan, comparison),
        *(_notes_on_category(stored, manifest, len(ids)) if ids else ()),
    )
    moved = _notes_on_images(stored, manifest, left=len(scan.ids) - len(done)) if ids else ()
    return done, (*notes, *changes, *moved)


def _check_prompts(request: Request, scan: TableScan, vlm: VisionLanguageModel) -> None:
    """Refuse a request that would fail on every row."""
    if request.text_only and scan.without_image == scan.rows and not vlm.family.text_only:
        raise InputError(
            f"{shown_data(request.data)}: no row has an image, and {vlm.family.title} takes no "
            "question without one"
        )
    if "last_question_token" in request.spec.positions:
        try:
            count_after_question(vlm.processor, render(vlm.processor, "Is it there?"))
        except RowError as error:
            raise InputError(f"--positions: {error}") from error


def _notes_on_rows(request: Request, scan: TableScan, vlm: VisionLanguageModel) -> Iterator[str]:
    """Yield notes on the rank's share, rows that lack something, and slower computation."""
    if request.shard:
        yield (
            f"rank {request.shard.index} of {request.shard.count}: its share is {len(scan.ids):,} "
            f"of {scan.rows:,} rows, and all numbers are of this share"
        )
    if "eager" in vlm.attention:
        yield (
            f"attention is {vlm.attention}: slower than sdpa, and uses more memory; auto selects "
            "it only for parts without sdpa in transformers"
        )
    if (marked := scan.marks.numbered) and not takes_images_anywhere(vlm.processor):
        questions = "1 question contains" if marked == 1 else f"{marked:,} questions contain"
        yield (
            f"{questions} a placeholder such as {scan.marks.first_numbered!r} and will fail: the "
            "chat template of this model puts every image before the question; remove the "
            "placeholders, or use another model"
        )
    if vlm.one_at_a_time:
        yield f"one question goes through the model at a time: {vlm.one_at_a_time}"
    else:
        yield from vlm.lengths.notes()
        if request.spec.max_new_tokens and (why := why_not_in_slots(vlm)):
            yield f"answers are decoded by the library's generate, which is slower: {why}"
            if request.spec.samples:
                yield (
                    "sampled answers take a second pass there, in which prompts are prefilled and "
                    "images are encoded again"
                )
    if request.text_only and scan.without_image:
        have = "has" if scan.without_image == 1 else "have"
        yield (
            f"{scan.without_image:,} of {scan.rows:,} rows {have} no image: no vision "
            "representations for them"
        )


def _notes_on_images(stored: Manifest, wanted: Manifest, *, left: int) -> Iterator[str]:
    """Yield a note if a run that has rows continues with images from another folder.

    Args:
        stored: The manifest of the run.
        wanted: The manifest that a new run would have.
        left: Number of rows to capture.
    """
    if stored.data.in_memory or wanted.data.in_memory:
        return
    before, now = (
        record.data.images or str(folder_of_images(record.data.path)) for record in (stored, wanted)
    )
    if before == now:
        return
    if left:
        yield (
            f"images of earlier rows came from {before}, now they come from {now}: from the first "
            "captured image on, 'vlmscope verify' reads all images there, and checks whether they "
            "are the same"
        )
    else:
        yield (
            f"images of the rows came from {before}, and no row is left to capture from {now}; "
            f"'vlmscope verify RUN --images {shlex.quote(now)}' checks whether the images there "
            "are the same"
        )


def _notes_on_category(stored: Manifest, wanted: Manifest, rows: int) -> Iterator[str]:
    """Yield a note if the category of new rows is another column than that of the rows in the run.

    Metadata is stored with each row, so a run can have categories for some of its rows only.
    """
    before, now = (record.data.fields.get("category") for record in (stored, wanted))
    if (before or "category") == (now or "category"):
        return
    yield (
        f"the {count(rows, 'row')} in the run were captured {_mapped(before)}, "
        f"this command is {_mapped(now)}: stored rows keep their categories, and new ones have "
        f"others; to have the same in all rows, run it {_mapped(before)}"
    )


def _mapped(column: str | bool | None) -> str:
    """Return how the category is mapped, as text."""
    if not column:
        return "without --map category"
    return "with --map " + shlex.quote(f"category={column}")


def _notes_on_changes(
    out: Path, stored: Manifest, scan: TableScan, comparison: RowComparison
) -> Iterator[str]:  # fmt: skip
    """Yield notes on the differences between the rows in the run and the table."""
    if comparison.compared and stored.data.fingerprint != scan.fingerprint:
        same = comparison.compared - len(comparison.removed)
        yield (
            "the table has changed since the last session; of the "
            f"{comparison.compared:,} rows in the run {same:,} are the same questions in it"
        )
    if comparison.removed:
        yield (
            f"no longer in the table, but kept in the run: {_rows_text(comparison.removed)}; "
            "readers of the run still get them"
        )
    if comparison.changed_ground_truths:
        sets = [name for name in label_sets(out) if _made_from_ground_truths(out, name)]
        stale = (
            f"; label sets {', '.join(sets)} were made from the old ground truth: run "
            "'vlmscope label' again"
        )
        rows = _rows_text(comparison.changed_ground_truths)
        yield f"ground truth changed, the run uses the new one: {rows}" + (stale if sets else "")


def _made_from_ground_truths(out: Path, name: str) -> bool:
    try:
        return made_from_ground_truths(out, name)
    except StoreError:  # reading the labels reports it
        return False


def _rows_text(ids: Sequence[str]) -> str:
    count = "1 row" if len(ids) == 1 else f"{len(ids):,} rows"
    return f"{count} ({ids_text(ids)})"


def _set_damage_aside(request: Request) -> tuple[str, ...]:
    """Move damaged files out of the run; return notes about them."""
    damages = find_damage(request.out)
    moved = set_aside(request.out, damages) if damages else []
    return tuple(
        f"damaged, and set aside: {path} ({'; '.join(damage.found)})"
        for damage, path in zip(damages, moved, strict=True)
    )


def _check_options(request: Request) -> None:
    check_time_limit(request)
    check_batch_size(request.batch_size)
    if request.limit is not None:
        whole_number("--limit", request.limit, least=1)
    _check_model(request)
    _check_num_workers(request)
    if request.store_dtype not in {None, "float32", "float16"}:
        raise InputError(f"--store-dtype {request.store_dtype!r}: choose from float32, float16")


def _check_num_workers(request: Request) -> None:
    """Refuse a number of workers that is invalid, or cannot be started.

    Raises:
        InputError: It is not 0 or more, or the system is not Linux.
    """
    if request.num_workers == "auto":
        return
    whole_number("--num-workers", request.num_workers, least=0)
    if request.num_workers and not is_supported():
        raise InputError(
            f"--num-workers {request.num_workers}: processes that prepare rows need Linux; give 0"
        )


def _check_folder(out: Path, writer: str, patience: float) -> None:
    """Refuse an ``--out`` that cannot be a run folder, or that another process is writing."""
    check_reachable(out)
    check_outside_runs(out, "--out")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if not out.is_dir() or (out / "run.json").exists():
        check_free(out, writer, patience=patience)
        return
    if list((out / "shards").glob("*.h5")):
        raise InputError(
            f"--out {out}: has rows but no run.json with the settings they were made with; "
            "restore run.json from a copy, or give a new folder"
        )
    foreign = sorted(p.name for p in out.iterdir() if p.name[0] != "." and p.name != "shards")
    if foreign:
        raise InputError(f"--out {out}: contains {foreign[0]} and is not a run; give a new folder")


def _check_early(request: Request, table: Table, scan: TableScan) -> RowComparison:
    """Compare what is known before the model is loaded with an existing run."""
    if not (request.out / "run.json").exists():
        return RowComparison()
    stored = read_manifest(request.out)
    spec = resolve_spec_for(request.spec, stored.model.type, stored.model.num_layers)
    wanted = replace(
        stored,
        capture=capture_record(spec),
        store_dtype=request.store_dtype or "float32",
        states_dtype=states_dtype(request),
    )
    check_same(stored, wanted)
    if is_same_table(stored.data, scan):
        return RowComparison()
    run = open_run(request.out)
    return compare_rows(run, table, scan, skip_damaged=request.redo_damaged)
