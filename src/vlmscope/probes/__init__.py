"""Probes: does a hidden state know that the answer is hallucinated? Arrays in, arrays out.

- ``folds``: folds that keep an image on one side; rows that show the same image
- ``copies``, ``alignment``: which images are near-copies of each other, told from thumbnails
- ``base``: scikit-learn's contract, shared; ``linear``, ``mlp``: the probes
- ``crossfit``: out-of-fold predictions with the penalty chosen inside training
- ``candidates``: the same for ordinary classifiers, the best of several
- ``baselines``: what can be predicted without hidden states
- ``select``: the best candidate, or all together, without looking at the test rows
- ``permutation``: labels permuted among the rows
- ``blocks``, ``solver``: fifty regressions on masks of the same rows at once
- ``halp_network``: the network of the HALP paper's code
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
