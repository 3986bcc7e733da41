"""Models: anything with a score, and denoisers, which know their schedule and estimate clean data and noise.

A network F becomes a denoiser through its parametrisation and two scalings of its input (Karras et al. 2022, Eq. 7):

    y = F(c_in x_t, c_noise),   c_in = 1/√(α²σ_data² + σ²),   c_noise = ¼ log(σ/α)          (1)

c_noise depends on the signal-to-noise ratio alone, so that a model does not change when its schedule does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn

from scorefield.blocks import Blocks
from scorefield.calculus import plain_attention
from scorefield.errors import OptionError
from scorefield.mixing import Coefficient, times
from scorefield.moments import Moments
from scorefield.noise import Clean, NoiseLevel, Schedule, Time
from scorefield.parametrization import EPSILON, X0, Estimate, Parametrization, when_asked
from scorefield.shrinkage import Shrinkage
from scorefield.whitening import along_axes

_LARGEST_LOG_SNR = 40.0  # of c_noise: at α = 0, where a flow begins, there is no data left and log snr = −∞


class ScoreModel(Protocol):
    """Anything with a score: all that Langevin dynamics and most ways of score matching need.

    Attributes:
        schedule: the schedule its times refer to; `Clean` for a model of the data's own score.
    """

    @property
    def schedule(self) -> Schedule: ...

    def score(self, x: Tensor, t: Time) -> Tensor:
        """∇ₓ log p_t(x), (B, *shape), for x (B, *shape) and t () or (B,), or a level."""
        ...


class DataScore(nn.Module):
    """A plain network of x alone as the score of the data itself, s(x) = network(x).

    Args:
        network: (B, *shape) to (B, *shape).
    """

    schedule = Clean()

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def score(self, x: Tensor, t: Time) -> Tensor:
        """network(x), (B, *shape); t says nothing."""
        return cast(Tensor, self.network(x).to(x.dtype))


class ScoreNetwork(nn.Module):
    """A plain network of (x, t) as the score at every level of a schedule, s(x, t) = network(x, t).

    Args:
        network: called with x (B, *shape) and t (), or (B,), of x's type; returns (B, *shape).
        schedule: the schedule of its times.
    """

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule

    def score(self, x: Tensor, t: Time) -> Tensor:
        """network(x, t), (B, *shape)."""
        return cast(Tensor, self.network(x, self.schedule.at(t).t.to(x)).to(x.dtype))


class Denoiser(nn.Module):
    """A model of E[x0 given x_t] and E[ε given x_t] at every noise level of a schedule.

    Attributes:
        schedule: the schedule its times refer to.
        sigma_data: root mean square of the data per element.
        moments: mean and covariance of the data where they were measured, else None.
    """

    schedule: Schedule
    sigma_data: float
    moments: Moments | None = None

    @property
    def terminal(self) -> Moments:
        """Of the Gaussian that data are taken for where noise drowns them: the moments, or N(0, σ_data² I)."""
        return Moments.isotropic(self.sigma_data**2) if self.moments is None else self.moments

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        """Estimate clean data and noise.

        Args:
            x_t: noisy data, (B, *shape).
            t: its time, () or (B,), or its level.
        """
        raise NotImplementedError

    def score(self, x: Tensor, t: Time) -> Tensor:
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

    def of_rows(self, places: Tensor) -> Denoiser:
        """This denoiser for some rows of the batch that a condition was bound to it for, so that others may leave.

        Args:
            places: (b,) int64, which of the B rows, in their order.
        """
        return self


class NetworkDenoiser(Denoiser):
    """A network with a schedule, a parametrisation and the input scaling (1).

    Args:
        network: called as network(x, c_noise, condition) -> (B, *shape), with c_noise () or (B,) and condition
            (B, k), (1, k) or None.
        schedule: the schedule of its times.
        parametrization: how its output is read.
        sigma_data: root mean square of the data, per element.
        condition_features: k, or 0 for an unconditional network.
        noise_conditional: whether the network is told the noise level. One that is not sees x_t/σ_data and finds the
            level itself; read through ε it is NCSNv2's network divided by σ (Song & Ermon 2020, technique 3,
            arXiv:2006.09011).
        learned_variance: whether the network returns (B, 2·shape[0], …), whose second half is read as the
            `variance_share` of the estimate, (1 + v)/2; nothing keeps it in [0, 1] (Nichol & Dhariwal 2021, §3.1,
            arXiv:2102.09672).
    """

    condition: Tensor | None
    shrinkage: Shrinkage | None = None  # of what a whitened network says, where that was measured

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parametrization: Parametrization,
        sigma_data: float,
        condition_features: int = 0,
        *,
        noise_conditional: bool = True,
        learned_variance: bool = False,
        whitened: bool = False,
        blocks: Blocks | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parametrization = parametrization
        self.sigma_data = sigma_data
        self.condition_features = condition_features
        self.noise_conditional = noise_conditional
        self.learned_variance = learned_variance
        self.whitened = whitened
        self.blocks = blocks
        self.condition = None

    def output(self, x_t: Tensor, level: NoiseLevel) -> Tensor:
        """The network's output y at a level, (B, *shape) in x_t's type: what denoising losses compare."""
        return self._outputs(x_t, level)[0]

    def inputs(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """What the network is called with besides a condition: c_in x_t (B, *shape) and c_noise (B,) or (1,).

        Raises:
            OptionError: when the model is conditional and no condition is bound, and at a level without noise.
        """
        c_in, c_noise = self._input_scales(x_t, level)
        return (c_in.to(x_t.dtype) * x_t if isinstance(c_in, Tensor) else times(c_in, x_t)), c_noise

    def _input_scales(self, x_t: Tensor, level: NoiseLevel) -> tuple[Coefficient, Tensor]:
        """c_in, shaped like the level or a number, and c_noise (B,) or (1,) of the type of x_t."""
        if self.condition_features and self.condition is None:
            raise OptionError("this model is conditional: bind a condition with `given` first")
        c_in, c_noise, sigma = level.once(self._input_coefficients)
        if not torch.compiler.is_compiling() and not (sigma.all() if isinstance(sigma, Tensor) else sigma):
            raise OptionError(
                f"{type(self).__name__} knows levels with noise only, this one has none: choose another law of t, or "
                "DataScore or ScoreNetwork for the score of the data themselves"
            )
        if not isinstance(c_noise, Tensor):
            return c_in, x_t.new_full((1,), c_noise)  # a new one, as a network may write to what it is given
        return c_in, c_noise.reshape(-1).to(x_t.dtype)

    def _input_coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        """c_in and c_noise of (1), and σ; float64, shaped like the level."""
        c_noise = -level.log_snr.clamp(min=-_LARGEST_LOG_SNR) / 8
        return self.input_scale(level), c_noise if self.noise_conditional else torch.zeros_like(c_noise), level.sigma

    def input_scale(self, level: NoiseLevel) -> Tensor:
        """c_in of (1), or 1/σ_data where the network is not told the level; float64, shaped like the level."""
        if not self.noise_conditional:
            return torch.full_like(level.sigma, 1 / self.sigma_data)
        return ((level.alpha * self.sigma_data) ** 2 + level.sigma**2).rsqrt()

    def _outputs(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor | None]:
        """The output y, and the share of the variance or None."""
        if self.whitened:
            return self._along_axes(x_t, level, self.parametrization)[0], None
        output: Tensor = self.network(*self.inputs(x_t, level), self.condition).to(x_t.dtype)
        if not self.learned_variance:
            return output, None
        y, v = output.chunk(2, dim=1)
        return y, (1 + v) / 2

    def _along_axes(
        self, x_t: Tensor, level: NoiseLevel, notation: Parametrization
    ) -> tuple[Tensor, Callable[[Parametrization], Tensor]]:
        _, c_noise = self._input_scales(x_t, level)
        rest = self.terminal.whole(math.prod(x_t.shape[1:])), notation, x_t, level, self.blocks, self.shrinkage
        return along_axes(lambda u: cast(Tensor, self.network(u, c_noise, self.condition)), *rest)

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        if self.whitened:  # what the network says is x0 and ε alike, in no notation
            x0, read = self._along_axes(x_t, level, X0)
            return Estimate(x0, when_asked(partial(read, EPSILON), x_t), level)
        output, share = self._outputs(x_t, level)
        return self.parametrization.split(output, x_t, level, share)

    def given(self, condition: Tensor) -> Self:
        if not self.condition_features or condition.ndim != 2 or condition.shape[1] != self.condition_features:
            expected = f"(B, {self.condition_features})" if self.condition_features else "none"
            raise OptionError(f"the condition should have shape {expected}, got {tuple(condition.shape)}")
        # A shallow copy shares every weight; only the bound condition is its own.
        bound = copy.copy(self)
        bound.condition = condition
        return bound

    def of_rows(self, places: Tensor) -> Self:
        if self.condition is None or len(self.condition) == 1:
            return self
        return self.given(self.condition[places.to(self.condition.device)])


class EnergyDenoiser(NetworkDenoiser):
    """A denoiser whose score is a gradient, −∇E, at every level: an energy-based model.

    Its network f gives a potential, and the potential's gradient takes the network's place in (1):

        φ(u) = ⟨u, f(u, c_noise)⟩,   y = ∇φ(u) at u = c_in x_t                              (2)

    The score s = p x_t + q y (`Parametrization.score_coefficients`) is then minus the gradient of

        E(x, t) = −½ p ‖x‖² − (q/c_in) φ(c_in x)                                            (3)

    and e^{−E}, up to a constant at each level, the density. An untrained one is a Gaussian where y is F.

    Losses of the score differentiate twice. Under autocast the network's products, and theirs in both derivatives, are
    in the lower precision. Under `torch.compile` the gradient in u is traced with the network into one graph.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parametrization: Parametrization,
        sigma_data: float,
        condition_features: int = 0,
        *,
        noise_conditional: bool = True,
    ) -> None:
        # A gradient has no second output, so no variance is learned.
        super().__init__(
            network, schedule, parametrization, sigma_data, condition_features, noise_conditional=noise_conditional
        )

    def potential(self, u: Tensor, c_noise: Tensor) -> Tensor:
        """φ of (2), (B,)."""
        return (u * self.network(u, c_noise, self.condition).to(u.dtype)).flatten(1).sum(1)

    def energy(self, x_t: Tensor, t: Time) -> Tensor:
        """E(x_t, t) of (3) in nats, −log p_t(x_t) up to a constant of the level, (B,)."""
        level = self.schedule.at(t, like=x_t)
        p, q = self.parametrization.score_coefficients(level)
        gain = (q / self.input_scale(level)).reshape(-1).to(x_t.dtype)
        squared = (p.to(x_t.dtype) * x_t.square()).flatten(1).sum(1)
        with plain_attention(torch.is_grad_enabled()):
            return -squared / 2 - gain * self.potential(*self.inputs(x_t, level))

    def _outputs(self, x_t: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor | None]:
        differentiable = torch.is_grad_enabled()
        with plain_attention(differentiable):
            if torch.compiler.is_compiling():
                # Traced as one graph: a compiled graph cannot itself be differentiated twice. Slower when not compiled.
                u, c_noise = self.inputs(x_t, level)
                return torch.func.grad(lambda v: self.potential(v, c_noise).sum())(u).to(x_t.dtype), None
            # Samplers and held-out losses ask under no_grad: the gradient in u is taken all the same.
            with torch.inference_mode(False), torch.enable_grad():
                u, c_noise = (part.clone() if part.is_inference() else part for part in self.inputs(x_t, level))
                u = u if u.requires_grad else u.detach().requires_grad_()
                (y,) = torch.autograd.grad(self.potential(u, c_noise).sum(), u, create_graph=differentiable)
        return y.to(x_t.dtype), None


class Rescheduled(Denoiser):
    """A denoiser read through another schedule: x_t is scaled to the old level of equal signal-to-noise ratio."""

    def __init__(self, denoiser: Denoiser, schedule: Schedule) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.sigma_data, self.moments = denoiser.sigma_data, denoiser.moments

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        before = self.denoiser.schedule.time_of(level.log_snr.reshape(-1) if level.t.ndim else level.log_snr)
        old = self.denoiser.schedule.at(before, like=x_t)
        # (α, σ) of the two levels are parallel; the ratio of their lengths is finite even where α or σ is zero.
        scale = torch.hypot(old.alpha, old.sigma) / torch.hypot(level.alpha, level.sigma)
        estimate: Estimate = self.denoiser(scale.to(x_t.dtype) * x_t, before)
        return Estimate(estimate.x0, when_asked(lambda: estimate.epsilon, x_t), level, estimate.variance_share)

    def given(self, condition: Tensor) -> Rescheduled:
        return Rescheduled(self.denoiser.given(condition), self.schedule)

    def of_rows(self, places: Tensor) -> Rescheduled:
        return Rescheduled(self.denoiser.of_rows(places), self.schedule)


def reschedule(denoiser: Denoiser, schedule: Schedule) -> Denoiser:
    """The same model under another schedule: equal x0 at equal signal-to-noise ratio.

    Args:
        denoiser: any denoiser.
        schedule: the schedule whose times the result takes.
    """
    return Rescheduled(denoiser, schedule)


def of_places(model: Denoiser, count: int) -> Callable[[Tensor], Denoiser]:
    """The model for those rows of a batch that are still on their way, made anew only when some have left.

    Args:
        model: the denoiser, with conditions bound for the whole batch.
        count: B, the rows of the batch.

    Returns:
        a function of the places (b,) of the rows.
    """
    last: list[tuple[Tensor, Denoiser]] = []

    def select(places: Tensor) -> Denoiser:
        if len(places) == count:
            return model
        if not last or last[0][0] is not places:
            last[:] = [(places, model.of_rows(places))]
        return last[0][1]

    return select
