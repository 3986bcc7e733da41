"""Implicit score matching: no target at all, but the slope of the model's own score.

    E ½‖s − s*‖² = E[tr ∇ₓs + ½‖s‖²] + constant        by parts (Hyvärinen 2005, Theorem 1)                (1)
    tr ∇ₓs = E[vᵀ ∇ₓs v]                               for v with E[v vᵀ] = I                               (2)
    vᵀ ∇ₓs v = vᵀ(s(x + hv) − s(x − hv))/2h + O(h²)                                                         (3)

(1) with the exact trace is implicit, with (2) sliced and with (3) finite-difference score matching. They hold at any
noise level and without noise, where the score of the data themselves is learned. Without noise a rich network finds no
minimum on finitely many rows: it makes the trace at each as negative as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefield.calculus import Field, divergence, hutchinson_divergence
from scorefield.errors import OptionError
from scorefield.model import EnergyDenoiser, NetworkDenoiser, ScoreModel
from scorefield.objectives.criteria import converted, noisy
from scorefield.parametrization import SCORE, Parametrization
from scorefield.randomness import Noise


@dataclass(frozen=True)
class Implicit:
    """(2 tr ∇ₓs + ‖s‖²)/D with the exact trace (Hyvärinen 2005, "Estimation of non-normalized statistical models by
    score matching", Eq. 4).

    A network that knows its own trace gives it (`networks.mlp.MLP.output_and_trace`); of any other it takes one
    backward pass for each of the D numbers of a row.

    Args:
        parametrization: the notation that the loss is written in.
    """

    parametrization: Parametrization = SCORE

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_t, _, level = noisy(model, x0, t, noise)
        score, trace = score_and_trace(model, x_t, t)
        loss = (2 * trace + score.square().flatten(1).sum(1)) / _numbers(x_t)
        return converted(loss, SCORE, self.parametrization, level)


@dataclass(frozen=True)
class Sliced:
    """(2 vᵀ∇ₓs v + ‖s‖²)/D over random v: (1) with (2) (Song et al. 2019, arXiv:1905.07088).

    Args:
        parametrization: the notation that the loss is written in.
        probes: number of v for each row.
        reduced_variance: with ‖s‖², their SSM-VR; without, with (vᵀs)² as their Eq. 8 has it, the square around
            the second term alone.
        signs: whether v are random signs, which spare the diagonal of ∇ₓs any variance, or normals.
    """

    parametrization: Parametrization = SCORE
    probes: int = 1
    reduced_variance: bool = True
    signs: bool = True

    def __post_init__(self) -> None:
        _check_probes(self.probes)

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_t, _, level = noisy(model, x0, t, noise)
        v = probes(x_t, noise, self.probes, self.signs)
        output, p, q = _affine(model, x_t, t)
        y, slopes = hutchinson_divergence(output, x_t, v, create_graph=torch.is_grad_enabled())
        score = p * x_t + q * y
        slopes = p.flatten() * v.square().flatten(2).sum(2) + q.flatten() * slopes
        squared = score.square().flatten(1).sum(1)
        if not self.reduced_variance:
            squared = (v * score).flatten(2).sum(2).square().mean(0)
        return converted((2 * slopes.mean(0) + squared) / _numbers(x_t), SCORE, self.parametrization, level)


@dataclass(frozen=True)
class FiniteDifference:
    """Sliced score matching by differences (3), without a derivative in x (after Pang et al. 2020, arXiv:2007.03317).

    Of a score, two evaluations a probe; of an energy, three values of the energy and no gradient of it at all:

        vᵀ∇ₓs v ≈ −(E(x + hv) + E(x − hv) − 2E(x))/h²,   vᵀs ≈ −(E(x + hv) − E(x − hv))/2h                (4)

    Always in the type of the weights, for differences of small numbers do not survive bfloat16.

    Args:
        parametrization: the notation that the loss is written in.
        probes: number of v for each row.
        step: h as a share of the noise σ, or h itself where there is none.
    """

    parametrization: Parametrization = SCORE
    probes: int = 1
    step: float = 0.1

    def __post_init__(self) -> None:
        _check_probes(self.probes)
        if not 0 < self.step < 1:
            raise OptionError(f"the step of finite differences must lie in (0, 1), got {self.step}")

    def __call__(self, model: ScoreModel, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_t, _, level = noisy(model, x0, t, noise)
        v = probes(x_t, noise, self.probes, signs=True)
        h = (self.step * torch.where(level.sigma > 0, level.sigma, 1.0)).to(x_t.dtype)
        with torch.autocast(x_t.device.type, enabled=False):
            parts = [_differences(model, x_t, t, h, z) for z in v]
        loss = torch.stack(parts).mean(0) / _numbers(x_t)
        return converted(loss, SCORE, self.parametrization, level)


def _differences(model: ScoreModel, x: Tensor, t: Tensor, h: Tensor, v: Tensor) -> Tensor:
    """2 vᵀ∇ₓs v + ‖s‖² or, of an energy, + (vᵀs)², by differences along v; (B,)."""
    if isinstance(model, EnergyDenoiser):
        step = h.flatten()
        middle, right, left = (model.energy(place, t) for place in (x, x + h * v, x - h * v))
        return -2 * (right + left - 2 * middle) / step**2 + ((right - left) / (2 * step)) ** 2
    right, left = _both_scores(model, x + h * v, x - h * v, t)
    slope = (v * (right - left) / (2 * h)).flatten(1).sum(1)
    # The mean of both squares is ‖s‖² to O(h²) too, and spares the evaluation in the middle.
    return 2 * slope + ((right.square() + left.square()) / 2).flatten(1).sum(1)


def _both_scores(model: ScoreModel, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The scores at two places of each row, in one pass of a network without a condition, which belongs to its rows."""
    if isinstance(model, NetworkDenoiser) and model.condition is None:
        places = torch.cat((x, y))
        output, p, q = _affine(model, places, torch.cat((t, t)))
        right, left = (p * places + q * output(places)).chunk(2)
        return right, left
    return model.score(x, t), model.score(y, t)


def score_and_trace(model: ScoreModel, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The score (B, *shape) and its exact divergence (B,), in closed form where the network knows its trace."""
    output, p, q = _affine(model, x, t)
    if has_closed_trace(model):
        assert isinstance(model, NetworkDenoiser)
        level = model.schedule.at(t, like=x)
        y, trace = model.network.output_and_trace(*model.inputs(x, level), model.condition)  # type: ignore[operator]
        trace = model.input_scale(level).flatten().to(x.dtype) * trace
    else:
        y, trace = divergence(output, x, create_graph=torch.is_grad_enabled())
    return p * x + q * y, p.flatten() * _numbers(x) + q.flatten() * trace


def _affine(model: ScoreModel, x: Tensor, t: Tensor) -> tuple[Field, Tensor, Tensor]:
    """(y, p, q) with s(x) = p x + q y(x): y, a network's own output, is all of the score that needs a derivative."""
    if isinstance(model, NetworkDenoiser):
        level = model.schedule.at(t, like=x)
        p, q = model.parametrization.score_coefficients(level)
        return lambda place: model.output(place, level), p.to(x.dtype), q.to(x.dtype)
    return lambda place: model.score(place, t), x.new_zeros(()), x.new_ones(())


def has_closed_trace(model: ScoreModel) -> bool:
    """Whether the trace of this model's score costs no derivative."""
    if not isinstance(model, NetworkDenoiser) or isinstance(model, EnergyDenoiser) or model.learned_variance:
        return False
    if model.whitened:
        return False  # the trace known is that of the network alone
    return bool(getattr(model.network, "has_closed_trace", False))


def probes(x: Tensor, noise: Noise, count: int, signs: bool) -> Tensor:
    """Random directions (count, B, *shape) of mean zero and identity covariance: signs or normals."""
    v = torch.stack([noise.like(x, draw=1 + number) for number in range(count)])
    return v.sign() if signs else v


def _numbers(x: Tensor) -> int:
    return x[0].numel()


def _check_probes(count: int) -> None:
    if count < 1:
        raise OptionError(f"at least one probe is needed, got {count}")
