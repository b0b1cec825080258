"""The risk of a hallucination, predicted before the first token of the answer is generated.

- ``probe_of``: find the probe, and check that the model is the one it was trained on
- ``scorer``: calibrated risks of questions, from the prefill alone
"""

from vlmscope.risk.probe_of import find_probe
from vlmscope.risk.scorer import Risk, RiskScorer

__all__ = [
    "Risk",
    "RiskScorer",
    "find_probe",
]
