"""Saving of a sweep, in the run's folder ``probes`` or another: tables, a summary, and probes.

results.parquet      a row for each probe, selection, baseline and control
predictions.parquet  a row for each question: truth, fold, image group, every out-of-fold risk, and
                     the further columns of a label file
results.json         the same numbers as the table, the settings, the choices, in one document
<probe>/             the selected probe and the best layer of each representation, trained on all
                     rows and calibrated
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError, StoreError, naming_arguments, shortened
from vlmscope.jsontext import load_json
from vlmscope.metrics import risk_coverage, threshold_at
from vlmscope.positions import REPRESENTATIONS, VISION_ONLY
from vlmscope.probes import LogisticProbe, ProbeInfo
from vlmscope.probes.storage import DESCRIPTION, PROBE_FILES, probe_files
from vlmscope.store import (
    DEFAULT,
    FOLDERS,
    alone,
    as_path,
    is_child_name,
    is_remote,
    label_sets,
    make_child_folder,
    make_folder,
    parquet_bytes,
    publish_together,
    read_document,
    remove_folder,
)
from vlmscope.sweeps.abstaining import abstaining_document
from vlmscope.sweeps.by_column import column_document
from vlmscope.sweeps.calibration import scale_of
from vlmscope.sweeps.data import ProbeData
from vlmscope.sweeps.missing_inputs import missing_inputs
from vlmscope.sweeps.results import ProbeResult, SweepResult, without_nan
from vlmscope.sweeps.run import known_of, vectors
from vlmscope.sweeps.source import (
    LABEL_SET,
    AnySource,
    Source,
    as_source,
    is_run,
    model_of,
    run_id_of,
)
from vlmscope.sweeps.verdict import verdict_document, verdict_of
from vlmscope.version import __version__

PROBES = "probes"
"""Folder in a run, or next to HALP files."""

RESULTS, PREDICTIONS = "results.json", "predictions.parquet"
"""The summary, which is written last, and the risks, in that folder."""

_PLACE = re.compile(
    rf"({'|'.join(map(re.escape, (VISION_ONLY, *REPRESENTATIONS.values())))})(-layer_\d+)?"
)
"""Names of the folders that a sweep creates for its probes."""


COMPARED = "within folds"
"""The answers that are ranked against each other, in results.json."""


def default_folder(path: Path, labels: str = DEFAULT) -> Path:
    """Return the default folder for the sweep of a source: in its folder, or next to its file.

    Each label set of a run has its own folder: ``probes``, ``probes-human``.

    >>> default_folder(Path("data/gemma3_part_001.h5")).as_posix()
    'data/gemma3_part_001-probes'
    >>> probes_folder("human")
    'probes-human'
    """
    if path.is_dir():
        return path / probes_folder(labels)
    return path.with_name(f"{path.stem}-{PROBES}")


def probes_folder(labels: str = DEFAULT) -> str:
    """Return the name of a run's folder for the probes of a label set."""
    return PROBES if labels == DEFAULT else f"{PROBES}-{labels}"


@naming_arguments(out="folder")
def save_sweep(
    source: AnySource, result: SweepResult, folder: str | PathLike[str] | None = None
) -> Path:
    """Write all files and return the folder.

    Args:
        source: The probed source, or its path.
        result: The results.
        folder: The folder; by default ``default_folder``.

    Raises:
        InputError: The folder contains files that no sweep wrote, or the probes of another label
            set.
        StoreError: Writing fails.
    """
    source = as_source(source)
    labels = str(result.data.origin.get(LABEL_SET, DEFAULT))
    own = default_folder(source.path, labels)
    folder = own if folder is None else as_path(folder)
    check_outside(folder, source.path, labels)
    check_folder(folder, result.data.origin.get(LABEL_SET))
    _make_folder(folder, may_be_link=folder != own)
    with alone(folder, "probes", "saving probes here"):
        older = _older_probes(folder)
        files: dict[Path, bytes] = {}
        saved = []
        for row in _kept(result):
            entry, made = _fitted_probe(source, result, row, folder)
            saved.append(entry)
            files |= made
        files |= {
            folder / "results.parquet": parquet_bytes(_table(result)),
            folder / PREDICTIONS: parquet_bytes(_predictions(result)),
            folder / RESULTS: _document(source, result, saved),
        }
        if folder != own:
            _check_ours(folder, files)
        for entry in saved:
            make_child_folder(folder, entry["folder"])
        publish_together(files)
        for name in older - {entry["folder"] for entry in saved}:
            remove_folder(folder, name, files=PROBE_FILES)
    return folder


def _make_folder(folder: Path, *, may_be_link: bool) -> None:
    """Create the folder if it is missing.

    Raises:
        StoreError: It cannot be created, or is a symbolic link where none is expected.
    """
    try:
        make_folder(folder, parents=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be created: {error.strerror or error}; give another --out"
        ) from error
    if folder.is_symlink() and not may_be_link:
        raise StoreError(
            f"{folder}: is a symbolic link, where a folder is expected; remove the link, or give "
            "--out"
        )


def _document(source: Source, result: SweepResult, saved: list[dict[str, Any]]) -> bytes:
    """Return the bytes of ``results.json``."""
    summary = (
        _summary(result)
        | verdict_document(verdict_of(result))
        | {"run_id": run_id_of(source), "probes": saved}
        | {"selected_probe": _folder_name(result.selected_probe)}
    )
    return (json.dumps(without_nan(summary), indent=2, allow_nan=False) + "\n").encode()


def _table(result: SweepResult) -> dict[str, list[Any]]:
    """Return the results as columns."""
    flat = [row.to_dict() for row in result.rows]
    return {name: [row[name] for row in flat] for name in flat[0]}


def _predictions(result: SweepResult) -> dict[str, list[Any]]:
    """Return each question's label, metadata and risks as columns."""
    metadata = {f"metadata/{name}": list(cells) for name, cells in result.data.metadata.items()}
    return risk_columns(result.data, result.fold_of, result.risks, metadata)


def risk_columns(
    data: ProbeData,
    fold_of: NDArray[np.int64],
    risks: Mapping[str, NDArray[np.float64]],
    more: Mapping[str, list[Any]] | None = None,
) -> dict[str, list[Any]]:
    """Return each question's label and risks as columns, with prefixes for further repeats.

    Args:
        data: The rows.
        fold_of: The fold of each row in each repeat, ``[R, N]``.
        risks: Name → risk of each row in each repeat, ``[R, N]``.
        more: Further columns, before those of the repeats.
    """
    columns: dict[str, list[Any]] = {
        "id": list(data.ids),
        "hallucinated": data.truth.tolist(),
        "image_group": data.grouping.groups.tolist(),
        "group": data.groups.tolist(),
        **(more or {}),
    }
    for repeat, folds in enumerate(fold_of):
        start = repeat_prefix(repeat)
        columns[f"{start}fold"] = folds.tolist()
        for name, risk in risks.items():
            columns[f"{start}risk/{name}"] = risk[repeat].tolist()
    return columns


def is_document(path: Path, kind: str) -> bool:
    """Return whether a file is a document of vlmscope of this kind.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        found = load_json(read_document(path).decode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("kind") == kind


def repeat_prefix(repeat: int) -> str:
    """Return the prefix of the columns of a repeat.

    >>> repeat_prefix(0), repeat_prefix(1)
    ('', 'repeat_2/')
    """
    return f"repeat_{repeat + 1}/" if repeat else ""


def _summary(result: SweepResult) -> dict[str, Any]:
    """Return the document of the sweep."""
    data = result.data
    answered = result.stacked("selected")
    return {
        "vlmscope_version": __version__,
        **data.origin,
        "rows": len(data.truth),
        "unscorable": data.unscorable,
        "unlabelled": data.unlabelled,
        "left_out": [asdict(each) for each in data.left_out],
        "not_known": list(missing_inputs(data.baseline_inputs)),
        "images": data.grouping.images,
        "image_groups": len(np.unique(data.grouping.groups)),
        "groups": len(np.unique(data.groups)),
        "images_by": data.grouped_by,
        "hallucinated": int(data.truth.sum()),
        "settings": dict(result.settings),
        "best_baseline": result.best_baseline,
        "chosen": {name: list(layers) for name, layers in result.chosen.items()},
        "grid_edge": result[result.selected_probe].grid_edge,
        "compared": COMPARED,
        "within_category": {name: asdict(w) for name, w in result.within_category.items()},
        "within_category_gaps": [
            {"of": each.of, "over": each.over, **asdict(each.gap)} for each in result.within_gaps
        ],
        **column_document(result.by_column),
        **abstaining_document(result.abstaining),
        "tests": _tests(result),
        "permutations": None if result.chance is None else result.chance.to_dict(),
        "recognition": None if result.recognition is None else asdict(result.recognition),
        "group_by": data.split_by,
        "rows_without_group": 0 if data.without_value is None else int(data.without_value.sum()),
        "novelty": None if result.novelty is None else asdict(result.novelty),
        "aurc": risk_coverage(answered.truth, answered.risks["selected"], answered.folds).aurc,
        "results": [row.to_dict() for row in result.rows],
        **(result.halp.document() if result.halp is not None else {"halp": []}),
    }


def _tests(result: SweepResult) -> list[dict[str, Any]]:
    """Return the comparisons of the verdict."""
    return [
        {
            "of": t.of,
            "over": t.over,
            "within_category": t.within_category,
            **asdict(t.gap),
            "p_holm": t.p_holm,
        }
        for t in result.tests
    ]


def _kept(result: SweepResult) -> Iterator[ProbeResult]:
    """Yield the logistic probes to save: the selected one, and the best of each representation."""
    probes = [row for row in result.rows if row.kind == "probe" and row.estimator == "logistic"]
    ranked = sorted(probes, key=lambda row: -row.auroc)
    seen: set[str | None] = set()
    for row in ranked:
        if row.name == result.selected_probe or row.representation not in seen:
            seen.add(row.representation)
            yield row


def _fitted_probe(
    source: Source, result: SweepResult, row: ProbeResult, folder: Path
) -> tuple[dict[str, Any], dict[Path, bytes]]:
    """Train on all rows, and calibrate on out-of-fold predictions of the same kind of fit.

    Returns:
        The probe's entry in the summary, and its files.
    """
    data, representation = result.data, row.representation or VISION_ONLY
    matrix = vectors(source, data, representation, row.layer)
    probe = LogisticProbe().fit(matrix, data.truth, groups=data.groups)
    folds = int(result.settings["folds"])
    platt, risk = scale_of(probe, matrix, data.truth, data.groups, folds)
    threshold = float(threshold_at(data.truth, risk))
    info = ProbeInfo(
        representation=representation,
        layer=row.layer,
        width=matrix.shape[1],
        estimator="LogisticProbe",
        rows=len(data.truth),
        model=model_of(source),
        calibration=(platt.a, platt.b),
        threshold=threshold,
        chosen_c=row.chosen_c,
        images=_images(data),
        metrics={
            # The AUROC given for the selected probe is that of the selection, which used none of
            # the rows it was tested on.
            **_auroc_of(result, row),
            "prevalence": row.prevalence,
            "recall": float((risk[data.truth] > threshold).mean()),
            "false_alarms": float((risk[~data.truth] > threshold).mean()),
        },
    )
    name = _folder_name(row.name)
    files = probe_files(folder / name, probe, info)
    return {"folder": name, "known": known_of(representation)}, files


def _images(data: ProbeData) -> Literal["all", "some", "none"] | None:
    """Return how many of the training rows had an image; None if the source does not record it."""
    numbers = data.baseline_inputs.num_images
    if numbers is None:
        return None
    return "all" if (numbers > 0).all() else "some" if (numbers > 0).any() else "none"


def _auroc_of(result: SweepResult, row: ProbeResult) -> dict[str, float]:
    """Return the AUROC in the description of a saved probe; none if its risk is constant."""
    source = result["selected"] if row.name == result.selected_probe else row
    name = "auroc" if source is not row else "auroc_of_best_layer"
    return {} if source.found_nothing else {name: source.auroc}


def _folder_name(name: str) -> str:
    return name.replace("/", "-")


def _older_probes(folder: Path) -> set[str]:
    """Return the folders of probes listed by the sweep saved here before: no others are ours.

    Its summary may be untrusted: only names that a sweep gives, of folders with a probe, count.
    """
    try:
        found = json.loads(read_document(folder / RESULTS).decode())["probes"]
        names = {probe["folder"] for probe in found}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    ours = (name for name in names if is_child_name(name) and _PLACE.fullmatch(name))
    return {name for name in ours if _holds_probe(folder / name)}


def _holds_probe(folder: Path) -> bool:
    """Return whether a path is a folder, not a link to one, with a probe in it."""
    linked = not is_remote(folder) and folder.is_symlink()
    return not linked and (folder / DESCRIPTION).is_file()


def check_outside(folder: Path, source: Path, labels: str = DEFAULT) -> None:
    """Raise for a folder that is a run, or a part of one used for something else.

    In the probed run, a separate folder is allowed for a sweep; in another run none is.

    Args:
        folder: The folder to write the sweep to; it need not exist.
        source: The probed source.
        labels: The label set that is probed.

    Raises:
        InputError: The folder is a run or a part of one.
    """
    folder, source = _absolute(folder), _absolute(source)
    if folder == source and not is_run(source):
        return  # HALP files, with nothing that a sweep could overwrite
    parents = (source,) if is_remote(folder) else (folder, *folder.parents)
    run = next(
        (parent for parent in parents if folder.is_relative_to(parent) and is_run(parent)), None
    )
    if run is None:
        return
    inside = folder.relative_to(run).parts
    if not inside:
        raise InputError(f"--out {folder}: is a run, with files of its own; give another folder")
    others = {probes_folder(name) for name in (DEFAULT, *label_sets(run))} - {probes_folder(labels)}
    taken = {name.casefold() for name in (FOLDERS - {PROBES}) | others}
    if run != source or len(inside) > 1 or inside[0].casefold() in taken:
        raise InputError(f"--out {folder}: is a part of the run {run}; give another folder")


def _absolute(path: Path) -> Path:
    """Return the path with links resolved; object stores have none."""
    return path if is_remote(path) else path.resolve()


def check_folder(folder: Path, labels: str | None) -> None:
    """Raise for a folder with the probes of another label set.

    Args:
        folder: The folder, which need not exist.
        labels: The label set that was probed; None for HALP files, which have no sets.

    Raises:
        InputError: It contains such probes.
    """
    try:
        found = json.loads(read_document(folder / RESULTS).decode())
    except (OSError, ValueError, RecursionError):
        return
    there = found.get(LABEL_SET) if isinstance(found, dict) else None
    if labels is not None and isinstance(there, str) and there != labels:
        raise InputError(
            f"{folder}: contains the probes of the label set {shortened(there)!r}, and these are "
            f"of {labels!r}; give another --out"
        )


def _check_ours(folder: Path, files: Iterable[Path]) -> None:
    """Raise if files that no sweep wrote would be replaced, in a folder given by the user.

    Args:
        folder: The folder.
        files: The files to write.

    Raises:
        InputError: There is such a file; without a summary of a sweep, no file is from one.
    """
    path = folder / RESULTS
    if path.exists():
        try:
            summary = json.loads(read_document(path).decode())
        except (ValueError, RecursionError):
            summary = None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not isinstance(summary, dict) or not summary.keys() >= {"vlmscope_version", "results"}:
            raise InputError(f"{path}: is not a result of vlmscope probe; give another --out")
    elif taken := next((file for file in files if file.exists()), None):
        raise InputError(f"{taken}: exists without a sweep in the same folder; give another --out")
