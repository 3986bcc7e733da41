"""Every level that rows passed on their way from noise to data, kept and written to a file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefield.data.write import write_arrays
from scorefield.errors import DataError, OptionError
from scorefield.noise import Schedule
from scorefield.samplers.presets import AnySampler, levels_of

_MOST_BYTES = 2 << 30
_UNEVEN = "--trajectory needs a sampler whose rows pass the same levels, and adaptive ones do not"


@dataclass
class Trajectory:
    """What `on_step` is told, of all chunks of rows, in units of the model.

    Args:
        schedule: of the model.
        chunks: by its first row what each chunk was told, level after level: t, x and E[x0 given x].
    """

    schedule: Schedule
    chunks: dict[int, list[tuple[float, Tensor, Tensor | None]]] = field(default_factory=dict)

    def begin(self, rows: range) -> None:
        """Rows begin on their way; to be given as `on_chunk`. What is left of an attempt before is let go."""
        self.chunks[rows.start] = []

    def __call__(self, step: int, t: Tensor, x: Tensor, x0: Tensor | None) -> None:
        """Keep a level; to be given as `on_step`, with `begin` as `on_chunk`.

        Raises:
            OptionError: for rows that have times of their own, and where nobody said that other rows begin.
        """
        if t.ndim:
            raise OptionError(_UNEVEN)
        levels = self.chunks.setdefault(next(reversed(self.chunks), 0), [])  # of the chunk that began last
        if step == 0 and levels:
            raise OptionError("a trajectory with rows: other chunks need its `begin` as on_chunk, other draws another")
        levels.append((float(t), x.cpu().clone(), None if x0 is None else x0.cpu().clone()))

    def arrays(self) -> dict[str, np.ndarray]:
        """t and sigma (σ/α there) of shape (K,), x and x0 of shape (K, rows, *shape); x0 is NaN where it was not asked.

        K are the levels that were left, from the first draw on.
        """
        chunks = list(self.chunks.values())
        t = torch.tensor([level[0] for level in chunks[0]], dtype=torch.float64)
        level = self.schedule.at(t)

        def joined(parts: Sequence[Sequence[Tensor]]) -> np.ndarray:
            return torch.stack([torch.cat(list(part)) for part in parts]).numpy()

        x = joined([[chunk[k][1] for chunk in chunks] for k in range(len(t))])
        x0 = joined([[_known(chunk[k][2], chunk[k][1]) for chunk in chunks] for k in range(len(t))])
        return {"t": t.numpy(), "sigma": (level.sigma / level.alpha).numpy(), "x": x, "x0": x0}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the arrays as .npz."""
        write_arrays(self.arrays(), path)


def check_levels(sampler: AnySampler, schedule: Schedule, rows: int, shape: Sequence[int]) -> None:
    """Refuse a sampler early, for so many rows of a shape.

    Raises:
        OptionError: for one whose rows have times of their own, and beyond two gibibytes of x and x0 at all levels.
    """
    levels = levels_of(sampler, schedule)
    if levels is None:
        raise OptionError(_UNEVEN)
    size = 2 * len(levels) * rows * math.prod(shape) * torch.finfo(torch.float32).bits // 8
    if size > _MOST_BYTES:
        raise OptionError(
            f"--trajectory would keep {size / 2**30:.3g} GiB, at most {_MOST_BYTES >> 30}: draw fewer rows or take "
            "fewer steps"
        )


def check_trajectory(path: Path, out: Path) -> None:
    """Refuse a path early.

    Args:
        path: of the trajectory.
        out: where the rows go.

    Raises:
        DataError: for another ending than .npz, a folder that is not there, and the file of the rows.
    """
    if path.resolve() == out.resolve():
        raise DataError(f"{path}: --out has this file already, a trajectory needs another")
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: a trajectory is written as .npz, got the ending {path.suffix!r}")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist")


def _known(x0: Tensor | None, x: Tensor) -> Tensor:
    return torch.full_like(x, float("nan")) if x0 is None else x0
