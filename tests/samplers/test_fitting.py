"""Fitting: exact where theory says, never worse at a step than a rule, and an error that other noise bears out."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VE, VP, Flow, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.fitting import fit_solver, regress
from scorefield.samplers.grids import Grid, geometric, karras, straight
from scorefield.samplers.loop import Predictor, sample
from scorefield.samplers.measured import measure_grid
from scorefield.samplers.multistep import DPMSolver2M, ExponentialAdams
from scorefield.samplers.paths import Paths, follow
from scorefield.samplers.predictors import Ancestral
from scorefield.samplers.straight import StraightAdams

Mixture = Callable[[Schedule], GaussianMixture]
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "ve": VE(0.01, 100.0), "edm": EDM(0.01, 100.0), "flow": Flow()}


@pytest.fixture(params=list(SCHEDULES.values()), ids=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """VP, VE, EDM and flow in turn."""
    return request.param


def follow_all(model: Denoiser, rows: int, seed: int = 0, intervals: int = 128, features: int = 2) -> Paths:
    return follow(model, range(rows), (features,), seed=seed, intervals=intervals, dtype=torch.float64)


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


# -- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_one_evaluation_is_enough_for_a_round_gaussian(schedule: Schedule, mean: float) -> None:
    # E[x0 given x] is a number times x and one times the mean, and the end is, too: x and x̂0 span it.
    model = Gaussian(torch.full((3,), mean), 0.4 * torch.eye(3), schedule)
    paths = follow_all(model, 8, features=3)
    for steps in (1, 2, 5):
        assert fit_solver(paths, straight, steps).error < 2e-5


def test_a_gaussian_of_k_variances_needs_k_minus_one_evaluations(schedule: Schedule) -> None:
    # A path's end is a polynomial of the covariance times the start; x and n estimates span n + 1 of its powers. A flow
    # begins at α = 0, where the first estimate is the mean and says nothing.
    blind = int(float(schedule.at(schedule.t_max).alpha) == 0)
    variances = torch.tensor([0.05, 0.4, 1.2], dtype=torch.float64)
    for k, enough in ((2, 1 + blind), (3, 2 + blind)):
        model = Gaussian(torch.zeros(k), variances[:k].diag(), schedule)
        paths = follow_all(model, 16, features=k)
        errors = [fit_solver(paths, straight, steps).error for steps in (1, 2, 3, 4)]
        assert max(errors[enough - 1 :]) < 1e-4
        assert min(errors[: enough - 1], default=1.0) > 0.01


def test_errors_are_in_units_of_the_data(mixture: Mixture) -> None:
    # The same mixture seven times as large, on levels seven times as high: the same paths in other units.
    model = mixture(EDM(0.03, 80.0))
    large = model.standardised(torch.zeros(2), torch.full((2,), 1 / 7), EDM(0.21, 560.0))
    small, other = (
        fit_solver(follow_all(m, 32), lambda s, n, m=m: straight(s, n, scale=m.sigma_data), 6) for m in (model, large)
    )
    assert other.error == pytest.approx(small.error, rel=1e-4)
    assert other.std_error == pytest.approx(small.std_error, rel=1e-4)


# -- laws of least squares --------------------------------------------------------------------------------------------

RULES: dict[str, Predictor] = {
    "ddim": Ancestral(0.0),
    "2m": DPMSolver2M(),
    "adams": ExponentialAdams(3),
    "straight": StraightAdams(3),
}


@pytest.mark.parametrize("grid", [karras, straight])
def test_no_step_misses_more_of_its_learnt_rows_than_a_rule_would(
    schedule: Schedule, grid: Grid, mixture: Mixture
) -> None:
    # All of these steps are sums of x and the estimates so far: least squares may choose them. Each rule steps from
    # where the fitted solver has come to and remembers what it has seen there.
    model = mixture(schedule)
    paths = follow_all(model, 24)
    learn = slice(0, 12)
    times = grid(schedule, 9)
    weights, _ = regress(paths, times.tolist(), learn)
    x, seen = paths.at(float(times[0])), list[Tensor]()
    memories: dict[str, object] = dict.fromkeys(RULES)
    for step, (t, s) in enumerate(itertools.pairwise(times)):
        target = paths.at(float(s))
        seen.insert(0, model(x, t).x0)
        fitted = x * weights[step][0] + torch.stack(
            [w * x0 for w, x0 in zip(weights[step][1:], seen, strict=True)]
        ).sum(0)
        missed = float((fitted - target)[learn].square().sum())
        for name, rule in RULES.items():
            if name == "adams" and step == 1 and float(schedule.at(times[0]).alpha) == 0:
                memories[name] = None
            silent = Noise(Stream(0, "none"), range(24), step)
            ruled, memories[name] = rule(model, x, t, s, memories[name], silent)
            # The ridge may cost 1e-12 of the squares of what it adds up.
            room = 1e-10 * float(target[learn].square().sum())
            assert missed <= float((ruled - target)[learn].square().sum()) + room, (name, step)
        x = fitted


@pytest.mark.parametrize("steps", [4, 8])
def test_the_weights_are_where_squares_are_least(steps: int, mixture: Mixture) -> None:
    # Another number in any place of the last step makes its learnt rows worse.
    model = mixture(EDM(0.03, 80.0))
    paths = follow_all(model, 32)
    solver = fit_solver(paths, straight, steps)
    rows, last = solver.weights[:-1], solver.weights[-1]
    ending = len(solver.weights) == len(solver.times)
    target = paths.end if ending else paths.at(solver.times[-1])

    def missed(row: tuple[float, ...]) -> float:
        # To the last row's step: without its own last estimate where the walk ends with one.
        times = (*solver.times[: len(rows) + 1],)
        end = FittedSolver(times, (*rows, row), 0.0, 0.0)(model, 32, (2,), seed=0, start=paths.start)
        return float((end - target)[:16].square().sum())

    best = missed(last)
    for place in range(len(last)):
        for move in (-1e-3, 1e-3):
            assert missed((*last[:place], last[place] + move, *last[place + 1 :])) > best


def test_nothing_is_learnt_from_the_rows_that_judge(mixture: Mixture) -> None:
    paths = follow_all(mixture(VP()), 16)
    other = Paths(paths.model, paths.times, paths.x.clone(), paths.x0.clone())
    other.x[:, 8:], other.x0[:, 8:] = 1.1 * other.x[:, 8:], other.x0[:, 8:] + 3
    for steps in (1, 5):
        one, two = (fit_solver(each, straight, steps) for each in (paths, other))
        assert (one.times, one.weights) == (two.times, two.weights)
        assert two.error > one.error + 1


# -- the error that is expected ---------------------------------------------------------------------------------------


def surprise(expected: list[float], found: list[float]) -> float:
    """By how many standard errors the log of the distance on other noise is above that of the one expected."""
    gaps = torch.tensor(found, dtype=torch.float64).log() - torch.tensor(expected, dtype=torch.float64).log()
    return float(gaps.mean() / (gaps.std() / math.sqrt(len(gaps))))


@pytest.fixture(scope="module")
def fits() -> tuple[list[Paths], list[FittedSolver], list[float]]:
    """40 fits of 8 steps to 16 paths, and the distance of each solver on 8 rows that it has not seen."""
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    model = GaussianMixture(weights, means, 0.1 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2), EDM(0.03, 80.0))
    learnt, solvers, distances = [], [], []
    everything, others = follow_all(model, 40 * 16, seed=1), follow_all(model, 40 * 8, seed=2)
    for n in range(40):
        paths, fresh = everything.rows(slice(16 * n, 16 * n + 16)), others.rows(slice(8 * n, 8 * n + 8))
        solver = fit_solver(paths, lambda s, k: straight(s, k, scale=model.sigma_data), 8)
        ends = solver(model, 8, (2,), seed=0, start=fresh.start)
        learnt.append(paths)
        solvers.append(solver)
        distances.append(rms(ends - fresh.end) / model.sigma_data)
    return learnt, solvers, distances


def test_the_error_expected_is_that_on_other_noise(fits: tuple[list[Paths], list[FittedSolver], list[float]]) -> None:
    # H₀: the 8 rows that judge a fit and 8 others are alike, so that the log of the ratio of both distances has a law
    # symmetric about 0. Threshold 4 standard errors of the mean of 40 (Student, 39 degrees): false alarm 3e-4.
    learnt, solvers, distances = fits
    assert abs(surprise([solver.error for solver in solvers], distances)) < 4
    # Planted: judged on the rows that were learnt from, which 10 weights fit far too well.
    planted = []
    for paths, solver in zip(learnt, solvers, strict=True):
        ends = solver(paths.model, 16, (2,), seed=0, start=paths.start)
        planted.append(rms((ends - paths.end)[:8]) / paths.model.sigma_data)
    assert surprise(planted, distances) > 4


def test_the_standard_error_is_that_of_the_error(mixture: Mixture) -> None:
    # What 100 rows say scatters over 60 lots of them by the standard error that each says, for distances without heavy
    # tails, as a Gaussian's are: their ratio is known to 1/√(2·59) = 9 %. Threshold 4 of these; without the 2 of the
    # root, or √n, it is 2 or 10.
    model = Gaussian(torch.zeros(4), torch.tensor([0.01, 0.1, 0.5, 2.0], dtype=torch.float64).diag(), EDM(0.03, 80.0))
    paths = follow_all(model, 60 * 100, intervals=32, features=4)
    learnt, judges = paths.rows(slice(0, 100)), [paths.rows(slice(100 * n, 100 * n + 100)) for n in range(60)]
    solvers = [
        fit_solver(
            Paths(model, paths.times, torch.cat((learnt.x, judge.x), 1), torch.cat((learnt.x0, judge.x0), 1)),
            straight,
            2,
        )
        for judge in judges[1:]
    ]
    assert len({solver.weights for solver in solvers}) == 1
    said = torch.tensor([(solver.error, solver.std_error) for solver in solvers], dtype=torch.float64)
    assert float(said[:, 0].std() / said[:, 1].mean()) == pytest.approx(1, abs=4 * 0.09)


# -- what it gains ----------------------------------------------------------------------------------------------------


def test_at_few_evaluations_it_is_far_nearer_than_2m_on_the_grid_of_karras(
    schedule: Schedule, mixture: Mixture
) -> None:
    model = mixture(schedule)
    paths, judged = follow_all(model, 1024), follow_all(model, 512, seed=9)
    grid = measure_grid(paths)
    for steps in (5, 8, 10, 16):
        solver = fit_solver(paths, grid, steps)
        assert solver.steps == steps
        found = rms(solver(model, 512, (2,), seed=0, start=judged.start) - judged.end)
        rule = sample(model, 512, (2,), karras(schedule, steps), DPMSolver2M(), seed=0, start=judged.start)
        assert found < rms(rule - judged.end) / 5, steps
        # Few rows, between two modes, miss most; without them the error would be a third.
        assert 0.5 < found / model.sigma_data / solver.error < 2


def test_more_evaluations_make_less_error(schedule: Schedule, mixture: Mixture) -> None:
    paths = follow_all(mixture(schedule), 128)
    grid = measure_grid(paths)
    errors = [fit_solver(paths, grid, steps).error for steps in (2, 4, 8, 16, 32)]
    assert all(b < a / 1.5 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 5e-4


def test_the_ending_of_less_error_is_taken(mixture: Mixture) -> None:
    paths = follow_all(mixture(EDM(0.03, 80.0)), 32)
    learn, kinds = slice(0, 16), set()
    for grid, steps in ((straight, 6), (karras, 6), (straight, 1)):
        solver = fit_solver(paths, grid, steps)
        endings = [grid(paths.model.schedule, steps + 1)[:-1].tolist()]
        endings += [grid(paths.model.schedule, steps).tolist()] if steps > 1 else []
        found = [rms(regress(paths, times, learn)[1] - paths.end) for times in endings]
        place = found.index(min(found))
        assert list(solver.times) == endings[place]
        assert len(solver.weights) == (steps if place == 0 else steps - 1)
        kinds.add(place)
    assert 0 in kinds


def test_of_several_grids_the_nearest_is_taken_with_the_better_ending_of_the_first(mixture: Mixture) -> None:
    paths = follow_all(mixture(EDM(0.03, 80.0)), 32)
    tried, kept = (karras, straight, geometric), set()
    for first, steps in ((karras, 4), (straight, 4), (geometric, 3), (geometric, 16)):
        alone = fit_solver(paths, first, steps)
        leads_on = len(alone.weights) == steps
        levels = [each(paths.model.schedule, steps + leads_on).tolist()[:steps] for each in tried]
        found = [rms(regress(paths, times, slice(0, 16))[1] - paths.end) for times in levels]
        solver = fit_solver(paths, first, steps, *(each for each in tried if each is not first))
        assert list(solver.times) == levels[found.index(min(found))]
        assert (len(solver.weights) == steps) == leads_on
        kept.add((solver.times == alone.times, leads_on))
    assert {taken for taken, _ in kept} == {True, False}  # the first is kept where it is the nearest, and only there


# -- equivalences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [straight, karras, geometric])
def test_the_solver_ends_where_the_fit_said_it_would(schedule: Schedule, grid: Grid, mixture: Mixture) -> None:
    # Grids that are even in log σ/α begin a little below the start of a flow.
    model = mixture(schedule)
    paths = follow_all(model, 12)
    for times in (grid(schedule, 7).tolist(), grid(schedule, 7)[:-1].tolist()):
        weights, ends = regress(paths, times, slice(0, 6))
        solver = FittedSolver(tuple(times), tuple(tuple(row.tolist()) for row in weights), 0.0, 0.0)
        again = solver(model, 12, (2,), seed=0, start=paths.at(times[0]))
        assert torch.allclose(again, ends, rtol=1e-7, atol=1e-8)


def test_in_single_precision_it_is_as_near(schedule: Schedule, mixture: Mixture) -> None:
    model = mixture(schedule)
    single = follow(model, range(64), (2,), seed=0)
    found, expected = (fit_solver(paths, straight, 10) for paths in (single, follow_all(model, 64)))
    assert found.error == pytest.approx(expected.error, rel=0.3)
    end = found(model, 4, (2,), seed=0)
    assert end.dtype == torch.float32
    # Row 0 to 3 of the walk are those of the paths: all first draws are keyed by seed and row.
    assert torch.allclose(end, single.end[:4], rtol=0, atol=0.1)


def test_a_fit_is_the_same_again(mixture: Mixture) -> None:
    for kind in (torch.float32, torch.float64):
        one, two = (
            fit_solver(follow(mixture(VP()), range(16), (2,), seed=0, dtype=kind), straight, 6) for _ in range(2)
        )
        assert one == two


def test_rounding_is_not_raised_to_a_part_of_the_walk(mixture: Mixture) -> None:
    # Where a flow begins, E[x0 given x] is the mean, 0: the estimate there is of rounding, which differs by machine.
    for kind in (torch.float32, torch.float64):
        solver = fit_solver(follow(mixture(Flow()), range(64), (2,), seed=0, dtype=kind), straight, 8)
        assert max(abs(row[-1]) for row in solver.weights) < 1e3  # of the first estimate; 1e13 when it was its own unit


def test_rows_of_any_shape_are_fitted(mixture: Mixture) -> None:
    class Pictures(Denoiser):
        """Each pair of numbers of a row (2, 2) is a row of the mixture."""

        def __init__(self, truth: Denoiser) -> None:
            super().__init__()
            self.truth, self.schedule, self.sigma_data = truth, truth.schedule, truth.sigma_data

        def forward(self, x_t: Tensor, t: Time) -> Estimate:
            estimate = self.truth(x_t.flatten(0, 1), t)
            return Estimate(estimate.x0.reshape(x_t.shape), estimate.epsilon.reshape(x_t.shape), estimate.level)

    model = Pictures(mixture(EDM(0.03, 80.0)))
    paths = follow(model, range(16), (2, 2), seed=0, dtype=torch.float64)
    flat = Paths(model.truth, paths.times, paths.x.flatten(1, 2), paths.x0.flatten(1, 2))
    one, two = (fit_solver(each, measure_grid(paths), 6) for each in (paths, flat))
    assert one.weights == two.weights
    assert one.error == pytest.approx(two.error, rel=1e-12)


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "steps"), [(3, 4), (1, 4), (16, 0), (16, -1)])
def test_too_few_paths_or_steps_are_refused(rows: int, steps: int, mixture: Mixture) -> None:
    paths = follow_all(mixture(VP()), rows, intervals=4)
    with pytest.raises(SamplingError, match=f"at least 4 paths and has at least 1 step, got {rows} and {steps}"):
        fit_solver(paths, straight, steps)


def test_a_grid_above_the_paths_is_refused(mixture: Mixture) -> None:
    paths = follow_all(mixture(EDM(0.1, 10.0)), 4, intervals=4)
    with pytest.raises(SamplingError, match=r"paths go from t = 10 to 0\.1, got 20"):
        fit_solver(paths, lambda schedule, steps: straight(EDM(0.1, 20.0), steps), 3)
