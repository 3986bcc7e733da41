"""Denoisers whose estimate of clean data is kept within a box around them, for samplers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.noise import Time
from scorefield.parametrization import X0, Estimate, when_asked


class Bounded(Denoiser):
    """A denoiser whose E[x0 given x_t] is kept in a box around the data.

    The true one is a mean of data and lies in any box that holds them. A network far from all it was trained on may be
    wrong without limit, and a walk that it drives away never comes back; drawn towards a point of the box, it does.

    Args:
        denoiser: any.
        low, high: the smallest and largest value of each number of a row, broadcasting over rows (*shape).
        margin: by how much the box is larger on either side, as a share of its width, for data beyond those seen.
    """

    def __init__(self, denoiser: Denoiser, low: Tensor, high: Tensor, margin: float = 0.1) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule, self.sigma_data, self.moments = denoiser.schedule, denoiser.sigma_data, denoiser.moments
        self.low, self.high = low - margin * (high - low), high + margin * (high - low)

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        estimate: Estimate = self.denoiser(x_t, t)
        x0 = estimate.x0.clamp(self.low.to(x_t), self.high.to(x_t))

        def epsilon() -> Tensor:
            return torch.where(x0 == estimate.x0, estimate.epsilon, X0.epsilon(x0, x_t, estimate.level))

        return Estimate(x0, when_asked(epsilon, x_t), estimate.level, estimate.variance_share)

    @property
    def energy(self) -> Callable[[Tensor, Time], Tensor] | None:
        """That of the denoiser where it has one: Metropolis' rule is exact with any drift, so with a bounded one."""
        return getattr(self.denoiser, "energy", None)

    def given(self, condition: Tensor) -> Bounded:
        return Bounded(self.denoiser.given(condition), self.low, self.high, margin=0)

    def of_rows(self, places: Tensor) -> Bounded:
        return Bounded(self.denoiser.of_rows(places), self.low, self.high, margin=0)
