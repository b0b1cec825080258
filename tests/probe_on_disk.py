"""A saved probe of the tiny model, made of ten captures whose labels alternate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmscope.executors import describe_model
from vlmscope.model import VisionLanguageModel
from vlmscope.probes import MeanDifferenceProbe, ProbeInfo, save_probe
from vlmscope.schema import Capture

QUERY = "query_token_representation"
CALIBRATION = (0.7, -0.2)


def save(
    folder: Path,
    vlm: VisionLanguageModel,
    captures: Sequence[Capture],
    path: str = f"{QUERY}/layer_2",
    **changes: Any,
) -> MeanDifferenceProbe:
    """Train a probe on one vector of the captures and save it as ``vlmscope probe`` does."""
    matrix = np.stack([item.vectors[path] for item in captures])
    probe = MeanDifferenceProbe().fit(matrix, np.arange(len(matrix)) % 2 == 1)
    name, _, layer = path.partition("/layer_")
    info = ProbeInfo(
        representation=name,
        layer=int(layer) if layer else None,
        width=matrix.shape[1],
        estimator="MeanDifferenceProbe",
        rows=len(matrix),
        model=asdict(describe_model(vlm)) | {"vision_pooling": "all", "dtype": "float32"},
        calibration=CALIBRATION,
        threshold=0.45,
    )
    save_probe(folder, probe, replace(info, **changes))
    return probe
