"""Real tables for the comparison of densities: their grids, their rows spread within bins, splits, one preprocessing.

Measured columns are rounded, so that a density could win by standing on the grid. Every value is therefore replaced by
one drawn uniformly from its own bin, once, before anything sees the table. Rows that occur several times are kept once,
for a density could win by remembering those that are in both parts of a split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import yeojohnson
from sklearn.datasets import load_breast_cancer

from scorefield.randomness import Stream

TABLES = ("wine", "cancer", "parkinsons")
_ON_GRID = 0.97  # share of a column's values that must lie on a grid: a few more precise ones do not make it finer
_DIGITS = 5  # of the printed tables
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Table:
    """A table whose values are spread over their bins.

    Args:
        name: of the table.
        rows: (n, d) float64, spread.
        steps: width of each column's bins.
        dropped: copies of rows that were left out.
    """

    name: str
    rows: np.ndarray
    steps: np.ndarray
    dropped: int


def read_table(name: str, folder: Path | None, seed: int = 0) -> Table:
    """Read a table, drop copies of rows, find the grids and spread the values.

    Args:
        name: one of `TABLES`.
        folder: where wine.csv and parkinsons.csv lie.
        seed: of the spreading.
    """
    if name == "cancer":
        values, digits = load_breast_cancer().data.astype(np.float64), 12
    elif folder is None:
        raise ValueError(f"{name} needs the folder of {name}.csv")
    else:
        values, digits = np.loadtxt(folder / f"{name}.csv", delimiter=",", dtype=np.float64), _DIGITS
    distinct = np.unique(values, axis=0)
    distinct = distinct[Stream(seed, f"density order {name}").permutation(len(distinct))]
    steps = np.array([grid_step(column, digits) for column in distinct.T])
    return Table(name, spread(distinct, steps, seed), steps, len(values) - len(distinct))


def spread(values: np.ndarray, steps: np.ndarray, seed: int) -> np.ndarray:
    """Each value drawn uniformly from its bin [v − δ/2, v + δ/2), a function of seed, row and column."""
    u = Stream(seed, "density spread").uniform(len(values), (values.shape[1],)).numpy()
    return values + (u - 0.5) * steps


def grid_step(column: np.ndarray, digits: int) -> float:
    """The coarsest step δ in {1, 2, 5}·10^k such that nearly all values lie on offset + δℤ.

    Where printing hides the grid, it is the step of printing at the largest value.

    Args:
        column: (n,), printed with so many significant digits, from which the mean may have been taken.
        digits: of each value.
    """
    distinct = np.unique(column)
    span = distinct[-1] - distinct[0]
    size = np.abs(column).clip(min=span * 1e-12)
    printed = 0.5 * 10.0 ** (np.floor(np.log10(size)) - digits + 1)  # how far rounding may have moved each value
    top = int(np.ceil(np.log10(span)))
    for exponent in range(top, top - 9, -1):
        for lead in (5.0, 2.0, 1.0):
            step = lead * 10.0**exponent
            if step > span:
                continue
            # Values whose own rounding is coarse beside the step say nothing for it.
            telling = printed < step / 8
            if telling.mean() < 0.5:
                return 2 * float(printed.max())
            phase = np.exp(2j * np.pi * column[telling] / step)
            offset = np.angle(_mode(phase)) / (2 * np.pi)
            off = np.abs((column[telling] / step - offset + 0.5) % 1 - 0.5)
            if (off * step <= 1.5 * printed[telling] + 0.02 * step).mean() >= _ON_GRID:
                return step
    return 2 * float(printed.max())


def _mode(phase: np.ndarray) -> complex:
    """Where most of the phases are: the mean of those near the fullest of 64 directions."""
    angle = np.angle(phase)
    fullest = np.bincount(((angle + np.pi) / (2 * np.pi) * 64).astype(int) % 64, minlength=64).argmax()
    centre = np.exp(1j * ((fullest + 0.5) / 64 * 2 * np.pi - np.pi))
    return complex(phase[np.abs(phase - centre) < 0.2].mean())


def split(count: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to test with, of fixed split `number`."""
    order = Stream(number, "density split").permutation(count)
    held = int(count * _TEST_SHARE)
    return order[held:], order[:held]


@dataclass(frozen=True)
class Preprocessing:
    """z = W(g(x) − mean), g a Yeo–Johnson power of each standardised column or nothing, W whitening; log|det| known.

    Args:
        centre, scale: of the columns before the power.
        powers: λ of each column, or None for no power.
        mean: of the columns after it.
        whiten: W, (d, d), of the training covariance.
    """

    centre: np.ndarray
    scale: np.ndarray
    powers: np.ndarray | None
    mean: np.ndarray
    whiten: np.ndarray

    @staticmethod
    def fit(x: np.ndarray, power: bool = True) -> Preprocessing:
        """Of training rows (n, d)."""
        centre, scale = x.mean(0), x.std(0)
        z = (x - centre) / scale
        powers = np.array([yeojohnson(column)[1] for column in z.T]) if power else None
        y = _power(z, powers)
        values, vectors = np.linalg.eigh(np.cov(y.T, bias=True))
        return Preprocessing(centre, scale, powers, y.mean(0), (vectors / np.sqrt(values)).T)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z (n, d), and log |dz/dx| (n,)."""
        z = (x - self.centre) / self.scale
        slope = np.zeros(len(x)) if self.powers is None else _log_slope(z, self.powers).sum(1)
        constant = -np.log(self.scale).sum() + np.linalg.slogdet(self.whiten)[1]
        return (_power(z, self.powers) - self.mean) @ self.whiten.T, slope + constant


def _power(z: np.ndarray, powers: np.ndarray | None) -> np.ndarray:
    if powers is None:
        return z
    return np.stack([yeojohnson(column, power) for column, power in zip(z.T, powers, strict=True)], axis=1)


def _log_slope(z: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """d/dz of Yeo & Johnson 2000: (1 + |z|)^(λ−1) above zero, (1 + |z|)^(1−λ) below."""
    return np.sign(z) * (powers - 1) * np.log1p(np.abs(z))
