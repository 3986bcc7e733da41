"""Numbers of a row that stand about one of some vertices, as a name is encoded: their E[x0 given x_t] by log-odds.

A block of d numbers is x0 = v_k + τ z for one of K vertices. Given x_t = α x0 + σ ε and log-odds f_k from a network,
with c = σ² + α²τ² and g = ατ²/c,

    p_k ∝ exp(f_k − ‖x_t − αv_k‖²/2c),    E[x0 given x_t] = g x_t + (1 − gα) Σ p_k v_k                        (1)

What x_t itself says of the name is thus exact at every level, and f is what the rest of the row says. A network gives
d numbers for a block, f_k = v_kᵀ f; a vertex at the origin, for a name that is missing, has its own from the number
before the block, which says whether it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scorefield.noise import NoiseLevel


@dataclass(frozen=True, eq=False)
class Block:
    """Some numbers that stand about vertices.

    Args:
        start: the first of them in a row.
        points: V, (K, d) float64.
        blur: τ.
        flag: the place of a number that says whether the block is at the origin instead, −1 for none.
    """

    start: int
    points: Tensor
    blur: float
    flag: int = -1


@dataclass(frozen=True, eq=False)
class Blocks:
    """All blocks of a row.

    Args:
        parts: at least one, all of one blur.
        numbers: D of a row.
    """

    parts: Sequence[Block]
    numbers: int

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Vertices (ΣK, D), odds from outputs (ΣK, D), ½‖v‖² (ΣK,), the padded place of each, the numbers in blocks."""
        vertices, odds, places = [], [], []
        inside = torch.zeros(self.numbers, dtype=torch.bool)
        most = max(len(part.points) + (part.flag >= 0) for part in self.parts)
        for number, part in enumerate(self.parts):
            count, width = part.points.shape
            own = slice(part.start, part.start + width)
            inside[own] = True
            rows = count + (part.flag >= 0)
            vertex = torch.zeros(rows, self.numbers, dtype=torch.float64)
            vertex[:count, own] = part.points
            odd = vertex.clone()
            if part.flag >= 0:
                odd[:, part.flag] = -1.0
                odd[count, part.flag] = 1.0
            vertices.append(vertex)
            odds.append(odd)
            places.append(number * most + torch.arange(rows))
        vertex = torch.cat(vertices)
        return vertex, torch.cat(odds), vertex.square().sum(1) / 2, torch.cat(places), inside

    def clean(self, f: Tensor, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """E[x0 given x_t] of all blocks by (1), (B, D), zero elsewhere; and which numbers are in one, (D,) bool.

        Args:
            f: the network's output, (B, D).
            x_t: noisy rows, (B, D).
            level: their level, of one time or B.
        """
        vertices, odds, halves, places, inside = (table.to(x_t.device) for table in self._tables)
        most = max(len(part.points) + (part.flag >= 0) for part in self.parts)
        blur = self.parts[0].blur
        c = level.sigma**2 + (level.alpha * blur) ** 2
        nearness = (level.alpha / c).to(x_t) * (x_t @ vertices.to(x_t).T)
        evidence = nearness - (level.alpha**2 / c).to(x_t) * halves.to(x_t)
        padded = x_t.new_full((len(x_t), len(self.parts) * most), -torch.inf)
        logits = padded.index_copy(1, places, evidence + f @ odds.to(x_t).T)
        shares = torch.softmax(logits.reshape(len(x_t), len(self.parts), most), dim=-1).flatten(1)
        g = level.alpha * blur**2 / c
        mean = shares.index_select(1, places) @ vertices.to(x_t)
        return torch.where(inside, g.to(x_t) * x_t, 0) + (1 - g * level.alpha).to(x_t) * mean, inside
