"""Point sets in the plane, `toy:NAME`: shapes to hold a picture against, one of them known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from scorefield.data.kinds import Array
from scorefield.data.schema import suggestion
from scorefield.errors import OptionError

if TYPE_CHECKING:
    from scorefield.exact import GaussianMixture

ROWS = 50_000
_WEIGHTS = (0.22, 0.18, 0.15, 0.13, 0.11, 0.09, 0.07, 0.05)


def toy_mixture() -> GaussianMixture:
    """The mixture that `toy:mixture` is drawn from: its score and density are known at every noise level.

    Returns:
        eight Gaussians in the plane, on a circle of radius 3, of unequal weights, widths and directions.
    """
    import torch

    from scorefield.exact import GaussianMixture

    angles = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    means = 3 * torch.stack((angles.cos(), angles.sin()), dim=1)
    # Long axes turn three times as fast as the circle, so that no two components are images of one another.
    turn = 3 * angles + 0.4
    axes = torch.stack((torch.stack((turn.cos(), -turn.sin()), 1), torch.stack((turn.sin(), turn.cos()), 1)), dim=1)
    deviations = torch.stack((torch.linspace(0.65, 0.3, 8), torch.linspace(0.12, 0.25, 8)), dim=1).double()
    covariances = torch.einsum("kij,kj,klj->kil", axes, deviations**2, axes)
    return GaussianMixture(torch.tensor(_WEIGHTS, dtype=torch.float64), means, covariances)


def read_toy(name: str, rows: int = ROWS, seed: int = 0) -> Array:
    """Draw a toy set.

    Args:
        name: one of the names in SETS.
        rows: how many points; row i is the same for any number.
        seed: of the draw.

    Returns:
        (rows, 2) float32.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in SETS:
        raise OptionError(f"toy:{name}: no such set{suggestion(name, list(SETS))}; there are {', '.join(SETS)}")
    points = SETS[name](rows, seed)
    return Array(points.astype(np.float32), source=f"toy:{name}")


def _uniform(name: str, rows: int, seed: int, columns: int) -> np.ndarray:
    from scorefield.randomness import Stream

    return Stream(seed, f"toy {name}").uniform(rows, (columns,)).numpy()


def _normal(name: str, rows: int, seed: int, columns: int = 2) -> np.ndarray:
    import torch

    from scorefield.randomness import Stream

    return Stream(seed, f"toy {name}").normal(rows, (columns,), draw=1, dtype=torch.float64).numpy()


def _mixture(rows: int, seed: int) -> np.ndarray:
    return toy_mixture().sample(rows, seed).numpy()


def _gaussian(rows: int, seed: int) -> np.ndarray:
    """N(mean (1, −0.5), covariance ((1, 0.8), (0.8, 1)))."""
    factor = np.array([[1.0, 0.0], [0.8, 0.6]])
    return _normal("gaussian", rows, seed) @ factor.T + np.array([1.0, -0.5])


def _moons(rows: int, seed: int) -> np.ndarray:
    u = _uniform("moons", rows, seed, 2)
    angle, upper = math.pi * u[:, 0], u[:, 1] < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack((x, y), axis=1) + 0.08 * _normal("moons", rows, seed)


def _rings(rows: int, seed: int) -> np.ndarray:
    u = _uniform("rings", rows, seed, 2)
    radius = 1.0 + np.floor(3 * u[:, 1]) + 0.08 * _normal("rings", rows, seed, 1)[:, 0]
    angle = 2 * math.pi * u[:, 0]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


def _checkerboard(rows: int, seed: int) -> np.ndarray:
    u = _uniform("checkerboard", rows, seed, 2)
    x = 4 * u[:, 0] - 2
    # Of the four cells of a column, the lower or upper of each pair, by the column's parity.
    shift = np.floor(x) % 2
    cell = np.floor(2 * u[:, 1])
    y = 2 * cell + shift + (2 * u[:, 1] - cell) - 2
    return np.stack((x, y), axis=1)


def _spiral(rows: int, seed: int) -> np.ndarray:
    """Two arms of Archimedes, uniform along their length to first order."""
    u = _uniform("spiral", rows, seed, 2)
    angle = 3 * math.pi * np.sqrt(u[:, 0])
    sign = np.where(u[:, 1] < 0.5, 1.0, -1.0)
    arms = (sign * angle / math.pi)[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    return arms + 0.06 * _normal("spiral", rows, seed)


def _swissroll(rows: int, seed: int) -> np.ndarray:
    u = _uniform("swissroll", rows, seed, 1)[:, 0]
    angle = 1.5 * math.pi * (1 + 2 * u)
    roll = (angle / 5)[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    return roll + 0.08 * _normal("swissroll", rows, seed)


SETS: dict[str, Callable[[int, int], np.ndarray]] = {
    "mixture": _mixture,
    "gaussian": _gaussian,
    "moons": _moons,
    "rings": _rings,
    "checkerboard": _checkerboard,
    "spiral": _spiral,
    "swissroll": _swissroll,
}
