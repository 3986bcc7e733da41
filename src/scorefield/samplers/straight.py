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
from scorefield.mixing import times
from scorefield.model import Denoiser
from scorefield.noise import NoiseLevel, Time
from scorefield.randomness import Noise
from scorefield.samplers.multistep import lagrange
from scorefield.samplers.predictors import signal_and_noise


class Slope(NamedTuple):
    """dw/du at a level that was passed.

    Args:
        u: of the level.
        fall: −u v = E[x0 given x] − w there, (B, *shape), by how far w falls until u = 0 if it goes straight on.
    """

    u: float
    fall: Tensor


Memory = tuple[Slope, ...]  # the newest first


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
        (u_t, r_t), (u_s, r_s) = _place(model.schedule.at(t), c), _place(model.schedule.at(s), c)
        if not u_s < u_t:
            raise SamplingError(f"a step down must end at less noise, got one from t = {float(t):g} to {float(s):g}")
        fall = model(x, t).x0.add(x, alpha=-1 / r_t)
        past = memory if memory and memory[0].u > u_t else ()  # nothing after a walk that went up again
        seen = (Slope(u_t, fall), *past)[: self.order]
        x = times(r_s / r_t, x)
        for weight, one in zip(_weights(tuple([one.u - u_t for one in seen]), u_s - u_t), seen, strict=True):
            x = x.add_(one.fall, alpha=-r_s * weight / one.u)
        return x, seen


@lru_cache(maxsize=4096)
def _weights(nodes: tuple[float, ...], h: float) -> list[float]:
    """b_j of (2); a grid is walked again and again, so they are kept."""
    return [h * sum(value / (n + 1) for n, value in enumerate(basis)) for basis in lagrange(nodes, h)]


def _place(level: NoiseLevel, c: float) -> tuple[float, float]:
    """u, and x/w."""
    alpha, sigma = signal_and_noise(level)
    return sigma / (c * alpha + sigma), (c * alpha + sigma) / c
