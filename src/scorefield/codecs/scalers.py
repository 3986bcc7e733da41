"""Maps of one column to a scale of order one: strictly growing, with their inverse and log-slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_HEAVY_TAIL = 8.0  # |z| beyond which a standardised column would set the noise range for all others
_SKEWED = 2.0
_FEWEST_KNOTS, _MOST_KNOTS, _ROWS_A_KNOT = 16, 512, 10  # a knot for every value would be a density of its own


class Scaler(Protocol):
    """A strictly growing map of the line to itself; all tensors are float64 of any shape."""

    kind: str

    def forward(self, values: Tensor) -> Tensor:
        """From data to scaled."""
        ...

    def inverse(self, scaled: Tensor) -> Tensor:
        """From scaled to data."""
        ...

    def log_slope(self, values: Tensor) -> Tensor:
        """log d forward/d values, nats."""
        ...

    def step(self, width: float) -> float | None:
        """How far apart values of this distance are once scaled; None where that differs from place to place."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `scaler_from_json` makes it again."""
        ...


@dataclass(frozen=True)
class Standardise:
    """(x − mean)/std.

    Args:
        mean, std: of the column.
    """

    mean: float
    std: float
    kind = "standardise"

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std

    def inverse(self, scaled: Tensor) -> Tensor:
        return scaled * self.std + self.mean

    def log_slope(self, values: Tensor) -> Tensor:
        return torch.full_like(values, -math.log(self.std))

    def step(self, width: float) -> float | None:
        return width / self.std

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Quantile:
    """Ranks to normal quantiles: piecewise linear through stored knots, and on with the outermost slopes beyond them.

    The outermost knots lie beyond the data, as far as their last unit of the normals reaches on the other side: two
    values that stand together at an end by chance say nothing of how a tail goes on.

    Args:
        values: growing data values, at least two.
        normals: the growing normal quantile of each.
    """

    values: tuple[float, ...]
    normals: tuple[float, ...]
    kind = "quantile"

    @staticmethod
    def fit(column: Tensor) -> Quantile:
        """Knots of a column (n,), half of them at evenly spread ranks and half at evenly spread normal quantiles.

        The latter follow the tails, where the last of evenly spread ranks would leave a line from 0.998 to the end.
        Equal values share their middle rank.
        """
        knots, (distinct, counts) = _knots(len(column)), column.double().unique(return_counts=True)
        middle = (counts.cumsum(0) - counts / 2) / len(column)
        if len(distinct) > knots:
            first, last = middle[0], middle[-1]
            ranks = torch.linspace(first, last, knots // 2, dtype=torch.float64)
            normals = torch.linspace(
                torch.special.ndtri(first), torch.special.ndtri(last), knots // 2, dtype=torch.float64
            )
            wanted = torch.cat([ranks, torch.special.ndtr(normals)])
            chosen = torch.searchsorted(middle, wanted).clamp(max=len(middle) - 1).unique()
            distinct, middle = distinct[chosen], middle[chosen]
        return _with_tails(distinct, torch.special.ndtri(middle))

    @staticmethod
    def of_bins(low: Tensor, high: Tensor, counts: Tensor, *, every: bool = False) -> Quantile:
        """Knots at the edges of bins, so that values spread over their bins are about N(0, 1) all together.

        With F the share of rows below an edge, an edge goes to Φ⁻¹(F). The outermost go where the mean of an even
        spread over the first bin is that of the normals below its upper edge, and likewise at the other end.

        Args:
            low, high: the edges of each bin, (m,), growing, float64.
            counts: rows in each, (m,). Of many edges some are kept, evenly in ranks and in normal quantiles.
            every: whether all edges are kept, so that every bin has the share of its rows.
        """
        below = counts.double().cumsum(0) - counts
        total = float(counts.sum())
        knots = len(counts) + 1 if every else _knots(int(total))
        edges, shares = torch.cat([low, high[-1:]]), torch.cat([below / total, torch.ones(1, dtype=torch.float64)])
        if len(edges) > knots:
            inner = torch.linspace(0, 1, knots // 2, dtype=torch.float64)
            end = -float(torch.special.ndtri(torch.tensor(0.5 / total, dtype=torch.float64)))
            spread = torch.special.ndtr(torch.linspace(-end, end, knots // 2, dtype=torch.float64))
            chosen = torch.searchsorted(shares, torch.cat([inner, spread])).clamp(max=len(edges) - 1).unique()
            chosen = torch.cat([chosen, chosen.new_tensor([0, len(edges) - 1])]).unique()
            edges, shares = edges[chosen], shares[chosen]
        places = torch.special.ndtri(shares)
        places[0] = _outermost(float(places[1]), float(shares[1]))
        places[-1] = -_outermost(-float(places[-2]), 1 - float(shares[-2]))
        return _with_tails(edges, places)

    def forward(self, values: Tensor) -> Tensor:
        return _interpolate(values, self.values, self.normals)

    def inverse(self, scaled: Tensor) -> Tensor:
        return _interpolate(scaled, self.normals, self.values)

    def log_slope(self, values: Tensor) -> Tensor:
        left, x, y = _segment(values, self.values, self.normals)
        return ((y[left + 1] - y[left]) / (x[left + 1] - x[left])).log()

    def step(self, width: float) -> float | None:
        return None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values), "normals": list(self.normals)}


def _knots(rows: int) -> int:
    return max(_FEWEST_KNOTS, min(_MOST_KNOTS, rows // _ROWS_A_KNOT))


def _with_tails(values: Tensor, normals: Tensor) -> Quantile:
    """The knots, and one more beyond each end."""
    low, high = float(normals[0]), float(normals[-1])
    reach = min(1.0, high - low)
    within = torch.tensor([low + reach, high - reach], dtype=torch.float64)
    first, last = _interpolate(within, tuple(normals.tolist()), tuple(values.tolist())).tolist()
    ends = 2 * float(values[0]) - first, 2 * float(values[-1]) - last
    return Quantile((ends[0], *values.tolist(), ends[1]), (low - reach, *normals.tolist(), high + reach))


def _outermost(edge: float, share: float) -> float:
    """The lower end of an even spread up to an edge whose mean is that of the normals below it, a share of all."""
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    return -2 * density / share - edge


def fit_scaler(column: Tensor) -> Scaler:
    """Standardise, unless the column is so skewed or heavy-tailed that ranks serve better.

    Args:
        column: (n,) with at least two different values.
    """
    column = column.double()
    mean, std = float(column.mean()), float(column.std(correction=0))
    z = (column - mean) / std
    if float(z.abs().max()) > _HEAVY_TAIL or abs(float(z.pow(3).mean())) > _SKEWED:
        return Quantile.fit(column)
    return Standardise(mean, std)


def scaler_from_json(fields: dict[str, Any]) -> Scaler:
    """The scaler whose `to_json` gave these fields."""
    if fields["kind"] == Quantile.kind:
        return Quantile(tuple(fields["values"]), tuple(fields["normals"]))
    return Standardise(fields["mean"], fields["std"])


def _segment(at: Tensor, x: tuple[float, ...], y: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    knots = torch.tensor(x, dtype=torch.float64)
    left = (torch.searchsorted(knots, at.contiguous(), right=True) - 1).clamp(0, len(x) - 2)
    return left, knots, torch.tensor(y, dtype=torch.float64)


def _interpolate(at: Tensor, x: tuple[float, ...], y: tuple[float, ...]) -> Tensor:
    left, knots, heights = _segment(at, x, y)
    slope = (heights[left + 1] - heights[left]) / (knots[left + 1] - knots[left])
    return heights[left] + (at - knots[left]) * slope
