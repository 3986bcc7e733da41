"""Criteria: what is compared at one noise level, a number for each row.

    denoising in the notation y = a·x0 + b·ε:   ‖ŷ − y‖²/D,   x_t = α x0 + σ ε                     (1)

Its minimiser is the conditional mean of y given x_t, so in every notation the score (Vincent 2011,
doi:10.1162/NECO_a_00142).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from scorefield.model import Denoiser, NetworkDenoiser
from scorefield.noise import mix
from scorefield.parametrization import EPSILON, Parametrization


class Criterion(Protocol):
    """A loss at given times, before any weight."""

    def __call__(self, model: Denoiser, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Compare the model with what is known.

        Args:
            model: the model that learns.
            x0: clean data, (B, *shape).
            epsilon: standard normals, (B, *shape).
            t: times, (B,).

        Returns:
            (B,), per element of x0.
        """
        ...


@dataclass(frozen=True)
class Denoising:
    """Denoising score matching (1) in a notation.

    A network is compared in its own notation, where it is of order one at every level, and the loss is converted by the
    squared ratio of determinants (`parametrization`, Eq. 2).

    Args:
        parametrization: the notation y that the loss is written in.
    """

    parametrization: Parametrization

    def __call__(self, model: Denoiser, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        level = model.schedule.at(t, like=x0)
        x_t = mix(level.alpha, x0, level.sigma, epsilon)
        if isinstance(model, NetworkDenoiser):
            own = model.parametrization
            output = model.output(x_t, level)
        else:
            own = EPSILON
            output = model(x_t, t).epsilon
        squared = (output - own.of(x0, epsilon, level)).square().flatten(1).mean(1)
        if own == self.parametrization:
            return squared
        ratio = self.parametrization.determinant(level) / own.determinant(level)
        return squared * ratio.square().flatten().to(squared.dtype)
