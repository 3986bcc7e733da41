"""Multistep solvers: steps down that remember what the model said of clean data at the levels before.

The reverse SDEs  dx = (f x − ½(1 + η) g² s) dt + √η g dw̄  all share p_t; η = 0 is the probability flow, η = 1 the one
reversed in time. In λ = log α/σ their linear part is solved exactly, which leaves an integral of x̂0 = E[x0 given x]:

    x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s ∫₀^{ah} e^{−v} x̂0(v) dv + σ_s √(1 − e^{−2ηh}) z          (1)
    h = λ_s − λ_t,   a = 1 + η,   v = a(λ_s − λ), which falls from ah at t to 0 at s

With η = 0 it is the data prediction of DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095). A solver puts a polynomial
through x̂0 at the last few levels, and so asks the model once a step:

    ∫₀^{ah} e^{−v} x̂0(v) dv ≈ Σ_j w_j x̂0(v_j)                                                   (2)

Nothing here divides by α, and h may be infinite: a flow starts at α = 0 with x_s = α_s x̂0 + (σ_s/σ_t) x_t, a step of
first order, and a step to clean data ends at x̂0. No polynomial in λ goes through a level at λ = −∞, so that one is not
remembered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix_all
from scorefield.model import Denoiser
from scorefield.noise import NoiseLevel, Schedule, Time
from scorefield.randomness import Noise

Weights = Callable[[Sequence[float], float], list[float]]
_Place = tuple[float, ...]  # α, σ and λ of a level


# -- weights ----------------------------------------------------------------------------------------------------------


def exact_weights(nodes: Sequence[float], length: float) -> list[float]:
    """w_j = ∫₀^length e^{−v} ℓ_j(v) dv, ℓ_j the polynomial that is 1 at the node j and 0 at the others.

    Exact for polynomials of degree below the number of nodes. From the moments of u = v/length,

        m_n = length ∫₀¹ e^{−length u} uⁿ du,   m_n = (n/length) m_{n−1} − e^{−length},

    a recursion that is used upwards for long steps and downwards, where it only adds, for short ones.

    Args:
        nodes: v_j, distinct; all finite where there are two or more.
        length: above 0; infinite only with one node.

    Returns:
        one weight a node, that add up to 1 − e^{−length}.
    """
    if len(nodes) == 1:
        return [-math.expm1(-length)]
    moments = _moments(length, len(nodes))
    return [_dot(basis, moments) for basis in lagrange(nodes, length)]


def midpoint_weights(nodes: Sequence[float], length: float) -> list[float]:
    """w_j = (1 − e^{−length}) ℓ_j(length/2): the polynomial is taken for its value in the middle of the step.

    With two nodes as good as `exact_weights` up to third order in length. Arguments and result as there.
    """
    whole = -math.expm1(-length)
    if len(nodes) == 1:
        return [whole]
    return [whole * _dot(basis, [0.5**n for n in range(len(nodes))]) for basis in lagrange(nodes, length)]


def lagrange(nodes: Sequence[float], length: float) -> list[list[float]]:
    """Coefficients of each ℓ_j, 1 at node j and 0 at the others, in powers of u = v/length, lowest first."""
    places = [node / length for node in nodes]
    bases = []
    for j, here in enumerate(places):
        basis = [1.0]
        for i, other in enumerate(places):
            if i != j:
                # Times (u − other)/(here − other).
                up, down = [0.0, *basis], [*basis, 0.0]
                basis = [(a - other * b) / (here - other) for a, b in zip(up, down, strict=True)]
        bases.append(basis)
    return bases


def _moments(length: float, count: int) -> list[float]:
    """m_0 … m_{count−1}."""
    end = math.exp(-length)
    if length > 1:
        moments = [-math.expm1(-length)]
        for n in range(1, count):
            moments.append(n / length * moments[-1] - end)
        return moments
    # The highest by its series, length e^{−length} Σ_k lengthᵏ/(count (count + 1) … (count + k)).
    term = total = length * end / count
    k = count
    while term > 1e-17 * total:
        k += 1
        term *= length / k
        total += term
    moments = [total]
    for n in range(count - 1, 0, -1):
        moments.append(length / n * (moments[-1] + end))
    return moments[::-1]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


# -- steps ------------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """What the model said of clean data at the levels that were passed, the newest first.

    Args:
        log_ratios: λ of each level.
        x0: E[x0 given x] at each, (B, *shape).
    """

    log_ratios: tuple[float, ...]
    x0: tuple[Tensor, ...]


@dataclass(frozen=True)
class ExponentialAdams:
    """x_s by (1) and (2) with the weights w_j = ∫₀^{ah} e^{−v} ℓ_j(v) dv: exponential Adams–Bashforth in x̂0 and λ.

    With η = 0 it is of order `order`, its first steps of what their memory allows. Order 1 is DDIM with η = 0 and
    DDPM's posterior with η = 1. Order 2 is DPM-Solver++ 2M as its code has it under "taylor", and 2M SDE as k-diffusion
    has it under "heun". Order 3 is what their 3M and 3M SDE mean to be: with the weights that follow from (2), not with
    half of the quadratic term's, as in their code, which leaves it at second order. Zhang & Chen 2022 (DEIS,
    arXiv:2204.13902) have such weights for ε. With η > 0 the variance of Gaussian data is reached to second order from
    `order` 2 on, and to first without memory.

    Args:
        order: number of levels that the polynomial goes through, 1 to 4.
        eta: η ≥ 0 of (1).
    """

    order: int = 3
    eta: float = 0.0

    def __post_init__(self) -> None:
        _check(self.order, 4, self.eta)

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        now, below = _places(model.schedule, t, s)
        seen = _seen(now, model(x, t).x0, memory, self.order)
        return _down(x, now, below, seen, exact_weights, self.eta, noise), seen


@dataclass(frozen=True)
class DPMSolver2M:
    """x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s (1 − e^{−(1+η)h}) D + σ_s √(1 − e^{−2ηh}) z,   D = x̂0 + (x̂0 − x̂0′)/2r.

    x̂0′ is of the level before and r the ratio of the step before to this, in λ. η = 0 is DPM-Solver++ 2M (Lu et al.
    2022, Algorithm 2, arXiv:2211.01095), of second order; η > 0 its SDE in k-diffusion, "midpoint". D is the line
    through both, halfway down the step; the first step has D = x̂0.

    Args:
        eta: η ≥ 0 of (1).
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        _check(2, 2, self.eta)

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        now, below = _places(model.schedule, t, s)
        seen = _seen(now, model(x, t).x0, memory, 2)
        return _down(x, now, below, seen, midpoint_weights, self.eta, noise), seen


@dataclass(frozen=True)
class UniPC:
    """A predictor by (2), and a corrector that redoes the step before with x̂0 of where that led (Zhao et al. 2023).

        x_t ← x_t + α_t (Σ_j c_j x̂0(v_j) − Σ_j w_j x̂0(v_j)),   j of c from the new level on, of w from the one before
        x_s = (σ_s/σ_t) x_t + α_s Σ_j w_j x̂0(v_j)

    arXiv:2302.04867, in x̂0 and with their B₂. Their linear system for the coefficients has the `exact_weights` for its
    solution, whatever B is; with two levels they take ½ instead, which are the `midpoint_weights`. The model is asked
    once a step, at x_t before it is corrected. The error is of order p + 1. As the corrector adds the difference of two
    integrals to x, whatever else moved x at the level, such as Langevin dynamics, is kept.

    Args:
        order: p of the predictor, 1 to 3.
    """

    order: int = 2

    def __post_init__(self) -> None:
        _check(self.order, 3, 0.0)

    def __call__(
        self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: Memory | None, noise: Noise
    ) -> tuple[Tensor, Memory]:
        now, below = _places(model.schedule, t, s)
        seen = _seen(now, model(x, t).x0, memory, self.order + 1)
        keep, factors = _unipc_factors(self.order, now, below, seen.log_ratios)
        return mix_all(keep, x, factors, seen.x0), seen


@lru_cache(maxsize=4096)
def _unipc_factors(order: int, now: _Place, below: _Place, seen: tuple[float, ...]) -> tuple[float, list[float]]:
    """The factors of x before it is corrected, and of x̂0 at the levels that were seen, from the two lines as one."""
    alpha, _, here = now
    keep, factors, _ = _factors(_unipc_weights, 0.0, now, below, seen[:order])
    if len(seen) == 1:
        return keep, factors
    nodes = [here - one for one in seen[1:]]
    predicted, corrected = [0.0, *_unipc_weights(nodes, nodes[0])], _unipc_weights([0.0, *nodes], nodes[0])
    moves = [alpha * (c - w) for c, w in zip(corrected, predicted, strict=True)]
    return keep, [keep * move + factor for move, factor in zip_longest(moves, factors, fillvalue=0.0)]


def _unipc_weights(nodes: Sequence[float], length: float) -> list[float]:
    return (midpoint_weights if len(nodes) == 2 else exact_weights)(nodes, length)


def _down(x: Tensor, now: _Place, below: _Place, seen: Memory, weights: Weights, eta: float, noise: Noise) -> Tensor:
    """(1) with (2)."""
    keep, factors, deviation = _factors(weights, eta, now, below, seen.log_ratios)
    x = mix_all(keep, x, factors, seen.x0)
    return torch.add(x, noise.like(x), alpha=deviation) if eta else x


@lru_cache(maxsize=4096)
def _factors(
    weights: Weights, eta: float, now: _Place, below: _Place, seen: tuple[float, ...]
) -> tuple[float, list[float], float]:
    """The factors in (1) with (2) of x, of x̂0 and of z. A grid is walked again and again, so they are kept."""
    (_, sigma_t, here), (alpha_s, sigma_s, there) = now, below
    h, rate = there - here, 1 + eta
    if math.isinf(h):  # only the newest counts
        seen = seen[:1]
    w = weights([rate * (there - one) for one in seen], rate * h)
    keep = sigma_s / sigma_t * (math.exp(-eta * h) if eta else 1.0)
    return keep, [alpha_s * value for value in w], sigma_s * math.sqrt(-math.expm1(-2 * eta * h))


def _places(schedule: Schedule, t: Time, s: Time) -> tuple[_Place, _Place]:
    now, below = schedule.at(t).numbers(_place), schedule.at(s).numbers(_place)
    if not below[2] > now[2]:
        raise SamplingError(f"a step down must end at less noise, got one from t = {float(t):g} to {float(s):g}")
    return now, below


def _place(level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
    return level.alpha, level.sigma, level.alpha.log() - level.sigma.log()


def _seen(now: _Place, x0: Tensor, memory: Memory | None, most: int) -> Memory:
    """What was seen on the way down to here; only x̂0 of here after a walk that went up again, which is another path."""
    here = now[2]
    # No polynomial goes through λ = −∞, which is the first level of a walk if any.
    if memory is None or not -math.inf < memory.log_ratios[0] < here:
        return Memory((here,), (x0,))
    return Memory((here, *memory.log_ratios)[:most], (x0, *memory.x0)[:most])


def _check(order: int, highest: int, eta: float) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= highest:
        raise SamplingError(f"order must be a whole number from 1 to {highest}, got {order}")
    if not 0 <= eta < math.inf:
        raise SamplingError(f"eta must be finite and at least 0, got {eta}")
