"""Scoring: is an answer faithful to its truth? Every scorer decides, or says why it cannot.

text       the normal form of the VQA evaluation
numerals   numbers in words, Unicode and LaTeX; times and amounts
lexicon    words that mean the same or the opposite, from WordNet
truth      what a ground truth accepts: alternatives, lists, the votes of annotators
codes      truths in code, read from a whole column
reply      an answer without its prompt; what it gives as its answer at last
frame      an answer without the words that a chat model puts around it
question   what a question asks
choices    multiple choice: what a question lists, what a text chooses
denial     denials, refusals, hedges
claims     sentences that affirm or contradict a yes/no question
presence   whether a sentence says that a thing is there, clause by clause
stance     yes or no
phrases    the phrase in which an answer answers, and how two phrases stand to each other
bound      whose color, number or side an answer names
compared   which of two things an answer finds ahead
case       a row with what the rules for open questions look at
absence    rules for denials, refusals, and counts of none
values     rules for colors, numbers, sides, years, texts and lists
relative   which of two things an answer puts left, right, above, before the other
either     which of two alternatives a sentence names
premise    truths that deny what a question takes for granted; answers that find nothing
refined    longer names for the truth
room       answers that may be right beside the truth
languages  yes and no in other languages
vqa        open questions
column     labels that somebody made already
auto       the rules that fit, then a judge
error_kinds  of wrong answers to yes/no questions, which way they are wrong
judge/     a language model as the judge; import it from ``vlmscope.score.judge``
"""

from vlmscope.score.auto import Auto, left_over
from vlmscope.score.codes import Code, read_code
from vlmscope.score.column import Column, LabelFile, read_label_file
from vlmscope.score.error_kinds import error_kind, with_error_kinds
from vlmscope.score.scorer import Scorer
from vlmscope.score.stance import Stance, YesNo, read_stance, yes_no_truth
from vlmscope.score.text import normalise
from vlmscope.score.truth import accepted_answers
from vlmscope.score.vqa import Exact, Vqa

__all__ = [
    "Auto",
    "Code",
    "Column",
    "Exact",
    "LabelFile",
    "Scorer",
    "Stance",
    "Vqa",
    "YesNo",
    "accepted_answers",
    "error_kind",
    "left_over",
    "normalise",
    "read_code",
    "read_label_file",
    "read_stance",
    "with_error_kinds",
    "yes_no_truth",
]
