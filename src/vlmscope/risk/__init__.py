"""The risk of a hallucination, predicted before the first token of the answer is written.

- ``probe_of``: which probe is meant; a model that it was not trained on is refused
- ``scorer``: questions in, calibrated risks out, from the prefill alone
"""

from vlmscope.risk.probe_of import find_probe
from vlmscope.risk.scorer import Risk, RiskScorer

__all__ = [
    "Risk",
    "RiskScorer",
    "find_probe",
]
