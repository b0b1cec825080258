"""The mean number of image tokens of a table's rows, for the expected size of a run.

It depends on the family, its processor and the sizes of the images, so some rows, evenly spread
over the table, are prepared as for a capture.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from vlmscope.dataset import Table, TableScan
from vlmscope.engine import prepare
from vlmscope.model import VisionLanguageModel, resolve_spec
from vlmscope.schema import CaptureSpec, Sample
from vlmscope.signals import ATTENTION_MAP, IMAGE_TOKENS

MEASURED = 32
"""Maximum number of rows that are prepared."""


class _Others:
    """All ids but some."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = frozenset(ids)

    def __contains__(self, id_: object) -> bool:
        return id_ not in self._ids


def rows_to_measure(table: Table, scan: TableScan, spec: CaptureSpec) -> list[Sample]:
    """Return the rows whose image tokens are counted; none if their states are not recorded.

    Args:
        table: The table.
        scan: Its ids.
        spec: What to record.
    """
    if not {IMAGE_TOKENS, ATTENTION_MAP}.intersection(spec.signals) or not scan.ids:
        return []
    wanted = scan.ids[:: -(-len(scan.ids) // MEASURED)]
    rows = islice(table.rows(skip=_Others(wanted)), len(wanted))
    return [row for row in rows if isinstance(row, Sample)]


def mean_image_tokens(
    samples: Sequence[Sample], vlm: VisionLanguageModel, spec: CaptureSpec
) -> tuple[float, float]:
    """Return the mean number of image tokens of some rows; 0 if none of them is valid.

    The second number is that of what layers attend to, which in layers of cross-attention are all
    patches of the images.

    Args:
        samples: The rows.
        vlm: The model.
        spec: What to record.
    """
    if not samples:
        return 0.0, 0.0
    batches, _ = prepare(samples, vlm.preprocessing, resolve_spec(spec, vlm))
    counts = [
        count
        for batch in batches
        for count in (batch.attention_mask.astype(bool) & (batch.input_ids == vlm.image_token_id))
        .sum(axis=1)
        .tolist()
    ]
    if not counts:
        return 0.0, 0.0
    tokens = float(np.mean(counts))
    if not vlm.skipped_without_image:
        return tokens, tokens
    images = np.mean([count for batch in batches for count in batch.images])
    encoder: Any = vlm.vision_encoder
    patches = vlm.model.config.vision_config.max_num_tiles * encoder.num_patches
    return tokens, float(images * patches)
