"""Every representation and layer of a labelled run, probed and set beside the baselines.

source     what can be probed: a run, or files of the original research
grouping   which rows no fold may tear apart, and how a person reads of it
data       what of a run a probe may learn from: scorable rows, truth, images, outside facts
table_columns, columns
           the table's columns, and those to break results down by
research   the same of research files and a CSV of labels
grid       the sweep itself: one matrix in memory at a time
halp_protocol
           the HALP paper's own protocol, for comparison: optimistic
abstaining what leaving the riskiest answers out buys
unknown_facts
           what is not known before the answer, named beside the verdict
by_column  results within a column and for each of its values
penalty    where in the grid the folds chose their penalty
results    its rows and its summary, plain data
saving     on disk: results.parquet, results.json, predictions.parquet, saved probes
agreement  two label sets of a run compared
loading    read back, with the reason where it fits its run no longer
transferring
           what is learnt on one run, judged on others; overlap and targets say what the two share,
           carrying fits and applies, transfer_saving and transfer_verdict tell
comparing  several labelled runs of the same questions, side by side
"""

from vlmscope.sweeps.agreement import Disagreement, LabelAgreement, compare_labels
from vlmscope.sweeps.compare import Comparison, compare, compare_runs
from vlmscope.sweeps.data import ProbeData, probe_data
from vlmscope.sweeps.grid import SweepSpec, sweep
from vlmscope.sweeps.halp_files import LabelTable, read_label_table
from vlmscope.sweeps.load import SavedSweep, read_sweep
from vlmscope.sweeps.results import ProbeResult, SweepResult
from vlmscope.sweeps.save import default_folder, probes_folder, save_sweep
from vlmscope.sweeps.source import check_label_set, is_run, open_source
from vlmscope.sweeps.transfer.run import TransferResult, transfer
from vlmscope.sweeps.transfer.save import save_transfer

__all__ = [
    "Comparison",
    "Disagreement",
    "LabelAgreement",
    "LabelTable",
    "ProbeData",
    "ProbeResult",
    "SavedSweep",
    "SweepResult",
    "SweepSpec",
    "TransferResult",
    "check_label_set",
    "compare",
    "compare_labels",
    "compare_runs",
    "default_folder",
    "is_run",
    "open_source",
    "probe_data",
    "probes_folder",
    "read_label_table",
    "read_sweep",
    "save_sweep",
    "save_transfer",
    "sweep",
    "transfer",
]
