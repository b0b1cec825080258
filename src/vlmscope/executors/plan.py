"""The plan of a run: everything that can be checked and said before the first row is captured.

Cheap checks come first: the table is read and refused before the model is loaded, so that a
duplicate id costs seconds and not minutes of loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from vlmscope.arguments import check_batch_size, whole_number
from vlmscope.dataset import Table, TableScan, open_table, shown_data, table_notes
from vlmscope.errors import InputError, RowError, StoreError
from vlmscope.executors.manifest import capture_record, make_manifest
from vlmscope.executors.request import Request
from vlmscope.executors.time_limit import check_time_limit
from vlmscope.model import (
    VisionLanguageModel,
    load_with,
    refuse_options,
    resolve_spec,
    resolve_spec_for,
)
from vlmscope.model.attention.decode_support import why_not_stepwise
from vlmscope.prompt import at_time, count_after_question, render, takes_images_anywhere
from vlmscope.row_identity import RowsHeld, hold_rows, ids_text, is_same_table
from vlmscope.store import (
    Manifest,
    bytes_per_row,
    check_free,
    check_reachable,
    check_same,
    find_damage,
    is_of_truths,
    label_sets,
    open_run,
    read_manifest,
    set_aside,
)


class Outline:
    """What can be said of a plan before the start, wherever its models will be."""

    __slots__ = ()

    request: Request
    """What was asked for."""
    table: Table
    """The rows."""
    scan: TableScan
    """Their ids, and the whole table's fingerprint."""
    manifest: Manifest
    """What the run folder will say."""
    done: frozenset[str]
    """Ids of the table that the run already holds."""
    notes: tuple[str, ...]
    """What the user should know before the start, and is no error."""
    held: RowsHeld
    """What the table says of the rows that the run already holds."""

    @property
    def title(self) -> str:
        """The name of the model's family."""
        raise NotImplementedError

    @property
    def total(self) -> int:
        """Rows to hold when all is done: those of the run, or of this rank's share."""
        return len(self.scan.ids)

    @property
    def todo(self) -> int:
        """Rows still to capture."""
        return self.total - len(self.done)

    @property
    def bytes_todo(self) -> int:
        """Expected size on disk of the rows still to capture."""
        capture, model = self.manifest.capture, self.manifest.model
        return self.todo * bytes_per_row(
            vision_size=model.vision_size,
            hidden_size=model.hidden_size,
            num_layers_captured=len(capture.layers),
            num_positions=len(capture.positions),
            store_dtype=self.request.store_dtype,
        )


@dataclass(frozen=True, slots=True)
class Plan(Outline):
    """A checked request: ready to run."""

    request: Request
    table: Table
    scan: TableScan
    vlm: VisionLanguageModel
    """The loaded, proven model."""
    manifest: Manifest
    done: frozenset[str]
    notes: tuple[str, ...] = ()
    held: RowsHeld = field(default_factory=RowsHeld)

    @property
    def title(self) -> str:
        """The name of the model's family."""
        return self.vlm.family.title


def make_plan(request: Request, *, note: Callable[[str], None] | None = None) -> Plan:
    """Check everything that can be checked before the first row.

    Args:
        request: What was asked for.
        note: Told what there is to say of the table, before the model is loaded.

    Raises:
        InputError: The table or an option is wrong.
        ModelError: The checkpoint cannot be used.
        RunMismatchError: The run folder holds rows made with other settings, or from another table.
    """
    table, scan, held = open_checked(request, note=note)
    vlm, manifest, notes = load_checked(request, scan)
    done, more = compare(request, scan, manifest, held)
    manifest = as_compared(manifest, held)
    return Plan(request, table, scan, vlm, manifest, done, (*notes, *more), held)


def as_compared(manifest: Manifest, held: RowsHeld) -> Manifest:
    """Return what a run is to say whose rows were compared with another version of its table.

    Without it a writer may not add to a run that was made from another version.
    """
    if not held.other_table:
        return manifest
    return replace(manifest, data=replace(manifest.data, several_tables=True))


def open_checked(
    request: Request, *, patience: float = 0, note: Callable[[str], None] | None = None
) -> tuple[Table, TableScan, RowsHeld]:
    """Check all that can be checked without the model.

    Return the table, what is in it, and what it says of the rows that the run holds. From now on
    the table is held to what is in it: loading the model takes minutes.

    Args:
        request: What was asked for.
        patience: Seconds to wait for another writer of the run to end.
        note: Told what there is to say of the table.

    Raises:
        InputError: The table or an option is wrong.
        RunMismatchError: The run folder holds rows made with other settings, or from another table.
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
    held = _check_early(request, table, scan)
    if note is not None:
        for text in table_notes(table, scan):
            note(text)
    return table.as_scanned(scan), scan, held


def load_checked(
    request: Request, scan: TableScan
) -> tuple[VisionLanguageModel, Manifest, tuple[str, ...]]:
    """Load the model; return it with what the run will say, and what the user should know.

    Raises:
        InputError: The model cannot do what was asked for.
        ModelError: The checkpoint cannot be used.
    """
    vlm = _model(request)
    _check_prompts(request, scan, vlm)
    spec = resolve_spec(request.spec, vlm)
    notes = (*_notes_on_rows(request, scan, vlm), *spec.notes)
    return vlm, make_manifest(request, scan, vlm), notes


def _model(request: Request) -> VisionLanguageModel:
    """Load the model, unless it is loaded."""
    if isinstance(request.model, VisionLanguageModel):
        # The copy is shown the time of the run, which is none of the caller's business.
        return replace(request.model, processor=at_time(request.model.processor, None))
    return load_with(request.model, request.loading)


def _check_model(request: Request) -> None:
    """Refuse settings of loading for a model that is loaded, and a model that cannot be used."""
    vlm = request.model
    if not isinstance(vlm, VisionLanguageModel):
        return
    refuse_options(request.loading)
    if vlm.model.training:
        raise InputError(
            f"{vlm.name}: the model is in training mode, so that dropout would be at work; call "
            ".eval() on it first"
        )


def compare(
    request: Request, scan: TableScan, manifest: Manifest, held: RowsHeld
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Compare with the run that is there; return the ids it holds, and notes on what differs.

    Damaged files are set aside first, if that was asked for.

    Args:
        request: What was asked for.
        scan: What is in the table.
        manifest: What the run would say.
        held: What the table says of the rows that the run holds.

    Raises:
        RunMismatchError: It was made with other settings.
    """
    if not (request.out / "run.json").exists():
        return frozenset(), ()
    stored = read_manifest(request.out)
    check_same(stored, manifest)
    notes = _set_damage_aside(request) if request.redo_damaged else ()
    done = frozenset(scan.ids).intersection(open_run(request.out).ids)
    changes = _notes_on_changes(request.out, stored, scan, held)
    return done, (*notes, *changes, *_notes(stored, manifest))


def _check_prompts(request: Request, scan: TableScan, vlm: VisionLanguageModel) -> None:
    """Refuse what would fail on every row."""
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
    """Yield whose rows these are, what they will lack, and why they go alone if they do."""
    if request.shard:
        yield (
            f"rank {request.shard.index} of {request.shard.count}: its share is {len(scan.ids):,} "
            f"of {scan.rows:,} rows, and all numbers are of this share"
        )
    if "eager" in vlm.attention:
        yield (
            f"attention is {vlm.attention}: slower than sdpa, and with more memory; auto takes it "
            "only for parts that transformers has no sdpa for"
        )
    if (marked := scan.marks.numbered) and not takes_images_anywhere(vlm.processor):
        questions = "1 question holds" if marked == 1 else f"{marked:,} questions hold"
        yield (
            f"{questions} a placeholder such as {scan.marks.first_numbered!r} and will fail: the "
            "chat template of this model puts every image before the question; remove the "
            "placeholders, or take another model"
        )
    if vlm.one_at_a_time:
        yield f"one question goes through the model at a time: {vlm.one_at_a_time}"
    else:
        yield from vlm.lengths.notes()
        if request.spec.max_new_tokens and (why := why_not_stepwise(vlm)):
            yield f"the library's generate writes the answers, more slowly: {why}"
    if request.text_only and scan.without_image:
        have = "has" if scan.without_image == 1 else "have"
        yield (
            f"{scan.without_image:,} of {scan.rows:,} rows {have} no image: no vision "
            "representations for them"
        )


def _notes(stored: Manifest, wanted: Manifest) -> tuple[str, ...]:
    """Return what differs from the earlier sessions without making the run another one."""
    if stored.data.in_memory or wanted.data.in_memory:
        return ()
    before, now = (record.data.images or record.data.shown_path for record in (stored, wanted))
    if before == now or (
        not (stored.data.images or wanted.data.images)
        and PurePath(before).parent == PurePath(now).parent
    ):
        return ()
    return (
        f"earlier rows took their images from {before}, now they come from {now}; "
        "'vlmscope verify' tells whether the images are the same",
    )


def _notes_on_changes(
    out: Path, stored: Manifest, scan: TableScan, held: RowsHeld
) -> Iterator[str]:  # fmt: skip
    """Yield what the table says otherwise of the rows that the run holds."""
    if held.compared and stored.data.fingerprint != scan.fingerprint:
        same = held.compared - len(held.gone)
        yield (
            f"the table has changed since the last session; of the {held.compared:,} rows that the "
            f"run holds {same:,} are the same questions in it"
        )
    if held.gone:
        yield (
            f"not in the table any more, and kept in the run: {_rows_text(held.gone)}; whoever "
            "reads the run reads them too"
        )
    if held.retold:
        sets = [name for name in label_sets(out) if _is_of_truths(out, name)]
        stale = f"; label sets {', '.join(sets)} are of the old truths: run 'vlmscope label' again"
        yield f"another truth now, and the run takes it: {_rows_text(held.retold)}" + (
            stale if sets else ""
        )


def _is_of_truths(out: Path, name: str) -> bool:
    try:
        return is_of_truths(out, name)
    except StoreError:  # whoever reads the labels says so
        return False


def _rows_text(ids: Sequence[str]) -> str:
    count = "1 row" if len(ids) == 1 else f"{len(ids):,} rows"
    return f"{count} ({ids_text(ids)})"


def _set_damage_aside(request: Request) -> tuple[str, ...]:
    """Move what is damaged out of the run; return what the user should know of it."""
    damages = find_damage(request.out)
    places = set_aside(request.out, damages) if damages else []
    return tuple(
        f"damaged, and set aside: {place} ({'; '.join(damage.found)})"
        for damage, place in zip(damages, places, strict=True)
    )


def _check_options(request: Request) -> None:
    check_time_limit(request)
    check_batch_size(request.batch_size)
    if request.limit is not None and whole_number("--limit", request.limit) < 1:
        raise InputError(f"--limit {request.limit}: give 1 or more")
    _check_model(request)
    if request.store_dtype not in {"float32", "float16"}:
        raise InputError(f"--store-dtype {request.store_dtype!r}: choose from float32, float16")


def _check_folder(out: Path, writer: str, patience: float) -> None:
    """Refuse an ``--out`` that is no run and no place for one, or that somebody is writing."""
    check_reachable(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if not out.is_dir() or (out / "run.json").exists():
        check_free(out, writer, patience=patience)
        return
    if list((out / "shards").glob("*.h5")):
        raise InputError(
            f"--out {out}: has rows but no run.json, so nobody knows what they were made with; "
            "restore run.json from a copy, or give a new folder"
        )
    foreign = sorted(p.name for p in out.iterdir() if p.name[0] != "." and p.name != "shards")
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]} and is no run; give a new folder")


def _check_early(request: Request, table: Table, scan: TableScan) -> RowsHeld:
    """Compare what is known before the model is loaded with the run that is there."""
    if not (request.out / "run.json").exists():
        return RowsHeld()
    stored = read_manifest(request.out)
    spec = resolve_spec_for(request.spec, stored.model.type, stored.model.num_layers)
    wanted = replace(
        stored,
        capture=capture_record(spec),
        store_dtype=request.store_dtype,
    )
    check_same(stored, wanted)
    if is_same_table(stored.data, scan):
        return RowsHeld()
    run = open_run(request.out)
    return hold_rows(run, table, scan, skip_damaged=request.redo_damaged)
