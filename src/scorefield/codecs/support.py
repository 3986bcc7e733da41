"""Few values on no even grid, such as fares or ages with some half years: each stands for all that is nearest to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.grids import Grid

_MOST = 256  # different values
_FEWEST_ROWS = 100  # which tell it
_NEW = 0.05  # chance of another value in the next row, above which some are missing
_EMPTY = 2  # points of the even grid for each value, up to which that grid says it better


def are_known(values: np.ndarray) -> bool:
    """Whether values (n,) are few, and hardly any other one is to be expected.

    The chance that the next row has a value not seen yet is about the share of values that were seen once (Good 1953,
    "The population frequencies of species and the estimation of population parameters").
    """
    counts = np.unique(values, return_counts=True)[1]
    return len(values) >= _FEWEST_ROWS and len(counts) <= _MOST and int((counts == 1).sum()) <= _NEW * len(values)


@dataclass(frozen=True)
class Support:
    """Some points, growing, at least two; in place of a `Grid`.

    Args:
        points: in units of the data.
    """

    points: tuple[float, ...]

    @staticmethod
    def of(values: np.ndarray, grid: Grid) -> Support | None:
        """The values that there are, where they are all known and leave most of their even grid empty; else None.

        Args:
            values: of a column, (n,), all on the grid.
            grid: the even grid.
        """
        distinct = np.unique(values)
        spanned = (float(distinct[-1]) - float(distinct[0])) / grid.step + 1
        if len(distinct) <= 2 or spanned <= _EMPTY * len(distinct) or not are_known(values):
            return None
        return Support(tuple(distinct.astype(np.float64).tolist()))

    @cached_property
    def edges(self) -> np.ndarray:
        """Half way between neighbours, and as far beyond the ends, (m + 1,)."""
        points = np.array(self.points)
        middles = (points[1:] + points[:-1]) / 2
        return np.concatenate([[2 * points[0] - middles[0]], middles, [2 * points[-1] - middles[-1]]])

    @property
    def step(self) -> float:
        """The least distance of two points."""
        return float(np.diff(self.points).min())

    def _places(self, values: np.ndarray) -> np.ndarray:
        places: np.ndarray = np.searchsorted(self.edges[1:-1], values, side="right")
        return places

    def snap(self, values: np.ndarray) -> np.ndarray:
        """The nearest points, any shape, float64."""
        return np.array(self.points)[self._places(np.asarray(values, dtype=np.float64))]

    def widths(self, values: Tensor) -> Tensor:
        """How far the bin of each value reaches, any shape, float64."""
        return torch.from_numpy(np.diff(self.edges)[self._places(values.detach().cpu().numpy())])

    def middles(self, values: Tensor) -> Tensor:
        """The middle of each value's bin, any shape, float64; its point may stand elsewhere within."""
        middles = (self.edges[1:] + self.edges[:-1]) / 2
        return torch.from_numpy(middles[self._places(values.detach().cpu().numpy())])

    def edge(self, low: float, high: float, value: float) -> float:
        """From where on values between two ends belong to a point above some value, as `Grid.edge`."""
        above = int(np.searchsorted(self.points, value, side="right"))
        return float(np.clip(self.edges[above], low, high))

    def describe(self) -> str:
        """In words."""
        return f"{len(self.points)} different values"

    def to_json(self) -> dict[str, Any]:
        """Plain values, which are its arguments."""
        return asdict(self)
