"""Constraints on clean data, and how likely a noisy row is to keep them.

Given x_t, a number of x0 is taken for N(m, r²), m = E[x0 given x_t] and r² its variance given x_t. The potentials

    g = Φ((high − m)/r) − Φ((low − m)/r)                              for a number in an interval               (1)
    g = Σ_allowed p_k,   Σ_k p_k V_k = m, Σ_k p_k = 1                 for a block of numbers that is a vertex   (2)

tend to the constraint itself without noise. (2) is no approximation: m is the mean of the vertices with their
probabilities as weights, which are unique where vertices are affinely independent, as those of a simplex. For others p
is softmax(−‖m − V_k‖²/2r²). Both are kept off zero, as no model is exact: a particle filter is right in the limit
with any potential that is nowhere zero (Wu et al. 2023, §3, arXiv:2306.17775).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from scorefield.errors import OptionError

_SMALLEST_SHARE = 1e-3  # of probability that a trained model's mean can tell from none


class Constraint(Protocol):
    """Where some numbers of clean rows may lie."""

    def log_potential(self, x0: Tensor, variance: Tensor) -> Tensor:
        """Log of about the probability that a row keeps it, (B, K).

        Args:
            x0: E[x0 given x_t] of K particles of each row, (B, K, D).
            variance: of each number given x_t, (D,).
        """
        ...

    def holds(self, x0: Tensor) -> Tensor:
        """Whether clean rows (B, K, D) keep it, (B, K) bool."""
        ...

    def of_rows(self, places: Tensor) -> Constraint:
        """It for some of the rows that it has values for, places (b,) int64."""
        ...


@dataclass(frozen=True, eq=False)
class Interval:
    """Some numbers lie in intervals: low ≤ x0 ≤ high, an end that is infinite being none.

    Args:
        places: of the numbers in a row, flattened, (k,) int64.
        low, high: broadcasting to (B, k): the same for all rows, or each row its own.

    Raises:
        OptionError: for an interval that is empty.
    """

    places: Tensor
    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        if not (self.low <= self.high).all():
            raise OptionError(f"an interval needs low ≤ high, got {self.low.tolist()} and {self.high.tolist()}")

    def log_potential(self, x0: Tensor, variance: Tensor) -> Tensor:
        """(1), the product over the numbers."""
        r, (low, high) = variance[self.places].sqrt(), self._ends(x0)
        below, above = (low - x0[..., self.places]) / r, (high - x0[..., self.places]) / r
        # Where both ends lie above the mean the interval is mirrored, so that the difference is of small numbers.
        near = torch.where(below > 0, -below, above)
        far = torch.where(below > 0, -above, below)
        upper, lower = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
        inside = upper + torch.log1p(-torch.exp((lower - upper).clamp(max=0)))
        # An interval without width has no probability; its density at the nearest end ranks particles as well.
        return torch.maximum(inside, upper - 30).sum(-1)

    def holds(self, x0: Tensor) -> Tensor:
        low, high = self._ends(x0)
        found = x0[..., self.places]
        return ((low <= found) & (found <= high)).all(-1)

    def of_rows(self, places: Tensor) -> Interval:
        """Ends that are one for all rows stay."""
        return Interval(self.places, *(_of_rows(end, places) for end in (self.low, self.high)))

    def _ends(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.atleast_2d(end).to(x0).unsqueeze(-2) for end in (self.low, self.high))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Vertices:
    """A block of numbers is one of some vertices, as a category is encoded, and only some are allowed.

    Args:
        places: of the block's numbers in a row, flattened, (d,) int64.
        vertices: V, (n, d).
        allowed: (n,) or (B, n) bool.

    Raises:
        OptionError: where shapes differ, or nothing is allowed.
    """

    places: Tensor
    vertices: Tensor
    allowed: Tensor

    def __post_init__(self) -> None:
        shapes = tuple(self.places.shape), tuple(self.vertices.shape), tuple(self.allowed.shape)
        if self.vertices.shape != (self.allowed.shape[-1], len(self.places)):
            raise OptionError(f"vertices need places (d,), vertices (n, d) and allowed (n,) or (B, n), got {shapes}")
        if not self.allowed.any(-1).all():
            raise OptionError("of the vertices at least one must be allowed")

    @cached_property
    def _weights(self) -> Tensor | None:
        """What gives p of (2) from (m, 1), (d + 1, n) float64; None where vertices are not affinely independent."""
        extended = torch.cat((self.vertices.double(), torch.ones(len(self.vertices), 1).to(self.vertices)), dim=1)
        independent = torch.linalg.matrix_rank(extended) == len(extended)
        return torch.linalg.pinv(extended) if independent else None

    def log_potential(self, x0: Tensor, variance: Tensor) -> Tensor:
        """(2)."""
        if self._weights is None:
            squared = self._squared(x0) / (2 * variance[self.places].mean())
            shares = torch.softmax(-squared, dim=-1)
        else:
            weights = self._weights.to(x0)
            shares = x0[..., self.places] @ weights[:-1] + weights[-1]
        allowed = torch.atleast_2d(self.allowed).to(x0).unsqueeze(-2)
        return (shares.clamp(min=0) * allowed).sum(-1).clamp(_SMALLEST_SHARE, 1).log()

    def holds(self, x0: Tensor) -> Tensor:
        """Whether the nearest vertex is allowed."""
        nearest = self._squared(x0).argmin(-1)
        allowed = torch.atleast_2d(self.allowed).to(x0.device).unsqueeze(-2).expand(*nearest.shape, -1)
        return allowed.gather(-1, nearest.unsqueeze(-1)).squeeze(-1)

    def of_rows(self, places: Tensor) -> Vertices:
        """What is allowed for all rows stays."""
        return Vertices(self.places, self.vertices, _of_rows(self.allowed, places))

    def _squared(self, x0: Tensor) -> Tensor:
        return (x0[..., self.places].unsqueeze(-2) - self.vertices.to(x0)).square().sum(-1)


def _of_rows(values: Tensor, places: Tensor) -> Tensor:
    return values[places.to(values.device)] if values.ndim == 2 and len(values) > 1 else values
