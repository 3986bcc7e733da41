"""Fitting a solver to a model: levels where its paths bend, weights by least squares on exact paths.

Step i leads from where the solver itself has come to, so that a step makes good what those before it missed:

    a_i, b_ij = argmin Σ ‖a x_i + Σ_{j ≤ i} b_j x̂0_j − x*(t_{i+1})‖²,   x* an exact path (`paths`)             (1)

over rows and elements, the last with E[x0 given x*] at the end in place of x*. That is one small linear system a step,
and no derivative of the model is taken. The levels are those of `measured`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.grids import Grid
from scorefield.samplers.paths import Paths

_RIDGE = 1e-12  # of the squares of a column: the estimates of neighbouring levels are hardly different in float32


class _Fit(NamedTuple):
    """A solver for some times: how far all rows end from their paths' ends, its weights, and where rows end."""

    distance: float
    times: list[float]
    weights: list[Tensor]
    ends: Tensor


def fit_solver(paths: Paths, grid: Grid, steps: int, *others: Grid) -> FittedSolver:
    """Fit a solver of some steps to paths: half of the rows for (1), the other half to judge it.

    Of two endings on the first grid, and of that ending on all grids, the one is taken for which all rows end nearest.

    Args:
        paths: at least 4.
        grid: where levels lie, for any number of them: a `MeasuredGrid`, or another.
        steps: how often it asks the model, at least 1.
        others: grids to try, too, with the better ending of the first.

    Raises:
        SamplingError: for fewer rows or steps.
    """
    count = len(paths.start)
    if count < 4 or steps < 1:
        raise SamplingError(f"a solver is fitted to at least 4 paths and has at least 1 step, got {count} and {steps}")
    learn, judge = slice(0, count // 2), slice(count // 2, count)
    schedule, sigma_data = paths.model.schedule, paths.model.sigma_data
    # The last evaluation is above t_min, and a step leads on from it; or at t_min, where the data are thin.

    def leading_on(each: Grid) -> list[float]:
        return each(schedule, steps + 1)[:-1].tolist()

    def estimating(each: Grid) -> list[float]:
        return each(schedule, steps).tolist()

    def fitted(times: list[float]) -> _Fit:
        weights, ends = regress(paths, times, learn)
        return _Fit(_distance(ends, paths.end)[0], times, weights, ends)

    # A grid has at least two levels.
    tried = [(fitted(ending(grid)), ending) for ending in ((leading_on, estimating) if steps > 1 else (leading_on,))]
    best, ending = min(tried, key=lambda fit: fit[0].distance)
    best = min((best, *(fitted(ending(other)) for other in others)), key=lambda fit: fit.distance)
    error, std_error = _distance(best.ends[judge], paths.end[judge])
    rows = tuple(tuple(row.tolist()) for row in best.weights)
    return FittedSolver(tuple(best.times), rows, error / sigma_data, std_error / sigma_data)


@torch.no_grad()
def regress(paths: Paths, times: Sequence[float], rows: slice) -> tuple[list[Tensor], Tensor]:
    """The weights of (1) for levels at these times, learnt from some rows; and where all rows end with them.

    Args:
        paths: exact ones.
        times: falling, on the way of the paths; at their last level the estimate is taken as it is.
        rows: that are learnt from.

    Returns:
        for each step its weights, x's first and then those of the newest estimate on, float64; and the ends of all
        rows, (B, *shape).
    """
    # Another grid may begin below the paths, as those that are even in log σ/α do for a flow.
    x = paths.start if times[0] == float(paths.times[0]) else paths.at(times[0])
    weights = list[Tensor]()
    seen: list[Tensor] = []
    fit = _LeastSquares(len(times), paths.model.sigma_data)
    for place, t in enumerate(times):
        seen.insert(0, paths.model(x, t).x0)
        if t <= float(paths.times[-1]):
            return weights, seen[0]
        target = paths.end if place + 1 == len(times) else paths.at(times[place + 1])
        fit.add(seen[0][rows])
        weights.append(fit.solve(x[rows], target[rows]))
        columns = zip([x, *seen], weights[-1].tolist(), strict=True)
        x = sum((column * weight for column, weight in columns), torch.zeros_like(x))
    return weights, x


class _LeastSquares:
    """argmin ‖w x + Σ w_j x̂0_j − target‖² in float64, w kept small, one more x̂0_j with each x and target.

    By Gram and Schmidt's modified method with the target as its last column, which is as stable as Householder's
    (Björck 1967) and made of sums whose order is fixed: a fit is the same to the last bit when it is made again. What
    is made of the x̂0_j is kept for the steps that follow.

    Args:
        most: the most x̂0_j there will be.
        unit: of all entries. Columns are measured in their root mean square or this, whichever is more: where no data
            are left, x̂0 may be nothing but rounding, which no weight should raise.
    """

    def __init__(self, most: int, unit: float) -> None:
        self.most, self.unit = most, unit
        self.basis: list[Tensor] = []  # orthonormal
        self.upper: list[list[float]] = []  # of each x̂0_j, its parts along the basis
        self.lengths: list[float] = []

    def add(self, x0: Tensor) -> None:
        """One more x̂0_j, (B, *shape)."""
        column, length = self._measured(x0, len(self.basis))
        parts, rest = self._parts(column, self.basis)
        norm = float(torch.linalg.vector_norm(rest))
        self.basis.append(rest / norm)
        self.upper.append([*parts, norm])
        self.lengths.append(length)

    def solve(self, x: Tensor, target: Tensor) -> Tensor:
        """The weights of x and of the x̂0_j, the newest first, (1 + number of x̂0_j,) float64."""
        column, length = self._measured(x, self.most)
        parts, rest = self._parts(column, self.basis)
        norm = float(torch.linalg.vector_norm(rest))
        goal = torch.cat((target.flatten().double().cpu(), torch.zeros(self.most + 1, dtype=torch.float64)))
        sides, _ = self._parts(goal, [*self.basis, rest / norm])
        count = len(self.basis) + 1
        upper = torch.zeros(count, count, dtype=torch.float64)
        for place, along in enumerate([*self.upper, [*parts, norm]]):
            upper[: place + 1, place] = torch.tensor(along, dtype=torch.float64)
        side = torch.tensor(sides, dtype=torch.float64).unsqueeze(1)
        solution = torch.linalg.solve_triangular(upper, side, upper=True).squeeze(1)
        return (solution / torch.tensor([*self.lengths, length], dtype=torch.float64)).flip(0)

    def _measured(self, values: Tensor, place: int) -> tuple[Tensor, float]:
        """A column of about unit length with its part of the ridge, and the length that it was divided by."""
        column = values.flatten().double().cpu()
        length = max(float(torch.linalg.vector_norm(column)), self.unit * math.sqrt(len(column)))
        ridge = torch.zeros(self.most + 1, dtype=torch.float64)
        ridge[place] = math.sqrt(_RIDGE)
        return torch.cat((column / length, ridge)), length

    @staticmethod
    def _parts(column: Tensor, basis: Sequence[Tensor]) -> tuple[list[float], Tensor]:
        """The parts of a column along a basis, and what is left of it."""
        parts = []
        for q in basis:
            parts.append(float((q * column).sum()))
            column = column - parts[-1] * q
        return parts, column


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
