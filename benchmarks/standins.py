"""``tools.standin`` for benchmarks, which are run as files of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1]))  # behind this folder, before site-packages

from tools.standin import DEMO, PHOTO, TINY, TRUE, build_standin

__all__ = ["DEMO", "PHOTO", "TINY", "TRUE", "build_standin"]
