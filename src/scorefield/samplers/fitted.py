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
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.model import Denoiser
from scorefield.noise import Schedule, Time
from scorefield.randomness import Noise
from scorefield.samplers.loop import OnStep, sample

# What the estimates so far add to x in each of the steps to come, (number of steps to come, B, *shape). An estimate is
# added to all of them as soon as it is there, by one operation whose result in a row depends on nothing but the row.
Memory = Tensor


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
        step = 0 if memory is None else len(self.weights) - memory.shape[0]
        shares, x0 = self._shares(x)[step], model(x, t).x0
        sums = shares * x0 if memory is None else torch.addcmul(memory, shares, x0)
        below = torch.add(sums[0], x, alpha=self.weights[step][0])
        return below if below.dtype == x.dtype else below.to(x), sums[1:]

    def _shares(self, like: Tensor) -> Sequence[Tensor]:
        """For each step j the b_ij of its x̂0_j from i = j on, (number of steps from j on, 1, …, 1); made once."""
        kind = like.dtype, like.device, like.ndim
        if kind not in self._made:
            steps = len(self.weights)
            rows = [[*row[:0:-1]] for row in self.weights]  # the oldest first, i + 1 with those that are left out
            rows = [[0.0] * (i + 1 - len(row)) + row for i, row in enumerate(rows)]
            flat = [rows[i][j] for j in range(steps) for i in range(j, steps)]
            # In lower precision each weight would be wrong by as much as a whole sum may be.
            dtype = torch.promote_types(like.dtype, torch.float32)
            with torch.inference_mode(False):
                values = torch.tensor(flat, dtype=dtype, device=like.device).reshape(-1, *[1] * like.ndim)
                self._made[kind] = values.split([steps - j for j in range(steps)])
        return self._made[kind]

    @cached_property
    def _made(self) -> dict[tuple[torch.dtype, torch.device, int], Sequence[Tensor]]:
        return {}


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
            self._step,
            seed=seed,
            denoise=len(self.weights) < len(self.times),
            start=start,
            device=device,
            on_step=on_step,
        )

    @cached_property
    def _step(self) -> FittedStep:
        return FittedStep(self.weights)

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
