"""The grid that rounded values lie on: its step and offset, found only where coincidence is ruled out.

Measured numbers are rounded, and later perhaps moved, scaled and printed with few digits. Values are taken to be

    v = offset + k · step + noise,   |noise| ≤ η(v)                                                              (1)

with η a few spacings of the floats, or half of the last digit where all values are printed with p significant ones.
Continuous values satisfy (1) by chance with a probability of at most ∏ 3 η(v)/step over the different values, less
two for the two fitted numbers. A grid is believed where that is below 5·10⁻⁹; no more than two hundred grids are tried,
so that one in a million continuous columns is taken for rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.randomness import Stream

_CHUNK = 1 << 20
_CHANCE = 5e-9  # that continuous values lie on one grid by coincidence
_SEARCHED = 1 << 20  # values that a grid is sought in; all must then lie on it
_WINDOW = 4096  # neighbouring values that a step is first fitted to
_FINE = 16  # times the noise is the least step that can be told
_MOST_DIGITS = 12
_DIVISIONS = 10  # the closest two values may be as many steps apart
_TIED = 20  # rows for each different value, from which it is plain that there are no others


@dataclass(frozen=True)
class Grid:
    """Values offset + k · step for whole k.

    Args:
        step: the distance of neighbours, in units of the data.
        offset: one point of the grid.
        decimals: digits after the point that all values have at most, negative for multiples of ten; None for floats
            of full length.
        digits: significant digits of all values, where some are so large that their last one is worth more than a
            step; else None.
        printed: significant digits that all values were printed with, where that is fewer than the grid's points have.
    """

    step: float
    offset: float = 0.0
    decimals: int | None = None
    digits: int | None = None
    printed: int | None = None

    def snap(self, values: np.ndarray) -> np.ndarray:
        """The nearest points of the grid, any shape, float64; decimals come out clean, 0.3 and not 3 · 0.1."""
        values = np.asarray(values, dtype=np.float64)
        if not self._is_plain:
            values = self.offset + np.round((values - self.offset) / self.step) * self.step
        if self.printed is not None:
            return _printed(values, self.printed)
        return values if self.decimals is None else np.round(values, self.decimals)

    def widths(self, values: Tensor) -> Tensor:
        """How far the bin of each value reaches, any shape, float64: a step, or one of its last digit if that is more.

        Args:
            values: in units of the data.
        """
        steps = torch.full_like(values, self.step, dtype=torch.float64)
        if self.digits is None:
            return steps
        return torch.maximum(steps, torch.from_numpy(_units(values.detach().cpu().numpy(), self.digits)))

    def middles(self, values: Tensor) -> Tensor:
        """The middle of each value's bin, any shape, float64: its point of the grid, which print may have rounded.

        Args:
            values: in units of the data.
        """
        if self.printed is None:
            return values
        points = self.offset + ((values - self.offset) / self.step).round() * self.step
        return torch.where(self.widths(values) > self.step, values, points)

    def edge(self, low: float, high: float, value: float) -> float:
        """From where on values between two ends belong to a point above some value; an end if all do, or none.

        Args:
            low, high: the ends, in units of the data.
            value: that points are to be above; itself none of them.
        """
        if float(self.snap(np.array([low]))[0]) > value:
            return low
        if not float(self.snap(np.array([high]))[0]) > value:
            return high
        while low < (middle := (low + high) / 2) < high:
            above = float(self.snap(np.array([middle]))[0]) > value
            low, high = (low, middle) if above else (middle, high)
        return high

    @property
    def _is_plain(self) -> bool:
        """Whether rounding to decimals is all."""
        return self.decimals is not None and self.offset == 0 and self.step == float(f"1e{-self.decimals}")

    def describe(self) -> str:
        """In words."""
        words = (
            f"multiples of {self.step:.6g}" if self.offset == 0 else f"{self.offset:.6g} + multiples of {self.step:.6g}"
        )
        if self._is_plain and self.decimals is not None and self.decimals >= 0:
            words = f"at most {self.decimals} decimals"
        return words if self.digits is None else f"{words}, {self.digits} digits printed"

    def to_json(self) -> dict[str, Any]:
        """Plain values, which are its arguments."""
        return asdict(self)


WHOLE = Grid(1.0, 0.0, 0)


def grid_of(values: np.ndarray) -> Grid | None:
    """The coarsest grid that can be told, None for continuous values and where too few tell.

    Whole numbers stored as integers have step 1. Decimals are sought first: far from zero the floats themselves lie on
    a grid, so these must be 16 times coarser (whole numbers, which floats hold exactly, twice). Then a coarser step
    with an offset is sought: exactly for decimals, by (1) for digits printed and for floats of full length.
    With at least 20 rows for each different value, it is plain without (1) that there are none between.

    Args:
        values: of one column, any shape, finite; time grows as n log n up to a million values and with n from there.
    """
    if values.dtype.kind in "iub":
        return WHOLE
    values = values.reshape(-1)
    if len(values) < 2 or values.min() == values.max():
        return None
    part = values
    if len(values) > _SEARCHED:
        part = values[(Stream(0, "grid").uniform(_SEARCHED) * len(values)).long().numpy()]
    distinct = np.unique(part)
    tied = len(part) >= _TIED * len(distinct)
    decimals = _decimals(values, distinct)
    if decimals is None:
        found = _between(distinct.astype(np.float64), _float_noise(distinct), tied)
        if found is None:
            return None
        grid = Grid(*found)
        return grid if _all_on(grid, values, None) else None
    digits = _digits(distinct)
    found = None
    if digits is not None:
        found = _between(distinct.astype(np.float64), _units(distinct, digits) / 2 + _float_noise(distinct), tied)
    if found is not None and digits is not None and found[0] > float(f"1e{-decimals}"):
        step, offset = found
        usual, coarsest = (float(_units(size, digits)) for size in (np.median(np.abs(part)), np.abs(distinct).max()))
        offset = _refined(distinct.astype(np.float64), digits, step, offset)
        # Its points are printed as the usual value is, at least to a thousandth of a step.
        finest = math.ceil(-math.log10(min(usual, step / 1000) if usual else step / 1000) - 1e-9)
        grid = Grid(step, offset, min(finest, decimals), digits if coarsest > step else None, digits)
        if _all_on(grid, values, digits):
            return grid
    if digits is not None:
        fewer = int((_units(distinct, digits) > 5 * float(f"1e{-decimals}")).sum())
        if fewer * math.log(10) >= -math.log(_CHANCE):  # that so many large values end in a zero is no coincidence
            return Grid(float(f"1e{-decimals}"), 0.0, decimals, digits, digits)
    exact = _common_step(distinct, decimals, tied)
    return exact if exact is not None and _all_on(exact, values, None) else Grid(float(f"1e{-decimals}"), 0.0, decimals)


def grid_of_integers(values: np.ndarray) -> Grid:
    """The coarsest grid of whole numbers, such as the hundreds, or `WHOLE` where a coarser one may be coincidence.

    Args:
        values: of one column, (n,), of an integer type and within ±2⁵³.
    """
    distinct = np.unique(values.astype(np.int64))
    if len(distinct) == 1:
        return WHOLE
    return _common_step(distinct, 0, len(values) >= _TIED * len(distinct)) or WHOLE


# -- decimals ---------------------------------------------------------------------------------------------------------


def _decimals(values: np.ndarray, distinct: np.ndarray) -> int | None:
    """How many decimals suffice for every value, None where no number does or where that cannot be told."""
    kind = values.dtype.type
    largest = max(abs(float(distinct[0])), abs(float(distinct[-1])))
    spacing = float(np.spacing(kind(max(largest, float(np.finfo(kind).tiny)))))
    first = values[:1000]
    different = len(np.unique(first))
    span = float(distinct[-1]) - float(distinct[0])
    if not math.isfinite(span):
        return None
    for decimals in range(-math.floor(math.log10(span)), min(300, math.floor(-math.log10(2 * spacing))) + 1):
        for off, coarser in ((0, 2), (2, _FINE)) if decimals <= 0 else ((2, _FINE),):
            step = float(f"1e{-decimals}")
            share = (2 * off + 1) * spacing / step
            if step < coarser * spacing or share >= 1 or different * math.log(share) > math.log(_CHANCE):
                continue
            near = off * spacing
            if _rounded(first, decimals, near) and all(_rounded(part, decimals, near) for part in _parts(values)):
                return decimals
    return None


def _rounded(values: np.ndarray, decimals: int, near: float) -> bool:
    """Whether rounded values, as floats of the same type, are the values, or so near as sums of them may be."""
    rounded = np.round(values.astype(np.float64), decimals).astype(values.dtype)
    return bool((np.abs(rounded - values) <= near).all())


def _common_step(distinct: np.ndarray, decimals: int, tied: bool) -> Grid | None:
    """The grid of the greatest common divisor of all differences, counted in the last decimal; None if that is one."""
    unit = float(f"1e{-decimals}")
    counts = np.round((distinct.astype(np.float64) - float(distinct[0])) / unit)
    if counts[-1] >= 2.0**53:
        return None
    divisor = int(np.gcd.reduce(counts.astype(np.int64)))
    if divisor == 1 or not (tied or (len(distinct) - 2) * math.log(divisor) >= -math.log(_CHANCE)):
        return None
    first = round(float(distinct[0]) / unit)
    return Grid(float(f"{divisor}e{-decimals}"), float(f"{first % divisor}e{-decimals}"), decimals)


def _digits(distinct: np.ndarray) -> int | None:
    """The significant digits that all values have at most, None if there are more than twelve."""
    noise = 2 * np.spacing(np.abs(distinct)).astype(np.float64)
    values = np.abs(distinct.astype(np.float64))
    for digits in range(1, _MOST_DIGITS + 1):
        units = _units(values, digits)
        if (np.abs(np.round(values / np.where(units > 0, units, 1.0)) * units - values) <= noise).all():
            return digits
    return None


def _units(values: np.ndarray, digits: int) -> np.ndarray:
    """What one of the last of so many significant digits is worth, 0 for a value of 0; any shape, float64."""
    size = np.abs(np.asarray(values, dtype=np.float64))
    with np.errstate(divide="ignore"):
        # Just below a power of ten the logarithm may round up to it.
        exponent = np.floor(np.log10(size * (1 + 1e-15)))
    return np.where(size > 0, 10.0 ** np.where(size > 0, exponent + 1 - digits, 0.0), 0.0)


def _refined(distinct: np.ndarray, digits: int, step: float, offset: float) -> float:
    """The middle of all offsets that give every value as it is printed, or the one given if there is none."""
    left = distinct - np.round((distinct - offset) / step) * step
    half = _units(distinct, digits) / 2
    known = half > 0
    low, high = (left - half)[known].max(), (left + half)[known].min()
    return float((low + high) / 2) if low < high else offset


def _printed(values: np.ndarray, digits: int) -> np.ndarray:
    """Values rounded to so many significant digits, any shape, clean: 0.3 and not 3 · 0.1."""
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        exponents = np.where(size > 0, np.floor(np.log10(np.where(size > 0, size, 1.0) * (1 + 1e-15))), 0).astype(int)
    rounded = np.array(values)
    for exponent in np.unique(exponents):
        here = exponents == exponent
        rounded[here] = np.round(values[here], digits - 1 - int(exponent))
    return rounded


# -- steps and offsets ------------------------------------------------------------------------------------------------


def _float_noise(distinct: np.ndarray) -> np.ndarray:
    """Eight spacings of the floats at the largest value, for each, float64."""
    spacing = float(np.spacing(np.abs(distinct).max()))
    return np.full(len(distinct), 8 * spacing)


def _between(values: np.ndarray, noise: np.ndarray, tied: bool) -> tuple[float, float] | None:
    """(step, offset) of (1) for different growing values and their η, each (m,) float64; None where none is believed.

    Values whose noise exceeds a sixteenth of a step tell nothing; so the grid is sought in all whose noise is below
    some level, from the largest level to the least.
    """
    for level in np.unique(noise)[::-1]:
        known = noise <= level
        v, eta = values[known], noise[known]
        if len(v) == 2 and tied and len(values) == 2:
            return float(v[1] - v[0]), float(v[0])
        if len(v) < 3:
            continue
        apart = np.concatenate([[True], np.diff(v) > eta[1:] + eta[:-1]])  # else the same but for noise
        v, eta = v[apart], eta[apart]
        start = max(0, (len(v) - _WINDOW) // 2)
        window = slice(start, start + _WINDOW)
        if len(v) < 3:
            continue
        closest = float(np.diff(v[window]).min())
        for division in range(1, _DIVISIONS + 1):
            step = closest / division
            if step < _FINE * level:
                break
            first = _fit(v[window], eta[window], step, 2 * float(level) / closest)
            if first is None:
                continue
            found = _fit(v, eta, first[0], first[2]) if len(v) > _WINDOW else first
            if found is not None and _believed(eta, found[0]):
                return found[0], found[1]
    return None


def _fit(v: np.ndarray, noise: np.ndarray, step: float, error: float) -> tuple[float, float, float] | None:
    """The step, offset and relative error of the step, from a first step and its relative error; None off the grid.

    A distance of k steps is told from k + 1 only while k times the step's error is below half a step. The longest run
    of gaps that can be told gives a better step, which tells longer gaps.
    """
    gaps, slack = np.diff(v), noise[1:] + noise[:-1]
    while True:
        steps = np.round(gaps / step)
        told = gaps * error + slack < 0.4 * step
        if told.all():
            break
        edges = np.flatnonzero(np.diff(np.concatenate([[0], told.astype(np.int8), [0]])))
        starts, ends = edges[::2], edges[1::2]
        if not len(starts):
            return None
        best = int(np.argmax(v[ends] - v[starts]))
        a, b = int(starts[best]), int(ends[best])
        count = np.concatenate([[0], np.cumsum(steps[a:b])])
        better = float(v[b] - v[a]) / float(count[-1])
        off = np.abs(v[a : b + 1] - v[a] - count * better)
        smaller = float(noise[a] + noise[b]) / float(v[b] - v[a])
        if smaller > 0.9 * error or (off > 2 * (noise[a : b + 1] + noise[a] + noise[b])).any():
            return None
        step, error = better, smaller
    count = np.concatenate([[0], np.cumsum(steps)])
    weights = (noise.min() / noise) ** 2
    weights = weights / weights.sum()
    middle = count - weights @ count
    # Least squares of what the first step leaves over, so that no digits are lost to the size of the values.
    left = v - v[0] - step * count
    step += float((weights * middle) @ left / (weights @ middle**2))
    error = min(error, float(noise[0] + noise[-1]) / float(v[-1] - v[0]))
    for tried in (float(f"{step:.3g}"), step):
        left = v - v[0] - tried * count
        offset = float(v[0]) + float(weights @ left)
        if (np.abs(v - offset - tried * count) <= 1.5 * noise).all():
            offset -= tried * round(offset / tried)
            return tried, 0.0 if abs(offset) <= noise.min() else offset, error
    return None


def _believed(noise: np.ndarray, step: float) -> bool:
    """Whether continuous values would hardly ever lie so close to the points of some grid."""
    shares = np.sort(np.log(np.minimum(1.0, 3 * noise / step)))
    return bool(shares[2:].sum() <= math.log(_CHANCE))


def _all_on(grid: Grid, values: np.ndarray, digits: int | None) -> bool:
    """Whether all values are on a grid but for the noise of floats, or of so many digits printed."""
    floats = 8 * float(np.spacing(np.abs(values).max()))
    for part in _parts(values):
        noise = floats if digits is None else floats + _units(part, digits)
        exact = part.astype(np.float64)
        nearest = grid.offset + np.round((exact - grid.offset) / grid.step) * grid.step
        if not (np.abs(nearest - exact) <= noise).all():
            return False
    return True


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
