"""The held-out loss: the objective on rows never trained on, with the same noise each time, by band of noise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scorefield.model import Denoiser
from scorefield.objectives.matching import ScoreMatching, stratified
from scorefield.randomness import Noise, Stream
from scorefield.training.rows import Rows

BANDS = 8
_CHUNK = 512
_LEAST_DRAWS, _MOST_DRAWS = 1000, 8000  # of noise: few rows are used several times
_NUMBERS = 100_000  # in all draws, between these


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean loss and its parts.

    Args:
        mean: over the law of t, which gives every band the same share.
        bands: mean loss in each band, from little noise to much.
        edges: σ/α between which each band lies, one more than there are bands.
        std_error: standard error of the mean, over rows.
    """

    mean: float
    bands: tuple[float, ...]
    edges: tuple[float, ...]
    std_error: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "bands": list(self.bands), "edges": list(self.edges)}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> HeldOutLoss:
        """The loss whose `to_json` gave these fields."""
        return HeldOutLoss(fields["mean"], tuple(fields["bands"]), tuple(fields["edges"]), fields["std_error"])


class HeldOut:
    """Held-out rows with their noise and times, fixed once so that two evaluations differ by the model alone.

    Args:
        rows: the held-out rows, at least one.
        objective: the loss.
        seed: of noise and times.
    """

    def __init__(self, rows: Rows, objective: ScoreMatching, seed: int) -> None:
        self.rows, self.objective = rows, objective
        self._offsets = Stream(seed, "held-out offsets")
        x0, _ = rows.take(rows.numbers[:1], Noise(self._offsets, range(1), 0))
        least = min(_MOST_DRAWS, max(_LEAST_DRAWS, _NUMBERS // x0.numel()))
        self.repeats = -(-least // len(rows))
        self._noise, self._times = Stream(seed, "held-out noise"), Stream(seed, "held-out times")

    @torch.no_grad()
    def __call__(self, model: Denoiser) -> tuple[HeldOutLoss, Tensor]:
        """The held-out loss of a model, and the loss of each row, (rows,), to compare models row by row."""
        count = len(self.rows) * self.repeats
        # Strided, so that the repeats of one row fall into different strata.
        u = stratified(self._times.uniform(count))
        numbers = self.rows.numbers.repeat(self.repeats)
        place = torch.arange(count).reshape(self.repeats, -1).T.flatten()
        u = u[place]
        losses = []
        for start in range(0, count, _CHUNK):
            part = slice(start, min(start + _CHUNK, count))
            offsets = Noise(self._offsets, range(part.start, part.stop), 0)
            x0, condition = self.rows.take(numbers[part], offsets)
            bound = model if condition is None else model.given(condition)
            noise = Noise(self._noise, range(part.start, part.stop), 0)
            losses.append(self.objective(bound, x0, noise, u[part].to(x0.device)).double().cpu())
        loss = torch.cat(losses)
        band = (u * BANDS).long().clamp(max=BANDS - 1)
        edges = self.objective.times.quantile(torch.linspace(1e-9, 1 - 1e-9, BANDS + 1).double(), model.schedule)
        levels = model.schedule.at(edges)
        each = loss.reshape(-1, self.repeats).mean(1)
        found = HeldOutLoss(
            float(loss.mean()),
            tuple(float(loss[band == b].mean()) for b in range(BANDS)),
            tuple((levels.sigma / levels.alpha).tolist()),
            float(each.std()) / len(each) ** 0.5,
        )
        return found, each
