"""Our own methods for the frontier: solvers on grids that know nothing of the model, and solvers fitted to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _frontier_problems import Method, Plain, Problem, Run
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.samplers import grids
from scorefield.samplers.choice import grids_to_try
from scorefield.samplers.fitting import fit_solver
from scorefield.samplers.grids import Grid
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.measured import measure_grid
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams, UniPC
from scorefield.samplers.paths import Paths, follow
from scorefield.samplers.straight import StraightAdams

OURS, FITTED = "ours", "fitted"
MEASURED = ("measured, k = 3", "measured, k = 2")  # with the derivative of this order
FITTED_GRIDS = (*MEASURED, "karras", "geometric", "straight")

_SEED = 2  # of the paths; what is judged comes from streams of other names


# -- that know the schedule alone -------------------------------------------------------------------------------------


def unfitted() -> list[Method]:
    """Our solvers on grids that know nothing of the model but σ_data; all ask it once a step."""
    exponential: dict[str, Predictor] = {
        "DPM++ 2M": DPMSolver2M(),
        "UniPC2": UniPC(2),
        "UniPC3": UniPC(3),
        **{f"exponential Adams {order}": ExponentialAdams(order) for order in (1, 2, 3, 4)},
    }
    velocity: dict[str, Predictor] = {f"straight Adams {order}": StraightAdams(order) for order in (2, 3, 4)}
    spacings: dict[str, Grid] = {
        "geometric": grids.geometric,
        "karras": grids.karras,
        "karras ρ=3": lambda schedule, n: grids.karras(schedule, n, rho=3),
        "vp": _vp,
    }
    return [
        *_walks(exponential, {name: _plain(grid) for name, grid in (*spacings.items(), ("straight ρ=1", _flow))}),
        *_walks(velocity, {"vp": _plain(_vp), **{f"straight ρ={rho:g}": _straight(rho) for rho in (1.0, 1.4, 2.0)}}),
    ]


Spacing = Callable[[Denoiser, int], Tensor]


def _plain(grid: Grid) -> Spacing:
    return lambda model, n: grid(model.schedule, n)


def _straight(rho: float) -> Spacing:
    return lambda model, n: grids.straight(model.schedule, n, rho=rho, scale=model.sigma_data)


def _flow(schedule: Schedule, n: int) -> Tensor:
    """Even in the time of a straight flow of the same σ/α, whatever the data's deviation."""
    return grids.straight(schedule, n, rho=1)


def _vp(schedule: Schedule, n: int) -> Tensor:
    """Even in the time of a VP of linear β from 0.1 that goes over the same σ/α."""
    high, low = (math.log1p(sigma**2) for sigma in (schedule.t_max, schedule.t_min))
    rise = 2 * (high - 0.1)
    t = torch.linspace(1, (math.sqrt(0.01 + 2 * rise * low) - 0.1) / rise, n, dtype=torch.float64)
    sigmas = torch.expm1(rise * t**2 / 2 + 0.1 * t).sqrt()
    sigmas[0], sigmas[-1] = schedule.t_max, schedule.t_min  # the ends without their rounding
    return sigmas


def _walks(solvers: dict[str, Predictor], spacings: dict[str, Spacing]) -> list[Method]:
    return [
        Plain(OURS, f"{name}, {grid} {ending}", _walk(predictor, spacing, ending == "→0"))
        for name, predictor in solvers.items()
        for grid, spacing in spacings.items()
        for ending in ("→0", "→σ")
    ]


def _walk(predictor: Predictor, spacing: Spacing, denoise: bool) -> Callable[[Denoiser, Tensor, int], Tensor]:
    def walk(model: Denoiser, x: Tensor, budget: int) -> Tensor:
        grid = spacing(model, budget - denoise + 1)
        return sample(model, len(x), x.shape[1:], grid, predictor, seed=0, denoise=denoise, start=x)

    return walk


# -- that are fitted to the model -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fitted:
    """A solver with weights fitted to paths, on levels of a grid or of the best of several, as the paths say.

    Args:
        library: as in `Method`.
        paths: exact ones, of noises that are not judged.
        grids: where its levels may lie, for a number of evaluations.
        name: of the grids.
    """

    library: str
    paths: Paths
    grids: Callable[[int], tuple[Grid, ...]]
    name: str

    def fit(self, model: Denoiser, budget: int) -> Run:
        solver = fit_solver(self.paths, self.grids(budget)[0], budget, *self.grids(budget)[1:])
        return lambda counted, x: solver(counted, len(x), x.shape[1:], seed=0, start=x)


def _only(grid: Grid) -> Callable[[int], tuple[Grid, ...]]:
    return lambda budget: (grid,)


def library(grid: str) -> str:
    """What the fitted solvers of one grid are called; the plain word is for those of the best of several."""
    return f"{FITTED}, {grid}"


def fitted(problem: Problem) -> list[Method]:
    """Solvers fitted to a model's paths as `fit` does, and on each grid alone."""
    paths = follow(problem.model, range(problem.fit_rows), problem.shape, seed=_SEED, dtype=problem.dtype)
    spacings: dict[str, Grid] = {
        **{name: measure_grid(paths, order) for name, order in zip(MEASURED, (3, 2), strict=True)},
        "karras": grids.karras,
        "geometric": grids.geometric,
        "straight": lambda schedule, n: grids.straight(schedule, n, scale=problem.model.sigma_data),
    }
    alone = [Fitted(library(name), paths, _only(spacings[name]), f"{name} grid") for name in FITTED_GRIDS]
    return [Fitted(FITTED, paths, grids_to_try(paths), "best grid"), *alone]
