"""Langevin dynamics at a noise level, its exact form by Metropolis' rule, and the step sizes of the papers.

    x ← x + (ε/2) ∇log p_t(x) + √ε z,   ε = size · σ_t²                                   (1)

which leaves p_t as it is in the limit of small steps (Song & Ermon 2019, Algorithm 1, arXiv:1907.05600). Where no noise
is there to measure it by, ε itself is given, as `step`. With an energy a move from x to y can be refused, and then
steps of any size leave e^{−E} as it is:

    accept with probability min(1, e^{E(x) − E(y)} q(x | y)/q(y | x)),   q(y | x) the density of (1)       (2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scorefield.energies import EnergyModel, with_energy
from scorefield.errors import SamplingError
from scorefield.model import ScoreModel
from scorefield.noise import Clean, Schedule, Time
from scorefield.randomness import Noise


@dataclass(frozen=True)
class Langevin:
    """A corrector: `steps` moves by (1) at one level; the step size belongs to the level, never to the batch.

    Args:
        steps: number of moves.
        size: ε/σ², below 4 for stability at p_t's narrowest.
        step: ε itself, in squared units of x, instead of a size; stable below 4 times p_t's smallest variance.
    """

    steps: int = 1
    size: float = 0.1
    step: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.size < 4:
            raise SamplingError(f"Langevin needs steps ≥ 1 and 0 < size < 4, got {self.steps} and {self.size}")
        _check_step(self.step, "Langevin")

    def __call__(self, model: ScoreModel, x: Tensor, t: Time, noise: Noise) -> Tensor:
        step = step_size(model.schedule, x, t, self.size, self.step).to(x.dtype)
        for move in range(self.steps):
            x = x + step / 2 * model.score(x, t) + step.sqrt() * noise.like(x, draw=move)
        return x


@dataclass(frozen=True)
class SnrLangevin:
    """A corrector: `steps` moves by (1) whose noise is 1/r times the length of their drift, ε = (2r ‖z‖/‖s‖)².

    Song et al. 2021, Algorithms 4 and 5, arXiv:2011.13456, who write x + ε s + √(2ε) z, with ε half of ours, and take
    the norms as means over the batch; here they are those of the row, so that no row knows of another. That has a
    price: a step that depends on x and z leaves p_t as it is only for long rows. N(0, σ² I) becomes, as r falls, a law
    of density ∝ ‖x‖² e^{−‖x‖²/(2 T σ²)}, T = 1 + 2/D, whose mean square is (1 + 2/D)² too large: 1.3 in a thousand for
    3072 elements, a factor 4 in the plane. For short rows take the level's own step, `Langevin(size=snr_size(r))`.

    Args:
        ratio: r, of drift to noise.
        steps: number of moves.
        largest: the largest ε/σ², for rows where the score is nearly zero.
    """

    ratio: float = 0.16
    steps: int = 1
    largest: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.ratio < math.inf or not 0 < self.largest < 4:
            raise SamplingError(
                f"SnrLangevin needs steps ≥ 1, ratio > 0 and 0 < largest < 4, "
                f"got {self.steps}, {self.ratio} and {self.largest}"
            )

    def __call__(self, model: ScoreModel, x: Tensor, t: Time, noise: Noise) -> Tensor:
        largest = step_size(model.schedule, x, t, self.largest, None)
        for move in range(self.steps):
            score, z = model.score(x, t), noise.like(x, draw=move)
            quotient = _lengths(z) / _lengths(score).clamp(min=torch.finfo(torch.float64).tiny)
            step = torch.minimum((2 * self.ratio * quotient) ** 2, largest).to(x.dtype)
            x = x + step / 2 * score + step.sqrt() * z
        return x


def snr_size(ratio: float) -> float:
    """The size ε/σ² of `Langevin` at which drift and noise have this ratio on average: 4r².

    It is the rule of `SnrLangevin` with the lengths that a row of D elements has where it is mostly noise, ‖z‖ = √D and
    ‖s‖ = √D/σ. The step then belongs to the level, and leaves p_t as it is for rows of any length.
    """
    return 4 * ratio**2


def _lengths(x: Tensor) -> Tensor:
    """The norm of each row, (B, 1, …, 1) float64."""
    rows = x.double().reshape(len(x), math.prod(x.shape[1:]))
    return torch.linalg.vector_norm(rows, dim=1).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class MetropolisLangevin:
    """A corrector that leaves e^{−E(x, t)} exactly as it is: `steps` proposals by (1), each accepted row by row by (2).

    Known as MALA, the Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996, "Exponential convergence of
    Langevin distributions and their discrete approximations"). A value of E that is not finite is never accepted.

    Args:
        steps: number of proposals.
        size: ε/σ²; larger ones go further and are refused more often.
        step: ε itself, in squared units of x, instead of a size.
    """

    steps: int = 1
    size: float = 0.5
    step: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.size < math.inf:
            raise SamplingError(f"MetropolisLangevin needs steps ≥ 1 and size > 0, got {self.steps} and {self.size}")
        _check_step(self.step, "MetropolisLangevin")

    def __call__(self, model: ScoreModel, x: Tensor, t: Time, noise: Noise) -> Tensor:
        return self.walk(with_energy(model, "MetropolisLangevin"), x, t, noise)[0]

    def walk(self, model: EnergyModel, x: Tensor, t: Time, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """The moves, with what they have found on the way.

        Args:
            model: has an energy and its score.
            x: (B, *shape).
            t: () or (B,).
            noise: draws 2k are the normals of proposal k, draws 2k + 1 decide on it.

        Returns:
            x after the moves (B, *shape), its energy (B,), and the share of proposals that were accepted (B,).
        """
        step = step_size(model.schedule, x, t, self.size, self.step)
        place, accepted, _ = self.moves(model, Place.of(model, x, t), t, noise, step)
        return place.x, place.energy, accepted

    def moves(
        self, model: EnergyModel, place: Place, t: Time, noise: Noise, step: Tensor
    ) -> tuple[Place, Tensor, Tensor]:
        """The moves from where energy and score are known already, as a chain knows them from the move before.

        Args:
            model, t, noise: as for `walk`.
            place: where the moves begin.
            step: ε, float64, broadcasting over x: each row may have its own.

        Returns:
            where they end, the share of proposals that were accepted (B,), and the mean of the probabilities with which
            they were (B,), both float64.
        """
        step = step.to(place.x.dtype)
        x, energy, drift = place.x, place.energy, step / 2 * place.score
        score, accepted = place.score, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        probability = torch.zeros_like(accepted)
        for move in range(self.steps):
            z = noise.like(x, draw=2 * move)
            y = x + drift + step.sqrt() * z
            there = Place.of(model, y, t)
            drift_y = step / 2 * there.score
            back = (x - y - drift_y).square() / step
            log_ratio = (energy - there.energy + (z.square() - back).flatten(1).sum(1) / 2).double()
            u = noise.stream.uniform(noise.rows, step=noise.step, draw=2 * move + 1, device=x.device)
            possible = there.energy.isfinite() & ~log_ratio.isnan()
            taken = (u.log() < log_ratio) & possible
            accepted += taken
            probability += torch.where(possible, log_ratio.clamp(max=0).exp(), 0)
            energy = torch.where(taken, there.energy, energy)
            shaped = taken.reshape(-1, *[1] * (x.ndim - 1))
            x, drift = torch.where(shaped, y, x), torch.where(shaped, drift_y, drift)
            score = torch.where(shaped, there.score, score)
        return Place(x, energy, score), accepted / self.steps, probability / self.steps


class Place(NamedTuple):
    """Where Metropolis' rule stands, with what it needs to know there."""

    x: Tensor
    energy: Tensor
    score: Tensor

    @staticmethod
    def of(model: EnergyModel, x: Tensor, t: Time) -> Place:
        """The energy (B,) and the score (B, *shape) at x (B, *shape)."""
        return Place(x, model.energy(x, t), model.score(x, t))


def step_size(schedule: Schedule, x: Tensor, t: Time, size: float, step: float | None) -> Tensor:
    """ε of (1), float64, () or shaped to broadcast over x: the step where one is given, else size · σ_t².

    Raises:
        SamplingError: for a model of the data's own score without a step: it has no σ, and no move would move.
    """
    if step is not None:
        return torch.tensor(step, dtype=torch.float64, device=x.device)
    if isinstance(schedule, Clean):
        raise SamplingError("a model of the data's own score has no noise to measure a size by: use Langevin(step=…)")
    return size * schedule.at(t, like=x).sigma ** 2


def _check_step(step: float | None, name: str) -> None:
    if step is not None and not 0 < step < math.inf:
        raise SamplingError(f"{name} needs a step that is positive and finite, got {step}")


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
