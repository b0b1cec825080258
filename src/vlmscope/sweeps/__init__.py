"""Sweeps: probes for every representation and layer of a labelled run, compared with baselines.

- ``source``: what can be probed: a run, or files in the HALP layout (``halp_files``)
- ``data``: the rows, their labels and the inputs of the baselines
- ``grouping``: which rows show the same image
- ``splitting``: folds and the groups that they keep together
- ``run``: the sweep itself, one matrix in memory at a time
- ``evaluation``: from risks to metrics, intervals and tests; ``calibration``: log-odds of fits
- ``chance``: permutation tests of the search through layers
- ``by_column``: results within a column of the table and for each of its values
- ``halp_protocol``: the HALP paper's own protocol, for comparison (optimistic)
- ``results``: rows and summary, plain data; ``named``: found by names; ``save`` and ``load``: on
  disk
- ``verdict``: the findings of a sweep, in sentences; ``abstaining``, ``missing_inputs``: two parts
  of it
- ``compare``: labelled runs side by side; ``agreement``: two label sets of one run
- ``transfer/``: probes trained on one run, evaluated on others
"""

from vlmscope.sweeps.agreement import Disagreement, LabelAgreement, compare_labels
from vlmscope.sweeps.compare import Comparison, compare, compare_runs
from vlmscope.sweeps.data import ProbeData, probe_data
from vlmscope.sweeps.halp_files import LabelTable, read_label_table
from vlmscope.sweeps.load import SavedSweep, read_sweep
from vlmscope.sweeps.results import ProbeResult, SweepResult
from vlmscope.sweeps.run import SweepSpec, sweep
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
