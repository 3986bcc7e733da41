"""Score matching as one expectation: a law of t, a criterion and a weight.

L = E_t E_{x0, ε} w(t) · criterion(model, x0, t, ε)                              (1)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scorefield.model import ScoreModel
from scorefield.objectives.criteria import Criterion
from scorefield.objectives.times import TimeLaw
from scorefield.objectives.weights import Weight
from scorefield.randomness import Noise


@dataclass(frozen=True)
class ScoreMatching:
    """An objective: times, criterion, weight.

    Args:
        times: the law of t in training.
        criterion: what is compared at one level.
        weight: w(t).
    """

    times: TimeLaw
    criterion: Criterion
    weight: Weight

    def __call__(self, model: ScoreModel, x0: Tensor, noise: Noise, u: Tensor) -> Tensor:
        """The weighted loss of each row, (1).

        Args:
            model: the model that learns.
            x0: clean data, (B, *shape).
            noise: the normals of this batch.
            u: where in the law of t each row stands, (B,) float64 in (0, 1).

        Returns:
            (B,).
        """
        return self.at(model, x0, self.times.quantile(u, model.schedule), noise)

    def at(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """As calling, at given times t (B,)."""
        weight = self.weight(model.schedule.at(t)).to(device=x0.device, dtype=x0.dtype)
        return weight * self.criterion(model, x0, t, noise)

    def held_out(self) -> ScoreMatching | None:
        """What measures a model on rows it never saw: this, or a form in which each row's loss is its own.

        None where a criterion says, by a `held_out` of its own, that its value says nothing of the model.
        """
        own = getattr(self.criterion, "held_out", None)
        criterion = self.criterion if own is None else own()
        return None if criterion is None else replace(self, criterion=criterion)


def stratified(u: Tensor, pairs: int = 0) -> Tensor:
    """Spread uniforms over strata, row i in the i-th: unbiased over the batch, with less variance.

    Kingma et al. 2021, §I.1, arXiv:2107.00630, use the related grid with one common shift.

    Args:
        u: (n,) in (0, 1).
        pairs: the first so many stand for two rows each, and have a stratum twice as wide.
    """
    rows = torch.arange(len(u), dtype=u.dtype, device=u.device)
    if not pairs:
        return (rows + u) / len(u)
    wide = rows < pairs
    return torch.where(wide, 2 * (rows + u), rows + u + pairs) / (len(u) + pairs)
