"""Images of rows, from a table's cell to upright 8-bit RGB.

Reading a table never opens an image: ``load_image`` does so later, one at a time. That keeps memory
constant and makes a broken image the failure of one row.

- ``cells``: cell → no, one or several images
- ``in_memory``: PIL images of a table in memory; ``arrays``: NumPy arrays
- ``locate``, ``finding``: image → bytes, or a path below the image root
- ``image``: ``load_image``, hashes of pixels; ``file``: reading within limits; ``jpeg``: its
  segments
- ``pixels``: every pixel format → 8-bit RGB; ``thumbnail``: the small copy stored with a row
"""
