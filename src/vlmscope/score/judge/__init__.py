"""A language model as judge of whether an answer agrees with the ground truth.

- ``scorer``: ``Judge``, which scores rows in order, and its cost estimate
- ``endpoint``: a model at an OpenAI-compatible endpoint, called through the ``openai`` client
- ``verdict``: parsing of verdicts from replies, and masking of the API key
- ``cache``: verdicts on disk, so that none is requested twice
- ``prompt.md``: the judge's instructions; their text is part of every cache key

A judge that is loaded on this machine is in ``vlmscope.labelling.local_judge``.
"""

from vlmscope.score.judge.cache import VerdictCache, cache_key
from vlmscope.score.judge.endpoint import NUDGE, JudgeSettings
from vlmscope.score.judge.scorer import (
    Connection,
    Estimate,
    Judge,
    judge_prompt,
    shortest_messages,
)
from vlmscope.score.judge.verdict import Keep, Mask, Messages, Verdict, read_verdict

__all__ = [
    "NUDGE",
    "Connection",
    "Estimate",
    "Judge",
    "JudgeSettings",
    "Keep",
    "Mask",
    "Messages",
    "Verdict",
    "VerdictCache",
    "cache_key",
    "judge_prompt",
    "read_verdict",
    "shortest_messages",
]
