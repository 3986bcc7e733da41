"""Fitting a solver to a model: levels chosen by the error they lead to, weights by least squares on exact paths.

Step i leads from where the solver itself has come to, so that a step makes good what those before it missed:

    a_i, b_ij = argmin Σ ‖a x_i + Σ_{j ≤ i} b_j x̂0_j − x*(t_{i+1})‖²,   x* an exact path (`paths`)             (1)

over rows and elements, the last with E[x0 given x*] at the end in place of x*. That is one small linear system a step,
and no derivative of the model is taken. The levels are even in u^{1/ρ} (`grids.straight`), c and ρ being those of a few
tries for which the solver ends nearest to rows that (1) has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.grids import straight
from scorefield.samplers.paths import Paths

_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # c, in units of the data's deviation
_RHOS = (0.8, 1.0, 1.25)
_REFINE = 2**0.5
_RIDGE = 1e-12  # of the squares of a column: the estimates of neighbouring levels are hardly different in float32


@dataclass(frozen=True)
class Spacing:
    """Where levels lie, as in `grids.straight`.

    Args:
        scale: c, in units of the data's deviation.
        rho: ρ.
    """

    scale: float
    rho: float


def fit_solver(paths: Paths, steps: int, near: Spacing | None = None) -> tuple[FittedSolver, Spacing]:
    """Fit a solver of some steps to paths: half of the rows for (1), a quarter to choose, a quarter to judge it.

    Args:
        paths: at least 8.
        steps: how often it asks the model, at least 1.
        near: a spacing that was best for another number of steps, to look around; without it all are tried.

    Returns:
        the solver, and its spacing.

    Raises:
        SamplingError: for fewer rows or steps.
    """
    count = len(paths.start)
    if count < 8 or steps < 1:
        raise SamplingError(f"a solver is fitted to at least 8 paths and has at least 1 step, got {count} and {steps}")
    learn, choose, judge = slice(0, count // 2), slice(count // 2, 3 * count // 4), slice(3 * count // 4, count)
    tried: dict[Spacing, tuple[float, list[float], list[Tensor]]] = {}

    def attempt(spacing: Spacing) -> float:
        if spacing not in tried:
            times = _times(paths, steps, spacing)
            weights, ends = regress(paths, times, learn)
            tried[spacing] = (_distance(ends[choose], paths.end[choose]), times, [*weights, ends])
        return tried[spacing][0]

    first = [Spacing(c, rho) for c in _SCALES for rho in _RHOS] if near is None else [near]
    best = min(first, key=attempt)
    for _ in range(2):
        around = [Spacing(best.scale * factor, best.rho) for factor in (1 / _REFINE, _REFINE)]
        best = min([best, *around], key=attempt)
    _, times, found = tried[best]
    *weights, ends = found
    error, std_error = _judged(ends[judge], paths.end[judge])
    rows = tuple(tuple(row.tolist()) for row in weights)
    sigma_data = paths.model.sigma_data
    return FittedSolver(tuple(times), rows, error / sigma_data, std_error / sigma_data), best


def fit_solvers(paths: Paths, counts: Sequence[int]) -> Iterator[FittedSolver]:
    """A solver for each of these numbers of steps, the spacing of one near to that of the one before."""
    near = None
    for steps in counts:
        solver, near = fit_solver(paths, steps, near)
        yield solver


@torch.no_grad()
def regress(paths: Paths, times: Sequence[float], rows: slice) -> tuple[list[Tensor], Tensor]:
    """The weights of (1) for levels at these times, learnt from some rows; and where all rows end with them.

    Args:
        paths: exact ones.
        times: from the first level down, above the last.
        rows: that are learnt from.

    Returns:
        for each step its weights, x's first and then those of the newest estimate on, float64; and the ends of all
        rows, (B, *shape).
    """
    x, seen, weights = paths.start, [], []
    for place, t in enumerate(times):
        seen.insert(0, paths.model(x, t).x0)
        target = paths.end if place + 1 == len(times) else paths.at(times[place + 1])
        columns = [x, *seen]
        row = _least_squares([column[rows] for column in columns], target[rows])
        weights.append(row)
        x = sum((column * float(weight) for column, weight in zip(columns, row, strict=True)), torch.zeros_like(x))
    return weights, x


def _least_squares(columns: Sequence[Tensor], target: Tensor) -> Tensor:
    """argmin ‖Σ w_k column_k − target‖², by QR in float64 with columns of unit length, a ridge keeping w small."""
    matrix = torch.stack([column.flatten() for column in columns], 1).double().cpu()
    lengths = torch.linalg.vector_norm(matrix, dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    ridge = math.sqrt(_RIDGE) * torch.eye(len(columns), dtype=torch.float64)
    matrix = torch.cat((matrix / lengths, ridge))
    goal = torch.cat((target.flatten().double().cpu(), torch.zeros(len(columns), dtype=torch.float64)))
    return torch.linalg.lstsq(matrix, goal.unsqueeze(1)).solution.squeeze(1) / lengths


def _times(paths: Paths, steps: int, spacing: Spacing) -> list[float]:
    model = paths.model
    return straight(model.schedule, steps + 1, spacing.rho, spacing.scale * model.sigma_data)[:-1].tolist()


def _distance(ends: Tensor, truth: Tensor) -> float:
    """Root mean square over rows and elements; infinite for what is not finite."""
    distance = float((ends.double() - truth.double()).square().mean().sqrt())
    return distance if math.isfinite(distance) else math.inf


def _judged(ends: Tensor, truth: Tensor) -> tuple[float, float]:
    """The root mean square with its standard error, from that of the mean of the rows' squares."""
    squares = (ends.double() - truth.double()).square().flatten(1).mean(1)
    mean = float(squares.mean())
    spread = float(squares.std()) / math.sqrt(len(squares)) if len(squares) > 1 else math.inf
    return math.sqrt(mean), spread / (2 * math.sqrt(mean)) if mean > 0 else 0.0
