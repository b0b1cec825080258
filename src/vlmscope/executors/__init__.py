"""Executors: where the work runs. The stages do not know.

- ``request``: what the user asked for; ``plan``: all that is checked before the first row
- ``manifest``: what the run folder will say of the run
- ``pending``: the rows that are still to do, ordered by image
- ``batching``: how many rows go through the model together
- ``runner``: the loop around one model: prepare ahead, run, halve what fails
- ``time_limit``: where the model hangs the command begins again; ``watchdog``: the process that
  ends this one where nothing in it runs any more
- ``writing``: the thread between the model and the store
- ``local``: the executor of this process; ``ray/``: the one on a Ray cluster
"""

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
