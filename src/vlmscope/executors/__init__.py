"""Executors: where the work runs. The stages do not know."""

from vlmscope.executors.job import extract
from vlmscope.executors.local import Observer, Summary, run_plan
from vlmscope.executors.plan import Outline, Plan, make_plan
from vlmscope.executors.ranks import share_of
from vlmscope.executors.record import describe_model
from vlmscope.executors.request import Request

__all__ = [
    "Observer",
    "Outline",
    "Plan",
    "Request",
    "Summary",
    "describe_model",
    "extract",
    "make_plan",
    "run_plan",
    "share_of",
]
