"""``run.json``: the settings that the rows of a run were made with, and comparing two manifests.

It is written before the first row, and again if a run continues with ``--text-only``, with another
version of its table, or with images from another folder.

A run continues only with a manifest that would give the same numbers; a mismatch names every
difference at once. Names, paths, devices and versions are recorded and never compared. The table
may change: ``vlmscope.row_identity`` checks whether the rows of the run are still rows of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vlmscope.clock import is_time
from vlmscope.errors import InputError, RunMismatchError, StoreError
from vlmscope.jsontext import load_json
from vlmscope.positions import VISION_ONLY, sublayer_representation
from vlmscope.sampling import DEFAULT_TEMPERATURE, SAMPLES, Sampling, checked_sampling
from vlmscope.schema import FORMAT_VERSION, Compat, FieldSpec, LayerStates, VisionPooling
from vlmscope.signals import (
    DEFAULT_SIGNALS,
    LENS,
    SIGNALS,
    SIMILARITY,
    SUBLAYERS,
    RecordedSignals,
    single_positions,
)
from vlmscope.store.format.naming import representation_name, vector_path
from vlmscope.store.storage.atomic import publish
from vlmscope.store.storage.object_store import read_document
from vlmscope.store.storage.paths import as_path, check_inside, check_reachable

MANIFEST = "run.json"
"""Name of the file in a run folder."""

LARGEST = 2**24
"""Largest valid size in a manifest: a thousand times the widest existing model."""

_TYPES = {
    "str | tuple[str, ...]": str | list,
    "str": str,
    "str | None": str | None,
    "bool": bool,
    "int | None": int | None,
}
"""Annotation of a field → the types of its value. ``_check_values`` checks the other fields."""

StoreDtype = Literal["float32", "float16"]
"""Type of the vectors on disk. They are always read as float32."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The checkpoint. Its identity is decided by the hashes; names are for display."""

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
    """Folder of the LoRA adapter; its content is part of ``weights_hash``."""
    quantization: str = ""
    """``4bit`` or ``8bit`` if the weights are quantized; part of ``weights_hash``."""
    weight_files: Mapping[str, str] | None = None
    """Weight file → SHA-256 of its bytes, which are part of ``weights_hash``."""
    prompt_time: str | None = None
    """Local time, ISO 8601, given to the chat template; None if the template uses no time."""


@dataclass(frozen=True, slots=True)
class CaptureRecord:
    """What is recorded of each row: a ``CaptureSpec`` with its layers resolved to numbers."""

    layers: tuple[int, ...]
    positions: tuple[str, ...]
    vision_pooling: VisionPooling
    max_new_tokens: int
    compat: Compat = ""
    """The convention for layers and positions; empty for vlmscope's own."""
    layer_k: LayerStates = "hidden_states[k+1]"
    """What ``layer_k`` refers to, if ``compat`` changes it."""
    signals: tuple[str, ...] = ()
    """What else is recorded; empty in a run of a version that recorded nothing else."""
    signal_widths: Mapping[str, int] | None = None
    """``heads/layer_20`` → width of the vectors of that sub-layer; None if there are none."""
    attention_layers: tuple[int, ...] = ()
    """The decoder layers whose attention is recorded."""
    attention_heads: int = 0
    """Their number of heads."""
    cross_attention_layers: tuple[int, ...] = ()
    """The layers that attend to the image alone, if the decoder has such layers."""
    cross_attention_tiles: int = 0
    """Tiles of an image that they attend to."""
    samples: int = 0
    """Sampled answers of each row, besides the greedy one."""
    temperature: float = DEFAULT_TEMPERATURE
    """Temperature of the samples."""
    seed: int = 0
    """Seed of the samples."""

    @property
    def recorded(self) -> RecordedSignals:
        """The signals that are recorded, and of which layers."""
        lens = LENS in self.signals
        return RecordedSignals(
            self.signals,
            self.signal_widths or {},
            self.attention_layers,
            self.attention_heads,
            self.cross_attention_layers,
            self.cross_attention_tiles,
            single_positions(self.positions) if lens else (),
            self.layers if lens else (),
            Sampling(self.samples, self.temperature, self.seed),
            self.layers if SIMILARITY in self.signals else (),
        )


@dataclass(frozen=True, slots=True)
class DataRecord:
    """The table or tables of questions that the run was last continued with.

    ``fields`` maps our field names to their columns.
    """

    path: str | tuple[str, ...]
    images: str | None
    """The image root that rows were last captured from; None for the default of the table."""
    fields: Mapping[str, str | bool | None]
    fingerprint: str
    text_only: bool = False
    """Whether rows without an image are text-only questions (``--text-only``). It may be set later
    in a run: rows that failed for lack of an image are then captured."""
    several_tables: bool = False
    """Whether the rows come from more than one version of the table. ``fingerprint`` is that of the
    last version, and is no check of rows from earlier ones."""
    in_memory: bool = False
    """Whether the table was in memory, such as a data frame: ``path`` then describes it, and is
    not a path of a file."""

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
    """The type that the model computed in, for example ``bfloat16``."""
    store_dtype: StoreDtype
    attention: str
    """The attention implementation, for example ``sdpa``."""
    device: str
    versions: Mapping[str, str]
    """Library → version."""
    created_at: str
    """ISO 8601 with a time zone."""
    format_version: int = FORMAT_VERSION
    states_dtype: StoreDtype = "float16"
    """Type on disk of signals with a vector for each of several tokens."""

    def representations(self) -> dict[str, tuple[int, ...]]:
        """Return every representation with its layers; the vision encoder's output has none."""
        positions, recorded = self.capture.positions, self.capture.recorded
        named = {representation_name(p): self.capture.layers for p in positions}
        for part in recorded.sublayers:
            layers = recorded.layers(part)
            named |= {sublayer_representation(p, part): layers for p in positions}
        return {VISION_ONLY: (), **named}

    def widths(self) -> dict[str, int]:
        """Return the width of every vector, by its path."""
        layered = {
            vector_path(name, layer): self.model.hidden_size
            for name, layers in self.representations().items()
            for layer in layers
        }
        for path, width in self.capture.recorded.widths.items():
            part, leaf = path.split("/")
            for position in self.capture.positions if part in SUBLAYERS else ():
                layered[f"{sublayer_representation(position, part)}/{leaf}"] = width
        return {VISION_ONLY: self.model.vision_size, **layered}

    def signals(self) -> dict[str, tuple[int, ...] | None]:
        """Return the arrays of signals of a row with their shapes.

        None for a list of a length of its own: one value per token of the answer or of the samples.
        """
        recorded, answers = self.capture.recorded, self.capture.max_new_tokens > 0
        shapes = recorded.shapes(answers=answers)
        return {name: shapes.get(name) for name in recorded.arrays(answers=answers)}

    def token_widths(self) -> dict[str, int]:
        """Return the arrays of signals that are ``[tokens, width]``, and their widths."""
        return self.capture.recorded.token_widths(answers=self.capture.max_new_tokens > 0)


def write_manifest(run: Path, manifest: Manifest, *, new: bool = False) -> None:
    """Write ``run.json`` atomically into a run folder; if ``new``, it must not exist yet."""
    data = (json.dumps(asdict(manifest), indent=2) + "\n").encode()
    publish(as_path(run) / MANIFEST, data, exclusive=new)


def read_manifest(run: Path) -> Manifest:
    """Return the manifest of a run folder."""
    path = as_path(run) / MANIFEST
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
    """Return the JSON object as a manifest. Unknown keys are ignored."""
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
    """Refuse values that vlmscope cannot have written."""
    model, capture = manifest.model, manifest.capture
    layers, positions = capture.layers, capture.positions
    columns = manifest.data.fields
    names = {field.name for field in fields(FieldSpec)}
    checks = {
        "a size": all(_is_size(getattr(record, name)) for record, name in _sizes(manifest)),
        "capture.layers": isinstance(layers, tuple)
        and _is_size(model.num_layers)
        and all(_is_size(layer) and layer < model.num_layers for layer in layers)
        and len(set(layers)) == len(layers),
        "capture.positions": isinstance(positions, tuple)
        and all(isinstance(name, str) for name in positions),
        "capture.vision_pooling": capture.vision_pooling in get_args(VisionPooling),
        "capture.compat": capture.compat in get_args(Compat),
        "capture.layer_k": capture.layer_k in get_args(LayerStates),
        "capture.signals": _is_size(model.num_layers) and _are_signals(capture, model.num_layers),
        "data.fields": isinstance(columns, dict)
        and columns.keys() <= names
        and all(name is None or isinstance(name, str | bool) for name in columns.values()),
        "data.path": isinstance(manifest.data.path, str)
        or (
            len(manifest.data.path) > 1
            and all(isinstance(name, str) for name in manifest.data.path)
        ),
        "versions": isinstance(manifest.versions, dict),
        "model.prompt_time": model.prompt_time is None or is_time(model.prompt_time),
        "dtype": manifest.dtype in ("float32", "float16", "bfloat16"),
        "store_dtype": manifest.store_dtype in get_args(StoreDtype),
        "states_dtype": manifest.states_dtype in get_args(StoreDtype),
    }
    if wrong := [name for name, valid in checks.items() if not valid]:
        raise _damaged(path, f"{wrong[0]} is invalid")


def _sizes(manifest: Manifest) -> Iterator[tuple[Any, str]]:
    yield from ((manifest.model, name) for name in ("num_layers", "hidden_size", "vision_size"))
    yield manifest.capture, "max_new_tokens"


_SIGNAL_WIDTH = re.compile(r"([a-z_]+)/layer_(0|[1-9][0-9]{0,5})")


def _are_signals(capture: CaptureRecord, num_layers: int) -> bool:
    """Return whether the signals, and the layers and widths they have, are valid."""
    names, widths = capture.signals, capture.signal_widths
    layers = (capture.attention_layers, capture.cross_attention_layers)
    if not isinstance(names, tuple) or not all(
        isinstance(name, str) and name in SIGNALS for name in names
    ):
        return False
    if not isinstance(widths, dict | None) or not all(isinstance(x, tuple) for x in layers):
        return False
    paths = [_SIGNAL_WIDTH.fullmatch(path) for path in widths or {}]
    return (
        all(path and path[1] in names and int(path[2]) in capture.layers for path in paths)
        and all(map(_is_size, (widths or {}).values()))
        and all(_is_size(layer) and layer < num_layers for layer in (*layers[0], *layers[1]))
        and len({*layers[0], *layers[1]}) == len(layers[0]) + len(layers[1])
        and _is_size(capture.attention_heads)
        and _is_size(capture.cross_attention_tiles)
        and _is_sampling(capture)
        and all(prod(shape) <= LARGEST for shape in capture.recorded.shapes().values())
    )


def _is_sampling(capture: CaptureRecord) -> bool:
    """Return whether the numbers of the samples are valid, and match the names of the signals."""
    try:
        checked_sampling(capture.samples, capture.temperature, capture.seed)
    except InputError:
        return False
    return _is_size(capture.samples) and bool(capture.samples) == (SAMPLES in capture.signals)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def check_version(path: Path, version: int) -> None:
    """Refuse a file whose format is newer than this vlmscope."""
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path}: format version {version}, this vlmscope reads up to {FORMAT_VERSION}; "
            "upgrade with 'pip install -U vlmscope'"
        )


def _build(kind: type[Any], path: Path, found: Any, prefix: str) -> Any:
    """Build one record from its JSON object; lists become tuples."""
    if not isinstance(found, dict):
        raise _damaged(path, f"no {prefix.rstrip('.')}")
    missing = [
        prefix + field.name
        for field in fields(kind)
        if field.name not in found and field.default is MISSING
    ]
    if missing:
        raise _damaged(path, f"no {', '.join(missing)}", "damaged, or of an earlier version")
    known = {field.name: found[field.name] for field in fields(kind) if field.name in found}
    for field in fields(kind):
        expected = _TYPES.get(str(field.type))
        if field.name in known and expected and not isinstance(known[field.name], expected):
            raise _damaged(path, f"{prefix}{field.name} is invalid")
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
    return kind(**tuples)


def _damaged(path: Path, finding: str, what: str = "damaged") -> StoreError:
    """Return the error for a damaged manifest."""
    return StoreError(
        f"{path}: {what}, {finding}; restore it from a copy, or extract into another --out"
    )


_SHOWN = 3
"""Maximum number of weight files named in a message."""

_DERIVED = (
    "signal_widths", "attention_layers", "attention_heads", "cross_attention_layers",
    "cross_attention_tiles",
)  # fmt: skip
"""Fields of a ``CaptureRecord`` that follow from the model, the layers and the signals."""

_SAME_NUMBERS = (
    "format_version",
    *(f"model.{field.name}" for field in fields(ModelRecord) if field.name.endswith("_hash")),
    *(f"capture.{field.name}" for field in fields(CaptureRecord) if field.name not in _DERIVED),
    *("model.description", "dtype", "store_dtype", "states_dtype", "attention"),
)


_MEANINGS = {
    "model.config_hash": "the model has another configuration (model.config_hash)",
    "model.weights_hash": "the model has other weights (model.weights_hash)",
    "model.processor_hash": "the processor differs (model.processor_hash)",
    "model.chat_template_hash": "the chat template differs (model.chat_template_hash)",
    "model.generation_hash": "generation_config.json differs (model.generation_hash)",
}
"""Name of a hash → the message for a difference."""


def check_same(stored: Manifest, wanted: Manifest) -> None:
    """Raise ``RunMismatchError``, naming every difference, unless both give the same numbers."""
    always = {*DEFAULT_SIGNALS}.intersection(wanted.capture.signals)
    if missing := sorted(always.difference(stored.capture.signals)):
        raise RunMismatchError(
            f"this run was made by an earlier version of vlmscope, which did not record "
            f"{missing[0]}: rows of this version cannot be added; give another --out"
        )
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
"""Hashes of a ``ModelRecord`` that affect hidden states; the generation settings do not."""


def model_differences(made: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return which hashes of two models differ.

    Args:
        made: The ``ModelRecord`` of a run or a probe, as a mapping.
        asked: The ``ModelRecord`` of the loaded model, or of another run.

    Returns:
        Name of the hash → the reason, as a text to append to a message, or an empty text.
    """
    names = [each.name for each in fields(ModelRecord) if each.name.endswith("_hash")]
    return {
        name: other_weights(made, asked) if name == "weights_hash" else ""
        for name in names
        if made.get(name) != asked.get(name)
    }


def other_weights(made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return why the weights of two models differ, as a text to append to a message.

    Args:
        made: The ``ModelRecord`` of a run or a probe, as a mapping.
        asked: The ``ModelRecord`` of the loaded model.
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
    """Return the weight files that differ and how, the first few of each kind."""
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
    """Return a value as JSON, for a message."""
    return json.dumps(value, ensure_ascii=False)
