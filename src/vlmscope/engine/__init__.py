"""Capture: everything that one run through the model leaves behind, from one prefill per batch."""

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.onepass import capture, capture_batch

__all__ = ["Batch", "capture", "capture_batch", "prepare"]
