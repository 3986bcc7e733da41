"""Fitting a solver to a model: levels where its paths bend, weights by least squares on exact paths.

Step i leads from where the solver itself has come to, so that a step makes good what those before it missed:

    a_i, b_ij = argmin Σ ‖a x_i + Σ_{j ≤ i} b_j x̂0_j − x*(t_{i+1})‖²,   x* an exact path (`paths`)             (1)

over rows and elements, the last with E[x0 given x*] at the end in place of x*. That is one small linear system a step,
and no derivative of the model is taken. The levels are those of `measured`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.grids import Grid
from scorefield.samplers.paths import Paths

_RIDGE = 1e-12  # of the squares of a column: the estimates of neighbouring levels are hardly different in float32


def fit_solver(paths: Paths, grid: Grid, steps: int) -> FittedSolver:
    """Fit a solver of some steps to paths: half of the rows for (1), the other half to judge it.

    Args:
        paths: at least 4.
        grid: where levels lie, for any number of them: a `MeasuredGrid`, or another.
        steps: how often it asks the model, at least 1.

    Raises:
        SamplingError: for fewer rows or steps.
    """
    count = len(paths.start)
    if count < 4 or steps < 1:
        raise SamplingError(f"a solver is fitted to at least 4 paths and has at least 1 step, got {count} and {steps}")
    learn, judge = slice(0, count // 2), slice(count // 2, count)
    schedule, sigma_data = paths.model.schedule, paths.model.sigma_data
    # The last evaluation is above t_min, and a step leads on from it; or at t_min, where the data are thin.
    endings = [grid(schedule, steps + 1)[:-1].tolist()] + ([grid(schedule, steps).tolist()] if steps > 1 else [])
    fits = [(times, *regress(paths, times, learn)) for times in endings]
    times, weights, ends = min(fits, key=lambda fit: _distance(fit[2][learn], paths.end[learn])[0])
    error, std_error = _distance(ends[judge], paths.end[judge])
    rows = tuple(tuple(row.tolist()) for row in weights)
    return FittedSolver(tuple(times), rows, error / sigma_data, std_error / sigma_data)


@torch.no_grad()
def regress(paths: Paths, times: Sequence[float], rows: slice) -> tuple[list[Tensor], Tensor]:
    """The weights of (1) for levels at these times, learnt from some rows; and where all rows end with them.

    Args:
        paths: exact ones.
        times: from the first level down; at the last level of the paths the estimate is taken as it is.
        rows: that are learnt from.

    Returns:
        for each step its weights, x's first and then those of the newest estimate on, float64; and the ends of all
        rows, (B, *shape).
    """
    x, weights = paths.start, list[Tensor]()
    seen: list[Tensor] = []
    for place, t in enumerate(times):
        seen.insert(0, paths.model(x, t).x0)
        if t <= float(paths.times[-1]):
            return weights, seen[0]
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


def _distance(ends: Tensor, truth: Tensor) -> tuple[float, float]:
    """The root mean square over rows and elements, with its standard error from that of the mean of the rows' squares.

    Infinite for what is not finite.
    """
    squares = (ends.double() - truth.double()).square().flatten(1).mean(1)
    mean = float(squares.mean())
    if not math.isfinite(mean):
        return math.inf, math.inf
    spread = float(squares.std()) / math.sqrt(len(squares))
    return math.sqrt(mean), spread / (2 * math.sqrt(mean)) if mean > 0 else 0.0
