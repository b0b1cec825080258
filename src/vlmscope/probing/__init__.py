"""Every representation and layer of a labelled run, probed and set beside the baselines.

source     what can be probed: a run, or files of the original research
grouping   which rows no fold may tear apart, and how a person reads of it
data       what of a run a probe may learn from: scorable rows, truth, images, outside facts
research   the same of research files and a CSV of labels
grid       the sweep itself: one matrix in memory at a time
results    its rows and its summary, plain data
saving     on disk: results.parquet, results.json, predictions.parquet, saved probes
agreement  two label sets of a run compared
loading    read back, with the reason where it fits its run no longer
"""

from vlmscope.probing.agreement import Disagreement, LabelAgreement, compare_labels
from vlmscope.probing.data import ProbeData, probe_data
from vlmscope.probing.grid import SweepSpec, sweep
from vlmscope.probing.loading import SavedSweep, read_sweep
from vlmscope.probing.research import LabelTable, read_label_table
from vlmscope.probing.results import ProbeResult, SweepResult
from vlmscope.probing.saving import default_folder, probes_folder, save_sweep
from vlmscope.probing.source import check_label_set, is_run, open_source

__all__ = [
    "Disagreement",
    "LabelAgreement",
    "LabelTable",
    "ProbeData",
    "ProbeResult",
    "SavedSweep",
    "SweepResult",
    "SweepSpec",
    "check_label_set",
    "compare_labels",
    "default_folder",
    "is_run",
    "open_source",
    "probe_data",
    "probes_folder",
    "read_label_table",
    "read_sweep",
    "save_sweep",
    "sweep",
]
