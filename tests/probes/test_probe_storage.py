"""A saved probe predicts the same bits; anything odd in its folder is refused in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_worlds import planted_world
from safetensors.numpy import load, save

from vlmscope.errors import InputError
from vlmscope.probes import (
    BinaryProbe,
    LogisticProbe,
    MeanDifferenceProbe,
    MlpProbe,
    ProbeInfo,
    load_probe,
    save_probe,
)
from vlmscope.version import __version__

WORLD = planted_world(0)


def info_of(probe: BinaryProbe) -> ProbeInfo:
    return ProbeInfo(
        representation="query_token_representation",
        layer=14,
        width=40,
        estimator=type(probe).__name__,
        rows=600,
        model={"name": "tiny", "revision": None, "tensors": {"sha256": "00ff"}},
        calibration=(0.9, -0.1),
        threshold=0.31,
        metrics={"auroc": 0.91},
    )


def fitted(probe: BinaryProbe) -> BinaryProbe:
    return probe.fit(WORLD.vectors, WORLD.truth, groups=WORLD.images)


@pytest.fixture(scope="module")
def logistic() -> BinaryProbe:
    return fitted(LogisticProbe())


@pytest.fixture
def saved(logistic: BinaryProbe, tmp_path: Path) -> Path:
    save_probe(tmp_path / "probe", logistic, info_of(logistic))
    return tmp_path / "probe"


@pytest.mark.first(2)
@pytest.mark.parametrize(
    "make",
    [LogisticProbe, lambda: LogisticProbe(0.01, inner=3), MeanDifferenceProbe,
     lambda: MlpProbe(hidden=(16, 8))],
)  # fmt: skip
def test_a_round_trip_predicts_the_same_bits(
    make: Callable[[], BinaryProbe], tmp_path: Path
) -> None:
    probe = fitted(make())
    info = info_of(probe)
    save_probe(tmp_path / "a" / "probe", probe, info)
    loaded, found = load_probe(tmp_path / "a" / "probe")
    assert type(loaded) is type(probe)
    assert found == info
    assert found.vlmscope == __version__
    assert loaded.get_params() == probe.get_params()
    for vectors in (WORLD.vectors, WORLD.vectors.astype(np.float64), WORLD.vectors[:1]):
        assert np.array_equal(loaded.predict_proba(vectors), probe.predict_proba(vectors))
        assert np.array_equal(loaded.predict(vectors), probe.predict(vectors))


def test_two_files_and_no_pickle(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["probe.json", "weights.safetensors"]
    assert json.loads((saved / "probe.json").read_text())["info"]["layer"] == 14


def test_saving_again_replaces(saved: Path) -> None:
    other = fitted(MeanDifferenceProbe())
    save_probe(saved, other, replace(info_of(other), layer=None, calibration=None))
    loaded, found = load_probe(saved)
    assert isinstance(loaded, MeanDifferenceProbe)
    assert found.layer is None
    assert found.calibration is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 41}, "of width 41, the probe is LogisticProbe of width 40"),
        ({"estimator": "MlpProbe"}, "the description has MlpProbe"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"metrics": {"auroc": float("nan")}}, "metrics is"),
        ({"model": {"object": object()}}, "not plain JSON"),
        ({"model": {"loss": float("inf")}}, "not plain JSON"),
        ({"layer": -1}, "layer is -1"),
        ({"chosen_c": (0.1, -1.0)}, "chosen_c is"),
        ({"chosen_c": [0.1]}, "chosen_c is"),
        ({"rows": True}, "rows is True"),
        ({"images": "most"}, "images is 'most'"),
    ],
)
def test_what_is_not_true_is_not_saved(
    change: dict[str, Any], message: str, logistic: BinaryProbe, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        save_probe(tmp_path / "probe", logistic, replace(info_of(logistic), **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "probe").exists()


def test_labels_must_be_truth_values(tmp_path: Path) -> None:
    probe = LogisticProbe(0.01).fit(WORLD.vectors, np.where(WORLD.truth, "yes", "no"))
    with pytest.raises(InputError, match="not False and True"):
        save_probe(tmp_path, probe, info_of(probe))


def test_a_foreign_probe_is_not_saved(tmp_path: Path, logistic: BinaryProbe) -> None:
    class Other(LogisticProbe):
        pass

    with pytest.raises(InputError, match="Other cannot be saved"):
        save_probe(tmp_path, fitted(Other(0.01)), info_of(logistic))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, logistic: BinaryProbe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_probe(tmp_path / "file" / "probe", logistic, info_of(logistic))


def refuse(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_probe(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_probe_is_said(saved: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "cannot be read")
    (saved / "weights.safetensors").unlink()
    refuse(saved, "cannot be read")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "is not an object"), ("{}", "does not describe a vlmscope probe"),
     ("\udcff", "is not JSON"), ('{"kind": "vlmscope probe"}', "format version None")],
)  # fmt: skip
def test_a_foreign_description_is_refused(text: str, message: str, saved: Path) -> None:
    (saved / "probe.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse(saved, message)


def edit(path: Path, where: str, value: Any) -> None:
    description = json.loads((path / "probe.json").read_text())
    target = description
    *folders, name = where.split(".")
    for folder in folders:
        target = target[folder]
    if value is None:
        del target[name]
    else:
        target[name] = value
    (path / "probe.json").write_text(json.dumps(description))


def test_which_rows_had_images_is_kept_and_unknown_in_earlier_files(
    saved: Path, logistic: BinaryProbe
) -> None:
    save_probe(saved, logistic, replace(info_of(logistic), images="all"))
    assert load_probe(saved)[1].images == "all"
    edit(saved, "info.images", None)
    assert load_probe(saved)[1] == info_of(logistic)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("info.format_version", 2, "format version 2, expected 1"),
        ("info.estimator", "os.system", "'os.system' is not known"),
        ("info.estimator", ["LogisticProbe"], "estimator is"),
        ("info.estimator", "MlpProbe", "parameters"),
        ("info.rows", None, "missing or unknown: rows"),
        ("info.chosen_c", None, "missing or unknown: chosen_c"),
        ("info.extra", 1, "missing or unknown: extra"),
        ("info.width", 39, "arrays"),
        ("info.width", "40", "width is '40'"),
        ("info.calibration", [1.0], "calibration"),
        ("info.calibration", [-1.0, 0.0], "calibration"),
        ("info.calibration", [10**400, 0.0], "calibration"),
        ("info.threshold", "0.5", "threshold is '0.5'"),
        ("info.metrics", [0.9], "metrics is"),
        ("info.chosen_c", 0.1, "chosen_c is 0.1"),
        ("info.images", "most", "images is 'most'"),
        ("info.images", ["all"], "images is"),
        ("info.chosen_c", ["0.1"], "chosen_c is"),
        ("parameters.C", None, "parameters"),
        ("parameters.evil", 1, "parameters"),
        ("weights_sha256", "00", "SHA-256"),
        ("weights_sha256", None, "SHA-256"),
    ],
)
def test_a_tampered_description_is_refused(
    where: str, value: Any, message: str, saved: Path
) -> None:
    edit(saved, where, value)
    refuse(saved, message)


def test_the_penalties_of_the_sweep_are_kept(logistic: BinaryProbe, tmp_path: Path) -> None:
    save_probe(tmp_path, logistic, replace(info_of(logistic), chosen_c=(1e-3, 1e-2, 1e-3)))
    assert load_probe(tmp_path)[1].chosen_c == (1e-3, 1e-2, 1e-3)


@pytest.mark.parametrize("hidden", [(16, 9), 16, ("a", 8), ()])
def test_a_network_of_other_layers_is_refused(hidden: Any, tmp_path: Path) -> None:
    probe = fitted(MlpProbe(hidden=(16, 8), epochs=2))
    save_probe(tmp_path, probe, info_of(probe))
    edit(tmp_path, "parameters.hidden", hidden)
    refuse(tmp_path, "arrays|hidden")


def test_a_flipped_bit_is_refused(saved: Path) -> None:
    data = bytearray((saved / "weights.safetensors").read_bytes())
    data[-3] ^= 1
    (saved / "weights.safetensors").write_bytes(data)
    refuse(saved, "SHA-256")


def with_weights(path: Path, data: bytes) -> None:
    """Replace the weights by somebody who knows about the checksum."""
    (path / "weights.safetensors").write_bytes(data)
    edit(path, "weights_sha256", hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", np.full((1, 40), np.nan), "not finite"),
        ("weights", np.zeros((1, 40), dtype=np.int64), "int64"),
        ("weights", np.zeros((40, 1)), "expected"),
        ("scale", np.zeros(40), "not positive"),
        ("extra", np.zeros(1), "expected"),
    ],
)
def test_wrong_numbers_are_refused(name: str, value: Any, message: str, saved: Path) -> None:
    tensors = load((saved / "weights.safetensors").read_bytes())
    with_weights(saved, save({**tensors, name: value}))
    refuse(saved, message)


def test_a_pickle_is_refused(saved: Path) -> None:
    with_weights(saved, b"\x80\x04\x95 not a safetensors file")
    refuse(saved, "not a safetensors file")
