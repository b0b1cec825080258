"""Rules for open questions: each decides the answers of one form, or leaves them to the next.

- ``multiple_choice``: which option an answer chooses, by letter, number or words
- ``comparison``: which of two things an answer names: the taller one, the one on the left
- ``attributes``: the color, the number or the side that an answer gives to the thing asked about
- ``denials``: denials, refusals, counts of none, rejected premises
- ``values``: colors, numbers, sides, years, texts, lists, alternatives
- ``compatible``: answers that may be right although they are not the truth
"""
