"""Log-likelihood by the probability flow: where a row comes from in the noise, and how the flow has squeezed it.

    log p(x_t) = log q_T(y_T) + ∫ div f du + log |det ∂y/∂x_t|                       along y′ = f(y, u)          (1)

(Song et al. 2021, Eq. 39, arXiv:2011.13456) in the coordinates y of `whitened`, of which data of any schedule have mean
0 and covariance I at every level. q is their density, and u = √θ: in θ alone networks, which are told the level as
log σ/α, are steep near data. Since ∂q/∂u + div(q f) = 0, for any way y(u), on the flow or off it,

    log q_0(y_0) = log q_T(y_T) + ∫ div f + r·∇log q du,   r = f(y) − y′                                        (2)

and ∇log q is the model's score. So the flow is solved roughly, row by row; a polynomial through some of its places is
the way; and what it has missed is made good at the nodes of a rule of integration, where f and its divergence are asked
for: with a perfect score nothing is left of the error of the path, with a learned one a part of what was made good. The
path comes first and does not depend on the divergence, so nothing that random probes do can change a step. The rule is
refined until the Chebyshev coefficients of the integrand have fallen far enough.

At the top q_T is taken for N(0, I), as samplers take it for their first draw: log p is that of what they would draw
with no error of their own, and integrates to one whatever the model is. What data have there beyond mean and covariance
is of third order in σ_d/σ_max.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scorefield.calculus import divergence, hutchinson_divergence
from scorefield.errors import OptionError, SamplingError
from scorefield.likelihood.whitened import Frame, Whitened
from scorefield.model import Denoiser, of_places
from scorefield.noise import Time
from scorefield.ode import column, integrate, refusal
from scorefield.quadrature import coefficients, interpolation, nodes, weights
from scorefield.randomness import Stream

_DEGREE = 32  # of the polynomial way
_FEWEST, _MOST = 32, 128  # intervals of the rule
_AT_ONCE = 1 << 10  # rows at nodes, or
_NUMBERS_AT_ONCE = 1 << 13  # numbers of these, that a model is asked for in a batch: more only fills caches
_FOR_PROBES = 32  # of the rule where the divergence is estimated, whose noise hides what more would bring
_SHARE = 2.0  # of the tolerance, for the error of a step of the path, as (2) makes most of it good
_LOG_2_PI = math.log(2 * math.pi)
_LEFT = 1 / 3  # of what (2) has made good, for learned scores


@dataclass(frozen=True, eq=False)
class LogProb:
    """log p of rows in nats, with what is known of its error.

    Args:
        value: log p, (B,) float64.
        trace_error: its standard error from random probes, (B,), zero where the divergence is exact.
        solver_error: the errors of the path and of the integral, estimated, (B,).
        evaluations: of the model for each row along the path, (B,) int64.
        traces: of the model with its divergence, (B,) int64.
        faults: of rows that could not go on, by their numbers, why. Their value and errors are NaN.
    """

    value: Tensor
    trace_error: Tensor
    solver_error: Tensor
    evaluations: Tensor
    traces: Tensor
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def std_error(self) -> Tensor:
        """√(trace_error² + solver_error²), (B,) nats."""
        return torch.hypot(self.trace_error, self.solver_error)


def log_prob(
    model: Denoiser,
    x: Tensor,
    t: Time | None = None,
    *,
    tolerance: float = 1e-3,
    probes: int | None = None,
    seed: int = 0,
    rows: range | None = None,
    strict: bool = True,
) -> LogProb:
    """log p_t(x) of each row by (2).

    Args:
        model: the denoiser, conditions bound to it; its moments are those of the Gaussian at the top.
        x: (B, *shape) at t. Rounding limits what can be reached: float64 for tolerances below 1e-4.
        t: (); by default x are data, log p is that of x_t = α x at the lowest level, brought to the units of x. What
            noise there is hides nothing that data tell.
        tolerance: about the error to expect of a learned score, nats; that of a perfect one is far less.
        probes: how many random vectors estimate the divergence at each node, at least 2; None for the exact one, which
            costs as many backward passes as a row has numbers.
        seed: of the probes, which are those of Stream(seed, "likelihood probes").
        rows: the numbers of the rows, by which probes are drawn and messages call them.
        strict: whether a row that cannot go on is an error. Without it the others go on, and `faults` says why.

    Returns:
        log p with its errors; a row does not depend on the others.

    Raises:
        OptionError: for a tolerance that is none, and one probe.
        SamplingError: for a time out of the schedule's range, and with `strict` for rows that cannot go on.
    """
    if not 0 < tolerance < math.inf:
        raise OptionError(f"the tolerance is an error in nats, finite and above 0, got {tolerance}")
    if probes is not None and probes < 2:
        raise OptionError(f"at least 2 probes are needed, as one has no standard error, got {probes}")
    rows = range(len(x)) if rows is None else rows
    if not len(x):
        none, counts = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        return LogProb(none, none, none, counts, counts)
    schedule, lowest = model.schedule, t is None
    t = torch.as_tensor(schedule.t_min if t is None else t, dtype=torch.float64)
    if not schedule.t_min <= float(t) <= schedule.t_max:
        raise SamplingError(f"times are from {schedule.t_min:g} to {schedule.t_max:g}, got t = {float(t):g}")
    with torch.no_grad():
        way, level = Whitened.of(model, x.device), schedule.at(t, like=x)
        here = way.at(t, x)
        y, low, high = here.enter(level.alpha.to(x) * x if lowest else x), way.theta(t), way.theta(schedule.t_max)
        path = _follow(way, y, math.sqrt(low), math.sqrt(high), tolerance, rows, strict)
        start = here.log_slope() - (_sum(path.y[-1].double().square()) + math.prod(x.shape[1:]) * _LOG_2_PI) / 2
        if lowest:
            start = start + math.prod(x.shape[1:]) * level.alpha.log()
        if probes is None:
            found = _exact(way, path, tolerance)
        else:
            found = _estimated(way, path, probes, Stream(seed, "likelihood probes"), rows)
        made, faults = torch.stack([start + found.value, found.noise, found.error]), dict(path.faults)
        for place in (~made.isfinite().all(0)).nonzero().flatten().tolist():
            faults.setdefault(rows[place], "the model's divergence is not finite on its way")
        if faults and strict:
            raise SamplingError(refusal(faults, len(rows)))
        made[:, torch.tensor([row in faults for row in rows])] = math.nan
        return LogProb(made[0], made[1], made[2], path.evaluations, found.evaluations, faults)


@dataclass(frozen=True, eq=False)
class _Path:
    """The polynomial way: u (K,), y and y′ there (K, B, *shape), evaluations (B,), and rows that could not go on."""

    u: Tensor
    y: Tensor
    slope: Tensor
    evaluations: Tensor
    faults: dict[int, str]

    def every(self, n: int) -> list[int]:
        """The places of the rule with n intervals among those of the finest."""
        return list(range(0, len(self.u), (len(self.u) - 1) // n))

    @property
    def half(self) -> float:
        """Half the length of the way, in u."""
        return float(self.u[-1] - self.u[0]) / 2


@dataclass(frozen=True, eq=False)
class _Integral:
    """That of (2), its standard error, the error of rule and path, and evaluations, each (B,)."""

    value: Tensor
    noise: Tensor
    error: Tensor
    evaluations: Tensor


def _follow(way: Whitened, y: Tensor, low: float, high: float, tolerance: float, rows: range, strict: bool) -> _Path:
    select = of_places(way.model, len(y))

    def slope_of(y: Tensor, u: Tensor, places: Tensor) -> Tensor:
        t = way.time(u.square())
        here = way.at(t, y)
        return column(2 * u, y) * here.slope(y, here.v(select(places), here.leave(y), t))

    if low == high:
        still = y.expand(_MOST + 1, *y.shape)
        nowhere = torch.full((_MOST + 1,), low, dtype=torch.float64, device=y.device)
        none = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        return _Path(nowhere, still, torch.zeros_like(still), none, {})
    allowed = _SHARE * tolerance / math.sqrt(max(1, math.prod(y.shape[1:])))
    u = nodes(low, high, _DEGREE).to(y.device)
    found = integrate(
        slope_of,
        y,
        low,
        high,
        rtol=0.0,
        atol=allowed,
        rows=rows,
        at=u,
        strict=strict,
        told=lambda u, places: way.time(u.square()),
    )
    values, slopes = (part.to(y) for part in interpolation(_DEGREE, _MOST))
    smooth = torch.tensordot(values, found.between, 1)
    smooth[0], smooth[-1] = y, found.x  # to the bit
    slope = torch.tensordot(slopes, found.between, 1) * (2 / (high - low))
    return _Path(nodes(low, high, _MOST).to(y.device), smooth, slope, found.evaluations, found.faults)


def _exact(way: Whitened, path: _Path, tolerance: float) -> _Integral:
    """By the exact divergence, with the rule refined row by row."""
    count, asked = path.y.shape[1], torch.zeros_like(path.evaluations)
    values = path.u.new_zeros((2, len(path.u), count))

    def rule(n: int, places: Sequence[int], rows: Tensor) -> Tensor:
        """The integrals of div f and of r·∇log q, (2, b)."""
        for some in _Nodes.each(way, path, places, rows):
            v, trace = divergence(some.v, some.x_t)
            new = torch.stack([some.of_divergence(trace), some.missed(v)])
            values[:, some.places.unsqueeze(1), rows] = new.unflatten(1, (-1, len(rows)))
        asked[rows] += len(places)
        found = values[:, path.every(n)][:, :, rows]
        error[rows] = path.half * _tail(found.sum(0))
        return path.half * torch.einsum("k,ikb->ib", weights(n).to(found), found)

    left, n = torch.arange(count, device=values.device), _FEWEST
    error = values.new_full((count,), math.inf)
    total = rule(n, path.every(n), left)
    while n < _MOST and len(left := left[error[left] > tolerance / 2]):
        n *= 2
        total[:, left] = rule(n, path.every(n)[1::2], left)
    return _Integral(total.sum(0), torch.zeros_like(error), error + _LEFT * total[1].abs(), asked)


def _tail(values: Tensor) -> Tensor:
    """How wrong a rule may be, from values at its nodes, (n + 1, b): (b,).

    Chebyshev coefficients of an analytic function fall geometrically. With the largest of the last half A and of the
    last quarter B, those beyond the last are some B²/A or less.
    """
    n = len(values) - 1
    size = (coefficients(n).to(values) @ values).abs()
    half, quarter = size[n // 2 :].amax(0), size[3 * n // 4 :].amax(0)
    return 8 / n * quarter * quarter / half.clamp(min=torch.finfo(values.dtype).tiny)


def _estimated(way: Whitened, path: _Path, probes: int, stream: Stream, rows: range) -> _Integral:
    """By random signs drawn anew at each node, whose errors are independent: their variances add up.

    The rule with half the nodes tells of the rule's own error where it is apart by more than three times what the signs
    explain; where they explain nothing, as of numbers that are independent, the whole change is told.
    """
    every, places = torch.arange(len(rows), device=path.y.device), path.every(_FOR_PROBES)
    means, variances, missed = (path.u.new_zeros((len(path.u), len(rows))) for _ in range(3))
    for some in _Nodes.each(way, path, places, every, probes):
        drawn = [
            [_signs(stream, rows, some.y, place, draw) for place in some.places.tolist()] for draw in range(probes)
        ]
        signs = torch.stack([torch.cat(at_nodes) for at_nodes in drawn])
        v, found = hutchinson_divergence(some.v, some.x_t, signs)
        # What the Gaussian's own slope does to the same signs is known, and so is its mean.
        by_gaussian = torch.stack([some.frame.gaussian_quadratic(z) for z in signs])
        found = some.of_divergence(found) - some.scale * (by_gaussian - some.frame.gaussian_divergence())
        mean = found.mean(0)
        spread = (found - mean).square().sum(0) / (probes - 1) / probes
        for kept, new in ((means, mean), (variances, spread), (missed, some.missed(v))):
            kept[some.places] = new.unflatten(0, (-1, len(rows)))
    means, variances, missed = (kept[places] for kept in (means, variances, missed))
    fine = path.half * weights(_FOR_PROBES).to(path.u.device)
    change = fine.clone()
    change[::2] -= path.half * weights(_FOR_PROBES // 2).to(path.u.device)
    apart, explained = change @ (means + missed), change.square() @ variances
    error = (apart**2 - 9 * explained).clamp(min=0).sqrt()
    asked = torch.full_like(path.evaluations, len(places))
    by_score = fine @ missed
    noise = (fine.square() @ variances).sqrt()
    return _Integral(fine @ means + by_score, noise, error + _LEFT * by_score.abs(), asked)


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Some rows at some nodes of the rule, node by node in one batch: b = (how many nodes) × (how many rows).

    Args:
        places: of the nodes on the path.
        model: the denoiser for this batch.
        frame, t: the coordinates, and (b,).
        scale: dθ/du, (b,).
        y, slope, x_t: (b, *shape).
    """

    places: Tensor
    model: Denoiser
    frame: Frame
    t: Tensor
    scale: Tensor
    y: Tensor
    slope: Tensor
    x_t: Tensor

    @staticmethod
    def each(way: Whitened, path: _Path, places: Sequence[int], rows: Tensor, probes: int = 1) -> Iterator[_Nodes]:
        """Those rows of a path at all these places, in batches that are large enough to be quick and fit in memory."""
        numbers = len(rows) * math.prod(path.y.shape[2:]) * probes
        size = max(1, min(_AT_ONCE // len(rows), _NUMBERS_AT_ONCE // max(1, numbers)))
        for part in torch.as_tensor(places, device=rows.device).split(size):
            u = path.u[part].repeat_interleave(len(rows))
            y, slope = (whole[part.unsqueeze(1), rows].flatten(0, 1) for whole in (path.y, path.slope))
            t = way.time(u.square())
            frame = way.at(t, y)
            yield _Nodes(part, way.model.of_rows(rows.repeat(len(part))), frame, t, 2 * u, y, slope, frame.leave(y))

    def v(self, x_t: Tensor) -> Tensor:
        """The slope of z, (b, *shape)."""
        return self.frame.v(self.model, x_t, self.t)

    def of_divergence(self, trace: Tensor) -> Tensor:
        """div f from tr ∂v/∂x_t, (…, b) float64."""
        return self.scale * (trace.double() / self.frame.stretch.reshape(-1) - self.frame.gaussian_divergence())

    def missed(self, v: Tensor) -> Tensor:
        """r·∇log q from v, (b,) float64."""
        slope = self.frame.slope(self.y, v)
        return _sum((column(self.scale, slope) * slope - self.slope) * self.frame.score(self.y, slope))


def _signs(stream: Stream, rows: range, like: Tensor, node: int, draw: int) -> Tensor:
    z = stream.normal(rows, like.shape[1:], step=node, draw=draw, dtype=torch.float32, device=like.device)
    return torch.where(z < 0, -1.0, 1.0).to(like)


def _sum(x: Tensor) -> Tensor:
    """Over each row, (b,) float64."""
    return x.double().reshape(len(x), math.prod(x.shape[1:])).sum(1)
