"""Verification of near-copies: alignment of two thumbnails and comparison of the aligned ones.

Two thumbnails are aligned by the affine transform that maximises their similarity (Lucas and
Kanade's method, with free gain and offset), starting from an initial guess. They are copies if the
aligned images agree wherever there is structure, and if the transform is typical of copies: a crop,
a border, a small rotation, another aspect ratio. A shift alone is not: the same object at another
position on the same background is another image.

Only the inner part of one of them is compared, which excludes borders and the empty corners of a
rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import fft, ndimage  # type: ignore[import-untyped,unused-ignore]

LUMA = 24
"""Cells per side."""
COARSE = 12
"""Cells per side at the first, coarse level of the alignment."""

INNER = 0.84
"""Half the side of the compared part, relative to half the image."""

ALIKE = (0.97, 0.88, 0.80)
"""Smallest correlation of gradients of aligned copies. Measured: docs/probing.md."""
ALIKE_IN_PLACE = 0.95
"""The same without any alignment: a re-encoded copy is nearly equal, another page with the same
layout is not.
"""

ALIKE_COARSE = (0.5, 0.9)
"""Smallest correlations of coarse images, half and fully aligned, to continue with the fine ones.
"""
DETAIL = (16, 24, 50)
"""Number of waves (a participation ratio) from which on an image has detail."""

_SMOOTHING, _COARSE_SMOOTHING = (
    0.7,
    0.8,
)  # in cells: resampled thumbnails differ in the finest detail
_COARSE_STEPS, _FINE_STEPS = 3, 5
_MIDDLE = slice(4, 20)
_BLOCKS = 4  # in a row, where structure is counted


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """Thumbnails at two sizes, of zero mean and unit variance."""

    fine: Float32[np.ndarray, "n 24 24"]
    coarse: Float32[np.ndarray, "n 12 12"]


def pyramid(luma: Float32[np.ndarray, "n 24 24"]) -> Pyramid:
    """Return thumbnails prepared for comparison."""
    centred = luma - luma.mean(axis=(1, 2), keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True)) + np.float32(1e-3)
    fine = _blurred(centred / scale, _SMOOTHING)
    return Pyramid(fine, halved(_blurred(fine, _COARSE_SMOOTHING)))


def halved(cells: Float32[np.ndarray, "n side side"]) -> Float32[np.ndarray, "n half half"]:
    """Return the means of 2 × 2 cells."""
    rows = cells[:, ::2] + cells[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25))


def symmetric(
    cells: Float32[np.ndarray, "n side side"], which: Int[np.ndarray, " n"]
) -> np.ndarray:
    """Return each image rotated by ``which % 4`` quarter turns, and mirrored from 4 on."""
    turned = np.empty_like(cells)
    for kind in range(8):
        chosen = which == kind
        turns = np.rot90(cells[chosen], kind % 4, axes=(1, 2))
        turned[chosen] = turns[:, :, ::-1] if kind >= 4 else turns
    return turned


def resampling(
    points: Float32[np.ndarray, "2 points"], side: int = LUMA
) -> Float32[np.ndarray, "points cells"]:
    """Return the matrix that interpolates the cells of an image at some points."""
    cells = np.eye(side**2, dtype=np.float32).reshape(-1, side, side, 1)
    everywhere = np.broadcast_to(points, (len(cells), *points.shape))
    return np.ascontiguousarray(_sampled(cells, everywhere)[0][0].T)


def same_image(
    moving: Pyramid, fixed: Pyramid, guess: Float32[np.ndarray, "n 2 3"]
) -> Bool[np.ndarray, " n"]:
    """Return which pairs are copies.

    Args:
        moving: One complete image of each pair.
        fixed: The other one, whose inner part is searched in ``moving``.
        guess: Initial affine transform from points of ``fixed`` to ``moving``, in coordinates from
            −1 to 1.
    """
    near, found = np.arange(len(guess)), guess
    same = np.zeros(len(guess), dtype=bool)
    for least in ALIKE_COARSE:
        if not near.size:
            return same
        found, similarity = _aligned(moving.coarse[near], fixed.coarse[near], found, _COARSE_STEPS)
        near, found = near[similarity >= least], found[similarity >= least]
    if near.size:
        found, _ = _aligned(moving.fine[near], fixed.fine[near], found, _FINE_STEPS)
        same[near] = _is_verified(moving.fine[near], fixed.fine[near], found)
    return same


def _is_verified(
    cells: np.ndarray, target: np.ndarray, found: Float32[np.ndarray, "n 2 3"]
) -> Bool[np.ndarray, " n"]:
    """Return which pairs are similar enough after the alignment."""
    similarity, structured, smooth = _compared(cells, target, found)
    needed = np.interp(smooth, DETAIL, ALIKE)
    needed = np.where(_in_place(found), np.maximum(needed, ALIKE_IN_PLACE), needed)
    return np.asarray(structured & (similarity >= needed) & _is_of_copies(found))


def _blurred(cells: Float32[np.ndarray, "n side side"], sigma: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(cells, (0, sigma, sigma), mode="nearest"))


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The cells of the inner part of an image."""

    where: Bool[np.ndarray, " cells"]
    """Indices of the cells."""
    points: Float32[np.ndarray, "2 inner"]
    """Their coordinates, x and y, from −1 to 1."""


def _inner_grid(side: int) -> _Grid:
    ticks = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side * 2 - 1
    points = np.stack([grid.reshape(-1) for grid in np.meshgrid(ticks, ticks)])
    where = np.asarray((np.abs(points) < INNER).all(axis=0))
    return _Grid(where, np.ascontiguousarray(points[:, where]))


def _moved(transform: Float32[np.ndarray, "n 2 3"], grid: _Grid) -> np.ndarray:
    """Return the transformed points of a grid, ``[n, 2, inner]``."""
    return np.asarray(transform[:, :, :2] @ grid.points + transform[:, :, 2:])


def _sampled(
    planes: Float32[np.ndarray, "n side side planes"], points: Float32[np.ndarray, "n 2 points"]
) -> tuple[Float32[np.ndarray, "planes n points"], Float32[np.ndarray, "n points"]]:
    """Return planes at points by bilinear interpolation, and 1 for points inside the image."""
    count, side = planes.shape[:2]
    inside = (np.abs(points) <= 1).all(axis=1).astype(np.float32)
    at = ((points + 1) * np.float32(side / 2) - np.float32(0.5)).clip(0, side - 1.001)
    corner = at.astype(np.int32)
    x, y = np.moveaxis(at - corner, 1, 0)[..., None]
    first = corner[:, 1] * side + corner[:, 0] + np.arange(count)[:, None] * side**2
    flat = planes.reshape(count * side**2, -1)
    top = flat[first] * (1 - x) + flat[first + 1] * x
    bottom = flat[first + side] * (1 - x) + flat[first + side + 1] * x
    return np.moveaxis(top * (1 - y) + bottom * y, 2, 0), inside


def _with_gradients(cells: Float32[np.ndarray, "n side side"]) -> np.ndarray:
    """Return cells and their slopes along x and y, ``[n, side, side, 3]``."""
    down, right = np.gradient(cells, np.float32(2 / cells.shape[1]), axis=(1, 2))
    return np.stack([cells, right, down], axis=3)


def _centred(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return values minus their weighted mean, 0 where the weight is 0."""
    total = weight.sum(axis=-1, keepdims=True) + 1e-6
    return np.asarray((values - (values * weight).sum(-1, keepdims=True) / total) * weight)


def _aligned(
    cells: np.ndarray, target: np.ndarray, transform: np.ndarray, steps: int
) -> tuple[Float32[np.ndarray, "n 2 3"], Float32[np.ndarray, " n"]]:
    """Return the transform after some Gauss–Newton steps, and the correlation before the last."""
    grid, planes = _inner_grid(cells.shape[1]), _with_gradients(cells)
    similarity = np.zeros(len(cells), dtype=np.float32)
    wanted = target.reshape(len(target), -1)[:, grid.where]
    horizontal, vertical = grid.points
    for _ in range(steps):
        (found, right, down), inside = _sampled(planes, _moved(transform, grid))
        one, other = _centred(found, inside), _centred(wanted, inside)
        energy = (one**2).sum(1, keepdims=True) + 1e-6
        product = (one * other).sum(1)
        similarity = product / np.sqrt(energy[:, 0] * ((other**2).sum(1) + 1e-6))
        gain = (product[:, None] / energy).clip(0.2, 5)
        slopes = np.stack(
            [right * horizontal, right * vertical, right, down * horizontal, down * vertical, down],
            axis=1,
        )
        slopes = _centred(slopes * gain[:, None], inside[:, None])
        unit = one / np.sqrt(energy)  # separates a change of contrast from a change of position
        slopes -= (slopes @ unit[..., None]) * unit[:, None]
        normal = slopes @ slopes.transpose(0, 2, 1)
        ridge = 1e-3 * np.trace(normal, axis1=1, axis2=2) / 6 + 1e-6
        normal += ridge[:, None, None] * np.eye(6, dtype=np.float32)
        step = np.linalg.solve(normal, slopes @ (other - gain * one)[..., None])[..., 0]
        step *= np.minimum(1, 0.15 / np.maximum(np.abs(step).max(1, keepdims=True), 1e-9))
        transform = transform + step.reshape(-1, 2, 3).astype(np.float32)
    return transform, similarity


def _compared(
    cells: np.ndarray, target: np.ndarray, transform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the similarity of the gradients of aligned images, and their amount of structure.

    Returns:
        The correlation; whether most of the image has structure; whether it has little detail.
    """
    grid = _inner_grid(LUMA)
    planes, inside = _sampled(_with_gradients(cells), _moved(transform, grid))
    linear = transform[:, :, :2]  # the slopes along the axes of the target
    slopes = linear.transpose(0, 2, 1) @ np.moveaxis(planes[1:], 0, 1) * inside[:, None]
    flat = _with_gradients(target).reshape(len(target), LUMA**2, 3)[:, grid.where]
    wanted = np.moveaxis(flat[..., 1:], 2, 1) * inside[:, None]
    energy = (slopes**2).sum((1, 2)) * (wanted**2).sum((1, 2))
    similarity = (slopes * wanted).sum((1, 2)) / (np.sqrt(energy) + 1e-6)
    side = round(len(grid.points[0]) ** 0.5)
    both = [np.hypot(*np.moveaxis(each, 1, 0)).reshape(-1, side, side) for each in (slopes, wanted)]
    structured = _is_structured(both[0]) & _is_structured(both[1])
    return similarity, structured, _is_smooth(flat[..., 0].reshape(-1, side, side))


def has_structure(fine: Float32[np.ndarray, "n 24 24"]) -> Bool[np.ndarray, " n"]:
    """Return which images have structure in most of their middle, beyond any border."""
    slopes = np.hypot(*np.moveaxis(_with_gradients(fine)[..., 1:], 3, 0))
    middle = slopes[:, _MIDDLE, _MIDDLE]
    strong = np.sqrt((middle**2).mean(axis=(1, 2), keepdims=True))
    empty = (slopes < 0.1 * strong).mean(axis=(1, 2)) > 0.5
    return np.asarray(_is_structured(middle) & ~empty)


def _is_structured(slopes: Float32[np.ndarray, "n side side"]) -> Bool[np.ndarray, " n"]:
    """Return which images have structure nearly everywhere: photographs, unlike single shapes."""
    size = slopes.shape[1] // _BLOCKS
    blocks = (slopes**2).reshape(-1, _BLOCKS, size, _BLOCKS, size).mean((2, 4))
    rms = np.sqrt(blocks.reshape(len(slopes), -1))
    strong = np.sort(rms, axis=1)[:, -3:].mean(axis=1, keepdims=True)
    everywhere = (rms > 0.15 * strong).mean(axis=1) >= 0.5
    flat = (slopes < 0.06 * strong[:, :, None]).mean(axis=(1, 2)) > 0.35
    return np.asarray(everywhere & ~flat)


def _is_smooth(cells: Float32[np.ndarray, "n side side"]) -> Bool[np.ndarray, " n"]:
    """Return which images have little detail: their gradients consist of a few waves."""
    side = cells.shape[1]
    waves = np.arange(side)[:, None] ** 2 + np.arange(side) ** 2
    energy = (fft.dctn(cells, axes=(1, 2), norm="ortho") ** 2 * waves).reshape(len(cells), -1)
    count = energy.sum(axis=1) ** 2 / ((energy**2).sum(axis=1) + 1e-9)
    return np.asarray(count)


def _in_place(transform: Float32[np.ndarray, "n 2 3"]) -> Bool[np.ndarray, " n"]:
    """Return which transforms are close to the identity."""
    return np.asarray((np.abs(transform - np.eye(2, 3, dtype=np.float32)) < 0.015).all((1, 2)))


def _is_of_copies(transform: Float32[np.ndarray, "n 2 3"]) -> Bool[np.ndarray, " n"]:
    """Return which transforms are typical of copies: see the module."""
    (a, b, x), (c, d, y) = transform[:, 0].T, transform[:, 1].T
    across, down = np.hypot(a, c), np.hypot(b, d)
    turn, other_turn = np.degrees(np.arctan2(c, a)), np.degrees(np.arctan2(-b, d))
    sizes = (across > 0.76) & (across < 1.32) & (down > 0.76) & (down < 1.32)
    aspect = np.abs(np.log(across / down)) < 0.22
    turned = (np.abs(turn - other_turn) < 10) & (np.abs(turn + other_turn) < 16)
    # One is within the other, up to a tolerance.
    within = (np.abs(x) < np.abs(1 - across) + 0.05) & (np.abs(y) < np.abs(1 - down) + 0.05)
    return np.asarray(sizes & aspect & turned & within)
