"""What a network predicts is one row (a, b): y = a·x0 + b·ε; one 2×2 solve turns any prediction into any other.

    ⎡ y   ⎤   ⎡ a  b ⎤ ⎡ x0 ⎤                x0 = (σ y − b x_t)/d
    ⎣ x_t ⎦ = ⎣ α  σ ⎦ ⎣ ε  ⎦                ε  = (a x_t − α y)/d,   d = aσ − bα        (1)

At one noisy x_t an error in y is d times smaller in x0 and so |d_P/d_Q|² times larger in the notation P than in Q:

    ‖ŷ_P − y_P‖² = (d_P/d_Q)² ‖ŷ_Q − y_Q‖²                                              (2)

which converts every loss weight of the field into every other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.compiler import is_compiling

from scorefield.mixing import Coefficient, mix
from scorefield.noise import NoiseLevel


def when_asked(make: Callable[[], Tensor], x_t: Tensor) -> Tensor | Callable[[], Tensor]:
    """A function, to be ε of an estimate; or what it makes, where gradients may be taken, which are those of now.

    Most steps of a sampler, under `no_grad`, read x0 alone. What they do not read costs them nothing.

    Args:
        make: gives ε, (B, *shape).
        x_t: the noisy data it is made of, (B, *shape), which may not be written to before ε is read.
    """
    if torch.is_grad_enabled() or x_t.requires_grad or is_compiling():
        return make()
    if x_t.is_inference():  # of which no versions are counted
        return make
    version = x_t._version

    def made() -> Tensor:
        if x_t._version != version:
            raise RuntimeError("x_t was written to before ε or the score was read from the estimate of it")
        return make()

    return made


class Estimate:
    """What a model believes of x_t: the clean data and the noise in it.

    A plain class, as one is made at every step: a frozen dataclass takes a microsecond longer.

    Args:
        x0: E[x0 given x_t], (B, *shape).
        epsilon: E[ε given x_t], (B, *shape), or what `when_asked` makes of it.
        level: the noise level of x_t.
        variance_share: (B, *shape), where a model that learns the variance of a step down puts its logarithm, 0 being
            log β̃ and 1 log β (Nichol & Dhariwal 2021, Eq. 15, arXiv:2102.09672); None where it is not learned.
    """

    def __init__(
        self,
        x0: Tensor,
        epsilon: Tensor | Callable[[], Tensor],
        level: NoiseLevel,
        variance_share: Tensor | None = None,
    ) -> None:
        self.x0 = x0
        self._epsilon = epsilon
        self.level = level
        self.variance_share = variance_share

    @property
    def epsilon(self) -> Tensor:
        """E[ε given x_t], (B, *shape)."""
        if not isinstance(self._epsilon, Tensor):
            self._epsilon = self._epsilon()
        return self._epsilon

    @property
    def score(self) -> Tensor:
        """∇ log p_t(x_t) = −ε/σ, (B, *shape)."""
        return SCORE.of(self.x0, self.epsilon, self.level)

    @property
    def v(self) -> Tensor:
        """α ε − σ x0, (B, *shape) (Salimans & Ho 2022, arXiv:2202.00512)."""
        return V.of(self.x0, self.epsilon, self.level)

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability flow, α′ x0 + σ′ ε, (B, *shape)."""
        return VELOCITY.of(self.x0, self.epsilon, self.level)


@dataclass(frozen=True, eq=False)
class Parametrization:
    """A notation for what a network predicts: y = a·x0 + b·ε.

    Args:
        name: for messages and files.
        row: a level's (a, b), float64, shaped like the level.
    """

    name: str
    row: Callable[[NoiseLevel], tuple[Tensor, Tensor]]

    def of(self, x0: Tensor, epsilon: Tensor, level: NoiseLevel) -> Tensor:
        """y = a·x0 + b·ε, (B, *shape)."""
        a, b = level.once(self.row)
        return mix(a, x0, b, epsilon)

    def determinant(self, level: NoiseLevel) -> Tensor:
        """d = aσ − bα of (1), shaped like the level."""
        return _determinant(*self.row(level), level)

    def score_coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(p, q) of the score as it follows from the output by (1): s = p x_t + q y, p = −a/(dσ) and q = α/(dσ)."""
        a, b = self.row(level)
        scaled = _determinant(a, b, level) * level.sigma
        return -a / scaled, level.alpha / scaled

    def split(self, output: Tensor, x_t: Tensor, level: NoiseLevel, variance_share: Tensor | None = None) -> Estimate:
        """Read a network's output as clean data and noise, by (1).

        Args:
            output: y, (B, *shape).
            x_t: the noisy data it was made from, (B, *shape).
            level: the noise level of x_t.
            variance_share: of the estimate.

        Returns:
            the estimate, with entries of x_t's type.

        Raises:
            ValueError: where d = 0, as for a flow at α = 0 read through ε: there y says nothing of x0.
        """
        solution, output = self._solved(level), output.to(x_t.dtype)
        epsilon = partial(mix, solution[2], x_t, solution[3], output)
        return Estimate(mix(solution[0], output, solution[1], x_t), when_asked(epsilon, x_t), level, variance_share)

    def epsilon(self, output: Tensor, x_t: Tensor, level: NoiseLevel) -> Tensor:
        """The noise alone, as `split` reads it."""
        solution = self._solved(level)
        return mix(solution[2], x_t, solution[3], output.to(x_t.dtype))

    def _solved(self, level: NoiseLevel) -> Sequence[Coefficient]:
        """The two rows of (1) solved, of x0 in (y, x_t) and of ε in (x_t, y)."""
        d, *solution = level.once(self._solution)
        if not is_compiling() and not (d.all() if isinstance(d, Tensor) else d):
            where = level.t.flatten() if not isinstance(d, Tensor) else level.t.flatten()[(d == 0).flatten()]
            raise ValueError(f"{self.name} does not determine x0 at t = {where[0]:g}, where its determinant is zero")
        return solution

    def _solution(self, level: NoiseLevel) -> tuple[Tensor, ...]:
        """d, then the two rows."""
        a, b = self.row(level)
        d = _determinant(a, b, level)
        return d, level.sigma / d, -b / d, a / d, -level.alpha / d


def _determinant(a: Tensor, b: Tensor, level: NoiseLevel) -> Tensor:
    return a * level.sigma - b * level.alpha


def _constant(value: float, level: NoiseLevel) -> Tensor:
    return torch.full_like(level.sigma, value)


X0 = Parametrization("x0", lambda level: (_constant(1, level), _constant(0, level)))
EPSILON = Parametrization("epsilon", lambda level: (_constant(0, level), _constant(1, level)))
SCORE = Parametrization("score", lambda level: (_constant(0, level), -1 / level.sigma))
V = Parametrization("v", lambda level: (-level.sigma, level.alpha))
VELOCITY = Parametrization("velocity", lambda level: (level.d_alpha, level.d_sigma))


@lru_cache
def edm_f(sigma_data: float) -> Parametrization:
    """F of Karras et al. 2022, Eq. 7 and Table 1, arXiv:2206.00364, for any schedule: x0 = c_skip x_t + c_out F.

    c_skip = α σ_data²/(α²σ_data² + σ²) and c_out = σ σ_data/√(α²σ_data² + σ²) give F unit variance at every level;
    with α = 1 they are the published ones.

    Args:
        sigma_data: standard deviation of the data.
    """

    def row(level: NoiseLevel) -> tuple[Tensor, Tensor]:
        total = (level.alpha * sigma_data) ** 2 + level.sigma**2
        c_skip = level.alpha * sigma_data**2 / total
        c_out = level.sigma * sigma_data / total.sqrt()
        # 1 − c_skip α = σ²/total, written so that it does not cancel at small σ.
        return level.sigma**2 / total / c_out, -c_skip * level.sigma / c_out

    return Parametrization("F", row)
