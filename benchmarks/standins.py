"""``tools.standin`` for benchmarks, which are run as files of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))  # behind this folder, before site-packages

from tools.standin import DEMO, PHOTO, TINY, TRUE, build_standin
from tools.standin.processor import CHAT_TEMPLATE, SPECIAL_TOKENS

__all__ = ["CHAT_TEMPLATE", "DEMO", "PHOTO", "SPECIAL_TOKENS", "TINY", "TRUE", "build_standin"]
