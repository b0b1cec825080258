"""Scoring: is an answer faithful to its truth? Every scorer decides, or says why it cannot.

text       the normal form of the VQA evaluation, irregular truths
denial     denials, refusals, hedges
stance     yes or no
vqa        open questions
column     labels that somebody made already
auto       the rules that fit, then a judge
judge*     a language model as the judge; import it from ``vlmscope.score.judge``
"""

from vlmscope.score.auto import Auto, left_over
from vlmscope.score.column import Column, LabelFile, read_label_file
from vlmscope.score.scorer import Scorer
from vlmscope.score.stance import Stance, YesNo, read_stance, yes_no_truth
from vlmscope.score.text import accepted_answers, normalise
from vlmscope.score.vqa import Exact, Vqa

__all__ = [
    "Auto",
    "Column",
    "Exact",
    "LabelFile",
    "Scorer",
    "Stance",
    "Vqa",
    "YesNo",
    "accepted_answers",
    "left_over",
    "normalise",
    "read_label_file",
    "read_stance",
    "yes_no_truth",
]
