"""Detectors of hallucinations: published methods, each as a small function, under one protocol.

- ``detector``: a detector as data: paper, formula, what it needs, when it is known, what it costs
- ``registry``: all of them, by name
- ``rows``: what detectors read; ``meaning``, ``nli``: whether two answers mean the same
- ``methods``: scores without a fit, probes, distances and baselines, in grouped folds
- One file for each group: ``no_model``, ``answer``, ``attention``, ``states`` (and ``contrast``, of
  pairs of rows), ``lens``, ``samples``, ``asked``
- ``checks``: a user's own detector: its description, and what its functions return
- ``run``: ``detect``: same rows, same folds, for every detector
- ``evaluate``: metrics, intervals over images, corrected comparisons
- ``results``: what it returns, plain data; ``verdict``: its findings in sentences
- ``missing``: what a run lacks for detectors, and the option that records it
- ``transfer``: detectors trained on one run, evaluated on others
- ``figures``, ``save``: quality against cost and time; everything on disk
"""

from vlmscope.detectors.detector import GROUPS, KNOWN, PASSES, Detector, Paper
from vlmscope.detectors.methods import BestHeads, Distance, Probe, Score
from vlmscope.detectors.registry import DETECTORS
from vlmscope.detectors.results import Detection, DetectorResult
from vlmscope.detectors.rows import Rows
from vlmscope.detectors.run import detect, detect_rows
from vlmscope.detectors.save import SavedDetection, read_detection, save_detection
from vlmscope.detectors.transfer import DetectionTransfer, transfer_detection

__all__ = [
    "DETECTORS",
    "GROUPS",
    "KNOWN",
    "PASSES",
    "BestHeads",
    "Detection",
    "DetectionTransfer",
    "Detector",
    "DetectorResult",
    "Distance",
    "Paper",
    "Probe",
    "Rows",
    "SavedDetection",
    "Score",
    "detect",
    "detect_rows",
    "read_detection",
    "save_detection",
    "transfer_detection",
]
