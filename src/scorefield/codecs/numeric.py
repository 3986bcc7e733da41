"""Numeric columns: what each is taken for, its scaler, and how its values are rounded on the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.base import Numbers
from scorefield.codecs.cells import Cells
from scorefield.codecs.grids import WHOLE, Grid, grid_of, grid_of_integers
from scorefield.codecs.scalers import Quantile, Scaler, fit_scaler, scaler_from_json
from scorefield.codecs.support import Support, are_known
from scorefield.errors import DataError
from scorefield.randomness import Stream

_EXACT_INTEGERS, _EXACT_HALVES = 2**53, 2**51  # up to which float64 has all of them, and the ends of their bins
_LEAST_SPAN = 1e-150
_MEASURED = 1 << 22  # values from which a scaler is fitted


@dataclass(frozen=True)
class NumericColumn:
    """One column of numbers.

    Args:
        name: for messages.
        scaler: its map to a scale of order one, or None for a constant column, which is not modelled.
        grid: that all values lie on, even or of few values; None for continuous values.
        low, high: the range of the values; integers are kept within it.
        integer: whether the values are integers.
    """

    name: str
    scaler: Scaler | None
    grid: Grid | Support | None
    low: float
    high: float
    integer: bool

    @staticmethod
    def fit(name: str, values: np.ndarray, *, normal: bool = False, ranks: bool = False) -> NumericColumn:
        """Measure a column of finite numbers, (n,).

        Args:
            name: for messages.
            values: all of them.
            normal: whether its values, spread over their bins, are brought to about N(0, 1), whatever their shape.
            ranks: whether any whole number between may come, though none may have been seen.
        """
        integer = values.dtype.kind in "iub"
        low, high = values.min().item(), values.max().item()
        if integer and max(abs(low), abs(high)) > (_EXACT_HALVES if normal else _EXACT_INTEGERS):
            raise DataError(
                f"column {name!r}: integers up to {max(abs(low), abs(high))} cannot be told apart as float64; "
                "if it is an identifier leave it out with --columns"
            )
        if 0 < float(high) - float(low) < _LEAST_SPAN:
            raise DataError(f"column {name!r} spans only {high - low:g}, whose square is no float64: rescale it")
        looked_at = _looked_at(values)
        if integer:
            even: Grid | None = grid_of_integers(values) if normal and not ranks else WHOLE
        else:
            even = grid_of(values)
        grid = (Support.of(looked_at, even) if normal and even is not None else None) or even
        scaler: Scaler | None = None
        if low != high:
            scaler = _normal(looked_at, grid) if normal else fit_scaler(torch.from_numpy(looked_at.astype(np.float64)))
        return NumericColumn(name, scaler, grid, float(low), float(high), integer)

    @property
    def resolution(self) -> float | None:
        """The step of the grid of encoded values, None where they are continuous or ranks."""
        return None if self.grid is None or self.scaler is None else self.scaler.step(self.grid.step)

    def spread(self, values: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values moved within their bins by (u − ½) of its width and then scaled, and the log-slope of that in nats.

        Args:
            values: of any shape, float64, in units of the data.
            u: of that shape, in [0, 1), or None to leave them where they are, as continuous values are.

        Returns:
            two tensors of that shape, float64.
        """
        assert self.scaler is not None
        if u is not None and self.grid is not None:
            values = values + (u.double() - 0.5) * self.grid.widths(values)
        return self.scaler.forward(values), self.scaler.log_slope(values)

    def cells(self, values: Tensor) -> Cells:
        """Of (n,) values in units of the data, float64: bins of rounded values, points of continuous ones."""
        assert self.scaler is not None
        values = values.unsqueeze(1)
        if self.grid is None:
            return Cells.points(self.scaler.forward(values), self.scaler.log_slope(values))
        # Spread evenly over the encoded bin: of an uneven scale this is a scale that is even within each bin.
        widths, values = self.grid.widths(values), self.grid.middles(values)
        low, high = self.scaler.forward(values - widths / 2), self.scaler.forward(values + widths / 2)
        extent = (high - low) / 2
        return Cells((low + high) / 2, extent, torch.zeros_like(values, dtype=torch.bool), (2 * extent / widths).log())

    @property
    def log_width(self) -> float:
        """log of a bin's width in units of the data, 0 where there are no bins."""
        return 0.0 if self.grid is None else math.log(self.grid.step)

    def decode(self, scaled: Tensor) -> np.ndarray:
        """Values (n,) float64 from scaled ones, on the column's own grid."""
        assert self.scaler is not None
        values: np.ndarray = self.scaler.inverse(scaled.double()).numpy()
        if self.grid is not None:
            values = self.grid.snap(values)
        return np.clip(values, self.low, self.high) if self.integer else values

    def other_than(self, value: float) -> str:
        """In words, that a value of a constant column is another, which has no density."""
        return f"{value:g}, which was always {self.low:g} in training: no density is known for another value"

    def describe(self) -> str:
        """A line for `inspect`."""
        if self.scaler is None:
            return f"{self.name}: constant {self.low:g}, not modelled"
        rounded = "continuous" if self.grid is None else self.grid.describe()
        kind = rounded
        if self.integer and isinstance(self.grid, Grid):
            kind = "integers" if self.grid.step == 1 else f"integers, {rounded}"
        return f"{self.name}: {kind}, {self.low:g} to {self.high:g}, {self.scaler.kind}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scaler = None if self.scaler is None else self.scaler.to_json()
        return {
            "name": self.name,
            "scaler": scaler,
            "grid": None if self.grid is None else self.grid.to_json(),
            "low": self.low,
            "high": self.high,
            "integer": self.integer,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> NumericColumn:
        """The column whose `to_json` gave these fields."""
        scaler = None if fields["scaler"] is None else scaler_from_json(fields["scaler"])
        kept = fields["grid"]
        grid = None if kept is None else Support(tuple(kept["points"])) if "points" in kept else Grid(**kept)
        return NumericColumn(fields["name"], scaler, grid, fields["low"], fields["high"], fields["integer"])


def spans(columns: Sequence[NumericColumn]) -> tuple[Tensor, Tensor]:
    """Smallest and largest encoded value of each modelled column, each (D,) float32."""
    ends = [
        column.scaler.forward(torch.tensor([column.low, column.high], dtype=torch.float64))
        for column in columns
        if column.scaler is not None
    ]
    low, high = torch.stack(ends).float().unbind(1)
    return low, high


def numbers_of(columns: Sequence[NumericColumn]) -> Numbers:
    """What each modelled column is, D of them."""
    modelled = [column for column in columns if column.scaler is not None]
    return Numbers(
        tuple(column.name for column in modelled),
        torch.tensor([column.grid is not None for column in modelled]),
        torch.tensor([column.integer for column in modelled]),
        torch.tensor([column.log_width for column in modelled], dtype=torch.float64),
    )


def steps_of(columns: Sequence[NumericColumn]) -> tuple[float, ...] | None:
    """The grid of each modelled column; None as soon as one is continuous."""
    steps = [column.resolution for column in columns if column.scaler is not None]
    known = tuple(step for step in steps if step is not None)
    return known if known and len(known) == len(steps) else None


def finest(columns: Sequence[NumericColumn]) -> float | None:
    """The finest grid of several columns; None as soon as one modelled column is continuous."""
    return min(steps_of(columns) or (), default=None)


def _normal(values: np.ndarray, grid: Grid | Support | None) -> Scaler:
    """Ranks to normals."""
    if grid is None:
        return Quantile.fit(torch.from_numpy(values.astype(np.float64)))
    distinct, counts = np.unique(values, return_counts=True)
    if isinstance(grid, Support):
        edges = torch.from_numpy(grid.edges)
        return Quantile.of_bins(edges[:-1], edges[1:], torch.from_numpy(counts), every=True)
    places = torch.from_numpy(distinct.astype(np.float64))
    middles, widths = grid.middles(places), grid.widths(places)
    low, high = middles - widths / 2, middles + widths / 2
    # Printed with few digits, a bin of a large value may reach over its neighbour's.
    low[1:] = torch.maximum(low[1:], (middles[1:] + middles[:-1]) / 2).minimum(middles[1:])
    high = torch.cat([low[1:], high[-1:]])
    return Quantile.of_bins(low, high, torch.from_numpy(counts), every=are_known(values))


def _looked_at(values: np.ndarray) -> np.ndarray:
    """The values that a scaler is fitted to: all, or random ones of very many and the extremes."""
    if len(values) <= _MEASURED:
        return values
    positions = (Stream(0, "values measured").uniform(_MEASURED) * len(values)).long().numpy()
    return np.concatenate([values[positions], [values.min(), values.max()]])
