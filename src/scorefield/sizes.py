"""How large a network and how long a training suit a data set, chosen by measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Size:
    """How large a network and how long a training suit a data set; seconds of budget at most."""

    width: int
    batch: int
    optimiser: Literal["adam", "muon"]
    learning_rate: float
    steps: int
    budget: float


def vector_size(rows: int, names: bool) -> Size:
    """Of points and tables: a wide network, or a long training, only remembers few rows.

    After long training the rows drawn are closer to new ones, as they are nearly those learnt from, while holes are
    filled too surely and the mean log-likelihood of new rows falls: from −25 to −41 nats for wine, 143 rows, between
    750 steps and 2000, and from −4 to −16 for red wine, 1280 rows, between 6000 and 12 000.

    Args:
        rows: to learn from.
        names: whether some numbers stand about vertices; names take longer to learn, and bear a faster rate.
    """
    if names:
        if rows < 200:
            return Size(width=64, batch=256, optimiser="adam", learning_rate=2e-3, steps=800, budget=50)
        if rows < 1000:
            return Size(width=64, batch=256, optimiser="adam", learning_rate=2e-3, steps=1500, budget=50)
        if rows < 3000:
            return Size(width=96, batch=256, optimiser="adam", learning_rate=3e-3, steps=6000, budget=100)
        if rows < 20_000:
            return Size(width=128, batch=512, optimiser="adam", learning_rate=4e-3, steps=12_000, budget=100)
        return Size(width=256, batch=1024, optimiser="adam", learning_rate=5e-3, steps=20_000, budget=120)
    if rows < 2000:
        return Size(width=64, batch=256, optimiser="adam", learning_rate=1e-3, steps=3000, budget=50)
    if rows < 20_000:
        return Size(width=128, batch=512, optimiser="adam", learning_rate=2e-3, steps=8000, budget=50)
    return Size(width=256, batch=1024, optimiser="adam", learning_rate=5e-3, steps=12_000, budget=50)


def image_size(numbers: int) -> Size:
    """Of images of so many numbers: as many steps as the budget allows."""
    if numbers <= 144:
        return Size(width=0, batch=64, optimiser="muon", learning_rate=5e-3, steps=3000, budget=110)
    return Size(width=0, batch=64, optimiser="muon", learning_rate=5e-3, steps=20_000, budget=720)
