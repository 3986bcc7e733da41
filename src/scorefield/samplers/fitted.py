"""A solver whose levels and weights are numbers fitted to one model: x_{i+1} = a_i x_i + Σ_{j ≤ i} b_ij x̂0_j.

Every solver of the probability flow that asks the model once a step is of this form, x̂0_j being E[x0 given x_j], and
takes a and b from a rule that knows the schedule alone: DDIM, DPM-Solver++, UniPC's predictor, Adams–Bashforth. Here
they are fitted to the paths of one model (`fitting`), as those of the bespoke non-stationary solvers of Shaul et al.
2024, arXiv:2403.01329, which find them by descent. The last step leads to x0 itself,
or to t_min, and the last of all is then E[x0 given x].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Schedule, Time, times
from scorefield.randomness import Noise
from scorefield.samplers.loop import OnStep, sample

Memory = tuple[Tensor, ...]  # E[x0 given x] at the levels passed, the newest first


@dataclass(frozen=True)
class FittedStep:
    """A predictor: step i takes a_i and b_ij from row i of a table, whatever the levels are called.

    Args:
        weights: for each step a_i, then b_ij for the newest x̂0_j first, at most i + 1 of them.
    """

    weights: tuple[tuple[float, ...], ...]

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        seen = (model(x, t).x0, *(memory or ()))
        keep, *shares = self.weights[len(seen) - 1]
        x = times(keep, x)
        for share, x0 in zip(shares, seen, strict=False):
            x = x.add_(x0, alpha=share)
        return x, seen


@dataclass(frozen=True)
class FittedSolver:
    """A sampler for the model that it was fitted to.

    Args:
        times: of the evaluations, from the schedule's t_max down.
        weights: as in `FittedStep`, a row for each time; or one row less, and then the walk ends with E[x0 given x] at
            the last time.
        error: root mean square distance of its rows from the ends of the exact paths, in units of the data's deviation,
            on noise that it was not fitted to.
        std_error: of that. A few rows, which start between two modes, may miss most: where fewer than some hundred
            judge, both may be far too small.

    Raises:
        SamplingError: for a table that is no solver, or an error that is no finite number from 0 on.
    """

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    error: float
    std_error: float

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        fitting = [1 < len(row) <= place + 2 for place, row in enumerate(self.weights)]
        finite = all(math.isfinite(value) for row in (self.times, *self.weights) for value in row)
        rows = len(self.times) - len(self.weights)
        if not self.times or rows not in (0, 1) or not (falling and finite and all(fitting)):
            raise SamplingError(
                "a fitted solver has finite falling times and for step i a factor of x and 1 to i + 1 of x0, got times "
                f"{self.times} and rows of {[len(row) for row in self.weights]}"
            )
        if not (0 <= self.error < math.inf and 0 <= self.std_error < math.inf):
            raise SamplingError(f"a fitted solver has a finite error, got {self.error} ± {self.std_error}")

    @property
    def name(self) -> str:
        """As the command line calls it."""
        return "fitted"

    @property
    def steps(self) -> int:
        """How often it asks the model."""
        return len(self.times)

    def grid(self, schedule: Schedule) -> Tensor:
        """Its times and, where a step leads on from the last of them, t_min, which stands for the data, float64.

        Raises:
            SamplingError: for a schedule that does not have these times, or no level below them for the last step.
        """
        ends = (schedule.t_min,) * (len(self.weights) == len(self.times))
        low = self.times[-1] > schedule.t_min if ends else self.times[-1] >= schedule.t_min
        if not low or self.times[0] > schedule.t_max:
            raise SamplingError(
                f"this solver was fitted to times from {self.times[0]:g} to {self.times[-1]:g}, the schedule has "
                f"t_max = {schedule.t_max:g} and t_min = {schedule.t_min:g}"
            )
        return torch.tensor((*self.times, *ends), dtype=torch.float64)

    def __call__(
        self,
        model: Denoiser,
        rows: int | range,
        shape: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        start: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw rows of a shape, (B, *shape); as `sample`."""
        return sample(
            model,
            rows,
            shape,
            self.grid(model.schedule),
            FittedStep(self.weights),
            seed=seed,
            denoise=len(self.weights) < len(self.times),
            start=start,
            device=device,
            on_step=on_step,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are in solvers.json."""
        return {
            "times": list(self.times),
            "weights": [list(row) for row in self.weights],
            "error": self.error,
            "std_error": self.std_error,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> FittedSolver:
        """From what `to_json` gave.

        Raises:
            SamplingError: for what is no solver.
        """
        try:
            weights = tuple(tuple(map(float, row)) for row in fields["weights"])
            times, error, std_error = tuple(map(float, fields["times"])), fields["error"], fields["std_error"]
            return FittedSolver(times, weights, float(error), float(std_error))
        except (KeyError, TypeError, ValueError) as wrong:
            raise SamplingError(
                f"a fitted solver has numbers `times`, `weights`, `error` and `std_error`, got {fields}"
            ) from wrong
