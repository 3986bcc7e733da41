"""Names as points, two apart or more: the vertices of a regular simplex, or the corners of a cube for very many names.

    simplex   v_k = √2 H e_k in R^(K−1), H the Helmert basis of what is orthogonal to (1, …, 1)                   (1)
    cube      v_k = 2 bits(k) − 1 in R^⌈log₂ K⌉                                                                  (2)

All vertices of (1) are exactly two apart, about the origin; it is a one-hot code without the direction in which all its
numbers grow, which says nothing. Corners of (2) are analog bits (Chen et al. 2023, arXiv:2208.04202).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scorefield.blocks import Block

BLUR = 0.2  # of every vertex; half way to the next one is five times as far
REACH = 4.0  # deviations within which nearly all of a normal lies


@dataclass(frozen=True)
class Vertices:
    """The points of some names.

    Args:
        count: K, how many names there are, at least one.
        cube: whether they are corners of a cube (2), and not of a simplex (1).
    """

    count: int
    cube: bool = False

    @property
    def features(self) -> int:
        """d, numbers of one point; none for a single name, of which nothing is to be told."""
        return math.ceil(math.log2(self.count)) if self.cube else self.count - 1

    @cached_property
    def points(self) -> Tensor:
        """(K, d) float64."""
        if self.cube:
            places = torch.arange(self.features)
            bits = torch.arange(self.count).unsqueeze(1).bitwise_right_shift(places).bitwise_and(1)
            return 2.0 * bits.double() - 1
        # Row j of the Helmert basis: j + 1 equal numbers, then one that balances them.
        basis = torch.zeros(self.features, self.count, dtype=torch.float64)
        for row in range(self.features):
            basis[row, : row + 1] = 1.0
            basis[row, row + 1] = -(row + 1.0)
            basis[row] /= math.sqrt((row + 1.0) * (row + 2.0))
        return math.sqrt(2.0) * basis.T

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest number of any place about a vertex, (d,) each."""
        if not self.features:
            return self.points.new_zeros(0), self.points.new_zeros(0)
        return self.points.amin(0) - REACH * BLUR, self.points.amax(0) + REACH * BLUR

    def blocks(self, start: int, flag: int) -> list[Block]:
        """The blocks of one point from a place in a row on: a simplex is one, each bit of a cube one of its own.

        Args:
            start: the place.
            flag: the place of a number that says whether the point is missing, and stands at the origin; −1 for none.
        """
        if not self.features:
            return []
        if not self.cube:
            return [Block(start, self.points, BLUR, flag)]
        return [Block(start + bit, Vertices(2).points, BLUR, flag) for bit in range(self.features)]

    def nearest(self, x: Tensor) -> Tensor:
        """The number (n,) of the vertex nearest to each of (n, d) points."""
        points = self.points.to(x)
        # ‖x − v‖² without ‖x‖², which all vertices share.
        return (points.square().sum(1) - 2 * x @ points.T).argmin(1)
