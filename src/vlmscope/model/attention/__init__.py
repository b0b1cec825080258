"""Attention kernels and caches that replace the loaded ones while a pass runs.

- ``switch``: temporary replacement of an implementation; grouped queries
- ``implementations``: the ``--attention`` option
- ``tiles``: an encoder's attention over padded tiles, without its mask
- ``flash``: FlashAttention 4 for an encoder's heads of 72, 80, ... without a mask
- ``pieces``: an encoder's attention over tiles, in calls of a few sizes
- ``packed``: an encoder's attention over packed images, one call per layer
- ``padded``: a decoder's attention over rows padded on the left, without a mask
- ``shares``: attention weights of the last query, beside the attention that computes its output
- ``kv_cache``: caches of keys and values
"""
