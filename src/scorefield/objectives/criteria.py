"""Criteria: what is compared at one noise level, a number for each row.

    explicit score matching at x_t = α x0 + σ ε:   ‖s(x_t, t) − s*(x_t, t)‖²/D                   (1)

Every criterion here has the expectation of (1), up to a number that no model can change, without knowing s*. So all
have one gradient and one minimiser, the true score, and no factor between them: the papers' ½‖·‖² is multiplied by 2/D.
Each can be written in any notation: an error in the score is converted by the squared ratio of two determinants
(`parametrization`, Eq. 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from scorefield.errors import OptionError
from scorefield.mixing import mix
from scorefield.model import Denoiser, NetworkDenoiser, ScoreModel
from scorefield.noise import Clean, NoiseLevel
from scorefield.objectives.reference import clean_mean
from scorefield.parametrization import EPSILON, SCORE, X0, Parametrization
from scorefield.randomness import Noise


class Criterion(Protocol):
    """A loss at given times, before any weight."""

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Compare the model with what is known.

        Args:
            model: the model that learns.
            x0: clean data, (B, *shape).
            t: times, (B,).
            noise: the normals of this batch: draw 0 is ε, later draws are what a criterion needs beside it.

        Returns:
            (B,), per element of x0.
        """
        ...


def noisy(model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor, NoiseLevel]:
    """x_t = α x0 + σ ε with its ε and its level; at a level without noise x_t is x0."""
    if x0.ndim < 2:
        raise OptionError(f"x0 should have the shape (B, *shape) with numbers in a row, got {tuple(x0.shape)}")
    level = model.schedule.at(t, like=x0)
    epsilon = noise.like(x0)
    return mix(level.alpha, x0, level.sigma, epsilon), epsilon, level


def converted(loss: Tensor, own: Parametrization, wanted: Parametrization, level: NoiseLevel) -> Tensor:
    """A squared error (B,) in one notation as it is in another, (d_wanted/d_own)² times as large.

    Raises:
        OptionError: for a model without noise, whose determinants are zero and infinite.
    """
    if own == wanted:
        return loss
    if isinstance(level.schedule, Clean):
        raise OptionError(f"a model of data without noise has a loss in the score alone, not in {wanted.name}")
    ratio = wanted.determinant(level) / own.determinant(level)
    return loss * ratio.square().flatten().to(loss.dtype)


@dataclass(frozen=True)
class Denoising:
    """Denoising score matching in a notation, ‖ŷ − y‖²/D with y = a·x0 + b·ε.

    Its minimiser is the conditional mean of y given x_t, so in every notation the score (Vincent 2011,
    doi:10.1162/NECO_a_00142). A network is compared in its own notation, where it is of order one at every level, and
    the loss is converted.

    Args:
        parametrization: the notation y that the loss is written in.
        reference: rows of a batch that stand together for the clean data of each (`reference`, Eq. 1): no other
            minimiser and less variance; 1 compares each row with its own.

    Raises:
        OptionError: when called with a model whose schedule has no noise.
    """

    parametrization: Parametrization
    reference: int = 1

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        if isinstance(model.schedule, Clean):
            raise OptionError(
                "denoising compares with the noise of a level, and this model's schedule has none: "
                "use KernelDenoising, Implicit or Sliced"
            )
        x_t, epsilon, level = noisy(model, x0, t, noise)
        if self.reference > 1:
            condition = model.condition if isinstance(model, NetworkDenoiser) else None
            x0 = clean_mean(x_t, x0, level, condition, self.reference)
            epsilon = X0.split(x0, x_t, level).epsilon
        if isinstance(model, NetworkDenoiser):
            own, output = model.parametrization, model.output(x_t, level)
        elif isinstance(model, Denoiser):
            own, output = EPSILON, model(x_t, t).epsilon
        else:
            own, output = SCORE, model.score(x_t, t)
        squared = (output - own.of(x0, epsilon, level)).square().flatten(1).mean(1)
        return converted(squared, own, self.parametrization, level)

    def held_out(self) -> Denoising:
        """The same where each row stands for its clean data alone."""
        return replace(self, reference=1)


@dataclass(frozen=True)
class Explicit:
    """Explicit score matching (1): the distance to a score that is known (Hyvärinen 2005, Eq. 2).

    For data whose distribution is known, to see what the other criteria can reach; or to learn another model's score.

    Args:
        truth: has the score that is learned, at the times of the model's own schedule.
        parametrization: the notation that the loss is written in.

    Raises:
        OptionError: for a truth without a score.
    """

    truth: ScoreModel
    parametrization: Parametrization = SCORE

    def __post_init__(self) -> None:
        if not callable(getattr(self.truth, "score", None)):
            raise OptionError(
                f"{type(self.truth).__name__} has no score(x, t), which explicit score matching learns: "
                "where the truth is not known, use Implicit, Sliced or Denoising"
            )

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_t, _, level = noisy(model, x0, t, noise)
        squared = (model.score(x_t, t) - self.truth.score(x_t, t)).square().flatten(1).mean(1)
        return converted(squared, SCORE, self.parametrization, level)
