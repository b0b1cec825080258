"""From a row of plain values to a ``Sample``.

- ``columns``: the role of each column; ``pattern``: texts made from columns
- ``reader``: row → ``Sample``; ``together``: columns that are unique together
- ``shared_images``: cell → the image of another row
- ``placeholders``: image placeholders in questions; ``options``: options missing from questions
"""
