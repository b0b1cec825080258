"""Capture: everything that one run through the model leaves behind, from one prefill per batch."""

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.onepass import capture, capture_batch
from vlmscope.engine.session import CaptureSession

__all__ = ["Batch", "CaptureSession", "capture", "capture_batch", "prepare"]
