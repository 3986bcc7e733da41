"""Draws given some numbers of each row by replacing them at every level: fast, and biased.

At each level the seen numbers are put where noise would have brought them, and the whole row goes down as a draw:

    x_s ~ N(μ̃(x_t, E[x0 given x_t]), β̃),   then its seen numbers ← α_s x0 + σ_s z                              (1)

(inpainting of Song et al. 2021, App. I, arXiv:2011.13456). As the unseen numbers do not foresee where the seen ones go
at s, each step is also noised back to t and walked again, so that they settle (Lugmayr et al. 2022, Algorithm 1,
arXiv:2201.09865, with jumps of one level). However often, draws are not those of p(unseen | seen): `ParticleFilter` is
right in the limit. This is one row of one particle, for rows too large for many, as images are, and to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.guidance.rows import GivenRows, falling, given_rows, unseen_rows
from scorefield.model import Denoiser
from scorefield.variational.step import Step


@dataclass(frozen=True)
class Replacement:
    """The walk (1); a draw costs (levels − 1)·times + 1 evaluations of a row.

    Args:
        levels: how many noise levels.
        times: how often each step is walked; 1 is replacement alone.
        rho: of the grid of levels, as Karras' ρ.

    Raises:
        OptionError: for fewer than two levels or no walk.
    """

    levels: int = 100
    times: int = 8
    rho: float = 7.0

    def __post_init__(self) -> None:
        if self.levels < 2 or self.times < 1:
            raise OptionError(f"needs at least 2 levels, each walked once, got {self.levels} and {self.times}")

    def __call__(self, model: Denoiser, x0: Tensor, seen: Tensor, *, seed: int, rows: range | None = None) -> Tensor:
        """Draw the unseen numbers of rows; arguments, result and refusals as of `ParticleFilter`, no constraints."""
        names, places = unseen_rows(x0, seen, rows)
        out = x0.clone()
        if len(places):
            with torch.no_grad():
                work = given_rows(model, x0, seen, names, places, seed=seed, particles=1)
                work.finish(out, self._walk(work).squeeze(1), torch.ones_like(places, dtype=torch.bool))
        return out

    def _walk(self, work: GivenRows) -> Tensor:
        """E[x0 given x_t] at the lowest level, (b, 1, D)."""
        schedule = work.model.schedule
        levels = schedule.at(falling(work.model, self.levels, self.rho)).each()
        mask = work.seen.mask.unsqueeze(1)
        x = work.first(work.path(levels[0]), levels[0])
        for number, (t, s) in enumerate(pairwise(levels), start=1):
            step = Step(t, s)
            deviation = step.posterior_variance.sqrt().to(x)
            for again in range(self.times):
                if again:
                    x = schedule.renoise(x, s, t, work.normal("up", 1, number, again))
                mean = step.posterior_mean(x, work.clean(x, t, number))
                x = mean + deviation * work.normal("particles", 1, number, again)
                x = torch.where(mask, schedule.add_noise(work.known, s, work.normal("seen", 1, number, again)), x)
        return work.clean(x, levels[-1], len(levels))
