"""What a question asks, what a truth accepts, and what an answer says.

- ``reply``: an answer without the prompt, the markup and the frame around it
- ``choices``: multiple choice: what a question lists, and what a text chooses
- ``question``: what a question asks, and of what
- ``truth``: what a ground truth accepts: alternatives, annotators' votes, codes
- ``claims``: sentences that affirm or contradict what a yes/no question asks
- ``presence``: whether a sentence says that a thing is there, clause by clause
- ``phrases``: the phrase in which an answer answers, and how two phrases relate
- ``options``: truths that are the number or the letter of an option
- ``case``: a row, each part of it parsed once
"""
