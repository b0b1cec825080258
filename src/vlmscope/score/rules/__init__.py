"""Rules for open questions: each scores answers of one form, or leaves them to the next.

- ``multiple_choice``: which option an answer chooses, by letter, number or words
- ``comparison``: which of two things an answer names: the taller one, the one on the left
- ``attributes``: the color, number or side that an answer gives to the object asked about
- ``denials``: denials, refusals, counts of none, rejected premises
- ``values``: colors, numbers, sides, years, texts, lists, alternatives
- ``compatible``: answers that may be correct although they differ from the ground truth
"""
