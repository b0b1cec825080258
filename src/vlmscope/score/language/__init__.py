"""English words, numbers, synonyms and denials, as used by the rules. Independent of rows.

- ``text``: the normal form of answers and ground truths: words and numbers
- ``lexicon``: words that mean the same, the opposite, or more or less, from WordNet
- ``denial``: sentences that claim nothing: denials, refusals and hedges
- ``words.txt.gz``: the table of the lexicon
"""
