"""Every function that reads a run takes the run itself, or where it is."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmscope
from fewer_forms import fewer_forms
from labelled_runs import labelled_run
from probe_on_disk import save
from vlmscope.errors import InputError
from vlmscope.risk import find_probe
from vlmscope.schema import Sample
from vlmscope.store import label_sets, label_settings

SPEC = vlmscope.SweepSpec(folds=3, repeats=1, draws=20, permutations=100)
FAST = "question_words"
"""A detector that takes no time."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another labelled run, of other images and questions."""
    vectors = np.random.default_rng(1).standard_normal((40, 8))
    path = tmp_path_factory.mktemp("runs") / "other"
    images = [500 + i for i in range(40)]
    labelled_run(path, [i % 2 == 0 for i in range(40)], vectors, images, on_disk=True, noise=1)
    return path


@pytest.fixture(scope="module")
def found(labelled: Path) -> Any:
    """What a sweep finds, and thereby the test of ``sweep`` with a path."""
    with fewer_forms():
        return vlmscope.sweep(labelled, SPEC)


@pytest.fixture(scope="module")
def detection(labelled: Path) -> Any:
    """What one detector finds."""
    return vlmscope.detect(labelled, FAST, SPEC)


@dataclass(frozen=True)
class Given:
    """What the calls are given."""

    run: Any
    other: Any
    found: Any
    detection: Any
    out: Path


CALLS: dict[str, Callable[[Given], Any]] = {
    "compare": lambda at: vlmscope.compare(at.run, at.other, draws=100)["rows"],
    "compare_labels": lambda at: (
        vlmscope.compare_labels(at.run, "default", "default", draws=100).record()
    ),
    "detect": lambda at: vlmscope.detect(at.run, FAST, SPEC).results,
    "export_run": lambda at: (
        vlmscope.export_run(at.run, str(at.out / "x.npz")).read_bytes()
    ),
    "label": lambda at: vlmscope.label(at.run, name="again"),
    "load_probe": lambda at: vlmscope.load_probe(at.run)[1],
    "open_run": lambda at: vlmscope.open_run(at.run).ids,
    "read_detection": lambda at: vlmscope.read_detection(at.run).verdict,
    "read_labels": lambda at: vlmscope.read_labels(at.run),
    "save_detection": lambda at: (
        vlmscope.save_detection(at.run, at.detection, str(at.out / "detectors")).name
    ),
    "save_sweep": lambda at: (
        vlmscope.save_sweep(at.run, at.found, str(at.out / "probes")).name
    ),
    "sweep": lambda at: repr(vlmscope.sweep(at.run, SPEC)),
    "transfer": lambda at: (
        vlmscope.save_transfer(
            vlmscope.transfer(at.run, [at.other], SPEC, result=at.found), str(at.out / "there")
        ).name
    ),
    "transfer_detection": lambda at: (
        vlmscope.transfer_detection(at.run, at.detection, at.other, SPEC)[0].document()
    ),
    "verify": lambda at: vlmscope.verify(at.run, files=True),
    "write_report": lambda at: vlmscope.write_report(at.run).page.name,
}  # fmt: skip


SLOW = ("sweep", "transfer", "transfer_detection", "detect", "write_report", "compare")
REPEATED = ("sweep", "transfer", "transfer_detection", "compare")
"""What takes seconds, and is called with a path by a fixture or another test too."""


@pytest.mark.first(4)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.exhaustive) if n in REPEATED else n for n in CALLS]
)
def test_a_run_or_its_folder(
    name: str, labelled: Path, other: Path, found: Any, detection: Any, tmp_path: Path
) -> None:
    copy = shutil.copytree(labelled, tmp_path / "run")
    if name == "load_probe":
        vlmscope.save_sweep(copy, found)
    if name == "read_detection":
        vlmscope.save_detection(copy, detection)
    results = []
    for form in (vlmscope.open_run, str) if name in SLOW else (vlmscope.open_run, str, Path):
        out = tmp_path / form.__name__
        out.mkdir()
        results.append(CALLS[name](Given(form(copy), form(other), found, detection, out)))
    assert {repr(result) for result in results} == {repr(results[0])}
    for wrong in (None, 3, ["runs/first"], b"runs"):
        with pytest.raises(InputError, match="expected a run or the path of its folder"):
            CALLS[name](Given(wrong, other, found, detection, tmp_path))


def test_every_function_that_reads_a_run_is_asked() -> None:
    """Also one that is added later."""
    asked = {
        name
        for name in vlmscope.__all__
        if inspect.isfunction(value := getattr(vlmscope, name))
        and any(word in str(inspect.signature(value)) for word in ("AnyRun", "AnySource", "Run |"))
    }
    assert asked - {"extract"} == set(CALLS)  # which continues a run: see test_api_extract


@pytest.mark.exhaustive
def test_one_test_run_need_not_be_in_a_list(labelled: Path, other: Path, found: Any) -> None:
    told = vlmscope.transfer(labelled, other, SPEC, result=found)
    assert len(told.tests) == 1
    assert repr(told) == f"TransferResult('{labelled}', tested on 1 run)"


def test_the_probe_of_a_run(
    tmp_path: Path, labelled: Path, vlm: vlmscope.VisionLanguageModel, samples: list[Sample]
) -> None:
    run = vlmscope.open_run(shutil.copytree(labelled, tmp_path / "run"))
    captures = list(
        vlmscope.capture(samples, vlm, vlmscope.CaptureSpec(layers=2, max_new_tokens=0))
    )
    save(run.path / "probes" / "one", vlm, captures)
    (run.path / "probes" / "results.json").write_text(json.dumps({"selected_probe": "one"}))
    assert find_probe(run) == find_probe(str(run.path)) == run.path / "probes" / "one"
    scorer = vlmscope.RiskScorer(vlm, run)
    again = vlmscope.RiskScorer.load(vlm.name, run, device="cpu", dtype="float32")
    assert scorer.threshold == again.threshold == vlmscope.RiskScorer(vlm, run.path).threshold
    with pytest.raises(InputError, match="expected a run or the path of its folder"):
        vlmscope.RiskScorer(vlm, vlmscope.load_probe(run))  # type: ignore[arg-type]
    assert (label_sets(run), label_settings(run)) == (("default",), label_settings(run.path))
