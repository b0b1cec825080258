"""The provenance of a run, as names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from vlmscope.shown import distinct_names
from vlmscope.store import DEFAULT, Manifest, Run, label_sets
from vlmscope.sweeps import SavedSweep

Section = tuple[str, tuple[tuple[str, str], ...]]
"""Heading → names and values."""

_HASH = 12
"""Number of digits shown of a hash."""


def title(manifest: Manifest) -> str:
    """Return a title with model and table."""
    paths = manifest.data.path
    tables = distinct_names([paths] if isinstance(paths, str) else paths)
    return f"{distinct_names([manifest.model.name])[0]} on {', '.join(tables)}"


def when(moment: datetime) -> str:
    """Return a time as text.

    >>> when(datetime.fromisoformat("2026-01-02T03:04:05+01:00"))
    '2026-01-02 at 02:04 UTC'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d at %H:%M} UTC"


def provenance(
    run: Run, labels: Mapping[str, Any] | None, sweep: SavedSweep | None, name: str = DEFAULT
) -> Iterator[Section]:
    """Yield the sections on how a run was made.

    Args:
        run: The run.
        labels: As ``store.label_settings`` returns them; None without labels.
        sweep: Its probes, if they are up to date.
        name: The label set of the report.
    """
    yield "Model", tuple(_model(run.manifest))
    yield "Data", tuple(_data(run.manifest))
    yield "Capture", tuple(_capture(run.manifest))
    yield "Environment", tuple(_environment(run))
    if labels is not None:
        made = {name: labels.get(name) for name in ("created_at", "vlmscope_version")}
        others = [other for other in label_sets(run.path) if other != name]
        sets = {} if name == DEFAULT else {"label set": name}
        sets |= {"other label sets": ", ".join(others)} if others else {}
        yield "Labels", tuple(_flat({**sets, **labels.get("settings", {}), **made}))
    if sweep is not None:
        chosen = {
            "chosen layer": list(
                dict.fromkeys(map(str, sweep.summary["chosen"].get("selected", ())))
            )
        }
        made = {"vlmscope_version": sweep.summary.get("vlmscope_version")}
        yield "Probes", tuple(_flat({**sweep.summary["settings"], **chosen, **made}))


def _model(manifest: Manifest) -> Iterator[tuple[str, str]]:
    model = manifest.model
    yield "name", model.name
    if model.revision:
        yield "revision", model.revision
    yield "type", model.type
    yield "layers", str(model.num_layers)
    yield "width", f"{model.hidden_size:,} in the decoder, {model.vision_size:,} in vision"
    for part in ("config", "weights", "processor", "chat_template", "generation"):
        yield f"{part.replace('_', ' ')} hash", str(getattr(model, f"{part}_hash"))[:_HASH]


def _data(manifest: Manifest) -> Iterator[tuple[str, str]]:
    data = manifest.data
    yield "table", data.shown_path
    yield "images", data.images or "beside the table"
    mapped = {field: column for field, column in data.fields.items() if column}
    yield "fields", ", ".join(f"{f}={c}" for f, c in mapped.items()) or "the known names"
    if data.text_only:
        yield "questions without an image", "captured (--text-only)"
    yield "fingerprint", data.fingerprint[:_HASH]


def _capture(manifest: Manifest) -> Iterator[tuple[str, str]]:
    capture = manifest.capture
    yield "layers", ", ".join(map(str, capture.layers))
    if capture.compat:
        yield "layers and positions as in", f"{capture.compat}: layer_k is {capture.layer_k}"
    yield "positions", ", ".join(capture.positions)
    yield "vision pooling", capture.vision_pooling
    limit = capture.max_new_tokens
    yield "answer", f"up to {limit} tokens, greedy" if limit else "none, stopped after the prefill"
    if capture.samples:
        how = f"temperature {capture.temperature:g}, seed {capture.seed}"
        yield "sampled answers", f"{capture.samples} of each question, {how}"
    yield "computed in", manifest.dtype
    yield "stored as", manifest.store_dtype
    yield "attention", manifest.attention


def _environment(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    yield "run", manifest.run_id
    yield "folder", str(run.path)
    yield "begun", manifest.created_at
    yield "device", manifest.device
    yield from ((name, str(version)) for name, version in manifest.versions.items())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as names and values, flattened; settings that are None are left out."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name} ")
        elif value is not None:
            listed = isinstance(value, list | tuple)
            shown = ", ".join(map(str, value)) if listed else str(value)
            yield (prefix + name).replace("_", " "), shown
