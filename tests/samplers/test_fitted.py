"""Solvers that are tables: a known solver as one gives its samples, a file keeps every bit, bad tables are refused."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VE, VP, Flow, Schedule, Time
from scorefield.parametrization import X0, Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers.fitted import FittedSolver, FittedStep
from scorefield.samplers.grids import karras, straight
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams
from scorefield.samplers.predictors import Ancestral, Euler
from scorefield.samplers.straight import StraightAdams

Mixture = Callable[[Schedule], GaussianMixture]
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}
SOLVERS: dict[str, Predictor] = {
    "ddim": Ancestral(0.0),
    "2m": DPMSolver2M(),
    "adams": ExponentialAdams(3),
    "straight": StraightAdams(3, 1.0),
    "euler": Euler(),
}
LADDER = FittedSolver((10.0, 3.0, 1.0), ((0.5, 0.5), (0.4, 0.7, -0.1), (0.1, 1.2, -0.4, 0.1)), 0.01, 0.001)


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, VE, EDM and flow in turn."""
    return request.param


# -- equivalences -----------------------------------------------------------------------------------------------------


class Pulse(Denoiser):
    """Says E[x0 given x] = 1 of row j + 1 at step j, and 0 else: row j + 1 of a walk is what becomes of x̂0_j."""

    sigma_data = 1.0

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.step = schedule, 0

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        x0 = torch.zeros_like(x_t)
        x0[self.step + 1] = 1
        self.step += 1
        return X0.split(x0, x_t, self.schedule.at(t, like=x_t))


def table(predictor: Predictor, schedule: Schedule, grid: Tensor) -> tuple[tuple[float, ...], ...]:
    """The a_i and b_ij of any solver that asks once a step, from its answers to a start of 1 and to each x̂0 alone."""
    steps = len(grid) - 1
    model, x = Pulse(schedule), torch.zeros(steps + 1, 1, dtype=torch.float64)
    x[0], memory, rows = 1, None, []
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        below, memory = predictor(model, x, t, s, memory, Noise(Stream(0, "none"), range(steps + 1), i))
        keep = float(below[0] / x[0])
        shares = (below - keep * x)[1 : i + 2, 0].flip(0)
        rows.append((keep, *shares.tolist()))
        x = below
    return tuple(rows)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_known_solver_as_a_table_gives_its_samples(schedule: Schedule, name: str, mixture: Mixture) -> None:
    model, grid = mixture(schedule), karras(schedule, 9)
    weights = table(SOLVERS[name], schedule, grid)
    start = Stream(4, "start").normal(8, (2,), dtype=torch.float64) * schedule.at(grid[0]).sigma
    assert [len(row) for row in weights] == list(range(2, 10))
    truth = sample(model, 8, (2,), grid, SOLVERS[name], seed=0, start=start)
    solver = FittedSolver(tuple(grid.tolist()), weights, 0.0, 0.0)
    assert torch.allclose(solver(model, 8, (2,), seed=0, start=start), truth, rtol=1e-6, atol=1e-7)
    # Without the last estimate the walk ends with a step, here to the level t_min.
    to_the_end = sample(model, 8, (2,), grid, SOLVERS[name], seed=0, start=start, denoise=False)
    solver = FittedSolver(tuple(grid[:-1].tolist()), weights, 0.0, 0.0)
    assert torch.allclose(solver(model, 8, (2,), seed=0, start=start), to_the_end, rtol=1e-6, atol=1e-7)


def test_ddim_as_its_paper_has_it(schedule: Schedule, mixture: Mixture) -> None:
    # x_s = α_s x̂0 + σ_s (x − α_t x̂0)/σ_t: a row of two numbers is enough.
    model, grid = mixture(schedule), straight(schedule, 7)
    level = schedule.at(grid)
    ratio = level.sigma[1:] / level.sigma[:-1]
    weights = tuple(zip(ratio.tolist(), (level.alpha[1:] - ratio * level.alpha[:-1]).tolist(), strict=True))
    solver = FittedSolver(tuple(grid.tolist()), weights, 0.0, 0.0)
    ddim = sample(model, 8, (2,), grid, Ancestral(0.0), seed=2)
    assert torch.allclose(solver(model, 8, (2,), seed=2), ddim, rtol=1e-4, atol=1e-5)


# -- laws -------------------------------------------------------------------------------------------------------------


class Shrinking(Denoiser):
    """x0 of N(0, 1) data, number by number: the same to the bit in any batch."""

    sigma_data = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.schedule = EDM(0.1, 10.0)

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        return X0.split(x_t / (1 + float(level.sigma) ** 2), x_t, level)


class Watched(Denoiser):
    """A model that remembers what it was asked and said."""

    def __init__(self, truth: Denoiser) -> None:
        super().__init__()
        self.truth, self.schedule, self.sigma_data = truth, truth.schedule, truth.sigma_data
        self.asked: list[float] = []
        self.said: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Time) -> Estimate:
        estimate = self.truth(x_t, t)
        self.asked.append(float(t))
        self.said.append(estimate.x0)
        return estimate


@pytest.mark.parametrize("rows", [2, 3])
def test_it_asks_once_at_each_of_its_times_and_ends_in_either_way(rows: int, mixture: Mixture) -> None:
    model = Watched(mixture(EDM(0.1, 10.0)))
    solver = replace(LADDER, weights=LADDER.weights[:rows])
    end = solver(model, 4, (2,), seed=0)
    assert model.asked == [10.0, 3.0, 1.0]
    assert solver.steps == 3
    if rows == 2:
        assert torch.equal(end, model.said[-1])
        assert solver.grid(model.schedule).tolist() == [10.0, 3.0, 1.0]
    else:
        # Whatever the last step leads to is the end: no evaluation is at t_min.
        assert solver.grid(model.schedule).tolist() == [10.0, 3.0, 1.0, 0.1]
        seen = model.said[::-1]
        x = sample(model, 4, (2,), solver.grid(model.schedule)[:3], FittedStep(LADDER.weights), seed=0, denoise=False)
        kept, *shares = LADDER.weights[2]
        total = kept * x + torch.stack([share * x0 for share, x0 in zip(shares, seen, strict=True)]).sum(0)
        assert torch.allclose(end, total, rtol=1e-5, atol=1e-6)


def test_one_evaluation_is_a_solver_in_either_way(mixture: Mixture) -> None:
    model = mixture(EDM(0.1, 10.0))
    start = model.sample(4, seed=0, t=10.0)
    estimate = model(start, 10.0).x0
    assert torch.equal(FittedSolver((10.0,), (), 0.0, 0.0)(model, 4, (2,), seed=0, start=start), estimate)
    end = FittedSolver((10.0,), ((0.25, 3.0),), 0.0, 0.0)(model, 4, (2,), seed=0, start=start)
    assert torch.allclose(end, 0.25 * start + 3 * estimate, rtol=1e-12)


def test_row_i_is_the_same_to_the_bit_whatever_is_drawn_with_it(mixture: Mixture) -> None:
    model = mixture(EDM(0.1, 10.0))
    for solver in (LADDER, replace(LADDER, weights=LADDER.weights[:2])):
        whole = solver(model, 50, (2,), seed=3)
        parts = [solver(model, range(a, b), (2,), seed=3) for a, b in itertools.pairwise((0, 1, 17, 50))]
        assert torch.equal(torch.cat(parts), whole)
        assert not torch.equal(solver(model, 50, (2,), seed=4), whole)


def random_table(steps: int) -> FittedStep:
    """A step with weights at random, of the newest estimate only or of all."""
    numbers = Stream(5, "weights").normal(steps, (steps + 1,), dtype=torch.float64) / steps
    return FittedStep(tuple(tuple(row[: i + 2 if i % 3 else 2].tolist()) for i, row in enumerate(numbers)))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sum_of_many_estimates_is_the_same_to_the_bit_in_any_batch(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    # A matrix product sums in another order where its tile ends, so that rows at the end of a batch would differ.
    model, grid = Shrinking(), karras(EDM(0.1, 10.0), 21)
    start = 10 * Stream(6, "start").normal(67, shape, dtype=dtype)
    step = random_table(20)

    def walk(rows: slice) -> Tensor:
        return sample(model, len(start[rows]), shape, grid, step, seed=0, denoise=False, start=start[rows])

    whole = walk(slice(None))
    for a, b in itertools.pairwise((0, 1, 4, 20, 53, 66, 67)):
        assert torch.equal(walk(slice(a, b)), whole[a:b])


def test_a_step_is_the_sum_of_all_estimates_with_its_row_of_the_table() -> None:
    # Against the sum as the module's first line has it, on x̂0_j that are known.
    model, grid, step = Shrinking(), karras(EDM(0.1, 10.0), 13), random_table(12)
    x, memory = 10 * Stream(6, "start").normal(5, (2,), dtype=torch.float64), None
    seen: list[Tensor] = []
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        seen.insert(0, model(x, t).x0)
        keep, *shares = step.weights[i]
        expected = keep * x + torch.stack([b * one for b, one in zip(shares, seen, strict=False)]).sum(0)
        x, memory = step(model, x, t, s, memory, Noise(Stream(0, "none"), range(5), i))
        assert torch.allclose(x, expected, rtol=1e-12, atol=1e-14)


def test_a_memory_may_be_walked_on_from_twice() -> None:
    model, grid, step = Shrinking(), karras(EDM(0.1, 10.0), 6), random_table(5)
    noise = Noise(Stream(0, "none"), range(3), 0)
    x, memory = torch.ones(3, 2), None
    for t, s in itertools.pairwise(grid[:3]):
        x, memory = step(model, x, t, s, memory, noise)
    assert memory is not None
    kept = memory.clone()
    first, after = step(model, x, grid[2], grid[3], memory, noise)
    step(model, first, grid[3], grid[4], after, noise)
    again, _ = step(model, x, grid[2], grid[3], memory, noise)
    assert torch.equal(memory, kept)
    assert torch.equal(again, first)


def test_weights_that_cancel_are_not_rounded_to_the_type_of_x() -> None:
    # x0 is 1 at all levels, and 32.4 − 31.4 leave 1. In bfloat16 they would be 32.5 and 31.375.
    class One(Shrinking):
        def forward(self, x_t: Tensor, t: Time) -> Estimate:
            return X0.split(torch.ones_like(x_t), x_t, self.schedule.at(t, like=x_t))

    step = FittedStep(((0.0, 1.0), (0.0, 32.4, -31.4)))
    end = sample(One(), 2, (2,), karras(EDM(0.1, 10.0), 3), step, seed=0, denoise=False, dtype=torch.bfloat16)
    assert end.dtype == torch.bfloat16
    assert (end == 1).all()


def test_types_are_kept_and_x_is_left_as_it_was(mixture: Mixture) -> None:
    model = mixture(EDM(0.1, 10.0))
    for kind in (torch.float32, torch.float64):
        start = torch.ones(2, 2, dtype=kind)
        assert LADDER(model, 2, (2,), seed=0, start=start).dtype == kind
        assert torch.equal(start, torch.ones(2, 2, dtype=kind))


def test_steps_are_told_with_their_estimates(mixture: Mixture) -> None:
    seen: list[tuple[int, float, bool]] = []
    LADDER(
        mixture(EDM(0.1, 10.0)), 2, (2,), seed=0, on_step=lambda n, t, x, x0: seen.append((n, float(t), x0 is not None))
    )
    assert seen == [(0, 10.0, True), (1, 3.0, True), (2, 1.0, True), (3, 0.1, False)]


def test_a_solver_is_kept_to_the_bit(mixture: Mixture) -> None:
    model, schedule = mixture(VP()), VP()
    grid = straight(schedule, 7)
    weights = table(DPMSolver2M(), schedule, grid)
    for rows in (weights, weights[:5]):
        solver = FittedSolver(tuple(grid[:6].tolist()), rows, 1 / 3, 1e-17)
        again = FittedSolver.from_json(json.loads(json.dumps(solver.to_json())))
        assert again == solver
        assert again.name == "fitted"
        assert torch.equal(again(model, 4, (2,), seed=1), solver(model, 4, (2,), seed=1))


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"times": (), "weights": ()},
        {"times": (10.0, 3.0, 3.0)},
        {"times": (10.0, 3.0, 4.0)},
        {"times": (10.0, 3.0, math.nan)},
        {"times": (math.inf, 3.0, 1.0)},
        {"times": (10.0, 3.0)},
        {"weights": LADDER.weights[:1]},
        {"weights": ((0.5,), *LADDER.weights[1:])},
        {"weights": ((0.5, 0.1, 0.1), *LADDER.weights[1:])},
        {"weights": ((0.5, math.nan), *LADDER.weights[1:])},
        {"weights": ((math.inf, 0.5), *LADDER.weights[1:])},
    ],
)
def test_a_table_that_is_no_solver_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="finite falling times and for step i a factor of x and 1 to i"):
        replace(LADDER, **wrong)
    with pytest.raises(SamplingError, match="finite falling times"):
        FittedSolver.from_json(LADDER.to_json() | wrong)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1])
def test_an_error_that_is_none_is_refused(wrong: float) -> None:
    for name in ("error", "std_error"):
        with pytest.raises(SamplingError, match="a fitted solver has a finite error"):
            replace(LADDER, **{name: wrong})


@pytest.mark.parametrize("wrong", [{"times": 3}, {"weights": [1.0]}, {"weights": [["a", "b"]]}, {"error": None}])
def test_what_is_no_table_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match="has numbers `times`, `weights`, `error` and `std_error`, got"):
        FittedSolver.from_json(LADDER.to_json() | wrong)
    for name in ("times", "weights", "error", "std_error"):
        with pytest.raises(SamplingError, match="has numbers"):
            FittedSolver.from_json({key: value for key, value in LADDER.to_json().items() if key != name})


@pytest.mark.parametrize("low", [1.0, 2.0])
def test_a_schedule_without_its_times_is_refused(low: float, mixture: Mixture) -> None:
    # At t_min the last step would lead nowhere, and below it up: into new noise.
    with pytest.raises(SamplingError, match="was fitted to times from 10 to 1, the schedule has t_max = 80"):
        LADDER(Watched(mixture(EDM(low, 80.0))), 2, (2,), seed=0)
    with pytest.raises(SamplingError, match="was fitted to times from 10 to 1, the schedule has t_max = 9"):
        LADDER(Watched(mixture(EDM(0.1, 9.0))), 2, (2,), seed=0)
    estimate = replace(LADDER, weights=LADDER.weights[:2])
    assert estimate.grid(EDM(1.0, 80.0))[-1] == 1.0  # which may be t_min
