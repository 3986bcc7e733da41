"""Langevin dynamics on a sum over data, by scores estimated from mini-batches; posteriors of Bayesian models.

    log p(θ given y) = log p(θ) + Σ_{i ≤ N} log p(y_i given θ) + const                                          (1)

Of n rows S drawn anew at every step, each of the N alike and with replacement, two estimates of its score have no bias:

    ŝ(θ) = ∇log p(θ) + (N/n) Σ_{i ∈ S} ∇log p(y_i given θ)                                                     (2)
    ŝ(θ) = ∇log p(θ) + Σ_i ∇log p(y_i given θ̂) + (N/n) Σ_{i ∈ S} (∇log p(y_i given θ) − ∇log p(y_i given θ̂))  (3)

(2) is stochastic-gradient Langevin dynamics (Welling & Teh 2011, "Bayesian learning via stochastic gradient Langevin
dynamics"), (3) has a control variate: near θ̂, best the posterior's mode, its differences are small (Baker, Fearnhead,
Fox & Nemeth 2019, arXiv:1706.05439). The noise of an estimate widens what the chain settles on. With Gaussian (1) of
precision P, and an estimate of variance V at the mode and K δ² more at the distance δ from it,

    x ← x + (ε/2) ŝ(x) + √ε z   has the variance   v = (ε + V ε²/4)/(1 − (1 − ε P/2)² − K ε²/4)                 (4)

in place of 1/P: too large by about ε(P + V + K/P)/4 of itself, to which a step must be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.model import ScoreModel
from scorefield.noise import Clean, Time
from scorefield.randomness import Noise


class SummedModel(ScoreModel, Protocol):
    """A score model whose log density is a sum over rows of data, and its score estimated from some of them."""

    @property
    def terms(self) -> int:
        """N, the number of rows of data."""
        ...

    def estimate(self, x: Tensor, t: Time, batch: Tensor) -> Tensor:
        """An estimate of the score without bias over batches.

        Args:
            x: (C, *shape).
            t: the level.
            batch: for each chain the numbers of the rows it looks at, (C, n) int64.

        Returns:
            (C, *shape).
        """
        ...


@dataclass(frozen=True, eq=False)
class Posterior:
    """A posterior (1) as a model: its energy for Metropolis' rule, its score for Langevin, estimates from mini-batches.

    Args:
        log_prior: θ (C, *shape) to log p(θ), (C,), up to a constant.
        log_likelihood: θ (C, *shape) and rows of the data, (C, n, …) or (1, n, …), to log p(y_i given θ), (C, n).
        data: y, (N, …).
        centre: θ̂ (*shape) of (3); None for (2).
    """

    log_prior: Callable[[Tensor], Tensor]
    log_likelihood: Callable[[Tensor, Tensor], Tensor]
    data: Tensor
    centre: Tensor | None = None

    schedule = Clean()

    def __post_init__(self) -> None:
        if self.data.ndim < 1 or len(self.data) < 1:
            raise OptionError(f"a posterior has data of 1 row or more, got the shape {tuple(self.data.shape)}")

    @property
    def terms(self) -> int:
        """N, the number of rows of data."""
        return len(self.data)

    def energy(self, x: Tensor, t: Time) -> Tensor:
        """−log p(θ given y) up to a constant, in nats, (C,); t says nothing."""
        return -(self.log_prior(x) + self._log_likelihood(x))

    def score(self, x: Tensor, t: Time) -> Tensor:
        """∇ log p(θ given y), (C, *shape), from all rows of data."""
        return _slopes(lambda theta: -self.energy(theta, t), x)[0]

    def estimate(self, x: Tensor, t: Time, batch: Tensor) -> Tensor:
        """(3) with a centre and (2) without one, (C, *shape); batch (C, n)."""
        rows, scale = self.data[batch], self.terms / batch.shape[1]

        def of_batch(theta: Tensor) -> Tensor:
            return self.log_prior(theta) + scale * self.log_likelihood(theta, rows).sum(1)

        if self.centre is None:
            return _slopes(of_batch, x)[0]

        def difference(theta: Tensor, centre: Tensor) -> Tensor:
            return of_batch(theta) - scale * self.log_likelihood(centre, rows).sum(1)

        at_x, at_centre = _slopes(difference, x, self.centre.to(x).expand_as(x))
        return at_x + (at_centre + self._slope_at_centre.to(x))

    def _log_likelihood(self, x: Tensor) -> Tensor:
        """Of all rows of data, (C,)."""
        return self.log_likelihood(x, self.data.unsqueeze(0)).sum(1)

    @cached_property
    def _slope_at_centre(self) -> Tensor:
        """Σ_i ∇log p(y_i given θ̂), (1, *shape)."""
        assert self.centre is not None
        return _slopes(self._log_likelihood, self.centre.unsqueeze(0))[0]


def _slopes(function: Callable[..., Tensor], *points: Tensor) -> tuple[Tensor, ...]:
    """The gradients in the rows of each argument (C, *shape), of values that belong to a row each (C,)."""
    with torch.enable_grad():
        leaves = [point.detach().requires_grad_() for point in points]
        return torch.autograd.grad(function(*leaves).sum(), leaves)


# ε of the k-th move, k = 0, 1, …
Steps = Callable[[int], float]


@dataclass(frozen=True)
class Decay:
    """ε_k = a (b + k)^{−γ}: steps that shrink, so that bias dies out while Σ ε_k still diverges.

    Welling & Teh 2011 take γ in (½, 1]; 1/3 makes the mean squared error fall fastest (Teh, Thiery & Vollmer 2016,
    arXiv:1409.0578). Their means weigh each draw by its ε, while `Chains.summary` counts all draws alike.

    Args:
        a, b, gamma: as above.
    """

    a: float
    b: float = 1.0
    gamma: float = 1 / 3

    def __post_init__(self) -> None:
        if not (0 < self.a < math.inf and 0 < self.b < math.inf and 0 < self.gamma <= 1):
            raise OptionError(f"Decay needs a > 0, b > 0 and 0 < γ ≤ 1, got {self.a}, {self.b} and {self.gamma}")

    def __call__(self, k: int) -> float:
        return self.a * (self.b + k) ** -self.gamma


@dataclass(frozen=True)
class StochasticLangevin:
    """A corrector: x ← x + (ε_k/2) ŝ(x) + √ε_k z with ŝ from a mini-batch of its own for each chain and move.

    Args:
        step: ε, in squared units of x, or ε_k of the k-th move, such as `Decay`.
        batch: n, rows of data in a mini-batch, drawn with replacement; None for all of them, which is `Langevin`.
    """

    step: float | Steps
    batch: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.step) and not 0 < self.step < math.inf:
            raise OptionError(f"StochasticLangevin needs a step that is positive and finite, got {self.step}")
        if self.batch is not None and self.batch < 1:
            raise OptionError(f"a mini-batch has 1 row or more, got {self.batch}")

    def __call__(self, model: SummedModel, x: Tensor, t: Time, noise: Noise) -> Tensor:
        step = self.step(noise.step) if callable(self.step) else self.step
        epsilon = torch.tensor(step, dtype=torch.float64, device=x.device).to(x.dtype)
        if self.batch is None:
            score = model.score(x, t)
        else:
            score = model.estimate(x, t, self._rows(model.terms, noise, x.device))
        return x + epsilon / 2 * score + epsilon.sqrt() * noise.like(x)

    def _rows(self, terms: int, noise: Noise, device: torch.device) -> Tensor:
        """(C, n) numbers below N, from draw 1 of the noise."""
        if self.batch is None or self.batch > terms:
            raise OptionError(f"a mini-batch of {self.batch} rows from {terms}: leave batch out to use all of them")
        return (noise.stream.uniform(noise.rows, (self.batch,), step=noise.step, draw=1) * terms).long().to(device)
