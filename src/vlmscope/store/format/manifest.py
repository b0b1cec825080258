"""``run.json``: what the rows of a run were made with, and how two manifests differ.

It is written before the first row, and again if a run goes on with ``--text-only`` or with another
version of its table.

What makes the rows of two manifests other numbers, in words. A run continues only under a manifest
that would give the same numbers; every difference is named at once. Names, paths, devices and
versions are kept for the record and never compared. The table may change: whether the rows of the
run are still rows of it, ``vlmscope.row_identity`` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vlmscope.clock import check_time
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.jsontext import load_json
from vlmscope.schema import (
    FORMAT_VERSION,
    VISION_ONLY,
    Compat,
    FieldSpec,
    LayerStates,
    VisionPooling,
)
from vlmscope.store.format.naming import representation_name, vector_path
from vlmscope.store.storage.atomic import publish
from vlmscope.store.storage.object_store import read_document
from vlmscope.store.storage.paths import check_inside, check_reachable, place

MANIFEST = "run.json"
"""Name of the file in a run folder."""

LARGEST = 2**24
"""Largest size in a manifest: a thousand times the widest model there is, and no petabytes."""

_TYPES = {
    "str | tuple[str, ...]": str | list,
    "str": str,
    "str | None": str | None,
    "bool": bool,
    "int | None": int | None,
}
"""Annotation of a field → what its value may be. The others are checked by what they mean."""

StoreDtype = Literal["float32", "float16"]
"""How vectors are kept on disk. They are read as float32 either way."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The checkpoint: hashes decide whether it is the same, names are for people."""

    name: str
    type: str
    config_hash: str
    weights_hash: str
    processor_hash: str
    chat_template_hash: str
    generation_hash: str
    num_layers: int
    hidden_size: int
    vision_size: int
    revision: str | None = None
    image_token_id: int | None = None
    """Id of the image token in the expanded prompt."""
    description: Mapping[str, Any] | None = None
    """The user's own description of the architecture (``--family``)."""
    adapter: str | None = None
    """Folder of the LoRA adapter; its content counts in ``weights_hash``."""
    quantization: str = ""
    """``4bit`` or ``8bit``, where the weights are rounded; counts in ``weights_hash``."""
    weight_files: Mapping[str, str] | None = None
    """Weight file → SHA-256 of its bytes, which count in ``weights_hash``."""
    prompt_time: str | None = None
    """Local time, ISO 8601, that the chat template was shown; None where it asks for none."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """What was recorded: a ``CaptureSpec`` with its layers resolved to numbers."""

    layers: tuple[int, ...]
    positions: tuple[str, ...]
    vision_pooling: VisionPooling
    max_new_tokens: int
    compat: Compat = ""
    """Whose layers and positions they are; empty for our own."""
    layer_k: LayerStates = "hidden_states[k+1]"
    """What ``layer_k`` is, where ``compat`` makes it another than ours."""


@dataclass(frozen=True, slots=True)
class DataRecord:
    """The table or tables of questions that the run was last continued with.

    ``fields`` maps our field names to their columns.
    """

    path: str | tuple[str, ...]
    images: str | None
    fields: Mapping[str, str | bool | None]
    fingerprint: str
    text_only: bool = False
    """Whether rows without an image are questions about none (``--text-only``). A run may take it
    up later: rows that failed for want of an image are then captured."""
    several_tables: bool = False
    """Whether rows came from more than one version of the table. ``fingerprint`` is that of the
    last one, and says nothing about rows of the earlier ones."""
    in_memory: bool = False
    """Whether the table was in memory, as a data frame is: ``path`` says what it was, and leads to
    no file."""

    @property
    def shown_path(self) -> str:
        """The table, or the tables, as one text."""
        return self.path if isinstance(self.path, str) else ", ".join(self.path)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a run was made with."""

    run_id: str
    """A random uuid4 in hex."""
    model: ModelRecord
    capture: CaptureRecord
    data: DataRecord
    dtype: str
    """What the model computed in, for example ``bfloat16``."""
    store_dtype: StoreDtype
    attention: str
    """The attention implementation, for example ``sdpa``."""
    device: str
    versions: Mapping[str, str]
    """Library → version."""
    created_at: str
    """ISO 8601 with its zone."""
    format_version: int = FORMAT_VERSION

    def representations(self) -> dict[str, tuple[int, ...]]:
        """Return every representation with its layers; the vision encoder's output has none."""
        named = {representation_name(p): self.capture.layers for p in self.capture.positions}
        return {VISION_ONLY: (), **named}

    def widths(self) -> dict[str, int]:
        """Return the width of every vector, by its path."""
        layered = {
            vector_path(name, layer): self.model.hidden_size
            for name, layers in self.representations().items()
            for layer in layers
        }
        return {VISION_ONLY: self.model.vision_size, **layered}


def write_manifest(run: Path, manifest: Manifest, *, new: bool = False) -> None:
    """Write ``run.json`` atomically into a run folder; ``new``: ``publish`` it exclusively."""
    data = (json.dumps(asdict(manifest), indent=2) + "\n").encode()
    publish(place(run) / MANIFEST, data, exclusive=new)


def read_manifest(run: Path) -> Manifest:
    """Return the manifest of a run folder."""
    path = place(run) / MANIFEST
    check_reachable(path)
    check_inside(run)
    try:
        found = load_json(read_document(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{run}: not a run folder, it has no {MANIFEST}; give the folder that "
            "'vlmscope extract --out' wrote to"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _damaged(path, f"not JSON ({error})") from error
    return _parse(path, found)


def _parse(path: Path, found: Any) -> Manifest:
    """Turn the JSON object into a manifest. Keys we do not know are left alone."""
    if not isinstance(found, dict) or not isinstance(found.get("format_version"), int):
        raise _damaged(path, "no format_version")
    check_version(path, found["format_version"])
    record = {
        **found,
        "model": _build(ModelRecord, path, found.get("model"), "model."),
        "capture": _build(CaptureRecord, path, found.get("capture"), "capture."),
        "data": _build(DataRecord, path, found.get("data"), "data."),
    }
    manifest = cast("Manifest", _build(Manifest, path, record, ""))
    _check_values(path, manifest)
    return manifest


def _check_values(path: Path, manifest: Manifest) -> None:
    """Refuse values that nothing could have written."""
    model, capture = manifest.model, manifest.capture
    layers, positions = capture.layers, capture.positions
    columns = manifest.data.fields
    names = {field.name for field in fields(FieldSpec)}
    right = {
        "a size": all(_is_size(getattr(record, name)) for record, name in _sizes(manifest)),
        "capture.layers": isinstance(layers, tuple)
        and all(_is_size(layer) and layer < model.num_layers for layer in layers)
        and len(set(layers)) == len(layers),
        "capture.positions": isinstance(positions, tuple)
        and all(isinstance(name, str) for name in positions),
        "capture.vision_pooling": capture.vision_pooling in get_args(VisionPooling),
        "capture.compat": capture.compat in get_args(Compat),
        "capture.layer_k": capture.layer_k in get_args(LayerStates),
        "data.fields": isinstance(columns, dict)
        and columns.keys() <= names
        and all(name is None or isinstance(name, str | bool) for name in columns.values()),
        "data.path": isinstance(manifest.data.path, str)
        or (
            len(manifest.data.path) > 1
            and all(isinstance(name, str) for name in manifest.data.path)
        ),
        "versions": isinstance(manifest.versions, dict),
        "model.prompt_time": model.prompt_time is None or _is_time(model.prompt_time),
        "dtype": manifest.dtype in ("float32", "float16", "bfloat16"),
        "store_dtype": manifest.store_dtype in get_args(StoreDtype),
    }
    if wrong := [name for name, fine in right.items() if not fine]:
        raise _damaged(path, f"{wrong[0]} makes no sense")


def _sizes(manifest: Manifest) -> Iterator[tuple[Any, str]]:
    yield from ((manifest.model, name) for name in ("num_layers", "hidden_size", "vision_size"))
    yield manifest.capture, "max_new_tokens"


def _is_time(text: str) -> bool:
    try:
        return bool(check_time(text))
    except ValueError:
        return False


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def check_version(path: Path, version: int) -> None:
    """Refuse a file of a format that came after this vlmscope."""
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {version}, this vlmscope reads up to {FORMAT_VERSION}; "
            "upgrade with 'pip install -U vlmscope'"
        )


def _build(kind: type[Any], path: Path, found: Any, prefix: str) -> Any:
    """Make one record of its JSON object; lists become tuples."""
    if not isinstance(found, dict):
        raise _damaged(path, f"no {prefix.rstrip('.')}")
    missing = [
        prefix + field.name
        for field in fields(kind)
        if field.name not in found and field.default is MISSING
    ]
    if missing:
        raise _damaged(path, f"no {', '.join(missing)}")
    known = {field.name: found[field.name] for field in fields(kind) if field.name in found}
    for field in fields(kind):
        expected = _TYPES.get(str(field.type))
        if field.name in known and expected and not isinstance(known[field.name], expected):
            raise _damaged(path, f"{prefix}{field.name} makes no sense")
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
    return kind(**tuples)


def _damaged(path: Path, finding: str) -> StoreError:
    """Return the error for a manifest that is not one."""
    return StoreError(
        f"{path}: damaged, {finding}; restore it from a copy, or extract into another --out"
    )


_SHOWN = 3
"""Weight files that a message names."""

_SAME_NUMBERS = (
    "format_version",
    *(f"model.{field.name}" for field in fields(ModelRecord) if field.name.endswith("_hash")),
    *(f"capture.{field.name}" for field in fields(CaptureRecord)),
    *("model.description", "dtype", "store_dtype", "attention"),
)


_MEANINGS = {
    "model.config_hash": "the model has another configuration (model.config_hash)",
    "model.weights_hash": "the model has other weights (model.weights_hash)",
    "model.processor_hash": "the processor is another one (model.processor_hash)",
    "model.chat_template_hash": "the chat template is another one (model.chat_template_hash)",
    "model.generation_hash": "generation_config.json decides otherwise (model.generation_hash)",
}
"""What a difference of hashes means."""


def check_same(stored: Manifest, wanted: Manifest) -> None:
    """Raise ``RunMismatchError``, naming every difference, unless both give the same numbers."""
    differences = [
        _MEANINGS.get(name, f"{name} is {_shown(old)}, asked for {_shown(new)}")
        + (
            other_weights(asdict(stored.model), asdict(wanted.model))
            if name == "model.weights_hash"
            else ""
        )
        for name in _SAME_NUMBERS
        if (old := _value(stored, name)) != (new := _value(wanted, name))
    ]
    if differences:
        raise RunMismatchError(
            f"this run was made with other settings: {'; '.join(differences)}; "
            "give another --out, or the settings the run was made with"
        )


STATE_HASHES = ("config_hash", "weights_hash", "processor_hash", "chat_template_hash")
"""Hashes of a ``ModelRecord`` that decide hidden states; how answers are generated does not."""


def model_differences(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return which hashes of two models differ.

    Args:
        made: The ``ModelRecord`` of a run or a probe, as a mapping.
        asked: That of the model which was loaded, or of another run.

    Returns:
        Name of the hash → why it differs, to follow the statement that it does, or an empty text.
    """
    names = [each.name for each in fields(ModelRecord) if each.name.endswith("_hash")]
    return {
        name: other_weights(made, asked) if name == "weights_hash" else ""
        for name in names
        if made.get(name) != asked.get(name)
    }


def other_weights(made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return why two models have other weights, to follow the statement that they have.

    Args:
        made: The ``ModelRecord`` of a run or a probe, as a mapping.
        asked: That of the model which was loaded.
    """
    before, now = (
        f"{('adapter ' + str(model['adapter'])) if model.get('adapter') else 'no adapter'} and "
        f"{model.get('quantization') or 'no'} rounding"
        for model in (made, asked)
    )
    reasons = [f"made with {before}, asked for {now}"] if before != now else []
    reasons += _other_files(made.get("weight_files"), asked.get("weight_files"))
    return f": {', '.join(reasons)}" if reasons else ""


def _other_files(made: Any, asked: Any) -> list[str]:
    """Return which weight files differ, and how, the first few of each kind."""
    if not isinstance(made, Mapping) or not isinstance(asked, Mapping):
        return []
    both = sorted(made.keys() & asked.keys())
    kinds = {
        "other bytes in": [name for name in both if made[name] != asked[name]],
        "without": sorted(made.keys() - asked.keys()),
        "with": sorted(asked.keys() - made.keys()),
    }
    return [
        f"{kind} {', '.join(map(repr, names[:_SHOWN]))}{' …' if len(names) > _SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    ]


def _value(manifest: Manifest, name: str) -> Any:
    """Return a field by its dotted name."""
    value: Any = manifest
    for part in name.split("."):
        value = getattr(value, part)
    return dict(value) if isinstance(value, Mapping) else value


def _shown(value: Any) -> str:
    """Return a value as the message shows it: JSON, so that lists and text look familiar."""
    return json.dumps(value, ensure_ascii=False)


_PER_ROW = 10_400
"""Bytes of a row without vectors: strings, token lists, attributes, index. Measured."""

_PER_VECTOR = 475
"""Bytes of one vector's window in the row group. Measured."""


def bytes_per_row(
    *,
    vision_size: int,
    hidden_size: int,
    num_layers_captured: int,
    num_positions: int,
    store_dtype: StoreDtype = "float32",
) -> int:
    """Return about how many bytes a packed row takes.

    >>> seed = dict(vision_size=7680, hidden_size=4096, num_layers_captured=5, num_positions=2)
    >>> bytes_per_row(**seed), bytes_per_row(**seed, store_dtype="float16")
    (210185, 112905)
    """
    vectors = 1 + num_layers_captured * num_positions
    values = vision_size + hidden_size * num_layers_captured * num_positions
    width = 2 if store_dtype == "float16" else 4
    return values * width + vectors * _PER_VECTOR + _PER_ROW
