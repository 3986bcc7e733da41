"""Log-likelihood by the probability flow: where a row comes from in the noise, and how the flow has squeezed it.

    log p(x_t) = log N(y_T; 0, I) + ∫_θ^θ_T div(dy/dθ) dθ + log |det ∂y/∂x_t|                                   (1)

in the coordinates y of `whitened`, of which data of any schedule have mean 0 and covariance I at every level; at the
top they are taken for normal (Song et al. 2021, Eq. 39, arXiv:2011.13456, with N(α μ, α²Σ + σ²I) in place of
N(0, σ_max²)). The path does not depend on the divergence, so it comes first, and the divergence is asked for at the
nodes of a rule of integration only, `quadrature`: nothing that random probes do can change a step.

Every part tells its error. An error e of y on the path changes log p by e·∇log q(y), q being the density of y, to
first order, since the rest of (1) goes on from there. The rule is refined from n to 2n nodes until what is left of the
change is small: for analytic functions e_{2n} ~ e_n (e_n/e_{n/2})². At the top, log q differs from log N(0, I) by δ
with ∇δ = ∇log q + y, to leading order a cubic in y, so that δ is about y·∇δ/2 or less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scorefield.calculus import divergence, hutchinson_divergence
from scorefield.errors import OptionError, SamplingError
from scorefield.likelihood.whitened import Whitened
from scorefield.model import Denoiser, of_places
from scorefield.noise import Time
from scorefield.ode import integrate
from scorefield.quadrature import nodes, weights
from scorefield.randomness import Stream

_FEWEST, _MOST = 8, 128  # intervals of the rule
_FOR_PROBES = 32  # of the rule where the divergence is estimated, whose noise hides what more would bring
_SHARE = 0.05  # of the tolerance for a step of the path, as some ten of them add up


@dataclass(frozen=True, eq=False)
class LogProb:
    """log p of rows in nats, with what is known of its error.

    Args:
        value: log p, (B,) float64.
        trace_error: its standard error from random probes, (B,), zero where the divergence is exact.
        solver_error: the errors of the path, of the integral and of the Gaussian at the top, estimated, (B,).
        evaluations: of the model for each row along the path, (B,) int64.
        traces: of the model with its divergence, (B,) int64.
    """

    value: Tensor
    trace_error: Tensor
    solver_error: Tensor
    evaluations: Tensor
    traces: Tensor

    @property
    def std_error(self) -> Tensor:
        """√(trace_error² + solver_error²), (B,) nats."""
        return torch.hypot(self.trace_error, self.solver_error)


def log_prob(
    model: Denoiser,
    x: Tensor,
    t: Time | None = None,
    *,
    tolerance: float = 1e-4,
    probes: int | None = None,
    seed: int = 0,
    rows: range | None = None,
) -> LogProb:
    """log p_t(x) of each row by (1).

    Args:
        model: the denoiser, conditions bound to it; its moments are those of the Gaussian at the top.
        x: (B, *shape) at t. Rounding limits what can be reached: float64 for tolerances below 1e-5.
        t: (); by default x are data, log p is that of x_t = α x at the lowest level, brought to the units of x. What
            noise there is hides nothing that data tell.
        tolerance: the error allowed, nats.
        probes: how many random vectors estimate the divergence at each node, at least 2; None for the exact one, which
            costs as many backward passes as a row has numbers.
        seed: of the probes, which are those of Stream(seed, "likelihood probes").
        rows: the numbers of the rows, by which probes are drawn and messages call them.

    Returns:
        log p with its errors; a row does not depend on the others.

    Raises:
        OptionError: for a tolerance that is none, and one probe.
        SamplingError: for a time out of the schedule's range, and rows that cannot go on.
    """
    if not 0 < tolerance < math.inf:
        raise OptionError(f"the tolerance is an error in nats, finite and above 0, got {tolerance}")
    if probes is not None and probes < 2:
        raise OptionError(f"at least 2 probes are needed, as one has no standard error, got {probes}")
    rows = range(len(x)) if rows is None else rows
    schedule, lowest = model.schedule, t is None
    t = torch.as_tensor(schedule.t_min if t is None else t, dtype=torch.float64)
    if not schedule.t_min <= float(t) <= schedule.t_max:
        raise SamplingError(f"times are from {schedule.t_min:g} to {schedule.t_max:g}, got t = {float(t):g}")
    with torch.no_grad():
        way = Whitened.of(model, x.device)
        level = schedule.at(t, like=x)
        x_t = level.alpha.to(x) * x if lowest else x
        low, high = float(way.theta(t)), float(way.theta(schedule.t_max))
        path = _follow(way, way.at(t, x).enter(x_t), low, high, tolerance, rows)
        squared = path.y[-1].double().square().reshape(len(x), -1).sum(1)
        start = -(squared + x[0].numel() * math.log(2 * math.pi)) / 2 + way.at(t, x).log_slope()
        if lowest:
            start = start + x[0].numel() * level.alpha.log()
        if probes is None:
            found = _exact(way, path, tolerance)
        else:
            found = _estimated(way, path, probes, Stream(seed, "likelihood probes"), rows)
    return LogProb(start + found.value, found.noise, path.error + found.error, path.evaluations, found.evaluations)


@dataclass(frozen=True, eq=False)
class _Path:
    """y at the finest rule's nodes θ (K,), (K, B, *shape), the error in log p, and evaluations, each (B,)."""

    theta: Tensor
    y: Tensor
    error: Tensor
    evaluations: Tensor

    def every(self, n: int) -> list[int]:
        """The places of the rule with n intervals among those of the finest."""
        return list(range(0, len(self.theta), (len(self.theta) - 1) // n))


@dataclass(frozen=True, eq=False)
class _Integral:
    """∫ div(dy/dθ) dθ, its standard error, the error of the rule, and evaluations, each (B,)."""

    value: Tensor
    noise: Tensor
    error: Tensor
    evaluations: Tensor


def _follow(way: Whitened, y: Tensor, low: float, high: float, tolerance: float, rows: range) -> _Path:
    theta = nodes(low, high, _MOST).to(y.device)
    select = of_places(way.model, len(y))

    def field(y: Tensor, theta: Tensor, places: Tensor) -> Tensor:
        t = way.time(theta)
        here = way.at(t, y)
        return here.slope(y, here.v(select(places), here.leave(y), t))

    def adjoint(y: Tensor, slope: Tensor, theta: Tensor) -> Tensor:
        return way.at(way.time(theta), y).score(y, slope)

    # The norm of a step's error over the whole row, and not its mean over numbers, is what log p feels.
    allowed = _SHARE * tolerance / math.sqrt(y[0].numel())
    found = integrate(field, y, low, high, rtol=0.0, atol=allowed, rows=rows, at=theta, adjoint=adjoint)
    y, top = found.x, way.time(theta[-1])
    beyond = (y * (way.at(top, y).score(y, found.slope) + y)).double().reshape(len(y), -1).sum(1).abs() / 2
    return _Path(theta, found.between, found.error + beyond, found.evaluations)


def _exact(way: Whitened, path: _Path, tolerance: float) -> _Integral:
    """By the exact divergence, with the rule refined row by row."""
    count = path.y.shape[1]
    select, half = of_places(way.model, count), float(path.theta[-1] - path.theta[0]) / 2
    values = path.error.new_zeros((len(path.theta), count))
    asked = torch.zeros_like(path.evaluations)

    def rule(n: int, places: Sequence[int], rows: Tensor) -> Tensor:
        for place in places:
            t = way.time(path.theta[place])
            y, model = path.y[place, rows], select(rows)
            here = way.at(t, y)
            trace = divergence(partial(here.v, model, t=t), here.leave(y))[1]
            values[place, rows] = trace.double() / here.stretch.reshape(-1) - here.gaussian_divergence()
        asked[rows] += len(places)
        return half * (weights(n).to(values) @ values[path.every(n)][:, rows])

    left, n = torch.arange(count, device=values.device), _FEWEST
    total = rule(n, path.every(n), left)
    error = torch.full_like(total, math.inf)
    change = error.clone()
    # The error would fall by the square of the ratio of two changes; its power 3/2 is on the safe side.
    while len(left) and n < _MOST:
        n *= 2
        now, before = rule(n, path.every(n)[1::2], left), change[left]
        change[left] = (now - total[left]).abs()
        error[left] = change[left] * torch.where(before.isinf(), 1.0, (change[left] / before).clamp(max=1.0) ** 1.5)
        total[left] = now
        left = left[error[left] > tolerance / 2]
    return _Integral(total, torch.zeros_like(total), error, asked)


def _estimated(way: Whitened, path: _Path, probes: int, stream: Stream, rows: range) -> _Integral:
    """By random signs drawn anew at each node, whose errors are independent: their variances add up."""
    half = float(path.theta[-1] - path.theta[0]) / 2
    share = half * weights(_FOR_PROBES).to(path.error)
    total, variance = torch.zeros_like(path.error), torch.zeros_like(path.error)
    places = path.every(_FOR_PROBES)
    for w, place in zip(share, places, strict=True):
        t, y = way.time(path.theta[place]), path.y[place]
        here = way.at(t, y)
        signs = torch.stack([_signs(stream, rows, y, place, draw) for draw in range(probes)])
        found = hutchinson_divergence(partial(here.v, way.model, t=t), here.leave(y), signs)[1]
        # What the Gaussian's own slope does to the same signs is known, and so is its mean.
        found = found.double() / here.stretch.reshape(-1) - torch.stack([here.gaussian_quadratic(z) for z in signs])
        total += w * found.mean(0)
        variance += w**2 * found.var(0) / probes
    return _Integral(total, variance.sqrt(), torch.zeros_like(total), torch.full_like(path.evaluations, len(places)))


def _signs(stream: Stream, rows: range, like: Tensor, node: int, draw: int) -> Tensor:
    z = stream.normal(rows, like.shape[1:], step=node, draw=draw, dtype=torch.float32, device=like.device)
    return torch.where(z < 0, -1.0, 1.0).to(like)
