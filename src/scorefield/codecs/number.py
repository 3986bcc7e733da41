"""Columns of numbers in a table: a scaled value and, where many rows share one, which of these values it is.

A value that a fifth of all rows have, such as no capital gain or forty hours a week, is no point of a density: it is a
vertex, beside another one for all the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.between import Between
from scorefield.codecs.cells import Cells
from scorefield.codecs.numeric import NumericColumn, spans
from scorefield.codecs.support import Support
from scorefield.codecs.vertices import BLUR, REACH, Vertices
from scorefield.data.checks import HUGE

if TYPE_CHECKING:
    import pyarrow as pa

_SPIKE = 0.2  # share of all rows
_STANDS_OUT = 4  # times as many rows as the next value on either side, or a smooth count of few values had spikes
_FEWEST_BESIDE = 10  # different values beside spikes
_ON_GRID = 1e-6  # of a step, that a value on the grid may be off by rounding
_FEWEST_ROWS = 50  # in a spike


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Args:
        value: how those that are no spikes are scaled.
        spikes: values that many rows share.
    """

    value: NumericColumn
    spikes: tuple[float, ...] = ()
    kind = "number"

    @staticmethod
    def fit(name: str, values: np.ndarray, *, ranks: bool = False) -> Number:
        """Measure (n,) finite numbers; of ranks, any whole one between may come.

        Raises:
            DataError: for numbers that float64 cannot tell apart or square.
        """
        distinct, counts = np.unique(values, return_counts=True)
        beside = np.maximum(np.append(counts[1:], 0), np.append(0, counts[:-1]))
        spiked = (counts >= _SPIKE * len(values)) & (counts >= _FEWEST_ROWS) & (counts >= _STANDS_OUT * beside)
        if not spiked.any() or len(distinct) - spiked.sum() < _FEWEST_BESIDE:
            return Number(NumericColumn.fit(name, values, normal=True, ranks=ranks))
        rest = values[~np.isin(values, distinct[spiked])]
        return Number(NumericColumn.fit(name, rest, normal=True, ranks=ranks), tuple(map(float, distinct[spiked])))

    @property
    def is_continuous(self) -> bool:
        """Whether its values are points, and not bins or spikes."""
        return self.value.grid is None and not self.spikes

    @property
    def name(self) -> str:
        """Of the column."""
        return self.value.name

    @property
    def vertices(self) -> Vertices:
        """Of any other value, and of each spike."""
        return Vertices(1 + len(self.spikes))

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        return self.vertices.features + 1

    @property
    def filler(self) -> Tensor:
        """The deviation of each number where the cell is missing: no value, and so about any."""
        deviations = torch.full((self.features,), BLUR, dtype=torch.float64)
        deviations[-1] = 1.0
        return deviations

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        low, high = spans([self.value])
        if not self.spikes:
            return low.double(), high.double()
        free = torch.full_like(low, REACH, dtype=torch.float64)
        below, above = self.vertices.ends
        return torch.cat([below, low.double().minimum(-free)]), torch.cat([above, high.double().maximum(free)])

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        if self.spikes:
            return [(True, False, 0.0)] * self.features
        # Bins of many widths have no one volume, by which probabilities are told from densities.
        whole = self.value.integer and not isinstance(self.value.grid, Support)
        return [(self.value.grid is not None, whole, self.value.log_width)]

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Which spike (n,) each value is, from 1; 0 for any other."""
        codes = np.zeros(len(values), dtype=np.int64)
        for place, spike in enumerate(self.spikes, start=1):
            codes[values == spike] = place
        return codes

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        return self.vertices.blocks(start, flag)

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        values = self.values(column)
        values = np.where(np.isnan(values), self.value.low, values)
        codes = torch.from_numpy(self.codes(values))
        own = self.value.cells(torch.from_numpy(values))
        if not self.spikes:
            return own
        # Beside a spike the value tells nothing.
        free = Cells.about(torch.zeros_like(own.centre), 1.0)
        return Cells.beside([Cells.about(self.vertices.points[codes], BLUR), own.where(codes == 0, free)])

    def between(self, wish: Between) -> tuple[float, float]:
        """The encoded range of the values that lie between two ends and are no spikes; an empty one is turned round.

        Args:
            wish: its ends are numbers or None.
        """
        column = self.value
        assert column.scaler is not None
        low, high = column.low, column.high
        if column.grid is not None:
            ends = torch.tensor([low, high], dtype=torch.float64)
            middles, half = column.grid.middles(ends), column.grid.widths(ends) / 2
            lower, upper = (middles - half).tolist()[0], (middles + half).tolist()[1]
            near = _ON_GRID * column.grid.step
            low, high = lower, upper
            if wish.low is not None:
                least = wish.low + near if wish.above else wish.low - near
                low = column.grid.edge(lower, upper, least)
            if wish.high is not None:
                most = wish.high - near if wish.below else wish.high + near
                high = column.grid.edge(lower, upper, most)
        else:
            low, high = (
                max(low, -math.inf if wish.low is None else wish.low),
                min(high, math.inf if wish.high is None else wish.high),
            )
        ends = column.scaler.forward(torch.tensor([low, high], dtype=torch.float64))
        return float(ends[0]), float(ends[1])

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d), within the range that was seen."""
        import pyarrow as pa

        values = np.clip(self.value.decode(x[:, -1]), self.value.low, self.value.high)
        if self.spikes:
            codes = self.vertices.nearest(x[:, :-1]).numpy()
            values = np.where(codes == 0, values, np.array((0.0, *self.spikes))[codes])
        return pa.array(values).cast(kind, safe=False)

    def values(self, column: pa.ChunkedArray) -> np.ndarray:
        """The cells as (n,) float64, NaN where they are missing."""
        import pyarrow as pa

        values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy()
        return values

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0; missing ones are no fault."""
        values = self.values(column)
        wrong = ~(np.abs(values) <= HUGE) & ~column.is_null().to_numpy()
        return {int(row): f"is {values[row]}, expected a finite number" for row in np.flatnonzero(wrong)}

    def describe(self) -> str:
        """What it is, for `inspect`."""
        text = self.value.describe().removeprefix(f"{self.name}: ")
        return text + (f"; many rows have {', '.join(f'{spike:g}' for spike in self.spikes)}" if self.spikes else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "value": self.value.to_json(), "spikes": list(self.spikes)}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Number:
        """The column whose `to_json` gave these fields."""
        return Number(NumericColumn.from_json(fields["value"]), tuple(fields["spikes"]))
