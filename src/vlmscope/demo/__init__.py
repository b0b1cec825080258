"""What ships with vlmscope, so that nobody needs an 11-billion-parameter download to see it work.

``world``, ``scenes``, ``questions``, ``drawing`` and ``bundle`` make pictures and questions whose
truth is exact (``pen``, ``icons`` and ``icons_garden`` draw them); ``model`` is a small
Llama-3.2-Vision trained on them, and ``processor`` its tokenizer; ``standin`` builds one of any
size with random weights, for tests and benchmarks.
"""
