"""Scoring: whether an answer is faithful to its ground truth, or unscorable with a reason.

- ``scorer``: the interface of scorers: one score for each row
- ``auto``: the default: rules by the kind of ground truth, then a judge
- ``stance``: yes/no questions: the side of an answer
- ``vqa``: open questions: the rules in their order; and ``Exact``, the strict accuracy
- ``column``: existing labels in a column or a file
- ``error_kinds``: whether a wrong answer to a yes/no question is a false positive or negative
- ``language/``: words, numbers, synonyms and denials in English
- ``parsing/``: parsing of questions, ground truths and answers
- ``rules/``: rules for open questions, by the form of the answer
- ``judge/``: a language model as the judge; import it from ``vlmscope.score.judge``
"""

from vlmscope.score.auto import Auto, unscorable_rows
from vlmscope.score.column import Column, LabelFile, read_label_file
from vlmscope.score.error_kinds import error_kind, with_error_kinds
from vlmscope.score.language.text import normalise
from vlmscope.score.parsing.options import OptionTargets, read_option_targets
from vlmscope.score.parsing.truth import Code, accepted_answers, read_code
from vlmscope.score.scorer import Scorer
from vlmscope.score.stance import Stance, YesNo, read_stance, yes_no_truth
from vlmscope.score.vqa import Exact, Vqa

__all__ = [
    "Auto",
    "Code",
    "Column",
    "Exact",
    "LabelFile",
    "OptionTargets",
    "Scorer",
    "Stance",
    "Vqa",
    "YesNo",
    "accepted_answers",
    "error_kind",
    "normalise",
    "read_code",
    "read_label_file",
    "read_option_targets",
    "read_stance",
    "unscorable_rows",
    "with_error_kinds",
    "yes_no_truth",
]
