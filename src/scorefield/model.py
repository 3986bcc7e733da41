"""Models: anything with a score, and denoisers, which know their schedule and estimate clean data and noise.

A network F becomes a denoiser through its parametrisation and two scalings of its input (Karras et al. 2022, Eq. 7):

    y = F(c_in x_t, c_noise),   c_in = 1/√(α²σ_data² + σ²),   c_noise = ¼ log(σ/α)          (1)

c_noise depends on the signal-to-noise ratio alone, so that a model does not change when its schedule does.
"""

from __future__ import annotations

import copy
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn

from scorefield.errors import OptionError
from scorefield.noise import NoiseLevel, Schedule
from scorefield.parametrization import Estimate, Parametrization


class ScoreModel(Protocol):
    """Anything with a score: all that Langevin dynamics and implicit or sliced score matching need."""

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """∇ₓ log p_t(x), (B, *shape), for x (B, *shape) and t () or (B,)."""
        ...


class Denoiser(nn.Module):
    """A model of E[x0 given x_t] and E[ε given x_t] at every noise level of a schedule.

    Attributes:
        schedule: the schedule its times refer to.
        sigma_data: root mean square of the data per element, which scales the first draw of a sampler.
    """

    schedule: Schedule
    sigma_data: float

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        """Estimate clean data and noise.

        Args:
            x_t: noisy data, (B, *shape).
            t: its time, () or (B,).
        """
        raise NotImplementedError

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ₓ log p_t(x), (B, *shape)."""
        return cast(Estimate, self(x, t)).score

    def given(self, condition: Tensor) -> Denoiser:
        """This denoiser with a condition bound to it, so that no sampler ever sees one.

        Args:
            condition: (B, k), or (1, k) for all rows.

        Raises:
            OptionError: when the model was not made conditional, or the width differs.
        """
        raise OptionError(f"{type(self).__name__} takes no condition, got one of shape {tuple(condition.shape)}")


class NetworkDenoiser(Denoiser):
    """A network with a schedule, a parametrisation and the input scaling (1).

    Args:
        network: called as network(x, c_noise, condition) -> (B, *shape), with c_noise () or (B,) and condition
            (B, k), (1, k) or None.
        schedule: the schedule of its times.
        parametrization: how its output is read.
        sigma_data: root mean square of the data, per element.
        condition_features: k, or 0 for an unconditional network.
    """

    condition: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parametrization: Parametrization,
        sigma_data: float,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parametrization = parametrization
        self.sigma_data = sigma_data
        self.condition_features = condition_features
        self.condition = None

    def output(self, x_t: Tensor, level: NoiseLevel) -> Tensor:
        """The network's output y at a level, (B, *shape) in x_t's type: what denoising losses compare."""
        if self.condition_features and self.condition is None:
            raise OptionError("this model is conditional: bind a condition with `given` first")
        c_in = ((level.alpha * self.sigma_data) ** 2 + level.sigma**2).rsqrt()
        c_noise = -level.log_snr.reshape(-1) / 8
        output: Tensor = self.network(c_in.to(x_t.dtype) * x_t, c_noise.to(x_t.dtype), self.condition)
        return output.to(x_t.dtype)

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        return self.parametrization.split(self.output(x_t, level), x_t, level)

    def given(self, condition: Tensor) -> Self:
        if not self.condition_features or condition.ndim != 2 or condition.shape[1] != self.condition_features:
            expected = f"(B, {self.condition_features})" if self.condition_features else "none"
            raise OptionError(f"the condition should have shape {expected}, got {tuple(condition.shape)}")
        # A shallow copy shares every weight; only the bound condition is its own.
        bound = copy.copy(self)
        bound.condition = condition
        return bound


class Rescheduled(Denoiser):
    """A denoiser read through another schedule: x_t is scaled to the old level of equal signal-to-noise ratio."""

    def __init__(self, denoiser: Denoiser, schedule: Schedule) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.sigma_data = denoiser.sigma_data

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        before = self.denoiser.schedule.time_of(level.log_snr.reshape(-1) if level.t.ndim else level.log_snr)
        old = self.denoiser.schedule.at(before, like=x_t)
        # (α, σ) of the two levels are parallel; the ratio of their lengths is finite even where α or σ is zero.
        scale = torch.hypot(old.alpha, old.sigma) / torch.hypot(level.alpha, level.sigma)
        estimate: Estimate = self.denoiser(scale.to(x_t.dtype) * x_t, before)
        return Estimate(estimate.x0, estimate.epsilon, level)

    def given(self, condition: Tensor) -> Rescheduled:
        return Rescheduled(self.denoiser.given(condition), self.schedule)


def reschedule(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The same model under another schedule: equal x0 at equal signal-to-noise ratio.

    Args:
        denoiser: any denoiser.
        schedule: the schedule whose times the result takes.
    """
    return Rescheduled(denoiser, schedule)
