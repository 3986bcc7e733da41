"""Langevin dynamics at a noise level, and the step size that NCSNv2 derives for it.

    x ← x + (ε/2) ∇log p_t(x) + √ε z,   ε = size · σ_t²                                   (1)

which leaves p_t as it is in the limit of small steps (Song & Ermon 2019, Algorithm 1, arXiv:1907.05600).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.randomness import Noise


@dataclass(frozen=True)
class Langevin:
    """A corrector: `steps` moves by (1) at one level; the step size belongs to the level, never to the batch.

    Args:
        steps: number of moves.
        size: ε/σ², below 4 for stability at p_t's narrowest.
    """

    steps: int = 1
    size: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.size < 4:
            raise SamplingError(f"Langevin needs steps ≥ 1 and 0 < size < 4, got {self.steps} and {self.size}")

    def __call__(self, model: Denoiser, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        step = (self.size * model.schedule.at(t, like=x).sigma ** 2).to(x.dtype)
        for move in range(self.steps):
            x = x + step / 2 * model.score(x, t) + step.sqrt() * noise.like(x, draw=move)
        return x


def ncsnv2_size(ratio: float, steps: int) -> float:
    """The size of (1) for which the noise left after `steps` moves at a level is closest to the level's own.

    After T moves at σ_i from samples of σ_{i−1} = γσ_i, the ratio of the variance to σ_i² is, with e = size/2,

        (1 − e)^{2T} (γ² − 2/(2 − e)) + 2/(2 − e)

    (Song & Ermon 2020, proposition 3 and technique 4, arXiv:2006.09011); the smallest value is sought.

    Args:
        ratio: γ, of neighbouring levels.
        steps: T, moves at each level.
    """
    e = torch.logspace(-6, -0.01, 4000, dtype=torch.float64)
    stationary = 2 / (2 - e)
    variance = (1 - e) ** (2 * steps) * (ratio**2 - stationary) + stationary
    return 2 * float(e[variance.argmin()])
