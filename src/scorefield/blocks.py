"""Numbers of a row that stand about one of some vertices, as a name is encoded: their E[x0 given x_t] by log-odds.

A block of d numbers is x0 = v_k + τ z for one of K vertices. Given x_t = α x0 + σ ε and log-odds f_k from a network,
with c = σ² + α²τ² and g = ατ²/c,

    p_k ∝ exp(f_k − ‖x_t − αv_k‖²/2c),    E[x0 given x_t] = g x_t + (1 − gα) Σ p_k v_k                        (1)

What x_t itself says of the name is thus exact at every level, and f is what the rest of the row says. A network gives
d numbers f for a block, and f_k = α√(α² + σ²)/c v_kᵀ f, so that they are of order one: what other names in the row say
grows with c as what this one says does. A vertex at the origin, for a name that is missing, has its own from the number
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
    def _groups(self) -> tuple[tuple[int, int], ...]:
        """How many blocks of which width, each filled up to a power of two so that few widths are left."""
        widths = sorted(_padded(part) for part in self.parts)
        return tuple((widths.count(width), width) for width in dict.fromkeys(widths))

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vertices (S, D), log-odds from outputs (S, D), ½‖v‖² (S,), infinite of none, and (D,) 1 within blocks."""
        size = sum(count * width for count, width in self._groups)
        vertices, odds = (torch.zeros(size, self.numbers, dtype=torch.float64) for _ in range(2))
        halves = torch.full((size,), torch.inf, dtype=torch.float64)
        inside = torch.zeros(self.numbers, dtype=torch.float64)
        row = 0
        for part in sorted(self.parts, key=_padded):
            count, features = part.points.shape
            own = slice(part.start, part.start + features)
            inside[own] = 1.0
            vertices[row : row + count, own] = part.points
            odds[row : row + count, own] = part.points
            halves[row : row + count] = part.points.square().sum(1) / 2
            if part.flag >= 0:
                odds[row : row + count, part.flag] = 1.0
                odds[row + count, part.flag] = -1.0
                halves[row + count] = 0.0
            row += _padded(part)
        return vertices, odds, halves, inside

    @cached_property
    def _cast(self) -> dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]]:
        return {}

    def _like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tables, of the type and on the device of x."""
        key = (x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = tuple(table.to(x) for table in self._tables)
        return self._cast[key]

    def inside(self, x: Tensor) -> Tensor:
        """(D,) bool, which numbers of a row are in a block."""
        return self._like(x)[3].bool()

    def clean(self, f: Tensor, x_t: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 given x_t] of all blocks by (1), (B, D), zero elsewhere.

        Args:
            f: the network's output, (B, D).
            x_t: noisy rows, (B, D).
            level: of x_t, of one time or B.
        """
        vertices, odds, halves, inside = self._like(x_t)
        near, far, kept, drawn, gain = level.tables(_Scales(self.parts[0].blur, x_t.dtype, x_t.device))
        logits = (near * x_t) @ vertices.T + (gain * f) @ odds.T - far * halves
        shares, start = [], 0
        for count, width in self._groups:
            own = logits[:, start : start + count * width].unflatten(1, (count, width))
            shares.append(torch.softmax(own, dim=-1).flatten(1))
            start += count * width
        return (kept * inside) * x_t + drawn * (torch.cat(shares, dim=1) @ vertices)


@dataclass(frozen=True)
class _Scales:
    """α/c, α²/c, g, 1 − gα and α√(α² + σ²)/c of (1), (K, 1) each, of this type and on this device."""

    blur: float
    kind: torch.dtype
    device: torch.device

    def __call__(self, level: NoiseLevel) -> tuple[Tensor, ...]:
        alpha, sigma = level.alpha.reshape(-1, 1), level.sigma.reshape(-1, 1)
        c = sigma**2 + (alpha * self.blur) ** 2
        gain, g = alpha * (alpha**2 + sigma**2).sqrt() / c, alpha * self.blur**2 / c
        return tuple(part.to(self.device, self.kind) for part in (alpha / c, alpha**2 / c, g, 1 - g * alpha, gain))


def _padded(part: Block) -> int:
    """The power of two that a block's vertices are filled up to."""
    count: int = len(part.points) + (part.flag >= 0)
    return 1 << (count - 1).bit_length()
