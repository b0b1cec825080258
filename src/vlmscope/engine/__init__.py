"""Capture: everything that one run through the model leaves behind, from one prefill per batch."""

from vlmscope.engine.batch import Batch, prepare
from vlmscope.engine.session import CaptureSession, capture, capture_batch

__all__ = ["Batch", "CaptureSession", "capture", "capture_batch", "prepare"]
