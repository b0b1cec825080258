"""Every representation and layer of a labelled run, probed and set beside the baselines.

data       what of a run a probe may learn from: scorable rows, truth, images, outside facts
grid       the sweep itself: one matrix in memory at a time
results    its rows and its summary, plain data
saving     on disk: results.parquet, results.json, predictions.parquet, saved probes
"""

from vlmscope.sweep.data import ProbeData, probe_data
from vlmscope.sweep.grid import SweepSpec, sweep
from vlmscope.sweep.results import ProbeResult, SweepResult
from vlmscope.sweep.saving import save_sweep

__all__ = [
    "ProbeData",
    "ProbeResult",
    "SweepResult",
    "SweepSpec",
    "probe_data",
    "save_sweep",
    "sweep",
]
