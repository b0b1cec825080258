"""Executors run a capture, in this process or on a cluster. The stages are independent of them.

- ``request``: the arguments of the user; ``plan``: all checks before the first row
- ``measuring``: the image tokens of some rows, for the expected size of a run
- ``manifest``: the record of the run for its folder
- ``pending``: the rows still to be captured, in their order
- ``batching``: the number of rows that go through the model together
- ``runner``: the loop around one model: prepare ahead, run, halve batches that fail
- ``prefetching``: the next batches are prepared while the model runs
- ``workers/``: processes that prepare rows
- ``journal``: stages of the rows in progress, and what records them
- ``time_limit``: restarts the command where the model hangs; ``watchdog``: the process that
  ends a hanging one
- ``writing``: the thread that writes results
- ``local``: the executor of this process; ``ray/``: the executor on a Ray cluster
"""

from vlmscope.executors.local import Observer, Summary, planned_here, run_plan
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
    "planned_here",
    "run_plan",
    "share_of",
]
