"""Parsing of questions, ground truths and answers.

- ``reply``: an answer without the prompt, the markup and the phrases around it
- ``choices``: multiple choice: the choices of a question, and the choice of an answer
- ``question``: the kind of a question, and its subject
- ``truth``: what a ground truth accepts: alternatives, annotators' votes, codes
- ``claims``: sentences that affirm or contradict what a yes/no question asks
- ``presence``: whether a sentence states that an object exists, clause by clause
- ``phrases``: the phrase that answers the question, and the relation of two phrases
- ``options``: ground truths that are the number or the letter of an option
- ``case``: a row, each part of it parsed once
"""
