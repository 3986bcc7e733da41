"""The named samplers of the field, each a line: grid, predictor, corrector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.samplers import grids
from scorefield.samplers.adaptive import AdaptiveFlow, AdaptiveSDE
from scorefield.samplers.edit import starting_at, vary
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.langevin import Langevin, MetropolisLangevin, ncsnv2_size, snr_size
from scorefield.samplers.loop import Corrector, OnStep, Predictor, sample
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams, UniPC
from scorefield.samplers.predictors import Ancestral, Euler, Heun
from scorefield.samplers.stochastic import ConsistentAnnealed, EulerMaruyama, ReverseDiffusion
from scorefield.samplers.straight import StraightAdams
from scorefield.samplers.walkback import AncestralReconstruction, WalkBack
from scorefield.variational.step import StepVariance, learned_or_small

MOVES = 5  # Langevin moves at a level, as NCSNv2 has them for images


class AnySampler(Protocol):
    """A way to draw rows: a `Sampler`, `Varied`, a `FittedSolver`, an `AdaptiveFlow` or an `AdaptiveSDE`."""

    @property
    def name(self) -> str:
        """As the command line calls it."""
        ...

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw rows of a shape, (B, *shape).

        Args:
            model: the denoiser, with conditions bound.
            rows: how many rows, or which: row i is the same whatever rows are drawn with it.
            shape: of one row.
            seed: of all randomness.
            device: of the result.
            on_step: as in `sample`; t is (B,) for samplers whose rows have times of their own.
        """
        ...


@dataclass(frozen=True)
class Sampler:
    """A grid, a predictor and a corrector under a name.

    Args:
        name: as the command line calls it.
        steps: number of levels of the grid.
        grid: where the levels lie.
        predictor: as in `sample`.
        corrector: makes the corrector of `sample` from σ/α at the levels of the grid, or None.
    """

    name: str
    steps: int
    grid: grids.Grid
    predictor: Predictor | None
    corrector: Callable[[Tensor], Corrector] | None = None

    def with_steps(self, steps: int) -> Sampler:
        """The same with another number of levels."""
        return replace(self, steps=steps)

    def parts(self, schedule: Schedule) -> tuple[Tensor, Predictor | None, Corrector | None]:
        """The grid, the predictor and the corrector for a schedule, as `sample` takes them."""
        grid = self.grid(schedule, self.steps)
        level = schedule.at(grid)
        return grid, self.predictor, None if self.corrector is None else self.corrector(level.sigma / level.alpha)

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw rows of a shape, (B, *shape); as `sample`."""
        return sample(model, rows, shape, *self.parts(model.schedule), seed=seed, device=device, on_step=on_step)


@dataclass(frozen=True, eq=False)
class Varied:
    """Rows near given ones, as `edit.vary` makes them, by the levels of a sampler below t.

    Args:
        sampler: whose levels and steps are taken.
        x0: the given rows, (all rows, *shape).
        t: up to where they are noised.
    """

    sampler: Sampler
    x0: Tensor
    t: float

    @property
    def name(self) -> str:
        """As the command line calls its sampler."""
        return self.sampler.name

    def parts(self, schedule: Schedule) -> tuple[Tensor, Predictor | None, Corrector | None]:
        """As those of the sampler, from t on."""
        grid, predictor, corrector = self.sampler.parts(schedule)
        return starting_at(grid, self.t), predictor, corrector

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Vary some of the rows, (B, *shape); as `AnySampler`."""
        rows = range(rows) if isinstance(rows, int) else rows
        x0 = self.x0[rows.start : rows.stop].to(device)
        return vary(model, x0, self.t, *self.parts(model.schedule), seed=seed, rows=rows, on_step=on_step)


def ddpm(steps: int = 1000, variance: StepVariance = learned_or_small) -> Sampler:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2, arXiv:2006.11239), levels evenly spaced in t.

    Args:
        steps: number of levels.
        variance: of a step; `fixed_large` is the paper's other choice, β.
    """
    return Sampler("ddpm", steps, grids.levels, Ancestral(1.0, variance))


def ddim(steps: int = 50, eta: float = 0.0) -> Sampler:
    """DDIM (Song et al. 2020, arXiv:2010.02502), levels evenly spaced in log σ.

    Args:
        steps: number of levels.
        eta: η, the share of DDPM's noise.
    """
    return Sampler("ddim", steps, grids.geometric, Ancestral(eta))


def ancestral(steps: int = 250) -> Sampler:
    """DDPM's step on levels evenly spaced in log σ: any schedule, fewer steps."""
    return Sampler("ancestral", steps, grids.geometric, Ancestral(1.0))


def euler(steps: int = 50) -> Sampler:
    """The probability flow by Euler's method on Karras' grid."""
    return Sampler("euler", steps, grids.karras, Euler())


def heun(steps: int = 18) -> Sampler:
    """Karras et al. 2022, Algorithm 1, arXiv:2206.00364."""
    return Sampler("heun", steps, grids.karras, Heun())


def dpmpp_2m(steps: int = 20) -> Sampler:
    """DPM-Solver++ 2M (Lu et al. 2022, Algorithm 2, arXiv:2211.01095), levels evenly spaced in its own λ, log α/σ."""
    return Sampler("dpmpp_2m", steps, grids.geometric, DPMSolver2M())


def dpmpp_2m_sde(steps: int = 50) -> Sampler:
    """The same with the noise of the reverse SDE, as in k-diffusion."""
    return Sampler("dpmpp_2m_sde", steps, grids.geometric, DPMSolver2M(eta=1.0))


def dpmpp_3m(steps: int = 20) -> Sampler:
    """DPM-Solver++ with the parabola through three estimates, truly of third order."""
    return Sampler("dpmpp_3m", steps, grids.geometric, ExponentialAdams(3))


def dpmpp_3m_sde(steps: int = 50) -> Sampler:
    """The same with the noise of the reverse SDE."""
    return Sampler("dpmpp_3m_sde", steps, grids.geometric, ExponentialAdams(3, eta=1.0))


def unipc(steps: int = 20) -> Sampler:
    """UniPC-2 (Zhao et al. 2023, arXiv:2302.04867), levels evenly spaced in log α/σ."""
    return Sampler("unipc", steps, grids.geometric, UniPC(2))


def exponential_adams(steps: int = 32, order: int = 4) -> Sampler:
    """Exponential Adams–Bashforth; the fourth order gains on the third from about 25 steps on."""
    return Sampler("exponential_adams", steps, grids.geometric, ExponentialAdams(order))


def heun_churn(steps: int = 50, s_churn: float = 40.0) -> Sampler:
    """Heun with new noise before each step (Karras et al. 2022, Algorithm 2, arXiv:2206.00364), where σ is not tiny."""

    def grid(schedule: Schedule, count: int) -> Tensor:
        return grids.churn(schedule, grids.karras(schedule, count), s_churn, s_min=0.05, s_max=50.0)

    return Sampler("heun_churn", steps, grid, Heun())


def euler_maruyama(steps: int = 500) -> Sampler:
    """The reverse SDE by Euler–Maruyama (Song et al. 2021, arXiv:2011.13456) on Karras' grid."""
    return Sampler("euler_maruyama", steps, grids.karras, EulerMaruyama())


def reverse_diffusion(steps: int = 500) -> Sampler:
    """The reverse SDE by the steps of the noise itself, backwards (Song et al. 2021, appendix E, arXiv:2011.13456)."""
    return Sampler("reverse_diffusion", steps, grids.geometric, ReverseDiffusion())


def predictor_corrector(steps: int = 250, ratio: float = 0.16) -> Sampler:
    """Reverse diffusion with a Langevin move at each level (Song et al. 2021, Algorithm 1, arXiv:2011.13456).

    Args:
        steps: number of levels.
        ratio: of drift to noise in a move, their signal-to-noise ratio; the step belongs to the level.
    """
    corrector = Langevin(1, snr_size(ratio))
    return Sampler("predictor_corrector", steps, grids.geometric, ReverseDiffusion(), lambda sigmas: corrector)


def consistent_annealed(steps: int = 250, pace: float = 3.0) -> Sampler:
    """Consistent annealed sampling (Jolicoeur-Martineau et al. 2021, arXiv:2009.05475)."""
    return Sampler("consistent_annealed", steps, grids.geometric, ConsistentAnnealed(pace))


def straight_adams(steps: int = 20) -> Sampler:
    """Adams–Bashforth of third order on straight paths (`straight`)."""
    return Sampler("straight_adams", steps, grids.straight, StraightAdams(3))


def restart(steps: int = 18, times: int = 2) -> Sampler:
    """Heun on Karras' grid, that comes back from σ/α = 0.3 to 1 twice (Xu et al. 2023, arXiv:2306.14878).

    Args:
        steps: number of levels of the way down; of those on each way down again there are a third as many.
        times: how often.
    """

    def grid(schedule: Schedule, count: int) -> Tensor:
        down = grids.karras(schedule, count)
        return grids.restart(schedule, down, 0.3, 1.0, times=times, steps=max(2, count // 3))

    return Sampler("restart", steps, grid, Heun())


def walk_back(steps: int = 20, moves: int = 2, inner: int = 10) -> Sampler:
    """Walk-back chains (Bengio et al. 2014, arXiv:1306.1091), annealed: at each level reconstruct, noise, and again.

    Args:
        steps: number of levels.
        moves: at each.
        inner: steps of each reconstruction.
    """
    chain = WalkBack(AncestralReconstruction(inner), moves)
    return Sampler("walk_back", steps, grids.geometric, None, lambda sigmas: chain)


def annealed_langevin(steps: int = 100, moves: int = MOVES, size: float | None = None) -> Sampler:
    """Annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1, arXiv:1907.05600), and NCSNv2's way to its step.

    Args:
        steps: number of levels.
        moves: T, Langevin moves at each.
        size: ε/σ² of a move; None takes NCSNv2's for the ratio of the levels (`langevin.ncsnv2_size`).
    """

    def corrector(sigmas: Tensor) -> Corrector:
        ratio = float(sigmas[0] / sigmas[-1]) ** (1 / (len(sigmas) - 1))
        return Langevin(moves, ncsnv2_size(ratio, moves) if size is None else size)

    return Sampler("langevin", steps, grids.geometric, None, corrector)


def mala(steps: int = 100, moves: int = MOVES, size: float = 0.5) -> Sampler:
    """Annealed Langevin dynamics with Metropolis' rule at each level, of models that have an energy.

    Args:
        steps: number of levels.
        moves: proposals at each.
        size: ε/σ² of a proposal.
    """
    return Sampler("mala", steps, grids.geometric, None, lambda sigmas: MetropolisLangevin(moves, size))


def levels_of(sampler: AnySampler, schedule: Schedule) -> Tensor | None:
    """The levels that all rows pass, (K,) float64; None for samplers whose rows have times of their own."""
    if isinstance(sampler, FittedSolver):
        return sampler.grid(schedule)
    return sampler.parts(schedule)[0] if isinstance(sampler, Sampler | Varied) else None


SAMPLERS: dict[str, Callable[[], Sampler | AdaptiveFlow | AdaptiveSDE]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ancestral": ancestral,
    "euler": euler,
    "heun": heun,
    "heun_churn": heun_churn,
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "predictor_corrector": predictor_corrector,
    "consistent_annealed": consistent_annealed,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "exponential_adams": exponential_adams,
    "straight_adams": straight_adams,
    "adaptive": AdaptiveFlow,
    "adaptive_sde": AdaptiveSDE,
    "restart": restart,
    "walk_back": walk_back,
    "langevin": annealed_langevin,
    "mala": mala,
}
