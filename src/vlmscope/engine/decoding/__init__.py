"""Answers, many rows at a time (continuous batching).

- ``admission``: the first tokens of new questions are put into slots
- ``asking``: P(True) of answers whose prompts are still in slots
- ``drawing``: how the tokens of sampled answers are drawn
- ``memory``: how many rows are decoded at once, by what they take
- ``scheduler``: rows are admitted as slots become free and leave when their answer ends
- ``slots``: tensors of a fixed size for the rows that are being answered
- ``support``: whether a model's answers can be decoded in slots, else ``generate`` decodes them
- ``step``: one decoding step for all slots: a CUDA graph where possible
"""
