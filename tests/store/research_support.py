"""Files as the code of the original research writes them: plain h5py, a hundred times smaller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LAYERS = (0, 2, 3)
VISION, HIDDEN = 12, 8
TEXTS = ("image_id", "question", "ground_truth_answer", "answer")
TOKENS = ("vision_token_representation", "query_token_representation")


def research_row(i: int, **changes: Any) -> dict[str, Any]:
    """Return row ``i``: always the same values for the same number; three questions an image."""
    rng = np.random.default_rng(i)
    row: dict[str, Any] = {
        "question_id": f"question_comb_{i:03}",
        "image_id": f"haloquest_{i // 3}.png",
        "question": f"Is the forest lit by {i} moons?",
        "ground_truth_answer": "No; été",
        "answer": f"The image shows {i} 月.",
        "vision_only_representation": rng.standard_normal(VISION, np.float32),
    }
    for name in TOKENS:
        row[name] = {f"layer_{k}": rng.standard_normal(HIDDEN, np.float32) for k in LAYERS}
    return {**row, **changes}


def write_part(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    attrs: Mapping[str, Any] | None = None,
    *,
    as_bytes: bool = False,
) -> Path:
    """Write a part. ``as_bytes`` is how two of the scripts pass text: HDF5 tags it ASCII."""
    zipped = {"compression": "gzip", "compression_opts": 4}
    with h5py.File(path, "w") as file:
        file.attrs.update(attrs or {})
        for row in rows:
            group = file.create_group(str(row["question_id"]))
            for name in TEXTS:
                group.create_dataset(name, data=row[name].encode() if as_bytes else row[name])
            if row["vision_only_representation"] is not None:
                group.create_dataset(
                    "vision_only_representation", data=row["vision_only_representation"], **zipped
                )
            for name in TOKENS:
                layers = group.create_group(name)
                for layer, vector in row[name].items():
                    layers.create_dataset(layer, data=vector, **zipped)
    return path
