"""Energies put together: products, quotients and sums of unnormalised densities, which are energies again.

    product   E = Σ w_i E_i                    s = Σ w_i s_i                                        (1)
    sum       E = −log Σ w_i e^{−E_i}          s = Σ r_i s_i,   r = softmax(log w_i − E_i)          (2)

(2) is sound at every level: noise is linear, so the sum of noised densities is the noised sum, as long as the unknown
constant of each energy is one number at all levels. Score matching leaves it open at every level for itself;
`samplers.importance` finds it.

(1) is not: the product of noised densities is not the noised product (Du et al. 2023, "Reduce, reuse, recycle",
arXiv:2302.11552). At the lowest level it is what was wanted, up to that level's noise, and the levels above are only a
way there. So a product is walked by moves that stay at a level (`samplers.presets.annealed_langevin`, or
`samplers.langevin.MetropolisLangevin` as corrector), while a step down (ancestral, Heun, …) trusts a relation between
levels that does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from scorefield.errors import OptionError
from scorefield.model import Denoiser, ScoreModel
from scorefield.noise import Schedule, Time
from scorefield.parametrization import SCORE, Estimate


class EnergyModel(Protocol):
    """A score model whose score is minus the gradient of an energy, as `model.EnergyDenoiser` is.

    Attributes:
        schedule: the schedule its times refer to.
        sigma_data: root mean square of the data, per element.
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def sigma_data(self) -> float: ...

    def score(self, x: Tensor, t: Time) -> Tensor:
        """−∇ₓE(x, t), (B, *shape), for x (B, *shape) and t () or (B,)."""
        ...

    def energy(self, x: Tensor, t: Time) -> Tensor:
        """E(x, t) in nats, −log p_t(x) up to a constant of the level, (B,)."""
        ...


def with_energy(model: ScoreModel, what: str) -> EnergyModel:
    """The model, if it has an energy.

    Args:
        model: any.
        what: needs it, for the message.

    Raises:
        OptionError: for a model without one.
    """
    if not callable(getattr(model, "energy", None)):
        raise OptionError(f"{what} needs a model with an energy, {type(model).__name__} has none: use EnergyDenoiser")
    return cast(EnergyModel, model)


class Composition(Denoiser):
    """What products and sums share: models under one schedule, and a score read as a denoiser.

    Its `sigma_data` is the largest of the models', which scales the first draw of a sampler.

    Args:
        models: one or more, under one schedule; conditions are bound to them beforehand.
        weights: w_i, one for each model; all 1 by default.

    Raises:
        OptionError: for no models, another number of weights, weights that are not finite, or schedules that differ.
    """

    def __init__(self, models: Sequence[EnergyModel], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        self.models = tuple(models)
        self.weights = tuple(1.0 for _ in self.models) if weights is None else tuple(float(w) for w in weights)
        if not self.models or len(self.weights) != len(self.models):
            raise OptionError(f"{name} needs one weight for each model, got {len(self.weights)} for {len(self.models)}")
        if not all(math.isfinite(w) for w in self.weights):
            raise OptionError(f"{name}: every weight must be finite, got {self.weights}")
        for number, model in enumerate(self.models):
            with_energy(model, name)
            if model.schedule != self.models[0].schedule:
                raise OptionError(
                    f"{name}: model {number} has the schedule {model.schedule}, the first {self.models[0].schedule}: "
                    "levels can be compared under one schedule only; train both with the same noise.sigma_min and "
                    "noise.sigma_max"
                )
        self.schedule = self.models[0].schedule
        self.sigma_data = max(model.sigma_data for model in self.models)
        # So that parameters are found and moved; those that are no modules have none.
        self.parts = nn.ModuleList(model for model in self.models if isinstance(model, nn.Module))

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        return SCORE.split(self.score(x_t, t), x_t, self.schedule.at(t, like=x_t))

    def energy(self, x: Tensor, t: Time) -> Tensor:
        """E(x, t) in nats, up to a constant of the level, (B,), for x (B, *shape) and t () or (B,)."""
        raise NotImplementedError

    def _energies(self, x: Tensor, t: Time) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.stack([model.energy(x, t) for model in self.models])

    def _scores(self, x: Tensor, t: Time) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.stack([model.score(x, t) for model in self.models])


class Product(Composition):
    """E = Σ w_i E_i: the product of densities Π p_i^{w_i}, or a quotient where weights are negative, (1).

    One model with weight w is its density at the temperature 1/w. Sampled by annealed Langevin dynamics, as above.

    Args:
        models, weights: as `Composition`; the sum of the weights is positive, for the noise at a level gives each E_i
            a tail of ‖x‖²/2σ², and without any tail there is nothing to normalise.
    """

    def __init__(self, models: Sequence[EnergyModel], weights: Sequence[float] | None = None) -> None:
        super().__init__(models, weights)
        if sum(self.weights) <= 0:
            raise OptionError(f"Product: the weights must have a positive sum, got {self.weights}")

    def energy(self, x: Tensor, t: Time) -> Tensor:
        energies = self._energies(x, t)
        return torch.tensordot(energies.new_tensor(self.weights), energies, 1)

    def score(self, x: Tensor, t: Time) -> Tensor:
        """Σ w_i s_i, (B, *shape)."""
        scores = self._scores(x, t)
        return torch.tensordot(scores.new_tensor(self.weights), scores, 1)


class Mixture(Composition):
    """E = −log Σ w_i e^{−E_i}: the sum of unnormalised densities, (2).

    A model's share of the whole is w_i Z_i, not w_i; with its log Z from `samplers.importance`, weights w_i/Z_i make it
    so.

    Args:
        models, weights: as `Composition`; weights are positive.
    """

    def __init__(self, models: Sequence[EnergyModel], weights: Sequence[float] | None = None) -> None:
        super().__init__(models, weights)
        if min(self.weights) <= 0:
            raise OptionError(f"Mixture: weights must be positive, got {self.weights}")

    def energy(self, x: Tensor, t: Time) -> Tensor:
        return -torch.logsumexp(self._log_parts(x, t), dim=0)

    def score(self, x: Tensor, t: Time) -> Tensor:
        """Σ r_i s_i with the responsibilities r of (2), (B, *shape)."""
        shares, scores = torch.softmax(self._log_parts(x, t), dim=0), self._scores(x, t)
        return torch.einsum("kb,kb...->b...", shares.to(scores.dtype), scores)

    def _log_parts(self, x: Tensor, t: Time) -> Tensor:
        """log w_i − E_i, (K, B)."""
        energies = self._energies(x, t)
        return energies.new_tensor(self.weights).log().unsqueeze(1) - energies
