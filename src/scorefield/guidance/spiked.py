"""A constraint on a number that some rows have a name for instead: it lies in an interval, or is one of some names.

A block of numbers is one of n vertices. The first says that the value is the number beside the block; each other is a
value of its own. With p_k the probability of each vertex given x_t, and g that of the interval (`constraints`),

    g_t = p_0 g + Σ_allowed p_k                                                                                   (1)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.guidance.constraints import Interval, Vertices


@dataclass(frozen=True, eq=False)
class IntervalOrVertices:
    """A number in an interval, or one of some values that many rows share.

    Args:
        places: of the block's numbers in a row and, last, of the number, (d + 1,) int64.
        vertices: V, (n, d).
        allowed: which of the values beside the number, (n − 1,) bool.
        low, high: ends of the interval; a low end above the high one allows no number.
    """

    places: Tensor
    vertices: Tensor
    allowed: Tensor
    low: float
    high: float

    @property
    def _interval(self) -> Interval:
        return Interval(self.places[-1:], torch.tensor([self.low]), torch.tensor([self.high]))

    def _block(self, first: bool) -> Vertices | None:
        """The vertex of the number alone, or those of the values that are allowed; None where there are none."""
        mask = torch.cat([torch.tensor([first]), self.allowed & (not first)])
        return Vertices(self.places[:-1], self.vertices, mask) if bool(mask.any()) else None

    def log_potential(self, x0: Tensor, variance: Tensor) -> Tensor:
        """(1), its logarithm."""
        parts = []
        number, values = self._block(True), self._block(False)
        if number is not None and self.low < self.high:
            parts.append(number.log_potential(x0, variance) + self._interval.log_potential(x0, variance))
        if values is not None:
            parts.append(values.log_potential(x0, variance))
        return torch.stack(parts).logsumexp(0)

    def holds(self, x0: Tensor) -> Tensor:
        """Whether the nearest vertex is allowed and, if it is that of the number, this lies in the interval."""
        number, values = self._block(True), self._block(False)
        kept = torch.zeros(x0.shape[:-1], dtype=torch.bool, device=x0.device)
        if number is not None and self.low < self.high:
            kept = number.holds(x0) & self._interval.holds(x0)
        return kept if values is None else kept | values.holds(x0)

    def of_rows(self, places: Tensor) -> IntervalOrVertices:
        """The same: it is one for all rows."""
        return self
