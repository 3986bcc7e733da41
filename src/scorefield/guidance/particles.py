"""Draws given some numbers of each row, or where they may lie: a particle filter over noise levels.

For any trained denoiser, without training again, and right in the limit of many particles and levels. With x_o the seen
numbers, on their path (`rows`), the target at each level is p_t(x_u given x_o,t). A step down, t → s:

    x_u,s ~ N(m, Q) given x_o,s,   w ← w · N(x_o,s; m_o, Q_oo) · g_s(x_s)/g_t(x_t)                              (1)

with the step N(m, Q) of the whole row (`kernel`) and the potentials g of constraints (`constraints`). The weight is
what a particle foresaw of the seen numbers. Particles of a row are drawn anew, in proportion to their weights, where
(Σw)²/Σw² falls below half of them. Last, one of them is drawn, and x0 is its E[x0 given x_t].

Trippe et al. 2023, Algorithm 2 (SMCDiff), arXiv:2206.04119, weight so with Q = β̃ I and draw x_u without regard to
x_o,s; potentials are the twisting of Wu et al. 2023, arXiv:2306.17775.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import ConstraintError, OptionError
from scorefield.guidance.constraints import Constraint
from scorefield.guidance.kernel import Spread
from scorefield.guidance.rows import GivenRows, falling, given_rows, unseen_rows
from scorefield.model import Denoiser
from scorefield.noise import NoiseLevel
from scorefield.variational.step import Step

_MORE = 4  # times as many particles for rows whose constraints none has kept, and again
_TRIES = 4
_FEW = 4  # the share of rows left, one in so many, beyond which what is asked is taken for impossible


@dataclass(frozen=True)
class ParticleFilter:
    """The filter (1), one system of particles for each draw.

    More draws of a row are rows of their own, of another number each: the caller repeats x0, as it may differ from draw
    to draw (where in its bin a rounded number lies). Draws from one larger system have common ancestors: eight from 64
    particles have 5 to 8 % less spread than they should, and their mean has up to 1.6 times the variance of that of
    independent draws; eight systems of 16 come to 1.2 times and the right spread (`benchmarks/conditionals.py`).

    A draw costs `particles` times `levels` evaluations of a row, and a batch memory for B·K·D numbers a few times over:
    callers choose how many rows to pass at a time. Rows of which no particle keeps the constraints are drawn once more,
    from four times as many, a quarter of them at a time, and where few are left again, from up to 64 times as many.

    Args:
        particles: K, of each row.
        levels: how many noise levels.
        spread: c, how much of the covariance of x0 given x_t that Gaussian data would have is added to β̃ I. Steps are
            then exact for Gaussian data at c = 1 and for data that is a point at 0; mixtures lie between, and all of
            them agree as levels grow.
        rho: of the grid of levels, as Karras' ρ.

    Raises:
        OptionError: for fewer than one particle or two levels, and c outside [0, 1].
    """

    particles: int = 16
    levels: int = 48
    spread: float = 0.5
    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.particles < 1 or self.levels < 2:
            raise OptionError(f"needs at least 1 particle and 2 levels, got {self.particles} and {self.levels}")
        if not (0 <= self.spread <= 1 and 0 < self.rho < math.inf):
            raise OptionError(f"needs a spread in [0, 1] and a positive rho, got {self.spread} and {self.rho}")

    def __call__(
        self,
        model: Denoiser,
        x0: Tensor,
        seen: Tensor,
        constraints: Sequence[Constraint] = (),
        *,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Tensor:
        """Draw the unseen numbers of rows.

        Args:
            model: any denoiser; a condition is bound to it beforehand by `given`, for these rows.
            x0: clean rows (B, *shape), encoded as the model knows them; unseen numbers are not read and may be NaN.
            seen: (B, *shape) bool, another pattern in each row if need be. A row without a seen number is a draw of the
                model (which a sampler makes at 1/K of the cost), one without an unseen number comes back as it is.
            constraints: which all rows drawn keep; one with values for each row has them for these B rows.
            seed: of all randomness.
            rows: the numbers of the rows, growing, 0 … B − 1 by default. Row i is the same in any batch.

        Returns:
            x0 with its unseen numbers drawn, (B, *shape).

        Raises:
            ConstraintError: where no particle of a row keeps the constraints, as in a range of (almost) no probability.
            OptionError, DataError: for a mask of another shape, and seen numbers that are not finite.
            SamplingError: where the model gives values that are not finite.
        """
        names, places = unseen_rows(x0, seen, rows)
        out = x0.clone()
        with torch.no_grad():
            for number in range(_TRIES):
                particles, failed = self.particles * _MORE**number, []
                for part in places.split(max(1, len(x0) * self.particles // particles)):
                    work = given_rows(model, x0, seen, names, part, seed=seed, particles=particles)
                    drawn, kept = self._walk(work, [c.of_rows(part) for c in constraints])
                    work.finish(out, drawn, kept)
                    failed.append(part[~kept])
                places = torch.cat(failed) if failed else places
                if not len(places):
                    return out
                if number and _FEW * len(places) > len(x0):
                    break
        raise _refusal([names[place] for place in places.tolist()], particles)

    def _walk(self, work: GivenRows, constraints: Sequence[Constraint]) -> tuple[Tensor, Tensor]:
        """A draw of each row, (b, D), and whether it keeps the constraints, (b,) bool."""
        potentials = _Potentials(work, constraints)
        levels = work.model.schedule.at(falling(work.model, self.levels, self.rho)).each()
        t, path = levels[0], work.path(levels[0])
        x = work.first(path, t)
        clean = work.clean(x, t, 0)
        potential = potentials(clean, t)
        weight = potential  # its logarithm, as all here
        for number, s in enumerate(levels[1:], start=1):
            step = Step(t, s)
            below = work.path_down(path, step, number)
            z = work.normal("particles", work.particles, number)
            x, expected = self._step(work, step).given(work.seen, step.posterior_mean(x, clean), below, z)
            clean, t, path = work.clean(x, s, number), s, below
            after = potentials(clean, s)
            weight, potential = weight + expected + after - potential, after
            few = effective(weight) < work.particles / 2
            places = resampled(weight, work.uniform("resampling", number), few)
            weight = torch.where(few, 0, weight)
            x, clean = (torch.take_along_dim(part, places.unsqueeze(-1), 1) for part in (x, clean))
            potential = potential.gather(1, places)
        # Instead of how likely a particle was to keep the constraints: whether it does.
        kept = potentials.hold(clean)
        last = chosen(torch.where(kept, weight - potential, -math.inf), work.uniform("choice", 0))
        return torch.take_along_dim(clean, last.unsqueeze(-1), 1).squeeze(1), kept.any(1)

    def _step(self, work: GivenRows, step: Step) -> Spread:
        """Q of `kernel`, Eq. 1."""
        gain = self.spread * (step.below.alpha * step.fresh) ** 2
        given = work.posterior(step.now)
        noise, gain = step.posterior_variance.to(given.along), gain.to(given.along)
        return Spread(given.axes, noise + gain * given.along, noise + gain * given.beside)


@dataclass(frozen=True, eq=False)
class _Potentials:
    """The product of all constraints, each for the rows at work."""

    work: GivenRows
    constraints: Sequence[Constraint]

    def __call__(self, clean: Tensor, level: NoiseLevel) -> Tensor:
        """log g_t, (b, K)."""
        total = torch.zeros(clean.shape[:2], dtype=clean.dtype, device=clean.device)
        if self.constraints:
            variance, x0 = self.work.posterior(level).diagonal(), self._known(clean)
            for constraint in self.constraints:
                total = total + constraint.log_potential(x0, variance)
        return total

    def hold(self, clean: Tensor) -> Tensor:
        """(b, K) bool."""
        kept = torch.ones(clean.shape[:2], dtype=torch.bool, device=clean.device)
        for constraint in self.constraints:
            kept = kept & constraint.holds(self._known(clean))
        return kept

    def _known(self, clean: Tensor) -> Tensor:
        """With the seen numbers as they are, so that a constraint on them tells no particle from another."""
        return torch.where(self.work.seen.mask.unsqueeze(1), self.work.known, clean)


def _refusal(names: list[int], particles: int) -> ConstraintError:
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ConstraintError(
        f"row {names[0]}{others}: none of {particles} particles keeps the constraints, so what they ask is impossible "
        "or nearly so, given what is seen: allow more, or take more particles",
        names,
    )


def effective(weight: Tensor) -> Tensor:
    """(Σw)²/Σw² of each row, (b, 1), for logarithms w (b, K): how many particles of equal weight would be as good."""
    return 1 / torch.softmax(weight, dim=1).square().sum(1, keepdim=True)


def resampled(weight: Tensor, u: Tensor, where: Tensor) -> Tensor:
    """Systematic resampling of each row by itself: the k-th place goes to the particle at (k + u)/K of all weight.

    So each of them gets K w/Σw places to within one (Kitagawa 1996).

    Args:
        weight: logarithms, (b, K).
        u: one uniform for each row, (b, 1).
        where: for which rows, (b, 1) bool.

    Returns:
        which particles take the places, (b, K); each its own in the other rows.
    """
    count = weight.shape[1]
    stay = torch.arange(count, device=weight.device).expand(weight.shape)
    cumulated = torch.softmax(weight, dim=1).cumsum(1)
    return torch.where(where, torch.searchsorted(cumulated, (u + stay) / count, right=True).clamp(max=count - 1), stay)


def chosen(weight: Tensor, u: Tensor) -> Tensor:
    """One particle of each row in proportion to its weight, (b, 1), 0 where no weight is left; as of `resampled`."""
    possible = weight > -math.inf
    weight = torch.where(possible.any(1, keepdim=True), weight, 0)
    # One without weight is never chosen, even where rounding leaves the sum below u.
    last = possible.cumsum(1).argmax(1, keepdim=True)
    return torch.minimum(torch.searchsorted(torch.softmax(weight, dim=1).cumsum(1), u, right=True), last)
