"""Adams–Bashforth's method on straight paths: every schedule is scaled to x0 + u (ε − x0), and its velocity stepped.

With a scale c of the data, u = σ/(cα + σ) and w = c x/(cα + σ),

    w = (1 − u) x0 + u c ε,   dw/du = v = c E[ε given x] − E[x0 given x] = (w − E[x0 given x])/u      (1)
    w_s = w_t + Σ_j b_j v_j,   b_j = ∫ ℓ_j(u) du from u_t to u_s                                      (2)

is the probability flow of every schedule at once, and straight for data of one point at any σ, where polynomials in
λ = log α/σ are only in the middle. ℓ_j is 1 at the level j and 0 at the other ones that are remembered. With order 1 it
is Euler's method on a flow, and DDIM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix_all
from scorefield.model import Denoiser
from scorefield.noise import Maker, NoiseLevel, Time
from scorefield.randomness import Noise
from scorefield.samplers.multistep import lagrange


class Memory(NamedTuple):
    """dw/du at the levels that were passed, the newest first.

    Args:
        u: of each level.
        falls: −u v = E[x0 given x] − w at each, (B, *shape), by how far w falls until u = 0 if it goes straight on.
    """

    u: tuple[float, ...]
    falls: tuple[Tensor, ...]


@dataclass(frozen=True)
class StraightAdams:
    """x_s by (1) and (2), of order `order`; its first steps are of what their memory allows.

    Args:
        order: number of slopes that the polynomial goes through, 1 to 5.
        scale: c; the model's `sigma_data` by default.

    Raises:
        SamplingError: for another order or scale, and when called for a step that is not down.
    """

    order: int = 3
    scale: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= 5:
            raise SamplingError(f"order must be a whole number from 1 to 5, got {self.order}")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise SamplingError(f"scale must be positive and finite, got {self.scale}")

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        c = model.sigma_data if self.scale is None else self.scale
        place = _place(c)
        u_t, from_x = model.schedule.at(t).numbers(place)
        u_s, to_x = model.schedule.at(s).numbers(place)
        if not u_s < u_t:
            raise SamplingError(f"a step down must end at less noise, got one from t = {float(t):g} to {float(s):g}")
        fall = model(x, t).x0.add(x, alpha=-from_x)
        if memory is None or not memory.u[0] > u_t:  # nothing after a walk that went up again
            seen = Memory((u_t,), (fall,))
        else:
            seen = Memory((u_t, *memory.u)[: self.order], (fall, *memory.falls)[: self.order])
        return mix_all(from_x / to_x, x, _factors(seen.u, u_s, to_x), seen.falls), seen


@lru_cache(maxsize=4096)
def _factors(nodes: tuple[float, ...], u_s: float, to_x: float) -> list[float]:
    """Those of the falls, by (2); a grid is walked again and again, so they are kept."""
    h = u_s - nodes[0]
    bases = lagrange([node - nodes[0] for node in nodes], h)
    weights = [h * sum(value / (n + 1) for n, value in enumerate(basis)) for basis in bases]
    return [-weight / (node * to_x) for weight, node in zip(weights, nodes, strict=True)]


@lru_cache(maxsize=64)
def _place(c: float) -> Maker:
    """u, and w/x, of a level; one function for each c, so that a grid knows it again."""

    def place(level: NoiseLevel) -> tuple[Tensor, Tensor]:
        total = c * level.alpha + level.sigma
        return level.sigma / total, c / total

    return place
