"""Solvers fitted to one model for several numbers of evaluations, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from scorefield.errors import OptionError, SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.fitting import fit_solver
from scorefield.samplers.grids import Grid, geometric, straight
from scorefield.samplers.measured import measure_grid
from scorefield.samplers.paths import INTERVALS, Paths, follow

TOLERANCE = 0.01  # of the data's deviation: far below what training leaves, and cheap
COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 50)
_MANY = 25  # evaluations from which on a geometric grid is tried, too
# Evaluations that a path of `fit_solvers` costs: itself, each solver on three or four grids, on one with two endings.
COST = INTERVALS + 7 + sum((4 + (count >= _MANY)) * count for count in COUNTS)

_FAR = 1 << 40  # a row that nobody draws: solvers are not fitted to the rows that they will be asked for


@dataclass(frozen=True)
class Solvers:
    """Solvers fitted to a model.

    Args:
        fitted: fewest evaluations first, at least one.
    """

    fitted: tuple[FittedSolver, ...]

    def __post_init__(self) -> None:
        steps = [solver.steps for solver in self.fitted]
        if not steps or any(a >= b for a, b in pairwise(steps)):
            raise SamplingError(f"fitted solvers are at least one, fewest evaluations first, got {steps}")

    def within(self, tolerance: float) -> FittedSolver:
        """The one of fewest evaluations whose rows end as near as this to the exact paths, or else the nearest.

        Args:
            tolerance: root mean square distance in units of the data's deviation.
        """
        near = [solver for solver in self.fitted if solver.error <= tolerance]
        return near[0] if near else min(self.fitted, key=lambda solver: solver.error)

    def at_most(self, steps: int) -> FittedSolver:
        """The nearest one of at most so many evaluations.

        Raises:
            OptionError: where all have more.
        """
        cheap = [solver for solver in self.fitted if solver.steps <= steps]
        if not cheap:
            fewest = self.fitted[0].steps
            raise OptionError(f"solvers are fitted to this model for {fewest} evaluations and more, got {steps}")
        return min(cheap, key=lambda solver: solver.error)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain values, as they are in solvers.json."""
        return [solver.to_json() for solver in self.fitted]

    @staticmethod
    def from_json(fields: list[dict[str, Any]]) -> Solvers:
        """From what `to_json` gave."""
        return Solvers(tuple(FittedSolver.from_json(each) for each in fields))


def fit_solvers(model: Denoiser, rows: int, shape: Sequence[int], *, seed: int) -> Solvers:
    """Fit solvers of `COUNTS` evaluations to a model, along paths from draws of their own.

    Args:
        model: the denoiser, with conditions bound for these rows.
        rows: number of paths; each asks the model `COST` times.
        shape: of one row.
        seed: of the first draws.
    """
    paths = follow(model, range(_FAR, _FAR + rows), shape, seed=seed)
    tried = grids_to_try(paths)
    return Solvers(tuple(fit_solver(paths, tried(steps)[0], steps, *tried(steps)[1:]) for steps in COUNTS))


def grids_to_try(paths: Paths) -> Callable[[int], tuple[Grid, ...]]:
    """Grids that a solver is fitted on, of which the nearest is kept: two measured ones, an even, perhaps a geometric.

    On mixtures a grid measured with the third derivative is best, on images that with the second. What was measured
    rules short steps; of few and long ones an even grid now and then makes less error, and of many, on images, the
    geometric one. Several grids also make it unlikely that a fit is bad by the luck of a few rows; each that is seldom
    good makes it likelier that the choice is.

    Args:
        paths: of the model.

    Returns:
        the grids for a number of evaluations, best guess first.
    """
    scale = paths.model.sigma_data

    def even(schedule: Schedule, steps: int) -> Tensor:
        return straight(schedule, steps, scale=scale)

    always = (measure_grid(paths, 3), measure_grid(paths, 2), even)
    return lambda steps: (*always, geometric) if steps >= _MANY else always
