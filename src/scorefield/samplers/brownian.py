"""A Brownian motion of each row, remembered wherever it was looked at ahead, so that no refused step is forgotten.

Between known points a < b of a Brownian motion w, and beyond the last one,

    w(c) given w(a), w(b) ~ N(((b − c) w(a) + (c − a) w(b))/(b − a), (c − a)(b − c)/(b − a)),   a < c < b      (1)
    w(c) given w(a) ~ N(w(a), c − a)                                                                           (2)

Steps whose length depends on w must draw by (1) after a refusal (Rackauckas & Nie 2017, "Adaptive methods for
stochastic differential equations via natural embeddings and rejection sampling with memory"). Theirs is a stack of
pieces; here any length may be asked for next.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorefield.ode import column


class BrownianPaths:
    """Increments over steps from where each row is, each asked for, then taken or refused.

    Args:
        like: (B, *shape), of the type and place of the increments.
    """

    def __init__(self, like: Tensor) -> None:
        # Points ahead, in no order: how far, ∞ where there is none, and w there, both from where the row is now.
        self._ahead = torch.full((1, len(like)), math.inf, dtype=torch.float64, device=like.device)
        self._values = torch.zeros_like(like).unsqueeze(0)
        self._asked = (self._ahead[0], self._values[0])

    def over(self, h: Tensor, noise: Tensor) -> Tensor:
        """w over the next h of every row, (b, *shape), by (1) where something beyond is known, else by (2).

        Args:
            h: (b,) float64, positive.
            noise: standard normals, (b, *shape).
        """
        before, after = self._ahead <= h, (self._ahead > h) & self._ahead.isfinite()
        a, from_a = self._nearest(torch.where(before, self._ahead, -math.inf).max(dim=0), before.any(0), 0.0)
        b, from_b = self._nearest(torch.where(after, self._ahead, math.inf).min(dim=0), after.any(0), math.inf)
        # With b at infinity the share of b is zero and the variance c − a.
        share = torch.where(b.isinf(), 0.0, (h - a) / torch.where(b.isinf(), 1.0, b - a))
        variance = (h - a) * (1 - share)
        w = from_a + column(share, noise) * (from_b - from_a) + column(variance.sqrt(), noise) * noise
        self._asked = (h, w)
        return w

    def took(self, accepted: Tensor) -> None:
        """Go on by what was asked for last where it was accepted (b,), else remember it and stay."""
        h, w = self._asked
        gone = torch.where(accepted, h, 0.0)
        ahead = torch.where(self._ahead <= gone, math.inf, self._ahead - gone)
        values = self._values - column(accepted.double(), w) * w
        free = ahead.isinf()
        if not (free.any(0) | accepted).all():
            ahead = torch.cat((ahead, torch.full_like(ahead[:1], math.inf)))
            values = torch.cat((values, torch.zeros_like(values[:1])))
            free = ahead.isinf()
        slot, row = free.long().argmax(dim=0), torch.arange(len(h), device=h.device)
        ahead[slot, row] = torch.where(accepted, ahead[slot, row], h)
        values[slot, row] = torch.where(column(accepted, w), values[slot, row], w)
        used = ahead.isfinite().any(1)
        used[0] = True
        self._ahead, self._values = ahead[used], values[used]

    def keep(self, which: Tensor) -> None:
        """Go on with these rows only, (b,) bool."""
        self._ahead, self._values = self._ahead[:, which], self._values[:, which]

    def _nearest(self, found: tuple[Tensor, Tensor], there: Tensor, otherwise: float) -> tuple[Tensor, Tensor]:
        """How far the point is and w there; where none is, `otherwise` and zero."""
        ahead, slot = found
        w = self._values[slot, torch.arange(len(slot), device=slot.device)]
        return torch.where(there, ahead, otherwise), torch.where(column(there, w), w, torch.zeros_like(w))
