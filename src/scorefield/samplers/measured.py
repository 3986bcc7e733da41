"""A grid made for a model: steps so long that each makes the same error, measured along the model's own paths.

A step of `StraightAdams(order)` from u to u − h misses its polynomial's remainder, in w about

    h^{k+1} ‖dᵏv/duᵏ‖/(k + 1),   k the order                                                          (1)

so steps that all miss as much have 1/h ∝ m(u) = ‖dᵏv/duᵏ‖^{1/(k+1)}, the mean square over rows and elements taken for
‖·‖²: levels are even in ∫ m du. The derivatives are divided differences of slopes that the paths hold already, so the
measurement asks the model nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.noise import Schedule, mix
from scorefield.parametrization import X0
from scorefield.samplers.paths import Paths

_FLOOR = 0.05  # of the mean of m, below which no step grows: a polynomial may fit by luck where few paths are seen


@dataclass(frozen=True)
class MeasuredGrid:
    """Levels even in what was measured, for any number of them; a `grids.Grid`.

    Args:
        times: falling, from t_max to t_min.
        shares: ∫ m from the first to each, over the whole, growing from 0 to 1.
    """

    times: tuple[float, ...]
    shares: tuple[float, ...]

    def __call__(self, schedule: Schedule, steps: int) -> Tensor:
        """(steps,) float64 falling, from the first time to the last."""
        if steps < 2:
            raise SamplingError(f"a grid has at least 2 levels, got {steps}")
        times, shares = (torch.tensor(part, dtype=torch.float64) for part in (self.times, self.shares))
        wanted = torch.linspace(0, 1, steps, dtype=torch.float64)[1:-1]
        right = torch.searchsorted(shares, wanted).clamp(1, len(shares) - 1)
        part = (wanted - shares[right - 1]) / (shares[right] - shares[right - 1])
        inner = times[right - 1] + part * (times[right] - times[right - 1])
        return torch.cat((times[:1], inner, times[-1:]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are in bundle.json."""
        return {"times": list(self.times), "shares": list(self.shares)}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> MeasuredGrid:
        """From what `to_json` gave."""
        return MeasuredGrid(tuple(map(float, fields["times"])), tuple(map(float, fields["shares"])))


@torch.no_grad()
def measure_grid(paths: Paths, order: int = 3, scale: float = 1.0) -> MeasuredGrid:
    """Measure where the steps of `StraightAdams(order)` should be short.

    Args:
        paths: exact ones, of more levels than the order.
        order: k of (1).
        scale: c of u, in units of the data's deviation.
    """
    c = scale * paths.model.sigma_data
    level = paths.model.schedule.at(paths.times)
    u = level.sigma / (c * level.alpha + level.sigma)
    # Divided differences, each of k + 1 levels: dᵏv/duᵏ over k! at their middle.
    differences = torch.stack(
        [
            mix(c, X0.split(x0, x, one).epsilon, -1.0, x0).double().flatten()
            for x, x0, one in zip(paths.x, paths.x0, level.each(), strict=True)
        ]
    )
    for gap in range(1, order + 1):
        differences = differences.diff(dim=0) / (u[gap:] - u[:-gap]).unsqueeze(1)
    rate = differences.square().mean(1).sqrt() ** (1 / (order + 1))
    middles = u.unfold(0, order + 1, 1).mean(1)
    # As far as the nearest one that is known, above and below those.
    nearest = (u.unsqueeze(1) - middles).abs().argmin(1)
    m = rate[nearest]
    m = m.clamp(min=_FLOOR * float(m.mean()))
    total = torch.cat((u.new_zeros(1), ((m[1:] + m[:-1]) / 2 * (u[:-1] - u[1:])).cumsum(0)))
    return MeasuredGrid(tuple(paths.times.tolist()), tuple((total / total[-1]).tolist()))
