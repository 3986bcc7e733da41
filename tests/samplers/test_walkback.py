"""Walk-back chains settle where their reconstruction says: on p_t for the true one, in closed form for others."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.noise import EDM, Schedule
from scorefield.randomness import Noise, Stream
from scorefield.samplers.walkback import (
    AncestralReconstruction,
    GaussianReconstruction,
    WalkBack,
    gaussian_spread,
    no_spread,
    reconstruction_error,
)

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]


def chain(walk: WalkBack, model: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    return walk(model, x, t, Noise(Stream(0, "corrector"), range(len(x)), 0))


@pytest.mark.parametrize("spread", [gaussian_spread, no_spread])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_a_gaussian_settles_as_derived(schedule: Schedule, sigma: float, spread: Callable[..., Tensor]) -> None:
    # H₀: rows are of mean square α²V + σ², V the fixed point of V = c²(α²V + σ²) + v, found here by running it: 5
    # standard errors, 6e-7. Caught: means alone taken for draws, and the other way round (z printed on failure).
    lam = 0.8
    model = Gaussian(torch.zeros(2), lam * torch.eye(2), schedule)
    t = schedule.time_of_sigma(sigma)
    alpha, noise = float(schedule.at(t).alpha), float(schedule.at(t).sigma) ** 2
    slope = alpha * lam / (alpha**2 * lam + noise)
    settled = {}
    for name, v in (("gaussian_spread", lam - alpha * slope * lam), ("no_spread", 0.0)):
        settled[name] = 5.0
        for _ in range(500):
            settled[name] = slope**2 * (alpha**2 * settled[name] + noise) + v
    assert settled["gaussian_spread"] == pytest.approx(lam)  # the true spread leaves the data as they are
    start = 2 * model.sample(6000, seed=1, t=t)
    squares = chain(WalkBack(GaussianReconstruction(spread), 60), model, start, t).square().flatten()
    error = float(squares.std()) / math.sqrt(len(squares))
    z = {name: (float(squares.mean()) - alpha**2 * v - noise) / error for name, v in settled.items()}
    assert abs(z.pop(spread.__name__)) < 5
    assert all(abs(other) > 5 for other in z.values()), z


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_steps_down_leave_a_mixture_as_it_is_and_one_gaussian_does_not(
    schedule: Schedule, sigma: float, mixture: Mixture, misfit: Misfit
) -> None:
    model, t = mixture(schedule), schedule.time_of_sigma(sigma)
    start = model.sample(3000, seed=1, t=t)
    assert misfit(start, schedule, t) < 1
    x = chain(WalkBack(AncestralReconstruction(40), 3), model, start, t)
    assert misfit(x, schedule, t) < 1
    assert (x - start).norm(dim=1).mean() > 0.3 * schedule.at(t).sigma
    # Caught: means alone; and two steps, which are too few.
    assert misfit(chain(WalkBack(GaussianReconstruction(no_spread), 10), model, start, t), schedule, t) > 1


def test_the_measured_error_keeps_the_mean_square_of_data(schedule: Schedule, mixture: Mixture) -> None:
    # H₀: after a move x0 has the data's mean square; 5 standard errors of both together. Caught: the spread of a
    # Gaussian, which is too wide for a mixture.
    model, t = mixture(schedule), schedule.time_of_sigma(0.5)
    noise = Noise(Stream(2, "held out"), range(20_000), 0)
    error = reconstruction_error(model, model.sample(20_000, seed=3), t, noise)
    assert error < gaussian_spread(model, t)
    x = model.sample(20_000, seed=1, t=t)

    def z(spread: Callable[..., Tensor]) -> float:
        drawn = GaussianReconstruction(spread)(model, x, t, Noise(Stream(0, "draw"), range(20_000), 0), 0)
        squares = drawn.square().sum(1) - model.second_moment().trace()
        return abs(float(squares.mean() / squares.std())) * math.sqrt(20_000)

    assert z(lambda model, t: error) < 5
    assert z(gaussian_spread) > 5
    assert z(no_spread) > 5


def test_every_move_has_noise_of_its_own(mixture: Mixture) -> None:
    drawn: list[int] = []

    class Recording(Noise):
        def like(self, x: Tensor, draw: int = 0) -> Tensor:
            drawn.append(draw)
            return super().like(x, draw)

    model, x = mixture(EDM(0.1, 10.0)), torch.zeros(3, 2)
    WalkBack(GaussianReconstruction(), 4)(model, x, torch.tensor(1.0), Recording(Stream(0, ""), range(3), 0))
    assert sorted(drawn) == list(range(8))


@pytest.mark.parametrize("reconstruction", [GaussianReconstruction(), AncestralReconstruction(3)])
def test_a_row_walks_alike_in_any_company(
    schedule: Schedule, mixture: Mixture, reconstruction: GaussianReconstruction | AncestralReconstruction
) -> None:
    model, t = mixture(schedule), schedule.time_of_sigma(0.5)
    x, walk = model.sample(9, seed=0, t=t), WalkBack(reconstruction, 3)
    whole = chain(walk, model, x, t)
    part = walk(model, x[4:7], t, Noise(Stream(0, "corrector"), range(4, 7), 0))
    assert torch.equal(part, whole[4:7])


def test_at_the_lowest_level_the_mean_is_the_reconstruction(mixture: Mixture) -> None:
    model, x = mixture(EDM(0.1, 10.0)), torch.ones(2, 2, dtype=torch.float64)
    t = torch.tensor(0.1, dtype=torch.float64)
    found = AncestralReconstruction(5)(model, x, t, Noise(Stream(0, ""), range(2), 0), 0)
    assert torch.equal(found, model(x, t).x0)


@pytest.mark.parametrize("count", [0, -1])
def test_chains_without_a_move_or_a_step_are_refused(count: int) -> None:
    with pytest.raises(SamplingError, match=f"at least 1 move, got {count}"):
        WalkBack(GaussianReconstruction(), count)
    with pytest.raises(SamplingError, match=f"at least 1 step, got {count}"):
        AncestralReconstruction(count)
