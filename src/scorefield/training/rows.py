"""Where training takes its rows from, and in which order: a fresh permutation for each pass, a function of the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scorefield.randomness import Noise, Stream

Take = Callable[[np.ndarray, Noise], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Rows:
    """Encoded rows that can be taken by number.

    Args:
        numbers: which rows of the data these are, (n,).
        take: from row numbers (B,), and normals that say where in its cell a number stands if it has one, to x0
            (B, *shape) and conditions (B, k) or None.
    """

    numbers: np.ndarray
    take: Take

    def __len__(self) -> int:
        return len(self.numbers)


class Order:
    """The rows of each step: position p of training is row perm_{p // n}[p mod n], so that passes follow seamlessly.

    Args:
        count: n, how many rows there are.
        batch: how many each step takes.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch = count, batch
        self._stream = Stream(seed, "training order")
        self._permutations: dict[int, np.ndarray] = {}

    def at(self, step: int) -> np.ndarray:
        """Positions (batch,) of the rows of a step, the first step being 0."""
        start, stop = step * self.batch, (step + 1) * self.batch
        wanted = range(start // self.count, (stop - 1) // self.count + 1)
        self._permutations = {p: self._permutation(p) for p in wanted}
        parts = [
            order[max(start - p * self.count, 0) : stop - p * self.count] for p, order in self._permutations.items()
        ]
        return np.concatenate(parts)

    def _permutation(self, number: int) -> np.ndarray:
        known = self._permutations.get(number)
        return self._stream.permutation(self.count, step=number) if known is None else known


def split_held_out(count: int, share: float, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and for the held-out loss, by a keyed permutation.

    Args:
        count: rows of the data.
        share: of the rows to hold out.
        most: rows held out at most.
        seed: of the split.

    Returns:
        sorted row numbers to train on, and the held-out ones in random order; none of fewer than 20 rows, and never a
        single one, whose loss has no standard error.
    """
    held = min(int(count * share), most) if count >= 20 else 0
    held = held if held > 1 else 0
    order = Stream(seed, "held-out split").permutation(count)
    return np.sort(order[held:]), order[:held].copy()
