"""How much is kept, level by level, of what a network says beyond a Gaussian: less where it has learned by heart.

With x̂0 = g + F, g the estimate of a Gaussian of the data's mean and covariance and F what the network adds, on rows
that it has not seen

    E‖x0 − g − k F‖² is least at k = E⟨F, x0 − g⟩/E‖F‖²,                                                        (1)

cut to [0, 1]. Of few rows k is below one, most at low noise: F has been drawn to the rows it was trained on. This is
shrinkage towards a Gaussian, k = 0, as James & Stein 1961 shrink means towards a point. Mean and covariance of g are of
all rows, those that are asked included.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.noise import NoiseLevel


@dataclass(frozen=True, eq=False)
class Shrinkage:
    """k of (1) at some levels, on straight lines between them, and beyond as at the ends.

    Args:
        log_noise: log σ/α of each, rising, at least two.
        kept: k there, in [0, 1].

    Raises:
        ValueError: for levels that do not rise, another number of k, or one that is none.
    """

    log_noise: tuple[float, ...]
    kept: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.log_noise, self.log_noise[1:], strict=False))
        shares = all(0 <= k <= 1 for k in self.kept)
        rising = rising and all(math.isfinite(place) for place in self.log_noise)
        if len(self.log_noise) < 2 or len(self.kept) != len(self.log_noise) or not (rising and shares):
            raise ValueError(f"a shrinkage has shares in [0, 1] at rising levels, got {self.kept} at {self.log_noise}")

    def at(self, level: NoiseLevel) -> Tensor:
        """k at a level, shaped like it, float64."""
        place = level.sigma.log() - level.alpha.log()
        knots, kept = (place.new_tensor(values) for values in (self.log_noise, self.kept))
        right = torch.searchsorted(knots, place.contiguous()).clamp(1, len(knots) - 1)
        (here, there), (low, high) = ((table.take(right - 1), table.take(right)) for table in (knots, kept))
        return low + ((place - here) / (there - here)).clamp(0, 1) * (high - low)

    def describe(self) -> str:
        """In words."""
        low, high = min(self.kept), max(self.kept)
        return f"of what the network says beyond a Gaussian {low:.0%} to {high:.0%} are kept, by level"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(values) for name, values in asdict(self).items()}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Shrinkage:
        """From what `to_json` gave."""
        return Shrinkage(tuple(map(float, fields["log_noise"])), tuple(map(float, fields["kept"])))


def to_gaussian(low: float, high: float) -> Shrinkage:
    """Nothing is kept at any level, of which two are given, log σ/α."""
    return Shrinkage((low, high), (0.0, 0.0))
