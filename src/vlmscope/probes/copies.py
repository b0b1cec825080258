"""``near_copies``: detection of near-copies among images by their thumbnails.

First, candidates are found: descriptors of an image and of its crops are looked up among those of
all images, by an approximate nearest-neighbour search. Each candidate pair is then verified on the
thumbnails themselves, by one of two rules:

in place    every cell has the same grey level and colour, up to a small part of the image's range
aligned     of images with structure nearly everywhere: after a crop, border, small rotation,
            mirroring or quarter turn one looks like the other, whatever the brightness, contrast or
            colour

An image with little structure (one shape on white, a form, lights at night) can only be a copy in
place: cropped or mirrored, it is indistinguishable from other images of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from scipy import fft  # type: ignore[import-untyped,unused-ignore]
from scipy.spatial import cKDTree  # type: ignore[import-untyped,unused-ignore]
from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped,unused-ignore]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped,unused-ignore]

from vlmscope.dataset import Thumbnails
from vlmscope.probes.alignment import (
    COARSE,
    LUMA,
    halved,
    has_structure,
    pyramid,
    resampling,
    same_image,
    symmetric,
)

LEVELS, COARSE_LEVELS, TINTS = 0.15, 0.08, 12
"""Largest difference of a cell of two copies in place: of grey in fine and in coarse cells, as a
share of the image's range; of colour, in levels of 256. Measured: docs/probing.md."""

_CROPS = np.array(
    [(1, 0, 0), (0.94, 0, 0), (0.87, 0, 0), (0.8, 0, 0)]
    + [(0.9, x, y) for x in (-0.1, 0.1) for y in (-0.1, 0.1)],
    dtype=np.float32,
)
"""Crops of each image that are looked up: size, and centre from −1 to 1."""
_KEPT = (0, 3)
"""Crops that they are looked up in: the complete image, and the part without borders."""

_ROUNDING = 0.3
"""Largest difference in grey levels of cells of two plain images."""

_BORDER, _PLAIN = 3, 6
"""Cells of the widest border, and the largest difference of its cells, in levels of 255."""

_WAVES = 7
"""Frequencies of a descriptor per direction."""
_NEIGHBOURS = 4
"""Number of candidates for each crop."""
_PARTNERS = 3
"""Number of verified candidates for each image: the most similar before the alignment."""
_ALIKE_AT_FIRST = 0.5
"""Smallest correlation of a candidate before the alignment."""
_FEW = 3_000
"""Up to this many descriptors, all are compared."""
_PROBED = 6
"""Number of index cells searched for each descriptor."""
_AT_ONCE = 300
"""Pairs verified at once."""
_IMAGES_AT_ONCE = 10_000


def near_copies(images: Thumbnails) -> Int[np.ndarray, "pairs 2"]:
    """Return the pairs of images that are near-copies, each with the lower number first.

    For a large set of copies of one image not every pair is returned, but enough to connect them.
    """
    if len(images) < 2:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.concatenate([_in_place(images), _aligned(images)])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _in_place(images: Thumbnails) -> Int[np.ndarray, "pairs 2"]:
    """Return pairs that have the same cells."""
    means = np.empty((len(images), 11), dtype=np.float32)
    for chunk in _chunks(len(images)):
        parts = _grey_levels(images, chunk).reshape(len(chunk), 3, LUMA // 3, 3, LUMA // 3)
        means[chunk, :9] = parts.mean(axis=(2, 4)).reshape(len(chunk), -1)
        means[chunk, 9:] = images.colour[chunk].mean(axis=(2, 3))
    tree, near = cKDTree(means), []
    for chunk in _chunks(len(images)):
        count = min(len(images), 2 * _NEIGHBOURS + 1)
        _, found = tree.query(means[chunk], k=count, p=np.inf)  # means of copies are close too
        near.append(np.stack([chunk.repeat(count), found.reshape(-1)], axis=1))
    one, other = np.unique(np.sort(np.concatenate(near), axis=1), axis=0).T
    same = one != other
    for chunk in _chunks(len(one)):
        same[chunk] &= _equal(images, one[chunk], other[chunk])
    return np.stack([one[same], other[same]], axis=1)


def _equal(
    images: Thumbnails, one: Int[np.ndarray, " pairs"], other: Int[np.ndarray, " pairs"]
) -> Bool[np.ndarray, " pairs"]:
    """Return which pairs have the same cells, up to a tolerance."""
    away = _grey_levels(images, one) - _grey_levels(images, other)
    span = np.minimum(*(images.high[each] - images.low[each] for each in (one, other)))
    tint = images.colour[one].astype(np.int16) - images.colour[other]
    return np.asarray(
        (np.abs(away).max(axis=(1, 2)) <= LEVELS * span + _ROUNDING)
        & (np.abs(halved(away)).max(axis=(1, 2)) <= COARSE_LEVELS * span + _ROUNDING)
        & (np.abs(tint).max(axis=(1, 2, 3)) <= TINTS)
    )


def _grey_levels(
    images: Thumbnails, which: Int[np.ndarray, " some"]
) -> Float32[np.ndarray, "some 24 24"]:
    """Return the grey levels of some images, 0 to 255."""
    span = (images.high[which] - images.low[which]) / np.float32(255)
    return np.asarray(images.luma[which] * span[:, None, None] + images.low[which, None, None])


def _without_borders(luma: UInt8[np.ndarray, "n 24 24"]) -> UInt8[np.ndarray, "n 24 24"]:
    """Return images without their plain border, if any, stretched to full size."""
    turned = (np.rot90(luma, turns, axes=(1, 2)) for turns in range(4))
    borders = np.stack([_border(cells) for cells in turned], axis=1)  # top, right, bottom, left
    trimmed = luma.copy()
    for border in np.unique(borders, axis=0):
        if border.any():
            top, right, bottom, left = border.tolist()
            some = np.flatnonzero((borders == border).all(axis=1))
            inner = _points((left, LUMA - right), (top, LUMA - bottom))
            stretched = luma[some].reshape(len(some), -1) @ resampling(inner).T
            trimmed[some] = stretched.round().reshape(-1, LUMA, LUMA)
    return trimmed


def _points(across: tuple[float, float], down: tuple[float, float]) -> np.ndarray:
    """Return the middles of 24 × 24 cells of a part of an image, ``[2, 576]``, from −1 to 1.

    Args:
        across: Start and end of the part, in cells.
        down: The same from top to bottom.
    """
    ticks = (np.arange(LUMA, dtype=np.float32) + np.float32(0.5)) / LUMA
    x, y = (np.float32((low + ticks * (high - low)) / LUMA * 2 - 1) for low, high in (across, down))
    return np.stack([grid.reshape(-1) for grid in np.meshgrid(x, y)])


def _border(cells: UInt8[np.ndarray, "n 24 24"]) -> Int[np.ndarray, " n"]:
    """Return how many rows at the top are uniform, at most ``_BORDER``."""
    rows = cells[:, :_BORDER].astype(np.int16)
    plain = (np.abs(rows - rows[:, :1, :1]) <= _PLAIN).all(axis=2)
    return np.asarray(np.cumprod(plain, axis=1).sum(axis=1))


def _chunks(count: int) -> Iterator[Int[np.ndarray, " chunk"]]:
    for start in range(0, count, _IMAGES_AT_ONCE):
        yield np.arange(start, min(start + _IMAGES_AT_ONCE, count))


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Pairs to be verified."""

    moving: Int[np.ndarray, " pairs"]
    """The image whose crop was looked up."""
    fixed: Int[np.ndarray, " pairs"]
    """The image it was found in."""
    crop: Int[np.ndarray, " pairs"]
    """Which crop of the first."""
    kept: Int[np.ndarray, " pairs"]
    """Which crop of the second."""
    turned: Int[np.ndarray, " pairs"]
    """Rotation and mirroring of the second: see ``symmetric``."""
    similarity: Float32[np.ndarray, " pairs"]
    """Correlation of the two crops."""

    def __getitem__(self, which: np.ndarray) -> _Candidates:
        return _Candidates(*(getattr(self, name)[which] for name in self.__slots__))


def _aligned(images: Thumbnails) -> Int[np.ndarray, "pairs 2"]:
    """Return pairs that are similar after the alignment."""
    rich = np.flatnonzero(_structured(images))
    if len(rich) < 2:
        return np.empty((0, 2), dtype=np.int64)
    luma = _without_borders(images.luma[rich])
    pairs = _candidates(luma)
    same = np.zeros(len(pairs.moving), dtype=bool)
    for start in range(0, len(same), _AT_ONCE):
        some = pairs[np.arange(start, min(start + _AT_ONCE, len(same)))]
        moving = pyramid(luma[some.moving].astype(np.float32))
        fixed = pyramid(symmetric(luma[some.fixed], some.turned).astype(np.float32))
        crop, kept = _CROPS[some.crop], _CROPS[some.kept]
        guess = np.zeros((len(crop), 2, 3), dtype=np.float32)
        guess[:, 0, 0] = guess[:, 1, 1] = crop[:, 0] / kept[:, 0]
        guess[:, :, 2] = crop[:, 1:]
        same[start : start + _AT_ONCE] = same_image(moving, fixed, guess)
    return np.asarray(rich[np.stack([pairs.moving[same], pairs.fixed[same]], axis=1)])


def _structured(images: Thumbnails) -> Bool[np.ndarray, " n"]:
    found = np.empty(len(images), dtype=bool)
    for chunk in _chunks(len(images)):
        found[chunk] = has_structure(pyramid(images.luma[chunk].astype(np.float32)).fine)
    return found


def _candidates(luma: UInt8[np.ndarray, "n 24 24"]) -> _Candidates:
    """Return possible copies, the most similar ones of each image."""
    shown = [_crops(luma, crop) for crop in _KEPT]
    index = _Index(np.concatenate([_descriptors(cells) for cells in shown]))
    found = []
    for crop in range(len(_CROPS)):
        cells = shown[_KEPT.index(crop)] if crop in _KEPT else _crops(luma, crop)
        found.append(_looked_up(cells, crop, shown, index))
    pairs = _Candidates(
        *(np.concatenate([getattr(each, name) for each in found]) for name in _Candidates.__slots__)
    )
    # The most similar crops of each pair, and the most similar partners of each image.
    pairs = pairs[np.lexsort((-pairs.similarity, pairs.fixed, pairs.moving))]
    first = np.ones(len(pairs.moving), dtype=bool)
    first[1:] = (np.diff(pairs.moving) != 0) | (np.diff(pairs.fixed) != 0)
    pairs = pairs[np.flatnonzero(first)]
    pairs = pairs[np.lexsort((-pairs.similarity, pairs.moving))]
    starts = np.searchsorted(pairs.moving, pairs.moving)
    return pairs[np.flatnonzero(np.arange(len(starts)) - starts < _PARTNERS)]


def _crops(luma: UInt8[np.ndarray, "n 24 24"], crop: int) -> Float32[np.ndarray, "n 12 12"]:
    """Return one crop of each image, of zero mean and unit length."""
    size, x, y = _CROPS[crop]
    across, down = ((LUMA / 2 * (1 + z - size), LUMA / 2 * (1 + z + size)) for z in (x, y))
    matrix = halved(resampling(_points(across, down)).T.reshape(-1, LUMA, LUMA))
    matrix = matrix.reshape(LUMA**2, COARSE**2)
    cells = np.empty((len(luma), COARSE, COARSE), dtype=np.float32)
    for chunk in _chunks(len(luma)):
        flat = luma[chunk].reshape(len(chunk), -1).astype(np.float32)
        cells[chunk] = (flat @ matrix).reshape(-1, COARSE, COARSE)
    cells -= cells.mean(axis=(1, 2), keepdims=True)
    cells /= np.sqrt((cells**2).sum(axis=(1, 2), keepdims=True)) + np.float32(1e-6)
    return cells


def _descriptors(cells: Float32[np.ndarray, "n 12 12"]) -> Float32[np.ndarray, "n size"]:
    """Return descriptors of unit length, invariant under mirroring and quarter turns.

    They are the absolute values of the low frequencies of the cosine transform: mirroring changes
    only signs, and a quarter turn swaps the directions, so the larger of two swapped values comes
    first.
    """
    waves = np.abs(fft.dctn(cells, axes=(1, 2), norm="ortho"))
    pairs = [(u, v) for u in range(_WAVES) for v in range(u, _WAVES) if 0 < u + v <= _WAVES]
    larger = [np.maximum(waves[:, u, v], waves[:, v, u]) for u, v in pairs]
    smaller = [np.minimum(waves[:, u, v], waves[:, v, u]) for u, v in pairs if u != v]
    found = np.stack(larger + smaller, axis=1)
    found /= np.linalg.norm(found, axis=1, keepdims=True) + np.float32(1e-6)
    return found.astype(np.float32)


class _Index:
    """Index of descriptors in cells, of which a search visits only a few."""

    def __init__(self, descriptors: Float32[np.ndarray, "m size"]) -> None:
        self._descriptors = descriptors
        cells = 1 if len(descriptors) <= _FEW else round(2 * len(descriptors) ** 0.5)
        sample = np.random.default_rng(0).permutation(len(descriptors))[: 30 * cells]
        means = MiniBatchKMeans(cells, batch_size=4096, n_init=1, max_iter=10, random_state=0)
        self._centres = NearestNeighbors(algorithm="brute").fit(
            means.fit(descriptors[sample]).cluster_centers_
        )
        self._probed = min(_PROBED, cells)
        owner = self._centres.kneighbors(descriptors, 1, return_distance=False)[:, 0]
        order = np.argsort(owner, kind="stable")
        self._members = np.split(order, np.searchsorted(owner[order], np.arange(1, cells)))

    def nearest(
        self, wanted: Float32[np.ndarray, "n size"], count: int
    ) -> tuple[Int[np.ndarray, " found"], Int[np.ndarray, " found"]]:
        """Return pairs of numbers: of each wanted descriptor, and of its ``count`` nearest ones."""
        probed = self._centres.kneighbors(wanted, self._probed, return_distance=False).reshape(-1)
        order = np.argsort(probed, kind="stable")
        cells = np.split(order, np.searchsorted(probed[order], np.arange(1, len(self._members))))
        rows, found, away = [], [], []
        for cell, members in zip(cells, self._members, strict=True):
            if len(cell) and len(members):
                asking = cell // self._probed
                search = NearestNeighbors(algorithm="brute").fit(self._descriptors[members])
                near = min(count, len(members))
                distance, number = search.kneighbors(wanted[asking], near)
                rows.append(np.repeat(asking, near))
                found.append(members[number.reshape(-1)])
                away.append(distance.reshape(-1))
        row, number = np.concatenate(rows), np.concatenate(found)
        order = np.lexsort((np.concatenate(away), row))
        row, number = row[order], number[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < count
        return row[kept], number[kept]


def _looked_up(
    cells: Float32[np.ndarray, "n 12 12"], crop: int, shown: list[np.ndarray], index: _Index
) -> _Candidates:
    """Return the candidates in which one crop of each image is found."""
    moving, number = index.nearest(_descriptors(cells), _NEIGHBOURS + 1)  # itself is one
    kept, fixed = np.divmod(number, len(cells))
    best = np.full(len(moving), -1, dtype=np.float32)
    turned = np.zeros(len(moving), dtype=np.int64)
    flat = cells.reshape(len(cells), -1)
    others = np.stack([each.reshape(len(cells), -1) for each in shown])
    order = np.arange(COARSE**2).reshape(1, COARSE, COARSE)
    turns = [symmetric(order, np.array([kind])).reshape(-1) for kind in range(8)]
    for chunk in _chunks(len(moving)):
        one, other = flat[moving[chunk]], others[kept[chunk], fixed[chunk]]
        similarity = np.stack([np.einsum("pc,pc->p", one, other[:, cell]) for cell in turns])
        turned[chunk], best[chunk] = similarity.argmax(axis=0), similarity.max(axis=0)
    likely = np.flatnonzero((best >= _ALIKE_AT_FIRST) & (moving != fixed))
    return _Candidates(
        moving[likely],
        fixed[likely],
        np.full(len(likely), crop),
        np.array(_KEPT)[kept[likely]],
        turned[likely],
        best[likely],
    )
