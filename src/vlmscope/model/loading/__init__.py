"""Loading a checkpoint through ``from_pretrained``, and checking it once.

- ``load``: ``load_model``
- ``weights``: which files are read, and which are refused; ``checksums``: their SHA-256
- ``adapters``, ``quantization``, ``device``, ``processors``, ``generation``: one option each
- ``checks``: are the parts what their names promise?
- ``corrections``: what the library gets wrong in some families; ``thinker``: Omni checkpoints
- ``discovery``: the parts of an architecture that has no description
- ``batching``: may rows be batched? ``thresholds``: also beyond configured lengths?
"""
