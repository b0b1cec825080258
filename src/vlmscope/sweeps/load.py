"""Loading of a saved sweep, with the reason if it is stale.

Labels are replaced and rows are added while ``probes`` is unchanged. Results on other labels or
other rows must not be shown as if they were current, so a saved sweep is compared with its run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmscope.errors import InputError, StoreError, one_line, shortened
from vlmscope.jsontext import load_json
from vlmscope.metrics import measure
from vlmscope.probes.baselines import JOINT
from vlmscope.shown import count
from vlmscope.store import DEFAULT, Run, as_run, read_document, read_labels, reading
from vlmscope.sweeps.abstaining import abstaining_error
from vlmscope.sweeps.by_column import columns_error
from vlmscope.sweeps.evaluation import JOINT_AND_PROBE, QUESTION_ONLY
from vlmscope.sweeps.grouping import comparable
from vlmscope.sweeps.named import result_named
from vlmscope.sweeps.results import ProbeResult
from vlmscope.sweeps.save import (
    PREDICTIONS,
    PROBES,
    RESULTS,
    probes_folder,
    repeat_prefix,
)
from vlmscope.sweeps.source import LABEL_SET, option_of_set
from vlmscope.sweeps.splitting import Stacked, stacked
from vlmscope.sweeps.verdict import Verdict, verdict_in

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped,unused-ignore]


_SUMMARY: Mapping[str, type] = {
    "run_id": str,
    "rows": int,
    "unscorable": int,
    "images": int,
    "hallucinated": int,
    "settings": dict,
    "best_baseline": str,
    "chosen": dict,
    "verdict": list,
    "results": list,
    "label_set": str,
    "left_out": list,
    "compared": str,
    "group_by": str,
    "abstaining": dict,
}
"""Required fields of a summary, and their types."""

_ROW = (
    *("name", "title", "kind", "known", "representation", "layer", "estimator"),
    *("auroc", "auroc_low", "auroc_high", "auprc", "brier", "ece", "recall_at_5"),
    *("above_baseline", "above_baseline_low", "above_baseline_high"),
)
"""Required fields of a result."""

_GAINS = ("above_joint", "above_joint_low", "above_joint_high")
"""Required fields of a result: its gain over the joint baseline."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedSweep:
    """A sweep written by ``save_sweep``."""

    summary: Mapping[str, Any]
    """The document ``results.json``."""
    results: tuple[ProbeResult, ...]
    """Its results, in the order of the sweep."""
    predictions: pd.DataFrame
    """A row for each probed question: ``id``, ``hallucinated``, ``image_group``,
    ``group``, ``fold`` and ``risk/<name>`` for each result; ``repeat_2/fold`` and so on for further
    repeats.
    """
    stale: str
    """Why it is stale, as a phrase; empty if it is current."""

    def __repr__(self) -> str:
        stale = f", stale: {self.stale}" if self.stale else ""
        rows = count(len(self.predictions), "row")
        return (
            f"SavedSweep({rows}, {count(len(self.results), 'result')}, label set "
            f"{self.label_set!r}, selected: {self['selected'].shown_auroc}{stale})"
        )

    def __getitem__(self, name: str) -> ProbeResult:
        """Return a result by name.

        Raises:
            InputError: No result has that name.
        """
        return result_named(self.results, name)

    def __iter__(self) -> Iterator[ProbeResult]:
        return iter(self.results)

    def __contains__(self, name: object) -> bool:
        return any(row.name == name for row in self.results)

    @property
    def verdict(self) -> Verdict:
        """The findings of the sweep, in sentences."""
        return verdict_in(self.summary)

    @property
    def truth(self) -> NDArray[np.bool_]:
        """True where the answer was labelled a hallucination, ``[N]``."""
        return np.asarray(self.predictions["hallucinated"], dtype=bool)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Number of each row's group, ``[N]``: by default its image."""
        return np.asarray(self.predictions["group"], dtype=np.int64)

    @property
    def label_set(self) -> str:
        """Name of the label set that was probed."""
        return str(self.summary[LABEL_SET])

    @property
    def repeats(self) -> int:
        """Number of splits into folds."""
        found = self.summary["settings"].get("repeats", 1)
        return found if isinstance(found, int) and 0 < found <= self.predictions.shape[1] else 1

    @property
    def folds(self) -> NDArray[np.int64]:
        """Number of the fold in which each row was tested in the first repeat, ``[N]``."""
        return np.asarray(self.predictions["fold"], dtype=np.int64)

    def risk(self, name: str) -> NDArray[np.float64]:
        """Return the out-of-fold risks behind a result in the first repeat, ``[N]``."""
        return np.asarray(self.predictions[f"risk/{name}"], dtype=np.float64)

    def stacked(self, *names: str) -> Stacked:
        """Return the concatenated rows of all repeats, with the risks of these names."""
        table, starts = self.predictions, list(map(repeat_prefix, range(self.repeats)))
        fold_of = np.stack([table[f"{start}fold"].to_numpy(np.int64) for start in starts])
        risks = {
            name: np.stack([table[f"{start}risk/{name}"].to_numpy(np.float64) for start in starts])
            for name in names
        }
        return stacked(self.truth, self.groups, fold_of, risks)


def read_sweep(run: Run | str | PathLike[str], labels: str = DEFAULT) -> SavedSweep | None:
    """Return the sweep that ``vlmscope probe`` saved in a run, or None.

    Args:
        run: The run, or its folder.
        labels: The label set that was probed.

    Raises:
        StoreError: A file is damaged, or the files are of two sweeps.
    """
    run = as_run(run)
    folder = run.path / probes_folder(labels)
    summary = _read_summary(folder / RESULTS, run)
    if summary is None:
        return None
    try:
        results = tuple(map(ProbeResult.from_dict, summary["results"]))
    except ValueError as error:
        raise _damaged(folder / RESULTS, str(error), run) from error
    found = SavedSweep(summary, results, _read_predictions(folder / PREDICTIONS, run), "")
    if lack := _predictions_error(found):
        raise _damaged(folder / PREDICTIONS, lack, run)
    return replace(found, stale=_stale(found, run, labels))


def saved_document(path: Path, damaged: Callable[[str], StoreError]) -> Any:
    """Return what a JSON document contains; None if there is no file.

    Args:
        path: The document.
        damaged: What is wrong → the error to raise.

    Raises:
        StoreError: It cannot be read, or is not JSON.
    """
    try:
        found = load_json(read_document(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise damaged(f"not JSON ({one_line(error)})") from error
    if found is None:
        raise damaged("is null")
    return found


def of_another(saved: Mapping[str, Any], run: Run, labels: str) -> str:
    """Return why saved results are of another run or label set, as a phrase; empty if not."""
    if saved["run_id"] != run.manifest.run_id:
        return f"they are of another run (run_id {str(saved['run_id'])[:8]}…)"
    if saved[LABEL_SET] != labels:
        return f"they are of the label set {shortened(str(saved[LABEL_SET]))!r}, not {labels!r}"
    return ""


def _read_summary(path: Path, run: Run) -> dict[str, Any] | None:
    """Return the validated summary; None if there is no file."""
    found = saved_document(path, lambda finding: _damaged(path, finding, run))
    if found is None:
        return None
    if lack := _summary_error(found):
        raise _damaged(path, lack, run)
    summary: dict[str, Any] = found
    return summary


def _summary_error(found: Any) -> str:
    """Return what is missing in a summary, or an empty text."""
    if not isinstance(found, dict):
        return "is not an object"
    for name, kind in _SUMMARY.items():
        if not isinstance(found.get(name), kind):
            return f"has no {name}"
    results = found["results"]
    for name in _ROW:
        if not all(isinstance(row, dict) and name in row for row in results):
            return f"has a result without {name}"
    if not all(isinstance(row["name"], str) for row in results):
        return "has a result whose name is no text"
    names = {row["name"] for row in results}
    needed = ["selected", "combined", QUESTION_ONLY, found["best_baseline"]]
    needed += [JOINT, JOINT_AND_PROBE]
    if lack := next((f"has no result {name!r}" for name in needed if name not in names), ""):
        return lack
    for each in found["left_out"]:
        if not isinstance(each, dict) or not isinstance(each.get("count"), int):
            return "has something left out without a count"
    lacks = columns_error(found.get("by_column", {})), abstaining_error(found["abstaining"])
    return next(filter(None, lacks), "") or _gains_error(results)


def _gains_error(results: Sequence[Mapping[str, Any]]) -> str:
    """Return what is missing in the gains over the joint baseline, or an empty text."""
    for row in results:
        if not isinstance(row.get("found_nothing"), bool) or not row.keys() >= set(_GAINS):
            return f"has the result {row['name']!r} without its gain"
        if row["name"] == JOINT_AND_PROBE and not all(
            isinstance(row[name], int | float) for name in _GAINS
        ):
            return f"lacks the gain of {JOINT_AND_PROBE}"
    return ""


def _read_predictions(path: Path, run: Run) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(path) as file:
            return pq.read_table(file).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, f"cannot be read ({one_line(error)})", run) from error


def _predictions_error(found: SavedSweep) -> str:
    """Return what is missing in the predictions of what the summary lists, or an empty text."""
    starts = list(map(repeat_prefix, range(found.repeats)))
    risks = [f"{start}risk/{row.name}" for start in starts for row in found.results]
    numbered = [f"{start}fold" for start in starts]
    for name in ("id", "hallucinated", "image_group", "group", *numbered, *risks):
        if name not in found.predictions:
            return f"has no column {name}"
    if lack := _types_error(found.predictions, ("image_group", "group", *numbered), risks):
        return lack
    numbers = found.predictions[risks].to_numpy(np.float64)
    if not ((numbers >= 0) & (numbers <= 1)).all():  # NaN is neither
        return "has a risk that is not a number from 0 to 1"
    # A kill between writing the two files leaves predictions and summary of different sweeps.
    stored = found["selected"].auroc
    rows = found.stacked("selected")
    same = (
        len(found.predictions) == found.summary["rows"]
        and int(found.truth.sum()) == found.summary["hallucinated"]
        and abs(measure(rows.truth, rows.risks["selected"], rows.folds).auroc - stored) < 1e-6
    )
    return "" if same else f"is from another sweep than {RESULTS}"


def _types_error(table: pd.DataFrame, whole: Iterable[str], risks: Iterable[str]) -> str:
    """Return which cells of predictions are of another type, or an empty text.

    Args:
        table: The predictions.
        whole: Columns of whole numbers.
        risks: Columns of risks.
    """
    ids = table["id"]
    if not all(isinstance(id_, str) for id_ in ids) or ids.duplicated().any():
        return "has an id that is not text, or stands more than once"
    kinds = {"hallucinated": "b"} | dict.fromkeys(whole, "iu") | dict.fromkeys(risks, "fiu")
    for name, kind in kinds.items():
        if table[name].dtype.kind not in kind:
            return f"has a column {name} of the type {table[name].dtype}"
    return ""


def _stale(found: SavedSweep, run: Run, name: str) -> str:
    """Return why a sweep is stale, or an empty text."""
    summary = found.summary
    if why := of_another(summary, run, name):
        return why
    then = summary["rows"] + _left_out(summary)
    if then != len(run):
        return f"the run had {then:,} rows when they were trained and has {len(run):,} now"
    try:
        labels = read_labels(run.path, name)
    except InputError:
        return "the labels that they were trained on no longer exist"
    trained_on = dict(zip(found.predictions["id"], found.truth.tolist(), strict=True))
    if strange := trained_on.keys() - set(run.ids):
        return f"they were trained on {count(len(strange), 'row')} that the run does not have"
    fit = comparable([has for block in run.blocks(vectors=False) for has in block.has_image])
    probed = [id_ for id_, one in zip(run.ids, fit, strict=True) if one and id_ in labels]
    now = {id_: labels[id_].hallucinated for id_ in probed}
    other = sum(trained_on.get(id_) != now.get(id_) for id_ in trained_on.keys() | now.keys())
    return f"{other:,} of {len(run):,} rows have another label now" if other else ""


def _left_out(summary: Mapping[str, Any]) -> int:
    """Return how many rows of the run a sweep left out."""
    return sum(each["count"] for each in summary["left_out"] if each.get("what") == "row")


def _damaged(path: Path, finding: str, run: Run) -> StoreError:
    option = option_of_set("--labels", path.parent.name.removeprefix(f"{PROBES}-"))
    option = "" if path.parent.name == PROBES else option
    return StoreError(f"{path}: damaged, {finding}; run 'vlmscope probe {run.path}{option}' again")
