"""Where each number of an encoded row may stand: at a point, anywhere in a bin, or about a vertex.

A continuous value is a point, a rounded one a bin, a name a vertex of which the neighbourhood is its own, and a number
that is missing stands for all numbers. With u in [0, 1) for each number

    x(u) = c + (2u − 1) e      a bin of half-width e, where the data are spread evenly                            (1)
    x(u) = c + e Φ⁻¹(u)        a vertex, about which they have a deviation e                                      (2)

so that what a model is trained on has a density, and the probability of a cell is E_u[p(x(u)) dx/du].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_EDGE = 1e-12  # of u, where Φ⁻¹ is still finite


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of n rows of D numbers.

    Args:
        centre: c, (n, D).
        extent: e, (n, D), 0 for points.
        blurred: (n, D) bool, whether (2) holds and not (1).
        log_slope: (n, D), log of how many encoded units make one of the data, of points and bins; 0 where (2) holds.
    """

    centre: Tensor
    extent: Tensor
    blurred: Tensor
    log_slope: Tensor

    @staticmethod
    def points(values: Tensor, log_slope: Tensor) -> Cells:
        """Continuous values, each where it is."""
        return Cells(values, torch.zeros_like(values), torch.zeros_like(values, dtype=torch.bool), log_slope)

    @staticmethod
    def about(centre: Tensor, deviation: float) -> Cells:
        """Vertices (n, d)."""
        return Cells(
            centre,
            torch.full_like(centre, deviation),
            torch.ones_like(centre, dtype=torch.bool),
            torch.zeros_like(centre),
        )

    @staticmethod
    def beside(parts: Sequence[Cells]) -> Cells:
        """The numbers of several, one after the other in each row."""
        return Cells(
            torch.cat([part.centre for part in parts], dim=1),
            torch.cat([part.extent for part in parts], dim=1),
            torch.cat([part.blurred for part in parts], dim=1),
            torch.cat([part.log_slope for part in parts], dim=1),
        )

    @staticmethod
    def below(parts: Sequence[Cells]) -> Cells:
        """The rows of several, one after the other."""
        return Cells(
            torch.cat([part.centre for part in parts]),
            torch.cat([part.extent for part in parts]),
            torch.cat([part.blurred for part in parts]),
            torch.cat([part.log_slope for part in parts]),
        )

    def where(self, chosen: Tensor, other: Cells) -> Cells:
        """These in the rows (n,) chosen, others elsewhere."""
        rows = chosen.unsqueeze(1)
        return Cells(
            torch.where(rows, self.centre, other.centre),
            torch.where(rows, self.extent, other.extent),
            torch.where(rows, self.blurred, other.blurred),
            torch.where(rows, self.log_slope, other.log_slope),
        )

    def rows(self, index: Tensor) -> Cells:
        """Those of some rows, by their numbers (b,)."""
        return Cells(
            *(part.index_select(0, index) for part in (self.centre, self.extent, self.blurred, self.log_slope))
        )

    def kept(self, device: torch.device) -> Cells:
        """These in float32 on a device, 9 bytes a number, without slopes: what training draws rows from."""
        nothing = self.centre.new_zeros(len(self.centre), 0)
        return Cells(self.centre.float().to(device), self.extent.float().to(device), self.blurred.to(device), nothing)

    def at(self, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """x(u), and what the change of variable adds to a log density.

        Args:
            u: (n, D) in [0, 1), or None for ½ throughout; x may be differentiated in it.

        Returns:
            x (n, D), and (n,) nats: log dx/du of vertices, log dx/d(data) of all others.
        """
        u = torch.full_like(self.centre, 0.5) if u is None else u.to(self.centre)
        z = torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
        x = self.centre + self.extent * torch.where(self.blurred, z, 2 * u - 1)
        log_density = -(z.square() + math.log(2 * math.pi)) / 2
        about = torch.where(self.blurred, self.extent, 1.0).log() - log_density
        return x, torch.where(self.blurred, about, self.log_slope).sum(1)

    def drawn(self, z: Tensor) -> Tensor:
        """x(u) at u = Φ(z) for standard normals z (n, D), in the type of the centre."""
        return self.centre + self.extent * torch.where(self.blurred, z, torch.erf(z * math.sqrt(0.5)))
