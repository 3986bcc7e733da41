"""The average of weights over the last share of training: θ̄ ← θ̄ + (1 − β)(θ − θ̄), β growing with the step.

With β_n = (1 − 1/n)^{1+γ} a weight at step τ counts in proportion to τ^γ, so that the average looks back over a fixed
share of all steps so far, 1/(γ + 2) of them in the mean (Karras et al. 2024, §3.1, arXiv:2312.02696).
"""

from __future__ import annotations

import copy

import torch

from scorefield.model import Denoiser


class PowerAverage:
    """A copy of a model with averaged weights.

    Args:
        model: whose weights are averaged; the average starts as a copy of it.
        share: mean age of the averaged weights as a share of training so far, in (0, ½]; 0 keeps the last weights.
    """

    def __init__(self, model: Denoiser, share: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._mine: list[torch.Tensor] = list(self.model.parameters())
        self.gamma = 1 / share - 2 if share > 0 else None

    def beta(self, step: int) -> float:
        """β of update number `step`, counted from 1."""
        return 0.0 if self.gamma is None else float((1 - 1 / step) ** (1 + self.gamma))

    @torch.no_grad()
    def update(self, model: Denoiser, step: int) -> None:
        """Take in the weights after update number `step`, counted from 1."""
        theirs: list[torch.Tensor] = list(model.parameters())
        torch._foreach_lerp_(self._mine, theirs, 1 - self.beta(step))
