"""A step down for the unseen numbers of a row, given where its seen numbers go.

The step x_s ~ N(m, Q) of a whole row has m = μ̃(x_t, E[x0 given x_t]) and, with C for the spread of x0 given x_t,

    Q = β̃ I + c (α_s(1 − ρ))² C = a I + B Bᵀ        a > 0, B of one column for each axis of the covariance     (1)

(`variational.step` has β̃ and ρ; c = 0 is DDPM's step, Ho et al. 2020, arXiv:2006.11239.) With d the seen numbers'
x_s − m, zero elsewhere, B_o the seen rows of B and K = I + B_oᵀB_o/a, the law of the unseen numbers is that of

    y + B K⁻¹Bᵀ(d − seen part of y − m)/a,   y ~ N(m, Q)         Matheron's rule (Journel & Huijbregts 1978)     (2)

and the density of the seen numbers, up to a constant of the row, is

    log N(x_s; m, Q)_seen = −(‖d‖²/a − uᵀK⁻¹u/a²)/2,   u = Bᵀd                Woodbury's identity               (3)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """Which numbers of each row are seen; rows of one pattern share what is computed for it.

    Args:
        mask: (B, D) bool.
        patterns: the different rows of the mask, (P, D) float64 of 0 and 1.
        which: the pattern of each row, (B,).
    """

    mask: Tensor
    patterns: Tensor
    which: Tensor

    @staticmethod
    def of(mask: Tensor) -> Seen:
        """From the mask alone."""
        patterns, which = torch.unique(mask, dim=0, return_inverse=True)
        return Seen(mask, patterns.double(), which)


@dataclass(frozen=True, eq=False)
class Spread:
    """A covariance Q = V diag(along) Vᵀ + beside (I − V Vᵀ) on the axes of some moments.

    Args:
        axes: V, (D, k) float64, orthonormal columns.
        along: (k,) float64, none smaller than `beside`.
        beside: (), positive.
    """

    axes: Tensor
    along: Tensor
    beside: Tensor

    def diagonal(self) -> Tensor:
        """The variance of each number, (D,)."""
        return self.beside + self.axes.square() @ (self.along - self.beside)

    def root(self, z: Tensor) -> Tensor:
        """Q^{½} z, (…, D)."""
        root = self.beside.sqrt()
        return root * z + ((self.along.sqrt() - root) * (z @ self.axes)) @ self.axes.T

    def given(self, seen: Seen, mean: Tensor, target: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Draw N(mean, Q) with the seen numbers where they are, (2), and how likely they were to be there, (3).

        Args:
            seen: which numbers are seen, of B rows.
            mean: (B, K, D) float64, K particles a row.
            target: where the seen numbers are, (B, 1, D); other numbers of it are not read.
            z: standard normals, (B, K, D).

        Returns:
            the draw, (B, K, D), and the log-density up to a constant of each row, (B, K).
        """
        mask, a, count = seen.mask.unsqueeze(1), self.beside, mean.shape[1]
        y = mean + self.root(z)
        d = torch.where(mask, target - torch.cat((mean, y), dim=1), 0)
        quadratic = d[:, :count].square().sum(-1) / a
        if len(self.along):
            b = self.axes * (self.along - a).clamp(min=0).sqrt()
            inner = torch.einsum("pd,di,dj->pij", seen.patterns / a, b, b) + torch.eye(b.shape[1]).to(b)
            u = d @ b
            solved = torch.cholesky_solve(u.mT, torch.linalg.cholesky(inner)[seen.which]).mT / a
            quadratic = quadratic - (u * solved)[:, :count].sum(-1) / a
            y = y + solved[:, count:] @ b.T
        return torch.where(mask, target, y), -quadratic / 2
