"""Capture: everything that is recorded of a run through the model, with one prefill per batch.

- ``batch``: from samples to tensors on the CPU; ``device``: copies from the GPU
- ``inputs``: what a Python user gives, as rows and images; ``image_rows``: one image at a time
- ``session``: prefills batches and decodes their answers; ``captures``: captures of samples by one
- ``prefill``: one pass of a batch's prompts; ``prompt_pass``: by the model's own ``generate``;
  ``hooks``: what is copied out of it
- ``image_cache``: each image through the vision encoder once; ``pooling``: many vectors to one
- ``decoding/``: answers of many rows at a time
- ``shared_prefix``, ``shared_prefill``: questions about one image share the prompt's beginning
- ``repeated_images``: or at least the image's encoding
- ``p_true``: the question whether an answer is true, for finished rows that are not in slots
- ``answers``: the recorded answer; ``answer_states``: what is recorded of its tokens
- ``generated_samples``: sampled answers where ``generate`` decodes them
- ``attention_maps``: the attention to each image token, to be drawn over the image
- ``attention``: how attention is divided among image, text and answer
- ``token_states``: states of all image tokens and of all tokens of an answer; ``similarity``: their
  cosines
- ``lens``: the logit lens of recorded states and of image tokens
- ``row_errors``: exceptions of a processor or model, as errors of a row
"""

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.captures import capture, capture_batch
from vlmscope.engine.inputs import Rows, open_image, rows_of, until_error
from vlmscope.engine.session import CaptureSession
from vlmscope.engine.shared_prefix import preprocessing_of

__all__ = [
    "Batch",
    "CaptureSession",
    "Rows",
    "capture",
    "capture_batch",
    "open_image",
    "prepare",
    "preprocessing_of",
    "rows_of",
    "until_error",
]
