"""Real tables for the comparison of densities: their grids, their rows spread within bins, splits, one preprocessing.

Measured columns are rounded, so that a density could win by standing on the grid. Every value is therefore replaced by
one drawn uniformly from its own bin, once, before anything sees the table: the grid and the bins are those that the
library finds for tables of its own (`scorefield.codecs.grids`). Rows that occur several times are kept once, for a
density could win by remembering those that are in both parts of a split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import yeojohnson
from sklearn.datasets import load_breast_cancer

from scorefield.codecs.grids import Grid, grid_of
from scorefield.randomness import Stream

TABLES = ("wine", "cancer", "parkinsons")
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Table:
    """A table whose values are spread over their bins.

    Args:
        name: of the table.
        rows: (n, d) float64, spread.
        grids: of each column, None where it is continuous.
        dropped: copies of rows that were left out.
    """

    name: str
    rows: np.ndarray
    grids: list[Grid | None]
    dropped: int


def read_table(name: str, folder: Path | None, seed: int = 0) -> Table:
    """Read a table, drop copies of rows, find the grids and spread the values.

    Args:
        name: one of `TABLES`.
        folder: where wine.csv and parkinsons.csv lie.
        seed: of the spreading.
    """
    if name == "cancer":
        values = load_breast_cancer().data.astype(np.float64)
    elif folder is None:
        raise ValueError(f"{name} needs the folder of {name}.csv")
    else:
        values = np.loadtxt(folder / f"{name}.csv", delimiter=",", dtype=np.float64)
    distinct = np.unique(values, axis=0)
    distinct = distinct[Stream(seed, f"density order {name}").permutation(len(distinct))]
    grids = [grid_of(column) for column in distinct.T]
    return Table(name, spread(distinct, grids, seed), grids, len(values) - len(distinct))


def spread(values: np.ndarray, grids: list[Grid | None], seed: int) -> np.ndarray:
    """Each value drawn uniformly from its bin [v − δ/2, v + δ/2), a function of seed, row and column."""
    u = Stream(seed, "density spread").uniform(len(values), (values.shape[1],)).numpy()
    return values + (u - 0.5) * np.stack([_widths(*each) for each in zip(values.T, grids, strict=True)], axis=1)


def _widths(column: np.ndarray, grid: Grid | None) -> np.ndarray:
    """δ of each value of a column, (n,), zero where it is continuous."""
    return np.zeros(len(column)) if grid is None else grid.widths(torch.from_numpy(column.copy())).numpy()


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
