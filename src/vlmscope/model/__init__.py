"""The model and its processor, with the same interface for every architecture.

- ``vlm``: ``VisionLanguageModel``, a loaded checkpoint under standard names
- ``preprocessing``: what preparing its inputs needs, without the weights
- ``families``: the differences between architectures, as data; ``support``: what was checked
- ``image_grids``: the part of an image that each image token covers; ``image_layouts``: by family
- ``sublayers``: the parts of a decoder block that signals are read from
- ``unembedding``: from hidden states to logits, as the model computes them
- ``vision_rows``: how the vision encoder's output for a batch is assigned to questions
- ``lengths``: sequence lengths at which a decoder computes differently
- ``loading/``: loading a checkpoint, and checking it once
- ``attention/``: attention kernels and caches that replace the loaded ones while a pass runs
- ``encoder_layout``: contiguous states in vision encoders, whose patches are a transposed view
- ``host_positions``: position ids of prompts with images, computed by the CPU
- ``device_copies``: copies to the GPU that nothing waits for
- ``encoder_widths``: widths that are slow on GPUs, padded with zeros
- ``elementwise/``: norms, rotary embeddings and gated MLPs by one kernel each, without compiling
  the model
- ``computing``: one thread at a time, the same settings everywhere
- ``fingerprint``: the identity of a model, as hashes
- ``halp``: how the HALP research code read its models
- ``resolved_spec``: what to record of one model, with every option resolved
- ``p_true``: the question whether an answer is true, and how the reply is read
- ``chat``: a chat model with text input and output; ``entailment``: a model of natural language
  inference
"""

from vlmscope.locking import model_lock
from vlmscope.model.families import FAMILIES, Family
from vlmscope.model.loading.load import given_model, load_model, load_with, loaded, refuse_options
from vlmscope.model.preprocessing import Preprocessing
from vlmscope.model.resolved_spec import ResolvedSpec, resolve_spec, resolve_spec_for
from vlmscope.model.vlm import VisionLanguageModel

__all__ = [
    "FAMILIES",
    "Family",
    "Preprocessing",
    "ResolvedSpec",
    "VisionLanguageModel",
    "given_model",
    "load_model",
    "load_with",
    "loaded",
    "model_lock",
    "refuse_options",
    "resolve_spec",
    "resolve_spec_for",
]
