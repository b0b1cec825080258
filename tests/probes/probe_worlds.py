"""Small worlds whose answer is known: what the tests of the probes are run on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class World:
    """Rows with labels and images."""

    vectors: NDArray[np.float32]
    truth: NDArray[np.bool_]
    images: NDArray[np.int64]


def null_world(
    seed: int, *, rows: int = 600, width: int = 40, images: int = 200, rate: float = 0.25
) -> World:
    """Vectors that know nothing: correlated features, labels at random."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width // 4, width))
    vectors = rng.standard_normal((rows, width // 4)) @ mixing
    vectors += 0.3 * rng.standard_normal((rows, width)) + 5
    return World(
        vectors.astype(np.float32), rng.random(rows) < rate, rng.integers(0, images, size=rows)
    )


def planted_world(seed: int, *, strength: float = 1.5, rows: int = 600, width: int = 40) -> World:
    """The same, with one direction in which hallucinated rows lie ``strength`` further."""
    world = null_world(seed, rows=rows, width=width)
    direction = np.random.default_rng(seed + 1).standard_normal(width)
    direction *= strength / np.linalg.norm(direction) * 2
    vectors = world.vectors + world.truth[:, None] * direction
    return World(vectors.astype(np.float32), world.truth, world.images)


def leaky_world(seed: int) -> World:
    """Features tell the image; labels are the image's, at random: nothing to learn but leaks."""
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(80), 8)
    faces = rng.standard_normal((80, 60))
    vectors = faces[images] + 0.1 * rng.standard_normal((len(images), 60))
    return World(vectors.astype(np.float32), (rng.random(80) < 0.4)[images], images)
