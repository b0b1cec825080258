"""The model and its processor, behind one vocabulary for every architecture."""

from vlmscope.locking import model_lock
from vlmscope.model.families import FAMILIES, Family
from vlmscope.model.loading.load import load_model
from vlmscope.model.vlm import VisionLanguageModel

__all__ = ["FAMILIES", "Family", "VisionLanguageModel", "load_model", "model_lock"]
