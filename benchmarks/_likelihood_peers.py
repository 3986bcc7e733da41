"""log p by torchdiffeq, zuko, flow_matching and k-diffusion, each given the exact field in its own convention.

- dopri5 of torchdiffeq on the same ODE: dx/dσ on EDM's range, dx/dt of VP with linear β or of the straight path
  x_t = (1 − t) x0 + t ε (x scaled by α, so that D log α is added), with log p of the Gaussian with the data's mean and
  covariance at the far end. It falls short of the mixture's by about the third cumulants over σ³: 1e-7 to 1e-5 nats at
  σ = 80, a tenth of that at the end of VP, nothing at the end of the straight path.
- zuko integrates any field, its base is a Gaussian: dx/dσ with the base N(0, σ_max²), or the straight path on
  [0, 1], which ends in N(0, I) exactly and starts at the data without noise.
- flow_matching integrates its velocity from 1, the data without noise, to 0, N(0, I): the straight path in its time.
- k-diffusion integrates dx/dσ with one probe, its far end is N(0, σ_max²).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import torch
import zuko
from _frontier_grids import k_sampling
from _frontier_problems import HIGH, LOW
from _likelihood_problems import SCHEDULES, Answer, Contender, Metered, Problem, Velocity
from flow_matching.solver import ODESolver
from torch import Tensor
from torchdiffeq import odeint

from scorefield.noise import VP, Flow, Schedule

warnings.filterwarnings("ignore", module="torchdiffeq")

AT_ONCE = 16  # more, as zuko has, take longer in 64 dimensions
ALL = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)


def versions() -> str:
    """What is compared with."""
    return ", ".join(f"{name} {version(name)}" for name in ("torchdiffeq", "zuko", "flow_matching", "k-diffusion"))


def along_sigma(model: Metered) -> Velocity:
    """dx/dσ = (x − E[x0 given x])/σ, which is E[ε given x]."""
    return lambda x, sigma: model(x, sigma).epsilon


def straight(model: Metered) -> Velocity:
    """dx/dt = E[ε − x0 given x] on the straight path, t from 0 (data) to 1 (noise)."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        estimate = model(x, t)
        return estimate.epsilon - estimate.x0

    return velocity


def along_vp(model: Metered) -> Velocity:
    """dx/dt = −½β (x − E[ε given x]/σ)."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        estimate = model(x, t)
        return -_beta(t) / 2 * (x - estimate.epsilon / estimate.level.sigma)

    return velocity


def _beta(t: Tensor) -> Tensor:
    schedule = SCHEDULES["VP"]
    assert isinstance(schedule, VP)
    return schedule.beta_min + (schedule.beta_max - schedule.beta_min) * t


VELOCITIES: dict[str, Callable[[Metered], Velocity]] = {"σ": along_sigma, "VP": along_vp, "straight": straight}


def _divergence(path: str, problem: Problem, x: Tensor, t: Tensor) -> Tensor:
    """Of these velocities, from the closed form of tr ∂E[x0 given x]/∂x."""
    level, trace = SCHEDULES[path].at(t), problem.trace(x, t, SCHEDULES[path])
    of_epsilon = (problem.features - level.alpha * trace) / level.sigma
    if path == "VP":
        return -_beta(t) / 2 * (problem.features - of_epsilon / level.sigma)
    return of_epsilon if path == "σ" else of_epsilon - trace


# -- torchdiffeq's dopri5 on our ODE, with our Gaussian at the far end ------------------------------------------------


def dopri5(path: str, closed: bool, tolerances: tuple[float, ...] = ALL) -> Contender:
    """dopri5 with the exact trace.

    Args:
        path: "σ", "VP" or "straight".
        closed: the trace in closed form, which costs nothing and is the same number; else passes back as
            `exact` has them.
        tolerances: relative and absolute, the same.
    """
    schedule = SCHEDULES[path]

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        model = problem.model(schedule)
        velocity = VELOCITIES[path](model)

        def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            x, _ = state
            return (velocity(x, t), _divergence(path, problem, x, t)) if closed else exact(velocity, x, t)

        low, high = (schedule.at(t) for t in (schedule.t_min, schedule.t_max))
        span = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        start = (float(low.alpha) * x, x.new_zeros(len(x)))
        with torch.no_grad():
            end, gained = odeint(slope, start, span, rtol=tolerance, atol=tolerance, method="dopri5")
        mixture, one = problem.mixture, torch.eye(problem.features, dtype=torch.float64)
        far = torch.distributions.MultivariateNormal(
            high.alpha * mixture.mean(), high.alpha**2 * mixture.covariance() + high.sigma**2 * one
        )
        values = far.log_prob(end[-1]) + gained[-1] + problem.features * math.log(float(low.alpha))
        return _every_one_with_trace(model, x, values)

    return Contender("dopri5", path, compute, tolerances)


def alone(contender: Contender) -> Contender:
    """The same, called for one row after the other, so that no row takes steps that another needs."""

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        answers = [contender.compute(problem, row, tolerance, seed) for row in x.split(1)]
        count = sum(answer.evaluations for answer in answers) / len(x)
        return Answer(torch.cat([answer.values for answer in answers]), count, count)

    return replace(contender, name=f"{contender.name}, rows alone", compute=compute)


def exact(velocity: Velocity, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The field (B, D) and its divergence (B,), by one pass back for each element, AT_ONCE of them batched."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = velocity(x, t)
    total = x.new_zeros(len(x))
    for first in range(0, x.shape[1], AT_ONCE):
        places = torch.arange(first, min(first + AT_ONCE, x.shape[1]))
        units = torch.eye(x.shape[1], dtype=x.dtype)[places].unsqueeze(1).expand(-1, *x.shape)
        (rows,) = torch.autograd.grad(value, x, units, is_grads_batched=True, retain_graph=True)
        total = total + rows[places - first, :, places].sum(0)
    return value.detach(), total


def _every_one_with_trace(model: Metered, x: Tensor, values: Tensor) -> Answer:
    count = model.rows / len(x)
    return Answer(values.detach(), count, count)


# -- libraries with a likelihood of their own -------------------------------------------------------------------------


def zukos(path: str, is_exact: bool, tolerances: tuple[float, ...] = ALL) -> Contender:
    """zuko's FreeFormJacobianTransform, path "σ" or "straight", with the exact trace or one Gaussian probe."""
    schedule: Schedule = SCHEDULES["σ"] if path == "σ" else Flow()
    low, high = (LOW, HIGH) if path == "σ" else (0.0, 1.0)

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        model = problem.model(schedule)
        velocity = along_sigma(model) if path == "σ" else straight(model)
        transform = zuko.transforms.FreeFormJacobianTransform(
            lambda t, x: velocity(x, t), low, high, atol=tolerance, rtol=tolerance, exact=is_exact
        )
        zero = torch.zeros(problem.features, dtype=torch.float64)
        flow = zuko.distributions.NormalizingFlow(transform, zuko.distributions.DiagNormal(zero, zero + high))
        with torch.no_grad(), _seeded(seed):
            return _every_one_with_trace(model, x, flow.log_prob(x))

    kind = path if is_exact else f"{path}, 1 probe"
    return Contender("zuko", kind, compute, tolerances, clean=path != "σ")


def flow_matchings(is_exact: bool, tolerances: tuple[float, ...] = ALL) -> Contender:
    """flow_matching's ODESolver.compute_likelihood by dopri5, with the exact trace or one random sign."""

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        model = problem.model(Flow())
        velocity = straight(model)

        def log_noise(z: Tensor) -> Tensor:
            return -(z.square() + math.log(2 * math.pi)).sum(1) / 2

        solver = ODESolver(lambda x, t: -velocity(x, 1 - t))
        with _seeded(seed):
            _, values = solver.compute_likelihood(
                x, log_noise, None, method="dopri5", atol=tolerance, rtol=tolerance, exact_divergence=is_exact
            )
        return _every_one_with_trace(model, x, values)

    return Contender("flow_matching", "" if is_exact else "1 probe", compute, tolerances, clean=True)


def k_diffusions(tolerances: tuple[float, ...] = ALL) -> Contender:
    """k-diffusion's log_likelihood: dopri5 with one random sign."""

    def compute(problem: Problem, x: Tensor, tolerance: float, seed: int) -> Answer:
        model = problem.model(SCHEDULES["σ"])
        with _seeded(seed):
            values, _ = k_sampling.log_likelihood(
                lambda x, sigma: model(x, sigma[0]).x0, x, LOW, HIGH, atol=tolerance, rtol=tolerance
            )
        return _every_one_with_trace(model, x, values)

    return Contender("k-diffusion", "1 probe", compute, tolerances)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """They draw from the global generator, in the default type: flow_matching's probe fits rows of no other."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
