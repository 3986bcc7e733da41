"""Ordinary differential equations, a batch at a time: Euler, Heun, RK4, and pairs with error control per row.

    dx/dt = f(x, t):   k_i = f(x + h Σ_j a_ij k_j, t + c_i h),   x_new = x + h Σ_i b_i k_i                     (1)
    error = h Σ_i (b_i − b̂_i) k_i,   ‖error‖ = RMS over the row of error/(atol + rtol max(|x|, |x_new|))       (2)
    accepted where ‖error‖ ≤ 1;   h ← h · clip(0.9 ‖error‖^{−(1/p − ¾β)} ‖error before‖^β, 0.2, 10)             (3)

(Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, 2nd ed. 1993: §II.1 for (1), §II.4 for (2);
(3) is the controller of their code DOPRI5, Hairer & Wanner II, §IV.2, with β = 0.04.) Here every row has its own
clock, its own h and its own decision, and leaves the batch when it arrives; a row is the same in any batch. Within
a step x is known everywhere, by the method's continuous extension (§II.6 there).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.tableaus import DORMAND_PRINCE, RK4, Tableau

# f of (1), called with x (b, *shape), t (b,) float64 and the places (b,) int64 that these rows have in the whole batch,
# as only rows still on their way are asked for: what is bound to a row elsewhere is found by its place.
Field = Callable[[Tensor, Tensor, Tensor], Tensor]

# Called with the number of the attempt, t (B,) and, of the whole batch, x and dx/dt, each (B, *shape).
OnAttempt = Callable[[int, Tensor, Tensor, Tensor], None]

_SAFETY, _BETA, _SMALLEST, _LARGEST = 0.9, 0.04, 0.2, 10.0  # of (3), as in DOPRI5


@dataclass(frozen=True, eq=False)
class Integrated:
    """Where each row has come, and what that took.

    Args:
        x: (B, *shape) at `t`.
        t: (B,) float64, the end asked for wherever there is no fault.
        slope: dx/dt there, (B, *shape), which costs nothing more; NaN where a row had no way to go.
        evaluations: of the field for each row, (B,) int64.
        accepted, rejected: steps of each row, (B,) int64.
        faults: why a row went no further, by its number.
        between: x at the times asked for on the way, (K, B, *shape); NaN where a row has not come by.
    """

    x: Tensor
    t: Tensor
    slope: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    faults: dict[int, str]
    between: Tensor


def fixed_steps(
    field: Field, x: Tensor, t0: Tensor | float, t1: Tensor | float, steps: int, tableau: Tableau = RK4
) -> Tensor:
    """`steps` steps of equal length from t0 to t1, up or down, by (1).

    Args:
        field: f.
        x: (B, *shape) at t0.
        t0, t1: () or (B,).
        steps: how many, at least 1.
        tableau: the method.

    Returns:
        x at t1, (B, *shape).

    Raises:
        SamplingError: for fewer than one step.
    """
    if steps < 1:
        raise SamplingError(f"an integration needs at least 1 step, got {steps}")
    start, end = _times(t0, x), _times(t1, x)
    rows = torch.arange(len(x), device=x.device)
    slope = None
    for step in range(steps):
        t = start + (end - start) * (step / steps)
        first = _slope(field, x, t, rows) if slope is None else slope
        x, slopes = _step(field, tableau, x, t, (end - start) / steps, rows, first)
        slope = slopes[-1] if tableau.first_same_as_last else None
    return x


def integrate(
    field: Field,
    x: Tensor,
    t0: Tensor | float,
    t1: Tensor | float,
    *,
    rtol: float,
    atol: float,
    tableau: Tableau = DORMAND_PRINCE,
    max_attempts: int = 10_000,
    rows: range | None = None,
    strict: bool = True,
    on_attempt: OnAttempt | None = None,
    at: Tensor | None = None,
    told: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Integrated:
    """Every row from its t0 to its t1, up or down, with steps of its own that keep (2) at most one.

    Args:
        field: f. It is asked for one value at the start, one more for the first step's length, and then for as many as
            the tableau has, less one, at each attempt of a row.
        x: (B, *shape) at t0, of any floating type; times and step lengths are float64.
        t0, t1: () or (B,).
        rtol, atol: the error allowed in a step, relative to x and absolute. Rounding of x is on top.
        tableau: a method with an embedded one.
        max_attempts: of one row.
        rows: the numbers by which messages and `faults` call the rows; 0 … B − 1 by default.
        strict: whether a row that cannot go on is an error. Without it the row stays where it is, and the others go on.
        on_attempt: called before each attempt.
        at: times (K,) float64 between t0 and t1 at which x is wanted, which costs no evaluation.
        told: what messages call times (b,) of the rows at places (b,), where t is a clock that nobody else knows.

    Returns:
        end points, what lies between, counts and faults.

    Raises:
        SamplingError: for tolerances that are none and a tableau without an embedded method or, with `at`, without a
            continuous extension; with `strict` for a row
            whose field is not finite, whose step falls below the resolution of its clock, or that has had
            `max_attempts`.
    """
    if not (0 <= rtol < math.inf and 0 < atol < math.inf):  # an x of zero has no relative error
        raise SamplingError(f"tolerances are finite, rtol ≥ 0 and atol > 0, got rtol {rtol} and atol {atol}")
    if not (tableau.error and tableau.first_same_as_last):
        raise SamplingError(f"{tableau.name} has no embedded method to judge a step by")
    if at is not None and not tableau.dense:
        raise SamplingError(f"{tableau.name} has no continuous extension to read x from between its steps")
    names = range(len(x)) if rows is None else rows
    start, end = _times(t0, x), _times(t1, x)
    places = torch.arange(len(x), device=x.device)
    zeros = torch.zeros_like(places)
    at = start.new_zeros(0) if at is None else at.to(start)
    between = x.new_full((len(at), *x.shape), math.nan)
    between[at.unsqueeze(1) == start] = x.expand_as(between)[at.unsqueeze(1) == start]
    blank, counts = torch.full_like(x, math.nan), (zeros, zeros.clone(), zeros.clone())
    result = Integrated(x.clone(), start.clone(), blank, *counts, {}, between)
    away = start != end
    walk = _begin(field, x[away], start[away], end[away], places[away], rtol, atol, tableau.order)
    result.evaluations[away] = 2
    leave = partial(_leave, result, names=names, strict=strict, told=told)
    leave(walk, ~_finite(walk.slope), "the field is not finite")
    walk = walk.of(_finite(walk.slope))
    attempt = 0
    while len(walk.places):
        if on_attempt is not None:
            _write(result, walk)
            on_attempt(attempt, result.t.clone(), result.x.clone(), result.slope.clone())
        before = walk
        walk, accepted, step = _attempt(field, tableau, walk, rtol, atol)
        attempt += 1
        _between(result.between, at, before, walk.t, accepted, step, tableau)
        result.evaluations[walk.places] += len(tableau.nodes) - 1
        result.accepted[walk.places] += accepted
        result.rejected[walk.places] += ~accepted
        there = walk.t == walk.end
        # The clock is resolved to about 2⁻⁵² of the larger of its ends.
        stuck = ~accepted & (walk.h.abs() < 2.0**-49 * torch.maximum(walk.t.abs(), walk.end.abs()))
        tired = ~there & ~stuck & torch.tensor(attempt >= max_attempts, device=x.device)
        leave(walk, stuck & walk.broken, "the field is not finite just beyond its place")
        leave(walk, stuck & ~walk.broken, "the step falls below the resolution of the clock")
        leave(walk, tired, f"{max_attempts} attempts are not enough")
        gone = there | stuck | tired
        if gone.any():
            _write(result, walk.of(gone))
            walk = walk.of(~gone)
    return result


def refusal(faults: Mapping[int, str], count: int) -> str:
    """The words for rows that cannot go on, of so many: how many, and why the first one cannot."""
    row = min(faults)
    return f"{len(faults)} of {count} rows cannot go on, row {row}: {faults[row]}"


def column(c: Tensor, like: Tensor) -> Tensor:
    """One number a row, shaped to broadcast over the row.

    Args:
        c: (b,); bools stay bools, numbers are brought to the type of `like`.
        like: (b, *shape).

    Returns:
        (b, 1, …, 1), with as many dimensions as `like`.
    """
    return (c if c.dtype == torch.bool else c.to(like.dtype)).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class _Walk:
    """The rows still on their way: each entry has one row of each."""

    places: Tensor
    x: Tensor
    slope: Tensor
    t: Tensor
    end: Tensor
    h: Tensor  # signed
    error: Tensor  # ‖error‖ of the last accepted step, of (3)
    refused: Tensor  # whether the last attempt was
    broken: Tensor  # whether one since the last accepted step met values that are not finite

    def of(self, which: Tensor) -> _Walk:
        return _Walk(*(getattr(self, entry.name)[which] for entry in fields(self)))


def _begin(
    field: Field, x: Tensor, t: Tensor, end: Tensor, places: Tensor, rtol: float, atol: float, order: int
) -> _Walk:
    """The first step's length, by Hairer, Nørsett & Wanner I, §II.4, "Starting step size"."""
    if not len(x):  # a field need not know what an empty batch is
        return _Walk(places, x, torch.zeros_like(x), t, end, t, t, places.bool(), places.bool())
    slope = _slope(field, x, t, places)
    scale = atol + rtol * x.abs()
    size, speed = _norm(x / scale), _norm(slope / scale)
    way = end - t
    # Theirs is 1e-6 where x or the slope is all but zero; a slope of zero says nothing of the scale of the clock.
    h0 = torch.minimum(0.01 * size.clamp(min=1.0) / speed, 0.01 * way.abs())
    near = x + column(way.sign() * h0, x) * slope
    bend = _norm((_slope(field, near, t + way.sign() * h0, places) - slope) / scale) / h0
    most = torch.maximum(speed, bend)
    h = torch.minimum(100 * h0, _power(0.01 / most, 1 / order)).minimum(way.abs())
    h = torch.where(bend.isfinite(), h, h0)
    no = torch.zeros_like(places).bool()
    return _Walk(places, x, slope, t, end, way.sign() * h, torch.full_like(t, 1e-4), no, no)


@dataclass(frozen=True, eq=False)
class _Tried:
    """A step that was tried: its length h (b,), where it led to, and its slopes, each (b, *shape)."""

    h: Tensor
    x: Tensor
    slopes: list[Tensor]


def _attempt(field: Field, tableau: Tableau, walk: _Walk, rtol: float, atol: float) -> tuple[_Walk, Tensor, _Tried]:
    """The rows after one attempt each, which were accepted, and the step."""
    way = walk.end - walk.t
    last = 1.01 * walk.h.abs() >= way.abs()
    h = torch.where(last, way, walk.h)
    x, slopes = _step(field, tableau, walk.x, walk.t, h, walk.places, walk.slope)
    error = column(h, x) * _sum(tableau.error, slopes)
    norm = _norm(error / (atol + rtol * torch.maximum(walk.x.abs(), x.abs())))
    norm = torch.where(_finite(slopes[-1]), norm, math.inf).nan_to_num(nan=math.inf, posinf=math.inf)
    accepted = norm <= 1
    shrink = _power(norm.clamp(min=1e-10), -(1 / tableau.order - 0.75 * _BETA))
    kept = (_SAFETY * shrink * _power(walk.error, _BETA)).clamp(_SMALLEST, _LARGEST)
    kept = torch.where(walk.refused, kept.clamp(max=1.0), kept)  # no growth right after a refusal
    factor = torch.where(accepted, kept, (_SAFETY * shrink).clamp(min=_SMALLEST))
    choose = column(accepted, x)
    after = replace(
        walk,
        x=torch.where(choose, x, walk.x),
        slope=torch.where(choose, slopes[-1], walk.slope),
        t=torch.where(accepted, torch.where(last, walk.end, walk.t + h), walk.t),
        h=h * factor,
        error=torch.where(accepted, norm.clamp(min=1e-4), walk.error),
        refused=~accepted,
        broken=~accepted & (walk.broken | norm.isinf()),
    )
    return after, accepted, _Tried(h, x, slopes)


def _between(
    found: Tensor, at: Tensor, before: _Walk, after: Tensor, accepted: Tensor, step: _Tried, tableau: Tableau
) -> None:
    """Write x at those times that accepted steps have passed by: with θ the share of the step and Δ = x_new − x,

    x(θ) = x + θ (Δ + (1 − θ)(b + θ (Δ − h k_n − b + (1 − θ) h Σ_i d_i k_i))),   b = h k_1 − Δ                      (4)
    """
    if not len(at):
        return
    share = (at.unsqueeze(1) - before.t) / step.h
    # A step's end is t + h to rounding, so that it is not the share that says which times have been passed by.
    beyond = (at.unsqueeze(1) - after) * step.h.sign() > 0
    when, row = ((share > 0) & ~beyond & accepted).nonzero(as_tuple=True)
    if not len(when):
        return
    x, slopes, h = before.x[row], [slope[row] for slope in step.slopes], column(step.h[row], before.x)
    theta, change = column(share[when, row], x), step.x[row] - x
    bend = h * slopes[0] - change
    inner = change - h * slopes[-1] - bend + (1 - theta) * h * _sum(tableau.dense, slopes)
    found[when, before.places[row]] = x + theta * (change + (1 - theta) * (bend + theta * inner))


def _step(
    field: Field, tableau: Tableau, x: Tensor, t: Tensor, h: Tensor, places: Tensor, first: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """x after a step of h, and all k_i of (1), of which the first is given."""
    slopes, at, width = [first], x, column(h, x)
    for node, row in zip(tableau.nodes[1:], tableau.matrix[1:], strict=True):
        at = x + width * _sum(row, slopes)
        slopes.append(_slope(field, at, t + node * h, places))
    return at if tableau.first_same_as_last else x + width * _sum(tableau.weights, slopes), slopes


def _sum(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    used = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = used[0][0] * used[0][1]
    for weight, slope in used[1:]:
        total = torch.add(total, slope, alpha=weight)
    return total


def _slope(field: Field, x: Tensor, t: Tensor, places: Tensor) -> Tensor:
    slope = field(x, t, places).to(x.dtype)
    if slope.shape != x.shape:
        raise SamplingError(f"a field is shaped like its argument, {tuple(x.shape)}, got {tuple(slope.shape)}")
    return slope


def _write(result: Integrated, walk: _Walk) -> None:
    result.x[walk.places], result.t[walk.places], result.slope[walk.places] = walk.x, walk.t, walk.slope


def _leave(
    result: Integrated,
    walk: _Walk,
    which: Tensor,
    why: str,
    *,
    names: range,
    strict: bool,
    told: Callable[[Tensor, Tensor], Tensor] | None,
) -> None:
    """Write rows that cannot go on, and say why, in which step and where."""
    if not which.any():
        return
    lost = walk.of(which)
    _write(result, lost)
    times = (lost.t if told is None else told(lost.t, lost.places)).tolist()
    for place, steps, t in zip(lost.places.tolist(), result.accepted[lost.places].tolist(), times, strict=True):
        result.faults[names[place]] = f"{why} in step {steps}, at t = {t:g}"
    if strict:
        raise SamplingError(refusal(result.faults, len(names)))


def _times(t: Tensor | float, x: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))


def _norm(x: Tensor) -> Tensor:
    """Root mean square over each row, (b,) float64, to single precision: which way a sum is taken differs between
    batches, and should not reach the steps."""
    size = math.prod(x.shape[1:])
    return (x.reshape(len(x), size).double().square().sum(1) / max(size, 1)).sqrt().float().double()


def _power(x: Tensor, exponent: float) -> Tensor:
    """x^exponent, x > 0: torch's own differs in the last place with the length of x."""
    return torch.exp(exponent * torch.log(x))


def _finite(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:])).isfinite().all(1)
