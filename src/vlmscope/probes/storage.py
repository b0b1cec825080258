"""Saving and loading of probes: a folder of two files, arrays in safetensors and the rest in JSON.

Pickles are not used: an untrusted file must not be able to run code. ``probe.json`` is published
last and contains the checksum of ``weights.safetensors``; a folder whose weights belong to another
probe is refused. Both are completely written before either replaces an older one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vlmscope.errors import InputError, StoreError
from vlmscope.jsontext import load_json
from vlmscope.probes.base import BinaryProbe
from vlmscope.probes.linear import LinearProbe, LogisticProbe, MeanDifferenceProbe
from vlmscope.probes.mlp import MlpProbe
from vlmscope.store import make_folder, publish_together, read_document
from vlmscope.version import __version__

FORMAT_VERSION = 1
"""Version of a saved probe's two files."""


@dataclass(frozen=True, slots=True)
class ProbeInfo:
    """A probe's training data and metrics, as plain JSON data."""

    representation: str
    """Name of the representation, as in the run."""
    layer: int | None
    """Decoder layer; None for the vision encoder's vector."""
    width: int
    """Size of a vector."""
    estimator: str
    """Name of the probe's class."""
    rows: int
    """Number of training rows."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's fingerprint, as given by the caller."""
    calibration: tuple[float, float] | None = None
    """Slope and offset to apply to the log-odds; None to leave them unchanged."""
    threshold: float = 0.5
    """Risk above which an answer is flagged."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Out-of-fold metrics."""
    chosen_c: tuple[float, ...] | None = None
    """Penalty ``C`` chosen in each fold of the sweep; None if unknown."""
    images: Literal["all", "some", "none"] | None = None
    """Whether all, some or none of the training rows had an image; None if unknown, as in files of
    earlier versions."""
    vlmscope: str = __version__
    """vlmscope version that wrote it."""
    format_version: int = FORMAT_VERSION


def read_info(path: Path, found: Any) -> ProbeInfo:
    """Convert the JSON object to a ``ProbeInfo``, checking the types of all fields."""
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {version!r}, expected {FORMAT_VERSION}; "
            "use the vlmscope that wrote it, or train the probe again"
        )
    names = {each.name for each in fields(ProbeInfo)}
    if set(found) | {"images"} != names:  # earlier versions did not write it
        unexpected = ", ".join(sorted((set(found) | {"images"}) ^ names))
        raise InputError(f"{path}: fields missing or unknown: {unexpected}; train the probe again")
    lists = {name: found.get(name) for name in ("calibration", "chosen_c")}
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in lists.items()}
    info = ProbeInfo(**{**found, **tuples})
    check_info(path, info)
    return info


def check_info(path: Path, info: ProbeInfo) -> None:
    """Check every field's type and range."""
    pair = info.calibration
    good = {
        "representation": isinstance(info.representation, str),
        "layer": info.layer is None or _is_count(info.layer),
        "width": _is_count(info.width) and info.width > 0,
        "estimator": isinstance(info.estimator, str),
        "rows": _is_count(info.rows),
        "model": isinstance(info.model, Mapping),
        "calibration": pair is None
        or (
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(map(_is_number, pair))
            and pair[0] >= 0
        ),
        "threshold": _is_number(info.threshold) and 0 <= info.threshold <= 1,
        "metrics": isinstance(info.metrics, Mapping)
        and all(map(_is_number, info.metrics.values())),
        "chosen_c": info.chosen_c is None
        or (
            isinstance(info.chosen_c, tuple)
            and all(_is_number(value) and value > 0 for value in info.chosen_c)
        ),
        "images": info.images in (None, "all", "some", "none"),
        "vlmscope": isinstance(info.vlmscope, str),
        "format_version": info.format_version == FORMAT_VERSION,
    }
    for name in (name for name, right in good.items() if not right):
        raise InputError(
            f"{path}: {name} is {getattr(info, name)!r}, which is not of the expected type (see "
            "ProbeInfo); train the probe again"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    """Return whether it is a finite number, and no integer beyond the range of float64."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


WEIGHTS = "weights.safetensors"
DESCRIPTION = "probe.json"

PROBE_FILES = (DESCRIPTION, WEIGHTS)
"""Every file of a probe's folder."""

MOST_OF_WEIGHTS = 2**30
"""Most bytes of a ``weights.safetensors``; a linear probe has some kilobytes."""

_ESTIMATORS: Mapping[str, Callable[[], BinaryProbe]] = {
    "LogisticProbe": LogisticProbe,
    "MeanDifferenceProbe": MeanDifferenceProbe,
    "MlpProbe": MlpProbe,
}


def save_probe(path: Path, probe: BinaryProbe, info: ProbeInfo) -> None:
    """Write a fitted probe to the folder ``path``, which is created if missing.

    Args:
        path: The folder. An existing probe is replaced.
        probe: Fitted on labels False and True.
        info: Must name the probe's class and width.

    Raises:
        InputError: Probe and info disagree, or a value is not finite or not JSON, or the folder
            cannot be written.
    """
    files = probe_files(path, probe, info)
    try:
        make_folder(path, parents=True)
        publish_together(files)
    except (OSError, StoreError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or error
        raise InputError(f"{path}: cannot be written: {why}; choose another folder") from error


def probe_files(path: Path, probe: BinaryProbe, info: ProbeInfo) -> dict[Path, bytes]:
    """Return the files of a fitted probe in the order in which to publish them.

    Args:
        path: The folder they are for.
        probe: Fitted on labels False and True.
        info: Must name the probe's class and width.

    Raises:
        InputError: Probe and info disagree, or a value is not finite or not JSON.
    """
    name = type(probe).__name__
    if name not in _ESTIMATORS:
        raise InputError(f"{path}: {name} cannot be saved; use one of {', '.join(_ESTIMATORS)}")
    if info.estimator != name or info.width != probe.n_features_in_:
        raise InputError(
            f"{path}: the description has {info.estimator} of width {info.width}, the probe is "
            f"{name} of width {probe.n_features_in_}; give the description of the saved probe"
        )
    if probe.classes_.tolist() != [False, True]:
        raise InputError(
            f"{path}: the probe's classes are {probe.classes_.tolist()}, not False and True; "
            "fit it on boolean labels"
        )
    check_info(path, info)
    data = save({key: np.ascontiguousarray(value) for key, value in _tensors(probe).items()})
    text = _describe(path, probe, info, data)
    return {path / WEIGHTS: data, path / DESCRIPTION: text.encode()}


def _describe(path: Path, probe: BinaryProbe, info: ProbeInfo, data: bytes) -> str:
    """Return the text of ``probe.json``."""
    description = {
        "kind": "vlmscope probe",
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "parameters": probe.get_params(),
        "info": asdict(info),
    }
    try:
        return json.dumps(description, indent=2, allow_nan=False, sort_keys=True) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the description is not plain JSON: {error}; give text and finite numbers"
        ) from error


def _tensors(probe: BinaryProbe) -> dict[str, Shaped[np.ndarray, ...]]:
    """Return the learned arrays by name."""
    tensors = {"mean": probe.mean_, "scale": probe.scale_}
    if isinstance(probe, MlpProbe):
        for number, (weights, bias) in enumerate(zip(probe.coefs_, probe.intercepts_, strict=True)):
            tensors |= {f"weights.{number}": weights, f"bias.{number}": bias}
        return tensors
    return {**tensors, "weights": probe.coef_, "bias": probe.intercept_}


def load_probe(path: Path) -> tuple[BinaryProbe, ProbeInfo]:
    """Read a probe; its predictions are those of the saved one, bit for bit.

    Raises:
        InputError: The folder contains no probe, a newer one, or a damaged one.
    """
    file = path / DESCRIPTION
    description = _read_json(file)
    if description.get("kind") != "vlmscope probe":
        raise InputError(f"{file}: does not describe a vlmscope probe; give a probe's folder")
    info = read_info(file, description.get("info"))
    if info.estimator not in _ESTIMATORS:
        raise InputError(
            f"{file}: estimator {info.estimator!r} is not known; "
            f"expected one of {', '.join(_ESTIMATORS)}"
        )
    probe = _ESTIMATORS[info.estimator]()
    parameters = description.get("parameters")
    if not isinstance(parameters, dict) or set(parameters) != set(probe.get_params()):
        raise InputError(
            f"{file}: parameters {parameters!r} are not those of {info.estimator}; train it again"
        )
    if not isinstance(parameters.get("hidden", []), list):
        raise InputError(f"{file}: hidden is {parameters['hidden']!r}, expected a list; copy again")
    probe.set_params(**{k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()})
    tensors = _read_tensors(path / WEIGHTS, description.get("weights_sha256"))
    _check_tensors(path / WEIGHTS, probe, tensors, info.width)
    _fill(probe, tensors)
    return probe, info


def _read_json(path: Path) -> dict[str, Any]:
    """Read the description, an object."""
    try:
        description = load_json(read_document(path).decode())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}; give a probe's folder"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}; copy the probe again") from error
    if not isinstance(description, dict):
        raise InputError(f"{path}: is not an object; give a probe's folder")
    return description


def _read_tensors(path: Path, checksum: Any) -> dict[str, Shaped[np.ndarray, ...]]:
    """Read the arrays, if they match the checksum in the description."""
    try:
        data = read_document(path, MOST_OF_WEIGHTS)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}; copy the probe again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != checksum:
        raise InputError(
            f"{path}: SHA-256 is {found}, expected {checksum}; it is damaged or of another "
            "probe, copy both files again"
        )
    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}; train it again") from error


def _check_tensors(
    path: Path,
    probe: BinaryProbe,
    tensors: Mapping[str, Shaped[np.ndarray, ...]],
    width: int,
) -> None:
    """Check names, shapes, dtypes and values against the probe's class and width."""
    shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
    if isinstance(probe, MlpProbe):
        sizes = [width, *probe.hidden, 1]
        for number, pair in enumerate(pairwise(sizes)):
            shapes |= {f"weights.{number}": pair, f"bias.{number}": pair[1:]}
    else:
        shapes |= {"weights": (1, width), "bias": (1,)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != shapes:
        raise InputError(f"{path}: arrays {found}, expected {shapes}; train the probe again")
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float32, np.float64) or not np.isfinite(tensor).all():
            raise InputError(
                f"{path}: {name!r} is {tensor.dtype} or not finite, expected finite float32 or "
                "float64; train the probe again"
            )
    if not (tensors["scale"] > 0).all():
        raise InputError(f"{path}: 'scale' is not positive everywhere; train the probe again")


def _fill(probe: BinaryProbe, tensors: Mapping[str, Shaped[np.ndarray, ...]]) -> None:
    """Set the learned attributes of the probe."""
    probe.classes_ = np.array([False, True])
    probe.n_features_in_ = len(tensors["mean"])
    if isinstance(probe, LinearProbe | MlpProbe):
        probe.mean_, probe.scale_ = tensors["mean"], tensors["scale"]
    if isinstance(probe, MlpProbe):
        layers = range(len(probe.hidden) + 1)
        probe.coefs_ = [tensors[f"weights.{layer}"] for layer in layers]
        probe.intercepts_ = [tensors[f"bias.{layer}"] for layer in layers]
    elif isinstance(probe, LinearProbe):
        probe.coef_, probe.intercept_ = tensors["weights"], tensors["bias"]
