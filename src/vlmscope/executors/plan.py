"""The plan of a run: everything that can be checked and said before the first row is captured.

Cheap checks come first: the table is read and refused before the model is loaded, so that a
duplicate id costs seconds and not minutes of loading.
"""

from __future__ import annotations

import platform
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from vlmscope.dataset import Table, TableScan, open_table
from vlmscope.errors import InputError
from vlmscope.model import VisionLanguageModel, load_model
from vlmscope.model.fingerprint import hash_config, hash_json, hash_processor, hash_weights
from vlmscope.model.greedy import hash_generation
from vlmscope.prompt import chat_template
from vlmscope.schema import CaptureSpec, FieldSpec
from vlmscope.selection import resolve_layers
from vlmscope.store import (
    CaptureRecord,
    DataRecord,
    Manifest,
    ModelRecord,
    StoreDtype,
    bytes_per_row,
    check_free,
    check_same,
    open_run,
    read_manifest,
)
from vlmscope.version import __version__

_LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "h5py", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, unchecked: the arguments of ``vlmscope extract``."""

    data: str
    """Path of the table, or a hub id."""
    model: str
    """Folder of a checkpoint, or a hub id."""
    out: Path
    """The run folder."""
    images: str | None = None
    """Image root (default: the table's folder)."""
    fields: FieldSpec = field(default_factory=FieldSpec)
    """Column mapping."""
    spec: CaptureSpec = field(default_factory=CaptureSpec)
    """What to record."""
    limit: int | None = None
    """Only the first rows of the table."""
    batch_size: int | Literal["auto"] = "auto"
    """Rows that go through the model together."""
    dtype: str = "auto"
    """Type the model computes in."""
    device: str = "auto"
    """Where it runs."""
    store_dtype: StoreDtype = "float32"
    """Type of the vectors on disk."""
    revision: str | None = None
    """Commit of a hub checkpoint."""
    strict: bool = False
    """Stop at the first row that fails."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request: ready to run."""

    request: Request
    """What was asked for."""
    table: Table
    """The rows."""
    scan: TableScan
    """Their ids and fingerprint."""
    vlm: VisionLanguageModel
    """The loaded, proven model."""
    manifest: Manifest
    """What the run folder will say."""
    done: frozenset[str]
    """Ids of the table that the run already holds."""
    notes: tuple[str, ...] = ()
    """What the user should know before the start, and is no error."""

    @property
    def total(self) -> int:
        """Rows the run will hold when all is done."""
        return len(self.scan.ids)

    @property
    def todo(self) -> int:
        """Rows still to capture."""
        return self.total - len(self.done)

    @property
    def bytes_todo(self) -> int:
        """Expected size on disk of the rows still to capture."""
        capture = self.manifest.capture
        return self.todo * bytes_per_row(
            vision_size=self.vlm.vision_size,
            hidden_size=self.vlm.hidden_size,
            num_layers_captured=len(capture.layers),
            num_positions=len(capture.positions),
            store_dtype=self.request.store_dtype,
        )


def make_plan(request: Request) -> Plan:
    """Check everything that can be checked before the first row.

    Raises:
        InputError: The table or an option is wrong.
        ModelError: The checkpoint cannot be used.
        RunMismatchError: The run folder holds rows made with other settings.
    """
    _check_options(request)
    table = open_table(
        request.data, images=request.images, fields=request.fields, limit=request.limit
    )
    scan = table.scan()
    _check_early(request, scan)
    vlm = load_model(
        request.model, dtype=request.dtype, device=request.device, revision=request.revision
    )
    manifest = make_manifest(request, scan, vlm)
    done: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    if (request.out / "run.json").exists():
        stored = read_manifest(request.out)
        check_same(stored, manifest)
        done = frozenset(scan.ids).intersection(open_run(request.out).ids)
        notes = _notes(stored, manifest)
    return Plan(request, table, scan, vlm, manifest, done, notes)


def _notes(stored: Manifest, wanted: Manifest) -> tuple[str, ...]:
    """Return what differs from the earlier sessions without making the run another one."""
    before, now = (record.data.images or record.data.path for record in (stored, wanted))
    if before == now:
        return ()
    return (
        f"earlier rows took their pictures from {before}, now they come from {now}; "
        "'vlmscope verify' tells whether the pictures are the same",
    )


def _check_options(request: Request) -> None:
    if request.batch_size != "auto" and request.batch_size < 1:
        raise InputError(f"--batch-size {request.batch_size}: give 1 or more, or auto")
    if request.limit is not None and request.limit < 1:
        raise InputError(f"--limit {request.limit}: give 1 or more")
    if request.store_dtype not in {"float32", "float16"}:
        raise InputError(f"--store-dtype {request.store_dtype!r}: choose from float32, float16")
    _check_folder(request.out)


def _check_folder(out: Path) -> None:
    """Refuse an ``--out`` that is no run and no place for one, or that somebody is writing."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if not out.is_dir() or (out / "run.json").exists():
        check_free(out)
        return
    if list((out / "shards").glob("*.h5")):
        raise InputError(
            f"--out {out}: has rows but no run.json, so nobody knows what they were made with; "
            "restore run.json from a copy, or give a new folder"
        )
    foreign = sorted(p.name for p in out.iterdir() if p.name[0] != "." and p.name != "shards")
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]} and is no run; give a new folder")


def _check_early(request: Request, scan: TableScan) -> None:
    """Compare what is known before the model is loaded with the run that is there."""
    if not (request.out / "run.json").exists():
        return
    stored = read_manifest(request.out)
    layers = resolve_layers(request.spec.layers, stored.model.num_layers)
    wanted = replace(
        stored,
        capture=_capture_record(request.spec, layers),
        data=replace(stored.data, fingerprint=scan.fingerprint),
        store_dtype=request.store_dtype,
    )
    check_same(stored, wanted)


def _capture_record(spec: CaptureSpec, layers: tuple[int, ...]) -> CaptureRecord:
    positions = tuple(dict.fromkeys(spec.positions))
    return CaptureRecord(layers, positions, spec.vision_pooling, spec.max_new_tokens)


def make_manifest(request: Request, scan: TableScan, vlm: VisionLanguageModel) -> Manifest:
    """Return the record of what this run is made with."""
    spec = request.spec
    return Manifest(
        run_id=uuid.uuid4().hex,
        model=describe_model(vlm),
        capture=_capture_record(spec, resolve_layers(spec.layers, vlm.num_layers)),
        data=DataRecord(
            path=_absolute(request.data),
            images=_absolute(request.images) if request.images else None,
            fields=asdict(request.fields),
            fingerprint=scan.fingerprint,
        ),
        dtype=str(vlm.dtype).removeprefix("torch."),
        store_dtype=request.store_dtype,
        attention=vlm.attention,
        device=_describe_device(vlm),
        versions=_versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def describe_model(vlm: VisionLanguageModel) -> ModelRecord:
    """Return the record that says which model this is."""
    folder = Path(vlm.name)
    return ModelRecord(
        name=_absolute(vlm.name),
        type=vlm.family.model_type,
        config_hash=hash_config(vlm.name, vlm.revision),
        weights_hash=hash_weights(folder) if folder.is_dir() else str(vlm.revision),
        processor_hash=hash_processor(vlm.processor),
        chat_template_hash=hash_json(chat_template(vlm.processor)),
        generation_hash=hash_generation(vlm.model),
        num_layers=vlm.num_layers,
        hidden_size=vlm.hidden_size,
        vision_size=vlm.vision_size,
        revision=vlm.revision,
    )


def _absolute(name: str) -> str:
    """Return the absolute path of a local name, so that later commands find it from elsewhere.

    A saved dataset may be named ``folder:split``.
    """
    path, colon, split = name.rpartition(":")
    if colon and Path(path).exists() and not Path(name).exists():
        return f"{Path(path).resolve()}:{split}"
    return str(Path(name).resolve()) if Path(name).exists() else name


def _describe_device(vlm: VisionLanguageModel) -> str:
    import torch

    if vlm.device.type == "cuda":
        return f"{vlm.device} ({torch.cuda.get_device_name(vlm.device)})"
    return str(vlm.device)


def _versions() -> Mapping[str, str]:
    found = {"vlmscope": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
