"""Training with DDPM's variational bound: the loss is the bound, in nats for each dimension.

    E over t uniform on 1 … T of  T·L_{t−1}/D  =  (L_0 + Σ L_{t→t−1})/D                                          (1)

which is the bound on −log p(x0) per dimension but for L_T, that no model can change (`variational.terms`). With v = β̃
its gradient is that of ½T(snr_{t−1} − snr_t)‖x0 − x̂0‖²/D, so its minimiser is the score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.discrete import Discrete
from scorefield.errors import OptionError
from scorefield.model import Denoiser, ScoreModel
from scorefield.noise import Schedule
from scorefield.objectives.criteria import noisy
from scorefield.parametrization import SCORE, Estimate
from scorefield.randomness import Noise
from scorefield.variational.bins import Bins
from scorefield.variational.step import Step, StepVariance, fixed_small, learned
from scorefield.variational.terms import decoder_cost, error_in_x0, step_cost


@dataclass(frozen=True)
class VariationalBound:
    """T·L_{t−1}/D at a level t of a `Discrete` schedule (Ho et al. 2020, Eq. 5, arXiv:2006.11239), (1).

    Its laws are `UniformIntegers` and, with its weight, `ImportantLevels`. The sampler of Nichol & Dhariwal 2021, §3.3,
    which remembers past losses, is not here: a batch would depend on what was trained before it, and a resumed run
    would no longer go on to the same bits.

    Args:
        variance: which v the walk adds; `learned` trains it too.
        bins: what x0 stands for where it is made of integers; without them L_0 is of a density.
    """

    variance: StepVariance = fixed_small
    bins: Bins | None = None

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        estimate, epsilon = _estimate(model, x0, t, noise)
        return _bound(model.schedule, estimate, x0, epsilon, self.variance, self.bins)


@dataclass(frozen=True)
class Hybrid:
    """L_simple + scale·L_vlb (Nichol & Dhariwal 2021, Eq. 16, arXiv:2102.09672): a learned variance beside L_simple.

    L_vlb is (1) with the gradient of the mean stopped, so that it trains the variance alone.

    Args:
        scale: their λ.
        bins: as in `VariationalBound`.

    Raises:
        OptionError: for a scale that is not positive.
    """

    scale: float = 0.001
    bins: Bins | None = None

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise OptionError(f"the scale of the bound in the hybrid loss must be positive, got {self.scale}")

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        estimate, epsilon = _estimate(model, x0, t, noise)
        stopped = Estimate(estimate.x0.detach(), estimate.epsilon.detach(), estimate.level, estimate.variance_share)
        bound = _bound(model.schedule, stopped, x0, epsilon, learned, self.bins)
        # ‖ε − ε̂‖² = snr ‖x0 − x̂0‖² at one x_t.
        simple = (estimate.level.snr * error_in_x0(estimate, x0, epsilon) ** 2).flatten(1).mean(1)
        return simple.to(x0.dtype) + self.scale * bound


def _estimate(model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> tuple[Estimate, Tensor]:
    """What the model believes of x_t, read off its score where it is no denoiser, and the ε in x_t."""
    if not isinstance(model.schedule, Discrete):
        raise OptionError(
            "the bound is trained on the levels of a Discrete schedule: use presets.continuous_bound "
            f"for {type(model.schedule).__name__}"
        )
    if not bool(((t == t.round()) & (t >= 1) & (t <= model.schedule.t_max)).all()):
        raise OptionError("the bound is of whole levels: draw t from UniformIntegers or ImportantLevels")
    x_t, epsilon, level = noisy(model, x0, t, noise)
    if isinstance(model, Denoiser):
        return model(x_t, t), epsilon
    return SCORE.split(model.score(x_t, t), x_t, level), epsilon


def _bound(
    schedule: Schedule, estimate: Estimate, x0: Tensor, epsilon: Tensor, variance: StepVariance, bins: Bins | None
) -> Tensor:
    """T·L_{t−1}/D at each row's level, (B,)."""
    t = estimate.level.t
    first = t == 1
    # A row at the first level takes no step: it stays, at no cost, and pays for the decoder.
    step = Step(estimate.level, schedule.at(torch.where(first, t, t - 1)))
    steps = step_cost(step, estimate, x0, epsilon, variance)
    decoder = decoder_cost(estimate, x0, epsilon, variance, bins)
    return schedule.t_max * torch.where(first, decoder, steps).flatten(1).mean(1).to(x0.dtype)
