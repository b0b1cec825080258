"""Executors: where the work runs. The stages do not know."""

from vlmscope.executors.local import Observer, Summary, run_plan
from vlmscope.executors.manifest import describe_model
from vlmscope.executors.plan import Outline, Plan, make_plan
from vlmscope.executors.request import Request, share_of

__all__ = [
    "Observer",
    "Outline",
    "Plan",
    "Request",
    "Summary",
    "describe_model",
    "make_plan",
    "run_plan",
    "share_of",
]
