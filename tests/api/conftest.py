"""Labelled runs that the tests of the Python interface share: made once, never written to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelled_runs import labelled_run

ROWS = 90
TRUTH = [None if i % 15 == 0 else i % 3 == 0 for i in range(ROWS)]


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled run; two rows are about one image, and one layer knows the labels."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, 8))
    vectors[:, 0] += [3.0 * bool(truth) for truth in TRUTH]
    path = tmp_path_factory.mktemp("runs") / "run"
    images = [i // 2 for i in range(ROWS)]
    labelled_run(path, TRUTH, vectors, images, on_disk=True)
    return path
