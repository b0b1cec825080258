"""A Llama-3.2-Vision of any size with random weights, for tests, fault injection and benchmarks.

``model`` has the sizes and writes a checkpoint, or builds the model alone; ``processor`` is its
image processor, tokenizer and chat template. The demo's trained model is built from the same two.
"""

from tools.standin.model import DEMO, PHOTO, TINY, TRUE, StandInSize, build_model, build_standin
from tools.standin.processor import CORPUS, NUM_SPECIAL_TOKENS, SPLIT_PATTERN, build_processor

__all__ = [
    "CORPUS",
    "DEMO",
    "NUM_SPECIAL_TOKENS",
    "PHOTO",
    "SPLIT_PATTERN",
    "TINY",
    "TRUE",
    "StandInSize",
    "build_model",
    "build_processor",
    "build_standin",
]
