"""Capture: everything that one run through the model leaves behind, from one prefill per batch."""

from vlmscope.engine.capture import capture, capture_batch
from vlmscope.engine.prepare import Batch, prepare

__all__ = ["Batch", "capture", "capture_batch", "prepare"]
