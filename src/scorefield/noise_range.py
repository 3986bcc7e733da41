"""The range of noise that a data set needs, measured from the data and never a constant.

All figures are σ/α, noise relative to data, in the units of the encoded data:

    σ_data  standard deviation of all elements about their mean
    σ_max   the largest distance between two rows (Song & Ermon 2020, technique 1): there any row can reach any other
    σ_min   below the data's own resolution, δ/√12 for values that lie on a grid of step δ (the rounding error that is
            in the data already), else half the distance of nearest neighbours per element                  (1)
    levels  for annealed Langevin, from the geometric ratio γ that lets neighbouring levels overlap by half
            (technique 2):  Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ) = ½                                 (2)

Song & Ermon 2020, "Improved techniques for training score-based generative models", arXiv:2006.09011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import DataError
from scorefield.randomness import Stream

LARGEST_RATIO = 1.6  # NCSN's own ten levels from 1 to 0.01 (Song & Ermon 2019)
_EXACT_ROWS = 4000  # up to this many rows every pair is measured
_CHUNK = 512
_SMALLEST_SHARE = 3.5e-3  # σ_min is kept between these shares of σ_data; EDM's 0.002 is 0.004 σ_data
_LARGEST_SHARE = 0.02  # in many dimensions neighbours are far apart, and finer structure lies along few directions
_COARSEST_GRID = 0.2


@dataclass(frozen=True)
class NoiseRange:
    """What was measured, and the range that follows from it.

    Args:
        sigma_data, sigma_min, sigma_max: as the module says.
        levels: the number of levels of annealed Langevin, by (2).
        largest_distance: the largest distance found between two rows.
        largest_distance_bound: no two of the rows measured are farther apart; equal to the former where every pair was
            measured.
        nearest_distance: median distance from a row to the nearest different one.
        resolution: the step of the grid that values lie on, or None for continuous values.
        rows, dimension: of the data measured.
        reason: a sentence on how σ_min and σ_max were found.
    """

    sigma_data: float
    sigma_min: float
    sigma_max: float
    levels: int
    largest_distance: float
    largest_distance_bound: float
    nearest_distance: float
    resolution: float | None
    rows: int
    dimension: int
    reason: str

    @property
    def ratio(self) -> float:
        """γ, the ratio of neighbouring levels when `levels` of them span the range."""
        return (self.sigma_max / self.sigma_min) ** (1 / (self.levels - 1))


def measure_noise_range(
    x: Tensor, *, resolution: float | None = None, seed: int = 0, rows: int | None = None
) -> NoiseRange:
    """Measure the noise range of encoded data.

    Args:
        x: (n, *shape).
        resolution: the step of the grid that values lie on, None where they are continuous.
        seed: which rows are looked at where there are too many for every pair.
        rows: how many rows the data set has, where x is a random part of it.

    Raises:
        DataError: for fewer than two rows, or when all rows are equal.
    """
    n = len(x)
    if n < 2:
        raise DataError(f"a noise range needs at least 2 rows, got {n}")
    flat = x.flatten(1).float()
    dimension = flat.shape[1]
    sigma_data = float(flat.double().std(correction=0)) if flat.numel() < 1 << 24 else _standard_deviation(flat)
    if not sigma_data > 0 or not any((chunk != flat[0]).any() for chunk in flat.split(_CHUNK)):
        raise DataError(f"all {n} rows are equal: there is no distribution to learn")
    every = n if rows is None else max(n, rows)
    exact = n <= _EXACT_ROWS
    looked_at = flat if exact else flat[Stream(seed, "noise range").permutation(n)[:_EXACT_ROWS].copy()]
    largest, nearest = _distances(looked_at)
    bound = largest
    if not exact:
        largest = max(largest, _farthest_walk(flat))
        nearest = min(nearest, largest)  # the rows looked at may all be copies of one
        from_mean, _ = torch.linalg.vector_norm(flat - flat.mean(0), dim=1).topk(2)
        bound = float(from_mean.sum())
    share = "every pair" if exact else f"{_EXACT_ROWS} random rows and a walk from far point to far point"
    if n < every:
        share = f"of {n} random rows, {share}"
    if resolution is not None:
        sigma_min = resolution / math.sqrt(12)
        reason = f"σ_min is the rounding error δ/√12 of values that lie δ = {resolution:.4g} apart"
    else:
        # Fewer rows looked at lie farther apart; in D dimensions distances go with n^(−1/D).
        nearest *= (len(looked_at) / every) ** (1 / dimension)
        sigma_min = nearest / (2 * math.sqrt(dimension))
        reason = f"σ_min is half the median distance of nearest neighbours, {nearest:.4g}, per element"
    low = _SMALLEST_SHARE * sigma_data
    high = (_LARGEST_SHARE if resolution is None else _COARSEST_GRID) * sigma_data
    if not low <= sigma_min <= high:
        sigma_min = min(max(sigma_min, low), high)
        reason += f", kept at {sigma_min / sigma_data:g} σ_data"
    sigma_max = max(largest, 4 * sigma_min)
    levels = 1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(geometric_ratio(dimension)))
    reason += f"; σ_max is the largest distance of two rows ({share})"
    return NoiseRange(
        sigma_data, sigma_min, sigma_max, max(levels, 2), largest, bound, nearest, resolution, n, dimension, reason
    )


def geometric_ratio(dimension: int) -> float:
    """γ of (2): the ratio of neighbouring levels for data of this dimension, at most `LARGEST_RATIO`.

    In fewer than five dimensions the overlap of (2) never falls to one half, so the rule sets no limit there.
    """

    def overlap(gamma: float) -> float:
        shift = math.sqrt(2 * dimension) * (gamma - 1)
        return (math.erf((shift + 3 * gamma) / math.sqrt(2)) - math.erf((shift - 3 * gamma) / math.sqrt(2))) / 2

    low, high = 1.0, LARGEST_RATIO
    for _ in range(60):  # the overlap falls as γ grows
        middle = (low + high) / 2
        low, high = (middle, high) if overlap(middle) > 0.5 else (low, middle)
    return low


def _standard_deviation(flat: Tensor) -> float:
    """As std, in float64 but a chunk at a time, so that a gigabyte is not copied."""
    mean = sum(float(chunk.double().sum()) for chunk in flat.split(_CHUNK)) / flat.numel()
    squares = sum(float((chunk.double() - mean).square().sum()) for chunk in flat.split(_CHUNK))
    return math.sqrt(squares / flat.numel())


def _distances(flat: Tensor) -> tuple[float, float]:
    """The largest distance of two rows, and the median distance to the nearest different row, ∞ if there is none."""
    wide = flat.shape[1] >= 64
    flat = flat - flat.mean(0) if wide else flat  # products of large numbers would cancel
    mode = "use_mm_for_euclid_dist" if wide else "donot_use_mm_for_euclid_dist"
    largest, nearest = 0.0, []
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        distances = torch.cdist(chunk, flat, compute_mode=mode)
        largest = max(largest, float(distances.max()))
        # Products leave a rounding error near zero: a row is no neighbour of itself or of its copies.
        smallest = 1e-3 * float(distances.mean()) if wide else 0.0
        nearest.append(distances.masked_fill(distances <= smallest, math.inf).amin(1))
    every = torch.cat(nearest)
    different = every[every.isfinite()]
    return largest, float(different.median()) if len(different) else math.inf


def _farthest_walk(flat: Tensor, steps: int = 8) -> float:
    """A lower bound of the largest distance over all rows: from the mean to the farthest row, from there on."""
    here, largest = flat.mean(0), 0.0
    for step in range(steps):
        distances = torch.linalg.vector_norm(flat - here, dim=1)
        farthest = int(distances.argmax())
        if step and float(distances[farthest]) <= largest:
            break
        largest = float(distances[farthest]) if step else 0.0
        here = flat[farthest]
    return largest
