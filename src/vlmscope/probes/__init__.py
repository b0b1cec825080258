"""Probes on hidden states, and the baselines that they have to beat. Arrays in, arrays out.

- ``folds``: folds that keep images together; groups of rows with the same image
- ``copies``, ``alignment``: detection of near-copies of images by their thumbnails
- ``base``: scikit-learn's estimator interface; ``linear``, ``mlp``: the probes
- ``crossfit``: out-of-fold predictions with the penalty chosen inside training
- ``candidates``: the same for any classifiers, choosing the best of several
- ``features``: features of what is known before the answer; ``baselines``: predictions from them
- ``select``: the best candidate, or all combined, chosen without the test rows
- ``permutation``: labels permuted among the rows
- ``blocks``, ``solver``: many regressions on subsets of the same rows at once
- ``halp_network``: the network of the HALP research code
- ``storage``: a probe on disk: safetensors and JSON
"""

from vlmscope.probes.base import BinaryProbe
from vlmscope.probes.copies import near_copies
from vlmscope.probes.crossfit import GRID, CrossFit, crossfit_estimator, crossfit_logistic
from vlmscope.probes.folds import Fold, FoldError, grouped_folds, image_groups, largest_count
from vlmscope.probes.linear import LogisticProbe, MeanDifferenceProbe
from vlmscope.probes.mlp import MlpProbe
from vlmscope.probes.select import Combined, Selected, combine, crossfit_select
from vlmscope.probes.storage import ProbeInfo, load_probe, save_probe

__all__ = [
    "GRID",
    "BinaryProbe",
    "Combined",
    "CrossFit",
    "Fold",
    "FoldError",
    "LogisticProbe",
    "MeanDifferenceProbe",
    "MlpProbe",
    "ProbeInfo",
    "Selected",
    "combine",
    "crossfit_estimator",
    "crossfit_logistic",
    "crossfit_select",
    "grouped_folds",
    "image_groups",
    "largest_count",
    "load_probe",
    "near_copies",
    "save_probe",
]
