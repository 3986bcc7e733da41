"""A grid made for a model: steps so long that each makes the same error, measured along the model's own paths.

A step of `StraightAdams(order)` from u to u − h misses its polynomial's remainder, in w about

    h^{k+1} ‖dᵏv/duᵏ‖/(k + 1),   k the order                                                          (1)

of which J = 1/√((1 − u)² + u²) times as much is left at the data: a miss keeps its size in units of its level,
as it does exactly where data are Gaussian of deviation c. So steps that all miss as much there have

    1/h ∝ m(u) = (J ‖dᵏv/duᵏ‖)^{1/(k+1)}                                                              (2)

the mean square over rows and elements taken for ‖·‖²: levels are even in ∫ m du. The derivatives are divided
differences of slopes that the paths hold already, so the measurement asks the model nothing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.noise import Schedule
from scorefield.parametrization import X0
from scorefield.samplers.paths import Paths

_FLOOR = 0.05  # of the mean of m, below which no step grows: a polynomial may fit by luck where few paths are seen
_LEAST = 1e-30  # of m, so that where no step misses anything, as with data of one point, levels are even in u


@dataclass(frozen=True)
class MeasuredGrid:
    """Levels even in what was measured, for any number of them; a `grids.Grid`.

    Args:
        times: falling, from t_max to t_min.
        shares: ∫ m from the first to each, over the whole, growing from 0 to 1.

    Raises:
        SamplingError: for a table that is not so.
    """

    times: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (*self.times, *self.shares))
        falling = all(a > b for a, b in itertools.pairwise(self.times))
        growing = all(a < b for a, b in itertools.pairwise(self.shares))
        alike = len(self.times) == len(self.shares) >= 2 and (self.shares[0], self.shares[-1]) == (0, 1)
        if not (alike and finite and falling and growing):
            raise SamplingError(
                "a measured grid has finite falling times and as many shares growing from 0 to 1, got times "
                f"{self.times} and shares {self.shares}"
            )

    def __call__(self, schedule: Schedule, steps: int) -> Tensor:
        """(steps,) float64 falling, from the first time to the last.

        Args:
            schedule: that of the model it was measured on.
            steps: how many, at least 2.
        """
        if steps < 2:
            raise SamplingError(f"a grid has at least 2 levels, got {steps}")
        times, shares = (torch.tensor(part, dtype=torch.float64) for part in (self.times, self.shares))
        wanted = torch.linspace(0, 1, steps, dtype=torch.float64)[1:-1]
        right = torch.searchsorted(shares, wanted).clamp(1, len(shares) - 1)
        part = (wanted - shares[right - 1]) / (shares[right] - shares[right - 1])
        inner = times[right - 1] + part * (times[right] - times[right - 1])
        return torch.cat((times[:1], inner, times[-1:]))


@torch.no_grad()
def measure_grid(paths: Paths, order: int = 3, scale: float = 1.0) -> MeasuredGrid:
    """Measure where the steps of `StraightAdams(order)` should be short.

    Args:
        paths: exact ones, of more levels than the order.
        order: k of (1), at least 1; a higher one has more levels where paths bend most, for shorter steps.
        scale: c of u, in units of the data's deviation.

    Raises:
        SamplingError: for another order or scale, and for too few levels.
    """
    if order < 1 or not 0 < scale < math.inf:
        raise SamplingError(f"a grid is measured with an order from 1 on and a positive scale, got {order} and {scale}")
    c = scale * paths.model.sigma_data
    schedule = paths.model.schedule
    level = schedule.at(paths.times)
    u = level.sigma / (c * level.alpha + level.sigma)
    kept = _apart(u)
    if len(kept) <= order:
        raise SamplingError(f"a grid of order {order} is measured on at least {order + 1} levels, got {len(kept)}")
    x, x0, seen = paths.x[kept], paths.x0[kept], u[kept]
    # Divided differences, each of k + 1 levels: dᵏv/duᵏ over k! at their middle.
    differences = torch.stack(
        [
            mix(c, X0.split(clean, noisy, one).epsilon, -1.0, clean).double().flatten()
            for noisy, clean, one in zip(x, x0, schedule.at(paths.times[kept]).each(), strict=True)
        ]
    )
    for gap in range(1, order + 1):
        differences = differences.diff(dim=0) / (seen[gap:] - seen[:-gap]).unsqueeze(1)
    middles = seen.unfold(0, order + 1, 1).mean(1)
    left = 1.0 / torch.hypot(1 - middles, middles).to(differences.device)
    rate = (left * differences.square().mean(1).sqrt()) ** (1 / (order + 1))
    # As far as the nearest one that is known, above and below those.
    nearest = (u.unsqueeze(1) - middles).abs().argmin(1)
    m = rate[nearest]
    m = m.clamp(min=max(_FLOOR * float(m.mean()), _LEAST))
    total = torch.cat((u.new_zeros(1), ((m[1:] + m[:-1]) / 2 * (u[:-1] - u[1:])).cumsum(0)))
    return MeasuredGrid(tuple(paths.times.tolist()), tuple((total / total[-1]).tolist()))


def _apart(u: Tensor) -> list[int]:
    """Levels at least half an even step of u apart, of nearer ones the first: rounding is divided by steps to the k."""
    least = float(u[0] - u[-1]) / (2 * (len(u) - 1))
    kept = [0]
    for place, here in enumerate(u.tolist()):
        if float(u[kept[-1]]) - here >= least:
            kept.append(place)
    return kept
