"""Answers, many rows at a time (continuous batching).

- ``scheduler``: rows are admitted as slots become free and leave when their answer ends
- ``slots``: the rows that are being answered, in tensors of one size
- ``step``: one decoding step for all slots: a CUDA graph where possible
"""
