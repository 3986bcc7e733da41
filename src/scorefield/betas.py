"""Tables of β for `Discrete` schedules: DDPM's own, and one that spans a given range of noise."""

from __future__ import annotations

import math

import torch

from scorefield.errors import OptionError


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> tuple[float, ...]:
    """The β table of DDPM, evenly spaced (Ho et al. 2020, §4, arXiv:2006.11239)."""
    return tuple(torch.linspace(first, last, steps, dtype=torch.float64).tolist())


def linear_betas_between(low: float, high: float, steps: int) -> tuple[float, ...]:
    """A β table as DDPM's, evenly spaced, whose first level has σ/α = low and whose last has σ/α = high.

    Args:
        low, high: smallest and largest noise relative to data.
        steps: number of levels.

    Raises:
        OptionError: when the levels are too few to reach from one to the other, or so many that βs would have to fall.
    """
    first, total = low**2 / (1 + low**2), math.log1p(high**2)

    def excess(last: float) -> float:
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        return -float(torch.log1p(-betas).sum()) - total

    smallest, largest = 0.0, 1 - 1e-9
    if steps < 2 or excess(first) > 0 or excess(largest) < 0:
        hint = f": take {int(total / math.log1p(low**2))} at most" if steps >= 2 and excess(first) > 0 else ""
        raise OptionError(f"no linear table of {steps} levels leads from σ/α = {low:g} to {high:g}{hint}")
    for _ in range(80):
        middle = (smallest + largest) / 2
        smallest, largest = (smallest, middle) if excess(middle) > 0 else (middle, largest)
    return linear_betas(steps, first, smallest)
