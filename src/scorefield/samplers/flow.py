"""The probability flow in both directions, between any two levels, with the error of every row under control.

In units of its level, z = x/r with r = √(α²σ_d² + σ²), and with the angle θ = atan2(σ, α σ_d) between data and noise,

    z = cos θ · x0/σ_d + sin θ · ε,   dz/dθ = −sin θ · E[x0 given x_t]/σ_d + cos θ · E[ε given x_t]            (1)

is the flow of every schedule at once: α′ and σ′ drop out, nothing grows without bound, and θ ends at π/2 where α = 0.
The slope is the v of Salimans & Ho 2022, arXiv:2202.00512, whose appendix D has (1) for σ_d = 1 and α² + σ² = 1. The
clock is u = θ^{1/4}, dz/du = 4u³ dz/dθ: even steps of it grow finer towards the data, where detail is formed, as those
of Karras' grid do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.mixing import mix
from scorefield.model import Denoiser, of_places
from scorefield.noise import NoiseLevel
from scorefield.ode import Integrated, OnAttempt, column, integrate
from scorefield.polar import angle, radius
from scorefield.samplers.loop import OnStep, from_normal, to_normal


@dataclass(frozen=True, eq=False)
class Flowed:
    """Where the flow has taken each row, and what that took.

    Args:
        x: (B, *shape) at the level asked for.
        x0: E[x0 given x] there, (B, *shape), which has cost no evaluation; NaN where a row had no way to go.
        evaluations: of the model for each row, (B,) int64.
        accepted, rejected: steps of each row, (B,) int64.
    """

    x: Tensor
    x0: Tensor
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor


def probability_flow(
    model: Denoiser,
    x: Tensor,
    t: Tensor | float,
    s: Tensor | float,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    rows: range | None = None,
    on_step: OnStep | None = None,
) -> Flowed:
    """Follow dx/dt = f x − ½ g² ∇log p_t(x), in the form (1), from t to s, up or down.

    Song et al. 2021, Eq. 13, arXiv:2011.13456, by Dormand & Prince's pair (`ode`).

    Args:
        model: the denoiser; conditions are bound to it beforehand by `given`.
        x: (B, *shape) at t.
        t, s: () or (B,), anywhere in the schedule's range.
        rtol, atol: the error of a step, relative to z and absolute in z, of which the unit is the deviation of the
            level: that of data at the bottom. The error of the whole way is about as large.
        rows: the numbers by which messages call the rows.
        on_step: called before each attempt at a step as on_step(attempt, t, x, x0), with the time (B,) of each row.

    Returns:
        the rows at s.

    Raises:
        SamplingError: for times out of the schedule's range, and for rows that cannot go on.
    """
    way = _Way.of(model, x, t, s)
    with torch.no_grad():
        begin = (x / way.radius(way.level(way.start)).to(x.dtype), way.clock(way.start), way.clock(way.end))
        watch = None if on_step is None else way.watch(on_step)
        found = integrate(way.field, *begin, rtol=rtol, atol=atol, rows=rows, on_attempt=watch, told=way.time)
        return way.arrived(found)


def encode(model: Denoiser, x0: Tensor, *, rtol: float = 1e-4, atol: float = 1e-4, rows: range | None = None) -> Flowed:
    """Data to noise: the rows z ≈ N(0, I) from which `decode` makes these data, (B, *shape) in the result's x.

    The flow starts at t_min, where x should hold a little noise and data hold none. They are taken for x_t as they
    are, x = α x0, and `decode` ends with x/α: each is the other's inverse, whatever the data are. Data are off p_t by
    no more than the noise of the lowest level, which is chosen to be invisible. (Ending with E[x0 given x] instead
    would have no inverse: all x beside a manifold of data share one mean on it.)

    Args:
        model: the denoiser.
        x0: data, (B, *shape).
        rtol, atol, rows: as in `probability_flow`.
    """
    schedule = model.schedule
    x = schedule.at(schedule.t_min, like=x0).alpha.to(x0.dtype) * x0
    found = probability_flow(model, x, schedule.t_min, schedule.t_max, rtol=rtol, atol=atol, rows=rows)
    return replace(found, x=to_normal(model, found.x, schedule.t_max))


def decode(model: Denoiser, z: Tensor, *, rtol: float = 1e-4, atol: float = 1e-4, rows: range | None = None) -> Flowed:
    """Noise to data: the inverse of `encode`, with the data (B, *shape) in the result's x.

    Args:
        model: the denoiser.
        z: normals, (B, *shape).
        rtol, atol, rows: as in `probability_flow`.
    """
    schedule = model.schedule
    x = from_normal(model, z, schedule.t_max)
    found = probability_flow(model, x, schedule.t_max, schedule.t_min, rtol=rtol, atol=atol, rows=rows)
    return replace(found, x=found.x / schedule.at(schedule.t_min, like=z).alpha.to(z.dtype))


def interpolate(
    model: Denoiser, a: Tensor, b: Tensor, shares: Tensor, *, rtol: float = 1e-4, atol: float = 1e-4
) -> Tensor:
    """Data between two data, row by row: decoded from the great circle between their encodings.

    Song et al. 2020, §5.3, arXiv:2010.02502, with `slerp`.

    Args:
        model: the denoiser.
        a, b: data, (B, *shape).
        shares: how far from a to b, (K,).
        rtol, atol: as in `probability_flow`.

    Returns:
        (K, B, *shape), a where the share is 0 and b where it is 1, to the tolerance.
    """
    if a.shape != b.shape or shares.ndim != 1:
        raise SamplingError(
            f"interpolation is between rows of one shape at a list of shares, got {tuple(a.shape)}, {tuple(b.shape)} "
            f"and shares of shape {tuple(shares.shape)}"
        )
    first, second = (encode(model, x0, rtol=rtol, atol=atol).x for x0 in (a, b))
    ways = [decode(model, slerp(first, second, share), rtol=rtol, atol=atol).x for share in shares.tolist()]
    return torch.stack(ways) if ways else a.new_empty(0, *a.shape)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(sin((1 − share) ω) a + sin(share ω) b)/sin ω, with ω the angle between two rows.

    Shoemake 1985, "Animating rotation with quaternion curves". Normals lie near a sphere, and so do rows on this great
    circle, but not on the straight line. Where two rows point the same way, or one way and back, as any two numbers do,
    the straight line is taken.

    Args:
        a, b: (B, *shape).
        share: 0 for a, 1 for b.

    Returns:
        (B, *shape).
    """
    flat_a, flat_b = (x.reshape(len(x), math.prod(x.shape[1:])).double() for x in (a, b))
    length_a, length_b = (x.norm(dim=1, keepdim=True) for x in (flat_a, flat_b))
    unit_a, unit_b = flat_a / length_a, flat_b / length_b
    # The angle from the sides of a rhomb, precise for all angles, where that from the cosine is not for small ones.
    omega = 2 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    straight = ~(omega.sin() > 1e-6)  # none, too, where a row is zero
    sine = torch.where(straight, 1.0, omega.sin())
    of_a = torch.where(straight, 1 - share, torch.sin((1 - share) * omega) / sine)
    of_b = torch.where(straight, share, torch.sin(share * omega) / sine)
    return (of_a * flat_a + of_b * flat_b).to(a.dtype).reshape(a.shape)


@dataclass(frozen=True, eq=False)
class _Way:
    """The way of a batch from its start to its end, in the coordinates of (1)."""

    model: Denoiser
    select: Callable[[Tensor], Denoiser]
    start: Tensor
    end: Tensor
    like: Tensor

    @staticmethod
    def of(model: Denoiser, x: Tensor, t: Tensor | float, s: Tensor | float) -> _Way:
        schedule = model.schedule
        times = [torch.as_tensor(time, dtype=torch.float64, device=x.device).expand(len(x)) for time in (t, s)]
        slack = 1e-9 * (schedule.t_max - schedule.t_min)  # times come from inverses, to rounding
        for time in times:
            outside = ~((time >= schedule.t_min - slack) & (time <= schedule.t_max + slack))
            if outside.any():
                raise SamplingError(
                    f"the flow leads through times from {schedule.t_min:g} to {schedule.t_max:g}, got "
                    f"t = {float(time[outside][0]):g}"
                )
        return _Way(model, of_places(model, len(x)), times[0], times[1], x)

    def level(self, t: Tensor) -> NoiseLevel:
        return self.model.schedule.at(t, like=self.like)

    def radius(self, level: NoiseLevel) -> Tensor:
        return radius(level, self.model.sigma_data)

    def angle(self, level: NoiseLevel) -> Tensor:
        return angle(level, self.model.sigma_data)

    def clock(self, t: Tensor) -> Tensor:
        return self.angle(self.model.schedule.at(t)).sqrt().sqrt()

    def time(self, u: Tensor, places: Tensor) -> Tensor:
        """The inverse of `clock`, and exactly within the way."""
        theta = u.square().square().clamp(max=math.pi / 2)
        t = self.model.schedule.time_of(2 * (theta.cos().log() - theta.sin().log() - math.log(self.model.sigma_data)))
        start, end = self.start[places], self.end[places]
        return t.minimum(torch.maximum(start, end)).maximum(torch.minimum(start, end))

    def field(self, z: Tensor, u: Tensor, places: Tensor) -> Tensor:
        """dz/du."""
        t = self.time(u, places)
        level = self.level(t)
        estimate = self.select(places)(self.radius(level).to(z.dtype) * z, t)
        theta = self.angle(level)
        pace = _pace(theta)
        return mix(-pace * theta.sin() / self.model.sigma_data, estimate.x0, pace * theta.cos(), estimate.epsilon)

    def read(self, z: Tensor, slope: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x, and E[x0 given x] = σ_d (cos θ z − sin θ dz/dθ)."""
        level = self.level(t)
        theta = self.angle(level)
        x0 = mix(self.model.sigma_data * theta.cos(), z, -self.model.sigma_data * theta.sin() / _pace(theta), slope)
        return self.radius(level).to(z.dtype) * z, x0

    def watch(self, on_step: OnStep) -> OnAttempt:
        everywhere = torch.arange(len(self.start), device=self.start.device)

        def seen(attempt: int, u: Tensor, z: Tensor, slope: Tensor) -> None:
            t = self.time(u, everywhere)
            on_step(attempt, t, *self.read(z, slope, t))

        return seen

    def arrived(self, found: Integrated) -> Flowed:
        x, x0 = self.read(found.x, found.slope, self.end)
        # Where there was no way x stays as it is, to the bit.
        still = column(self.start == self.end, x)
        x = torch.where(still, self.like, x)
        return Flowed(x, x0, found.evaluations, found.accepted, found.rejected)


def _pace(theta: Tensor) -> Tensor:
    """dθ/du = 4u³."""
    u = theta.sqrt().sqrt()
    return 4 * u * u.square()
