"""Which of the solvers fitted to a model is taken, how they are kept, and whether their errors hold on other rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch

from scorefield.errors import OptionError, SamplingError
from scorefield.exact import GaussianMixture
from scorefield.noise import EDM, Schedule
from scorefield.samplers import choice
from scorefield.samplers.choice import COST, COUNTS, Solvers, fit_solvers, grids_to_try
from scorefield.samplers.fitted import FittedSolver
from scorefield.samplers.paths import follow

Mixture = Callable[[Schedule], GaussianMixture]


def solver(steps: int, error: float) -> FittedSolver:
    times = tuple(float(t) for t in range(steps, 0, -1))
    return FittedSolver(times, ((0.5, 0.25),) * steps, error, error / 8)


# More evaluations are not always nearer: the one of 16 is worse than the one of 8.
MADE = Solvers((solver(4, 0.5), solver(8, 0.03), solver(16, 0.04), solver(32, 0.002)))


@pytest.mark.parametrize(
    ("tolerance", "steps"), [(9.0, 4), (0.5, 4), (0.499, 8), (0.035, 8), (0.03, 8), (0.029, 32), (1e-9, 32)]
)
def test_the_cheapest_that_is_near_enough_or_else_the_nearest(tolerance: float, steps: int) -> None:
    assert MADE.within(tolerance).steps == steps


@pytest.mark.parametrize(("most", "steps"), [(4, 4), (7, 4), (8, 8), (16, 8), (31, 8), (32, 32), (10**6, 32)])
def test_the_nearest_of_at_most_so_many_evaluations(most: int, steps: int) -> None:
    assert MADE.at_most(most).steps == steps


def test_fewer_evaluations_than_any_are_refused() -> None:
    with pytest.raises(OptionError, match="fitted to this model for 4 evaluations and more, got 3"):
        MADE.at_most(3)


def test_law_json_gives_the_same_solvers() -> None:
    assert Solvers.from_json(json.loads(json.dumps(MADE.to_json()))) == MADE


@pytest.mark.parametrize("order", [[], [8, 4], [4, 4]])
def test_none_and_a_wrong_order_are_refused(order: list[int]) -> None:
    with pytest.raises(SamplingError, match=f"at least one, fewest evaluations first, got \\{order}"[:-1]):
        Solvers(tuple(solver(steps, 0.1) for steps in order))


def test_the_cost_is_what_is_asked_and_the_errors_are_what_other_rows_show(
    mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Judged anew on 4000 paths of another seed. H₀: the error said has the expectation of the one found. Their
    # difference over √(sum of squared standard errors) is below 5, false alarm 6e-7 for each of 3; the standard error
    # of the found one is that of a mean of squares, halved relative to it. Caught: an error said half as large.
    monkeypatch.setattr(choice, "COUNTS", (4, 8, 20))
    model = mixture(EDM(0.03, 80.0))
    asked = 0

    def count(module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal asked
        asked += len(inputs[0])

    handle = model.register_forward_hook(count)
    found = fit_solvers(model, 4000, (2,), seed=0)
    handle.remove()
    assert [each.steps for each in found.fitted] == [4, 8, 20]
    # The cost of a path is counted for the usual numbers; here for three.
    assert asked == 4000 * (COST - 4 * sum(COUNTS) - (25 + 32 + 50) + 4 * (4 + 8 + 20))
    paths = follow(model, range(4000), (2,), seed=1)
    for each in found.fitted:
        ends = each(model, 4000, (2,), seed=1, start=paths.start)
        squares = (ends - paths.end).double().square().mean(1) / model.sigma_data**2
        error = float(squares.mean().sqrt())
        std_error = float(squares.std()) / math.sqrt(4000) / (2 * error)
        assert abs(error - each.error) < 5 * math.hypot(std_error, each.std_error)
    assert found.fitted[0].error > found.fitted[1].error > found.fitted[2].error


def test_two_and_three_evaluations_have_solvers_of_their_own(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COUNTS[:3] == (2, 3, 4)
    monkeypatch.setattr(choice, "COUNTS", COUNTS[:3])
    found = fit_solvers(mixture(EDM(0.03, 80.0)), 1024, (2,), seed=0)
    assert [found.at_most(steps).steps for steps in (2, 3, 4)] == [2, 3, 4]
    errors = [each.error for each in found.fitted]
    assert 1 > errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("sigma_data", [1.0, 7.0])
def test_the_grids_to_try_are_of_the_model_and_all_differ(mixture: Mixture, sigma_data: float) -> None:
    # In units of the data they are the same for the same mixture seven times as large.
    model = mixture(EDM(0.03, 80.0))
    large = model.standardised(
        torch.zeros(2), torch.full((2,), 1 / sigma_data), EDM(0.03 * sigma_data, 80.0 * sigma_data)
    )
    tried = [grids_to_try(follow(each, range(64), (2,), seed=0, dtype=torch.float64)) for each in (model, large)]
    assert [len(tried[0](steps)) for steps in (5, 20, 25, 50)] == [3, 3, 4, 4]
    grids = [each(25) for each in tried]
    levels, others = ([grid(each.schedule, 9) for grid in of] for each, of in zip((model, large), grids, strict=True))
    for one, other in zip(levels, others, strict=True):
        assert torch.allclose(other, sigma_data * one, rtol=1e-4)
    inner = torch.stack(levels)[:, 1:-1].log()
    assert float(torch.cdist(inner, inner).fill_diagonal_(9).min()) > 0.1


def test_the_seed_decides_to_the_bit_and_the_rows_are_none_that_sample_draws(
    mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "COUNTS", (4,))
    model = mixture(EDM(0.03, 80.0))
    starts = []
    true_follow = choice.follow

    def watched(*arguments: object, **options: object) -> object:
        paths = true_follow(*arguments, **options)  # type: ignore[arg-type]
        starts.append(paths.start)
        return paths

    monkeypatch.setattr(choice, "follow", watched)
    first, other = (fit_solvers(model, 64, (2,), seed=seed) for seed in (3, 4))
    # To the bit, as a run that was killed ends in the same file; torch's usual driver of least squares is not so.
    assert all(fit_solvers(model, 64, (2,), seed=3) == first for _ in range(5))
    assert first != other
    drawn = follow(model, range(2000), (2,), seed=3, intervals=4).start
    assert float(torch.cdist(starts[0].double(), drawn.double()).min()) > 0
