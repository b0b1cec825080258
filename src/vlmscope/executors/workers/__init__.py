"""Worker processes that prepare rows, beside a model on a GPU.

- ``pool``: ``Workers``, which prepares a batch in the next idle worker, and handles deaths
- ``server``: this process's ends: of the process that starts workers, and of a worker
- ``process``: those processes themselves
- ``count``: how many workers there are, and builders of shards
- ``usable``: how many processors and how much memory a process may use
"""

from vlmscope.executors.workers.count import builders_for, keep_for, make_workers
from vlmscope.executors.workers.pool import Workers, WorkersError
from vlmscope.executors.workers.usable import is_supported

__all__ = ["Workers", "WorkersError", "builders_for", "is_supported", "keep_for", "make_workers"]
