"""Annealed importance sampling: the normalising constant of an energy at a noise level, with its error.

The walk goes down the model's own levels t_0 > … > t_K (Neal 2001, doi:10.1023/A:1008923215028). With
r_k = √(α²σ_data² + σ²) at t_k, x drawn from N(0, r_0² I), whose density is known, and moves at each level that leave
e^{−E(·, t_k)} as it is,

    log w = −E(x_0, t_0) − log N(x_0; 0, r_0² I) + Σ_k [E(x_k, t_k) − E(c_k x_k, t_{k+1}) + D log c_k]      (1)
    Z(t_K) = ∫ e^{−E(x, t_K)} dx = E[w],   c_k = r_{k+1}/r_k                                                (2)

where x_k is x after the moves at t_k, and the next level starts at c_k x_k. The scaling c_k makes x as wide as the next
level is; any invertible map may stand there with its log-Jacobian, here D log c_k. It follows α as well as σ, so that
one rule serves every schedule, and for N(0, σ_data² I) data all w are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scorefield.energies import EnergyModel
from scorefield.errors import SamplingError
from scorefield.polar import radius
from scorefield.randomness import Noise, Stream
from scorefield.samplers.langevin import MetropolisLangevin


@dataclass(frozen=True, eq=False)
class Normaliser:
    """What annealed importance sampling has found.

    Args:
        grid: the levels of the walk, (K,) float64, falling.
        log_weights: log w of each row at each level, (B, K) float64.
        acceptance: the share of moves that were accepted at each level but the last, (K − 1,) float64: none are needed
            there.
    """

    grid: Tensor
    log_weights: Tensor
    acceptance: Tensor

    @property
    def log_normalisers(self) -> Tensor:
        """log Z at each level, (K,) float64."""
        return torch.logsumexp(self.log_weights, dim=0) - math.log(len(self.log_weights))

    @property
    def std_errors(self) -> Tensor:
        """The standard error of each log Z, (K,) float64: that of the mean of w over the mean itself (delta method).

        It knows of the rows that were drawn. Where few of them carry all weight (`effective_sizes`), it is too small.
        """
        weights = self._relative()
        return weights.std(0) / math.sqrt(len(weights)) / weights.mean(0)

    @property
    def effective_sizes(self) -> Tensor:
        """(Σw)²/Σw² at each level, (K,) float64: so many rows of equal weight would say as much."""
        weights = self._relative()
        return weights.sum(0).square() / weights.square().sum(0)

    @property
    def log_normaliser(self) -> float:
        """log Z at the last level, in nats."""
        return float(self.log_normalisers[-1])

    @property
    def std_error(self) -> float:
        """The standard error of `log_normaliser`, in nats."""
        return float(self.std_errors[-1])

    @property
    def effective_size(self) -> float:
        """`effective_sizes` at the last level."""
        return float(self.effective_sizes[-1])

    def log_prob(self, model: EnergyModel, x: Tensor) -> Tensor:
        """log p = −E(x, t) − log Z at the last level, in nats, (B,) float64; its error is `std_error`, one for all.

        Args:
            model: the model that was walked with.
            x: (B, *shape).
        """
        return -model.energy(x, self.grid[-1]).double() - self.log_normaliser

    def _relative(self) -> Tensor:
        """Weights over the largest of their level, so that none overflows."""
        return torch.exp(self.log_weights - self.log_weights.max(0).values)


@torch.no_grad()
def annealed_importance(
    model: EnergyModel,
    rows: int | range,
    shape: Sequence[int],
    grid: Tensor,
    moves: MetropolisLangevin | None = None,
    *,
    seed: int,
    chunk: int = 4096,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Normaliser:
    """log ∫ e^{−E(x, t)} dx at the levels of a grid, by (1).

    Args:
        model: has an energy.
        rows: how many walks, or which: row i is the same whatever rows are walked with it.
        shape: the shape of one row.
        grid: levels, (K,) float64, falling, as of `samplers.grids`; the constant is wanted at the last.
        moves: the moves at each level but the last; `MetropolisLangevin()` by default.
        seed: of all randomness here.
        chunk: so many rows are walked at once.
        dtype, device: of x; log w is summed in float64.

    Raises:
        SamplingError: for fewer than two rows, a grid that does not fall, and energies that are not finite.
    """
    rows = range(rows) if isinstance(rows, int) else rows
    if len(rows) < 2 or chunk < 1:
        raise SamplingError(f"an error bar needs 2 rows or more, and a chunk 1 or more, got {len(rows)} and {chunk}")
    if grid.ndim != 1 or len(grid) < 1 or not grid.isfinite().all() or not (grid[1:] < grid[:-1]).all():
        raise SamplingError("a grid is a list of levels that falls from its first to its last and is finite")
    moves = moves or MetropolisLangevin()
    parts = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    walks = [_walk(model, part, shape, grid, moves, seed, dtype, device) for part in parts]
    log_weights, accepted = (torch.cat(each) for each in zip(*walks, strict=True))
    if not log_weights.isfinite().all():
        row, step = (int(place[0]) for place in (~log_weights.isfinite()).nonzero(as_tuple=True))
        raise SamplingError(f"row {rows[row]} has an energy that is not finite at level {step}, t = {grid[step]:g}")
    return Normaliser(grid, log_weights, accepted.mean(0))


def _walk(
    model: EnergyModel,
    rows: range,
    shape: Sequence[int],
    grid: Tensor,
    moves: MetropolisLangevin,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """log w of some rows at each level (B, K), and their share of accepted moves (B, K − 1); on the processor."""
    size, level = math.prod(shape), model.schedule.at(grid)
    width = radius(level, model.sigma_data)
    stream = Stream(seed, "annealed importance")
    z = Stream(seed, "annealed importance, first draw").normal(rows, shape, dtype=dtype, device=device)
    x = z * width[0].to(dtype).to(device)
    energy = model.energy(x, grid[0])
    log_density = -z.double().square().flatten(1).sum(1) / 2 - size * (width[0].log() + math.log(2 * math.pi) / 2)
    log_weight = -energy.double().cpu() - log_density.cpu()
    log_weights, accepted = [log_weight], [torch.empty(len(rows), 0, dtype=torch.float64)]
    for step, (t, s) in enumerate(pairwise(grid)):
        x, energy, taken = moves.walk(model, x, t, Noise(stream, rows, step))
        scale = width[step + 1] / width[step]
        x = x * scale.to(dtype).to(device)
        below = model.energy(x, s)
        log_weight = log_weight + (energy.double() - below.double()).cpu() + size * scale.log()
        log_weights.append(log_weight)
        accepted.append(taken.cpu().unsqueeze(1))
    return torch.stack(log_weights, dim=1), torch.cat(accepted, dim=1)
