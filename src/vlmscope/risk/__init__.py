"""The risk of a hallucination, told before the first token of the answer is written.

matching   is this the model that the probe was trained on? anything else is refused
scorer     questions in, calibrated risks out, from the prefill alone
finding    the probe to use: a folder of one, or a run that was probed
"""

from vlmscope.risk.probe_of import find_probe
from vlmscope.risk.scorer import Risk, RiskScorer

__all__ = [
    "Risk",
    "RiskScorer",
    "find_probe",
]
