"""English as the rules read it: words, numbers, synonyms, denials. Nothing here depends on a row.

- ``text``: the normal form of answers and truths: words and numbers
- ``lexicon``: words that mean the same, the opposite, or more or less, from WordNet
- ``denial``: sentences that claim nothing: denials, refusals and hedges
- ``words.txt.gz``: the table of the lexicon
"""
