"""What each step of training draws: which rows, where each stands in the law of t, and the noise.

Times are stratified. Where noise is antithetic, the half of a batch that has the least noise comes in pairs, one row at
one time with ε and with −ε: of x0 ± σε the part of the gradient that is odd in ε cancels, which at little noise is most
of its variance (Kahn & Marshall 1953's antithetic variates; measured in docs/objectives.md). At much noise there is
nothing to cancel, and two rows are better than one.

All of it is a function of seed and step, so that a run that goes on draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefield.objectives.matching import stratified
from scorefield.randomness import Noise, Stream
from scorefield.training.rows import Order


@dataclass(frozen=True)
class Draw:
    """What one step draws for its B rows.

    Args:
        rows: positions among the training rows, (B,); in pairs, the copies stand last.
        u: where in the law of t each stands, (B,) float64.
        noise: their normals.
        offsets: normals that say where in its cell each number of x0 stands; rows of a pair have the same.
    """

    rows: np.ndarray
    u: Tensor
    noise: Noise
    offsets: Noise


@dataclass(eq=False)
class PairedNoise(Noise):
    """Noise whose last `pairs` rows have −ε of the first, or ε again, and what comes after ε of their own.

    Args:
        pairs: how many.
        sign: −1 or 1.
    """

    pairs: int
    sign: int = -1

    def like(self, x: Tensor, draw: int = 0) -> Tensor:
        z = super().like(x, draw)
        return torch.cat([z[: len(z) - self.pairs], self.sign * z[: self.pairs]]) if draw == 0 else z


class Draws:
    """The draws of every step.

    Args:
        count: rows to train on.
        batch: B, rows a step.
        seed: of all.
        antithetic: whether rows with little noise come in pairs.
        device: where u lies.
    """

    def __init__(self, count: int, batch: int, seed: int, antithetic: bool, device: torch.device) -> None:
        self.batch, self.device = batch, device
        self.pairs = batch // 4 if antithetic else 0
        self._order = Order(count, batch - self.pairs, seed)
        self._noise, self._times = Stream(seed, "training noise"), Stream(seed, "training times")
        self._offsets = Stream(seed, "training offsets")

    def at(self, step: int) -> Draw:
        """Of a step, the first being 0."""
        rows = self._order.at(step)
        noise, offsets = (Noise(stream, range(self.batch), step) for stream in (self._noise, self._offsets))
        u = stratified(self._times.uniform(len(rows), step=step, device=self.device), self.pairs)
        if not self.pairs:
            return Draw(rows, u, noise, offsets)
        rows = np.concatenate([rows, rows[: self.pairs]])
        noise = PairedNoise(noise.stream, noise.rows, step, self.pairs)
        offsets = PairedNoise(offsets.stream, offsets.rows, step, self.pairs, sign=1)
        return Draw(rows, torch.cat([u, u[: self.pairs]]), noise, offsets)
