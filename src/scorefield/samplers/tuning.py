"""A step size for each chain, found while it warms up, at which its moves are accepted as often as wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The acceptance at which the Metropolis-adjusted Langevin algorithm moves fastest in many dimensions (Roberts &
# Rosenthal 1998, "Optimal scaling of discrete approximations to Langevin diffusions").
BEST_ACCEPTANCE = 0.574

_GAMMA, _T0, _KAPPA = 0.05, 10, 0.75  # as in the paper


@dataclass(frozen=True, eq=False)
class DualAveraging:
    """Nesterov's dual averaging of log ε towards an acceptance δ (Hoffman & Gelman 2014, Eq. 6, arXiv:1111.4246).

    After the m-th move, which was accepted with probability a_m,

        log ε_{m+1} = μ − (√m/γ) 1/(m + t₀) Σ_{i ≤ m} (δ − a_i),   log ε̄_m = m^{−κ} log ε_m + (1 − m^{−κ}) log ε̄_{m−1}

    The moves go with ε while this learns, and with ε̄ from then on. Every chain learns from its own moves alone.

    Args:
        target: δ.
        first: ε at the beginning, (C,) float64.
        moves: m.
        missing: Σ (δ − a_i), (C,).
        log_step: log ε_{m+1}, (C,).
        log_average: log ε̄_m, (C,).
    """

    target: float
    first: Tensor
    moves: int
    missing: Tensor
    log_step: Tensor
    log_average: Tensor

    @staticmethod
    def begin(step: Tensor, target: float) -> DualAveraging:
        """Before the first move, with ε = step (C,) float64."""
        return DualAveraging(target, step, 0, torch.zeros_like(step), step.log(), torch.zeros_like(step))

    @property
    def step(self) -> Tensor:
        """ε of the next move, (C,)."""
        return self.log_step.exp()

    @property
    def settled(self) -> Tensor:
        """ε̄, to go on with when this ends, (C,)."""
        return self.log_average.exp()

    def after(self, probability: Tensor) -> DualAveraging:
        """What is known after one more move, accepted with this probability (C,)."""
        m = self.moves + 1
        missing = self.missing + self.target - probability
        # μ = log 10 ε₁ makes it try larger steps first, which cost less than small ones to find out about.
        log_step = (10 * self.first).log() - m**0.5 / _GAMMA / (m + _T0) * missing
        weight = m**-_KAPPA
        log_average = weight * log_step + (1 - weight) * self.log_average
        return DualAveraging(self.target, self.first, m, missing, log_step, log_average)
