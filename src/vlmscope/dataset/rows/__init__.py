"""From a row of plain values to a ``Sample``.

- ``columns``: which column is what; ``pattern``: texts made of columns
- ``reader``: row → ``Sample``; ``together``: columns that make an id together
- ``shared_images``: cell → the image of another row
- ``placeholders``, ``options``: placeholders of images in questions, options that no question shows
"""
