"""A language model as the judge: it reads question, truth and answer, and says whether they agree.

- ``scorer``: ``Judge``, which scores rows in order, and what that will take
- ``endpoint``: the model behind an OpenAI-compatible endpoint, asked through the ``openai`` client
- ``verdict``: a verdict, how it is found in a reply, and the API key masked in what is kept
- ``cache``: verdicts on disk, so that none is paid for twice
- ``prompt.md``: what the judge is told; its text is part of every key in the cache

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
