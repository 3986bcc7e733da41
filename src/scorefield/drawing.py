"""Drawing many rows: in chunks that fit into memory, telling how far it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scorefield.chunks import in_chunks
from scorefield.model import Denoiser
from scorefield.noise import Schedule
from scorefield.polar import angle
from scorefield.samplers.loop import OnStep
from scorefield.samplers.presets import AnySampler, levels_of

_CHUNK = 1 << 18  # numbers drawn at a time on a processor: what its caches still serve
_ACCELERATED = 8  # times as many on an accelerator, which is idle with less
_MOST_ROWS = 16_384


@dataclass(frozen=True)
class Progress:
    """How far a drawing is.

    Args:
        share: of all rows that is done, in [0, 1].
        rows: how many there will be.
        evaluations: of the model so far, counted for each row.
    """

    share: float
    rows: int
    evaluations: int


OnProgress = Callable[[Progress], None]


def chunk_rows(shape: Sequence[int], device: torch.device) -> int:
    """How many rows of a shape are drawn at a time."""
    most = _CHUNK if device.type == "cpu" else _ACCELERATED * _CHUNK
    return max(1, min(_MOST_ROWS, most // max(1, math.prod(shape))))


def draw(
    model_of: Callable[[range], Denoiser],
    sampler: AnySampler,
    rows: int,
    shape: Sequence[int],
    *,
    seed: int,
    device: torch.device,
    denoiser: Denoiser,
    on_progress: OnProgress | None = None,
    on_step: OnStep | None = None,
    on_chunk: Callable[[range], None] | None = None,
) -> Tensor:
    """Draw rows, (rows, *shape) on the host.

    Args:
        model_of: the denoiser for some rows, with their conditions bound.
        sampler: how.
        rows: how many.
        shape: of one row.
        seed: of all randomness.
        device: of the model.
        denoiser: whose schedule it is, and whose network's calls are evaluations.
        on_progress: called after each step of the sampler, and after each chunk; what it raises stops the drawing.
        on_step: as in `samplers.loop.sample`, called for each chunk.
        on_chunk: called with the rows of a chunk before its first step. Where one begins with the same row as the one
            before, that has run out of memory and is nothing.
    """
    share, count, drawn = _share_of(sampler, denoiser.schedule), Count(), []
    # A score and an energy both ask the network; a denoiser known in closed form has none.
    asked = getattr(denoiser, "network", denoiser)
    handle = asked.register_forward_hook(count.add)

    def work(part: range) -> Tensor:
        def tell(step: int, t: Tensor, x: Tensor, x0: Tensor | None) -> None:
            if on_progress is not None:
                done = part.start + len(part) * share(step, t)
                on_progress(Progress(done / rows, rows, count.rows))
            if on_step is not None:
                on_step(step, t, x, x0)

        if on_chunk is not None:
            on_chunk(part)
        listens = on_progress is not None or on_step is not None
        return sampler(model_of(part), part, shape, seed=seed, device=device, on_step=tell if listens else None).cpu()

    try:
        for part, x in in_chunks(range(rows), chunk_rows(shape, device), work):
            drawn.append(x)
            if on_progress is not None:
                on_progress(Progress(part.stop / rows, rows, count.rows))
    finally:
        handle.remove()
    return torch.cat(drawn)


@dataclass
class Count:
    """Rows that a module was called with."""

    rows: int = field(default=0)

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        self.rows += len(inputs[0])


def _share_of(sampler: AnySampler, schedule: Schedule) -> Callable[[int, Tensor], float]:
    """What share of a walk is done when a step is left, or where rows have times of their own when they are there."""
    levels = levels_of(sampler, schedule)
    if levels is not None:
        count = len(levels)
        return lambda step, t: step / count
    ends = schedule.at(torch.tensor((schedule.t_min, schedule.t_max), dtype=torch.float64))
    low, high = angle(ends, 1.0).sqrt().sqrt().tolist()

    def share(step: int, t: Tensor) -> float:
        u = float(angle(schedule.at(t), 1.0).sqrt().sqrt().mean())
        return min(1.0, max(0.0, (high - u) / (high - low)))

    return share
