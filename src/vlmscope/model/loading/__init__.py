"""Loading a checkpoint through ``from_pretrained``, and checking it once.

- ``load``: ``load_model``; ``names``: folders and hub ids
- ``weights``: which files are read, and which are refused; ``checksums``: their SHA-256
- ``adapters``, ``quantization``, ``device``, ``processors``, ``generation``: one option each
- ``checks``: whether the parts return what their names say
- ``corrections``: workarounds for errors of the library; ``thinker``: Omni checkpoints
- ``discovery``: the parts of an architecture that has no description
- ``batching``: whether rows may be batched; ``thresholds``: the same beyond configured lengths
"""
