"""Images of rows, from a cell to the RGB a person sees.

Reading a table never opens an image: ``load_image`` does it late, one at a time. That keeps memory
flat and makes a broken image the failure of one row.

- ``cells``: cell → no, one or several images; ``held``: PIL images of a table in memory
- ``locate``, ``finding``: image → bytes, or a path below the image root
- ``image``: ``load_image``, hashes of pixels; ``file``: a file, read under limits; ``jpeg``: its
  segments
- ``pixels``: every pixel format → 8-bit RGB; ``thumbnail``: the small copy kept with a row
"""
