"""Walks from noise to data against the exact p_t, rows that do not depend on each other, and refusals."""

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scorefield.errors import SamplingError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.model import Denoiser
from scorefield.noise import EDM, VP, Schedule, Time
from scorefield.parametrization import Estimate
from scorefield.randomness import Noise, Stream
from scorefield.samplers import presets
from scorefield.samplers.grids import churn, geometric, karras, restart, uniform
from scorefield.samplers.langevin import Langevin, snr_size
from scorefield.samplers.loop import Corrector, Predictor, first_draw, sample
from scorefield.samplers.predictors import Ancestral, Euler, Heun
from scorefield.samplers.stochastic import EulerMaruyama, ReverseDiffusion

Mixture = Callable[[Schedule], GaussianMixture]
Misfit = Callable[..., float]
Walk = tuple[Predictor | None, Corrector | None]
WALKS: dict[str, Walk] = {
    "ddpm": (Ancestral(1.0), None),
    "half the noise": (Ancestral(0.5), None),
    "ddim": (Ancestral(0.0), None),
    "euler": (Euler(), None),
    "heun": (Heun(), None),
    "annealed langevin": (None, Langevin(10, 0.2)),
    "predictor and corrector": (Ancestral(1.0), Langevin(1, 0.1)),
    "reverse diffusion and corrector": (ReverseDiffusion(), Langevin(1, snr_size(0.16))),
}
each_walk = pytest.mark.parametrize("walk", list(WALKS.values()), ids=WALKS)


# -- reaching p_t -----------------------------------------------------------------------------------------------------


def down_from(sigma: float, schedule: Schedule, steps: int) -> Tensor:
    """Karras' levels from a σ/α down to 0.03, as times of a schedule."""
    return schedule.time_of_sigma(karras(EDM(0.03, sigma), steps))


@each_walk
def test_exact_noise_becomes_exact_data(schedule: Schedule, walk: Walk, mixture: Mixture, misfit: Misfit) -> None:
    # From exact draws at the first level, without the last Tweedie step, the rows are draws of p_t at the last level.
    # Caught: a walk of four levels, whose steps are too long for any of these methods.
    model = mixture(schedule)
    for steps, fits in ((100, True), (4, False)):
        grid = down_from(20.0, schedule, steps)
        start = model.sample(3000, seed=1, t=grid[0])
        x = sample(model, 3000, (2,), grid, *walk, seed=0, start=start, denoise=False, dtype=torch.float64)
        assert (misfit(x, schedule, grid[-1]) < 1) == fits, steps


class Planted(Ancestral):
    """Ancestral steps whose new noise is wrong by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(1.0)
        object.__setattr__(self, "factor", factor)

    def __call__(self, model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        class Scaled(Noise):
            def like(inner, x: Tensor, draw: int = 0) -> Tensor:  # noqa: N805
                return self.factor * super().like(x, draw)  # type: ignore[attr-defined]

        return super().__call__(model, x, t, s, memory, Scaled(noise.stream, noise.rows, noise.step))


def test_wrong_noise_is_caught(schedule: Schedule, mixture: Mixture, misfit: Misfit) -> None:
    model, grid = mixture(schedule), down_from(20.0, schedule, 100)
    start = model.sample(3000, seed=1, t=grid[0])
    for factor, fits in ((1.0, True), (1.3, False), (0.7, False)):
        x = sample(model, 3000, (2,), grid, Planted(factor), seed=0, start=start, denoise=False)
        assert (misfit(x, schedule, grid[-1]) < 1) == fits, factor


@pytest.mark.parametrize(
    "sampler",
    [presets.ddim(150), presets.ancestral(250), presets.euler(150), presets.heun(60)],
    ids=lambda sampler: sampler.name,
)
def test_named_samplers_draw_data_from_nothing(
    schedule: Schedule, sampler: presets.Sampler, mixture: Mixture, misfit: Misfit
) -> None:
    # All the way: from N(0, α²σ_data² + σ²) with Tweedie at the end, so that the rows are draws of the data themselves.
    # At the last σ/α = 0.03 Tweedie leaves out a variance below 0.03², 2 % of the narrowest component's.
    x = sampler(mixture(schedule), 3000, (2,), seed=0)
    assert x.dtype == torch.float32
    assert misfit(x) < 1
    # Caught: noise of half the size to begin with.
    model, grid = mixture(schedule), sampler.grid(schedule, sampler.steps)
    start = first_draw(model, range(3000), (2,), grid[0], seed=0, dtype=torch.float64, device="cpu") / 2
    wrong = sample(model, 3000, (2,), grid, Ancestral(0.0), seed=0, start=start)
    assert misfit(wrong) > 1


@pytest.mark.parametrize("beginning", [0.5, 2.0])
def test_langevin_forgets_where_it_began(beginning: float, mixture: Mixture, misfit: Misfit) -> None:
    schedule = EDM(0.03, 8.0)
    grid = geometric(schedule, 40)
    sampler = presets.annealed_langevin(40, moves=15)
    model = mixture(schedule)
    start = beginning * first_draw(model, range(3000), (2,), grid[0], seed=0, dtype=torch.float64, device="cpu")
    assert sampler.corrector is not None
    corrector = sampler.corrector(schedule.at(grid).sigma)
    x = sample(model, 3000, (2,), grid, sampler.predictor, corrector, seed=0, start=start)
    assert misfit(x) < 1


def test_ddpm_on_even_times_draws_data(mixture: Mixture, misfit: Misfit) -> None:
    assert misfit(presets.ddpm(500)(mixture(VP(t_min=1e-3)), 3000, (2,), seed=0)) < 1


# -- the parts of the walk --------------------------------------------------------------------------------------------


def test_the_first_draw_has_the_deviation_of_the_level(schedule: Schedule, mixture: Mixture) -> None:
    # H₀: mean square α²σ_data² + σ², 5 standard errors. Caught: σ² alone, where the signal is not negligible.
    model, t = mixture(schedule), schedule.time_of_sigma(1.0)
    x = first_draw(model, range(20_000), (2,), t, seed=0, dtype=torch.float64, device="cpu")
    squares = x.square().flatten()
    error = float(squares.std()) / math.sqrt(len(squares))
    exact = model.sample(200_000, seed=0, t=t).square()  # its own mean square, with a third of the error
    assert abs(float(squares.mean() - exact.mean())) < 5 * math.hypot(error, float(exact.std()) / math.sqrt(400_000))
    assert abs(float(squares.mean() - schedule.at(t).sigma ** 2)) > 5 * error


@each_walk
def test_the_last_step_is_tweedie(schedule: Schedule, walk: Walk, mixture: Mixture) -> None:
    model, grid = mixture(schedule), karras(schedule, 10)
    last, clean = (
        sample(model, 20, (2,), grid, *walk, seed=0, dtype=torch.float64, denoise=denoise) for denoise in (False, True)
    )
    tweedie = model(last, grid[-1]).x0
    assert torch.equal(clean, tweedie)
    assert not torch.equal(clean, last)


def test_without_a_predictor_the_signal_is_kept_between_levels(schedule: Schedule, mixture: Mixture) -> None:
    grid = karras(schedule, 10)
    start = torch.ones(3, 2, dtype=torch.float64)
    x = sample(mixture(schedule), 3, (2,), grid, None, seed=0, start=start, denoise=False)
    assert torch.allclose(x / schedule.at(grid[-1]).alpha, start / schedule.at(grid[0]).alpha, rtol=1e-12)


def test_the_corrector_stays_and_then_the_predictor_goes_down(mixture: Mixture) -> None:
    calls: list[tuple[str, float, float]] = []

    def predictor(model: Denoiser, x: Tensor, t: Time, s: Time, memory: int | None, noise: Noise) -> tuple[Tensor, int]:
        calls.append(("down", float(t), float(s)))
        assert memory == (None if noise.step == 0 else noise.step)  # what it returned the last time
        return x, noise.step + 1

    def corrector(model: Denoiser, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        calls.append(("stay", float(t), float(t)))
        return x

    grid = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    seen: list[tuple[int, float]] = []
    sample(
        mixture(EDM(0.1, 10.0)), 4, (2,), grid, predictor, corrector, seed=0,
        on_step=lambda step, t, x, x0: seen.append((step, float(t))),
    )  # fmt: skip
    assert calls == [("stay", 3, 3), ("down", 3, 2), ("stay", 2, 2), ("down", 2, 1), ("stay", 1, 1)]
    assert seen == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_what_is_seen_on_the_way_is_the_walk(mixture: Mixture) -> None:
    schedule = EDM(0.1, 10.0)
    model, grid = mixture(schedule), karras(schedule, 6)
    seen: list[Tensor] = []
    sample(model, 5, (2,), grid, Ancestral(), seed=0, on_step=lambda step, t, x, x0: seen.append(x))
    assert len(seen) == 6
    # Row by row each is what a shorter walk ends with.
    for steps in range(1, 7):
        shorter = sample(model, 5, (2,), grid[:steps], Ancestral(), seed=0, denoise=False)
        assert torch.equal(shorter, seen[steps - 1])


@each_walk
def test_the_estimate_that_is_seen_is_the_model_s_and_costs_nothing(walk: Walk) -> None:
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []
    watched, alone, grid = Counting(), Counting(), karras(EDM(0.1, 10.0), 6)
    x = sample(watched, 5, (2,), grid, *walk, seed=0, on_step=lambda step, t, x, x0: seen.append((t, x, x0)))
    assert torch.equal(x, sample(alone, 5, (2,), grid, *walk, seed=0))
    assert watched.calls == alone.calls
    assert not watched._forward_hooks  # nothing stays behind
    for step, (t, at, x0) in enumerate(seen):
        if walk[0] is None and step < 5:  # Langevin ends a level with a move, and asks nothing of where it went
            assert x0 is None
        else:
            assert x0 is not None
            assert torch.equal(x0, alone(at, t).x0)


def test_an_estimate_of_another_place_is_not_taken_for_that_of_x() -> None:
    def aside(model: Denoiser, x: Tensor, t: Time, s: Time, memory: None, noise: Noise) -> tuple[Tensor, None]:
        return model(x + 1, t).x0, None

    seen: list[Tensor | None] = []
    sample(
        Counting(), 3, (2,), karras(EDM(0.1, 10.0), 3), aside, seed=0,
        on_step=lambda step, t, x, x0: seen.append(x0),
    )  # fmt: skip
    assert seen[:2] == [None, None]
    assert seen[2] is not None


# -- grids that rise --------------------------------------------------------------------------------------------------

RISING = torch.tensor([5.0, 2.0, 3.0, 1.0, 4.0, 0.5], dtype=torch.float64)


def test_where_the_grid_rises_x_is_noised_and_the_model_is_not_asked() -> None:
    # Five steps, two of them up: three evaluations by Euler, one by Tweedie; every level is seen.
    model, seen = Counting(), list[tuple[int, float, bool]]()
    sample(
        model, 3, (2,), RISING, Euler(), seed=0,
        on_step=lambda step, t, x, x0: seen.append((step, float(t), x0 is None)),
    )  # fmt: skip
    assert model.calls == 4
    assert seen == [(step, float(t), step in (1, 3)) for step, t in enumerate(RISING)]


def test_what_is_noised_forgets_its_memory_and_has_noise_of_its_own(mixture: Mixture) -> None:
    steps: list[tuple[float, int | None]] = []

    def predictor(model: Denoiser, x: Tensor, t: Time, s: Time, memory: int | None, noise: Noise) -> tuple[Tensor, int]:
        steps.append((float(t), memory))
        return x, noise.step

    end = sample(mixture(EDM(0.1, 10.0)), 500, (2,), RISING, predictor, seed=0, denoise=False, dtype=torch.float64)
    assert steps == [(5.0, None), (3.0, None), (4.0, None)]
    # Two rises, of √(3² − 2²) and √(4² − 1²), and a first draw: independent, so their variances add up. H₀: 5 standard
    # errors. Caught: the same noise twice, whose deviations would add up.
    start = first_draw(
        mixture(EDM(0.1, 10.0)), range(500), (2,), RISING[0], seed=0, dtype=torch.float64, device="cpu"
    )  # fmt: skip
    added = (end - start).square().flatten()
    error = float(added.std()) / math.sqrt(len(added))
    assert abs(float(added.mean()) - 20) < 5 * error
    assert abs(float(added.mean()) - (5**0.5 + 15**0.5) ** 2) > 5 * error
    product = ((end - start) * start).flatten()
    assert abs(float(product.mean())) < 5 * float(product.std()) / math.sqrt(len(product))


@pytest.mark.parametrize("name", ["churn", "restart"])
def test_heun_on_a_rising_grid_reaches_p_t(schedule: Schedule, name: str, mixture: Mixture, misfit: Misfit) -> None:
    # Caught: noise of the rises that is half as wide again, half as wide, or none.
    model, grid = mixture(schedule), down_from(20.0, schedule, 40)
    if name == "churn":
        rising = churn(schedule, grid, 16.0, 0.05, 10.0)  # two thirds of its levels rise by √2
    else:
        rising = restart(schedule, grid, 0.1, 2.0, times=2, steps=20)
    start = model.sample(3000, seed=1, t=grid[0])

    def fits(s_noise: float) -> bool:
        x = sample(model, 3000, (2,), rising, Heun(), seed=0, start=start, denoise=False, s_noise=s_noise)
        return misfit(x, schedule, grid[-1]) < 1

    assert len(rising) > 60
    assert fits(1.0)
    assert not any(fits(wrong) for wrong in (0.0, 0.5, 1.5))


def test_churn_makes_algorithm_2_of_edm_of_heun(mixture: Mixture) -> None:
    # Karras et al. 2022, Algorithm 2, line by line; the noise that `sample` has for its step i is given to it.
    schedule, shape = EDM(0.03, 80.0), (7, 2)
    model, t = mixture(schedule), karras(schedule, 12)
    s_churn, s_min, s_max, s_noise = 4.0, 0.1, 20.0, 1.007
    grid = churn(schedule, t, s_churn, s_min, s_max)
    x = 80 * Stream(5, "start").normal(7, (2,), dtype=torch.float64)
    found = sample(model, 7, (2,), grid, Heun(), seed=9, start=x, s_noise=s_noise)
    noise, place, levels = Stream(9, "renoise"), 0, [*t.tolist(), 0.0]
    for i in range(12):
        now, below = levels[i], levels[i + 1]
        gamma = min(s_churn / 12, math.sqrt(2) - 1) if s_min <= now <= s_max and i < 11 else 0.0
        raised = now + gamma * now
        if gamma > 0:
            z = noise.normal(7, (2,), step=place, dtype=torch.float64)
            x = x + math.sqrt(raised**2 - now**2) * s_noise * z
            place += 1
        d = (x - model(x, raised).x0) / raised
        x_next = x + (below - raised) * d
        if below > 0:
            d_next = (x_next - model(x_next, below).x0) / below
            x_next = x + (below - raised) * (d + d_next) / 2
        x, place = x_next, place + 1
    assert x.shape == shape
    assert torch.allclose(found, x, rtol=1e-9, atol=1e-12)


def test_row_i_of_a_rising_walk_is_the_same_to_the_bit(schedule: Schedule, mixture: Mixture) -> None:
    model = mixture(schedule)
    grid = churn(schedule, karras(schedule, 8), 3.0)

    def rows(which: range) -> Tensor:
        return sample(model, which, (2,), grid, Heun(), Langevin(), seed=3, dtype=torch.float64)

    parts = [rows(range(a, b)) for a, b in pairwise((0, 1, 17, 50))]
    assert torch.equal(torch.cat(parts), rows(range(50)))


def test_a_walk_may_end_above_where_it_was_if_it_need_not_end_in_data(mixture: Mixture) -> None:
    schedule = EDM(0.1, 10.0)
    start = torch.zeros(2000, 2, dtype=torch.float64)
    grid = torch.tensor([0.5, 2.0], dtype=torch.float64)
    x = sample(mixture(schedule), 2000, (2,), grid, None, seed=0, denoise=False, start=start)
    assert float(x.std()) == pytest.approx(math.sqrt(2**2 - 0.5**2), rel=0.06)  # 5 standard errors of 1/√(2·4000)


def test_no_gradient_is_kept(mixture: Mixture) -> None:
    model = mixture(EDM(0.1, 10.0))
    model.means = model.means.clone().requires_grad_()
    assert model(torch.ones(1, 2), 0.5).x0.requires_grad
    assert not sample(model, 2, (2,), karras(model.schedule, 3), Euler(), seed=0).requires_grad


# -- rows and seeds ---------------------------------------------------------------------------------------------------


@each_walk
def test_row_i_is_the_same_to_the_bit_whatever_is_drawn_with_it(
    schedule: Schedule, walk: Walk, mixture: Mixture
) -> None:
    model, grid = mixture(schedule), karras(schedule, 12)

    def rows(which: int | range) -> Tensor:
        return sample(model, which, (2,), grid, *walk, seed=3, dtype=torch.float64)

    whole = rows(50)
    for edges in ((0, 1, 17, 50), (0, 25, 50), (0, 49, 50)):
        parts = [rows(range(a, b)) for a, b in pairwise(edges)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(rows(51)[:50], whole)


def test_rows_drawn_by_several_processes_are_those_of_one_to_the_bit() -> None:
    model = Gaussian(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
    whole = sample(model, 9, (2,), karras(model.schedule, 6), EulerMaruyama(), seed=3)
    draw = (
        "import sys, torch; from scorefield.exact import Gaussian; from scorefield.noise import EDM; "
        "from scorefield.samplers.grids import karras; from scorefield.samplers.loop import sample; "
        "from scorefield.samplers.stochastic import EulerMaruyama; "
        "model = Gaussian(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0)); rows = range(*map(int, sys.argv[1:])); "
        "x = sample(model, rows, (2,), karras(model.schedule, 6), EulerMaruyama(), seed=3); "
        "sys.stdout.write(x.numpy().tobytes().hex())"
    )
    parts = [
        subprocess.run([sys.executable, "-c", draw, a, b], check=True, capture_output=True, text=True).stdout
        for a, b in (("0", "4"), ("4", "9"))
    ]
    assert bytes.fromhex("".join(parts)) == whole.numpy().tobytes()


@each_walk
def test_seeds_give_other_rows_and_the_same_seed_the_same(walk: Walk, mixture: Mixture) -> None:
    schedule = EDM(0.1, 10.0)
    one, again, other = (
        sample(mixture(schedule), 20, (2,), karras(schedule, 8), *walk, seed=seed, dtype=torch.float64)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert (one - other).abs().amin(1).min() > 0
    assert len(one.unique(dim=0)) == 20


def test_only_noise_in_the_walk_makes_rows_of_one_start_differ(schedule: Schedule, mixture: Mixture) -> None:
    model, grid, start = mixture(schedule), karras(schedule, 8), torch.ones(4, 2, dtype=torch.float64)
    for predictor, differ in ((Ancestral(0.0), False), (Euler(), False), (Heun(), False), (Ancestral(0.3), True)):
        x = sample(model, 4, (2,), grid, predictor, seed=0, start=start)
        assert (len(x.unique(dim=0)) == 4) == differ


def test_nothing_is_drawn_from_the_global_generator(mixture: Mixture) -> None:
    schedule = EDM(0.1, 10.0)
    before = torch.get_rng_state()
    sample(mixture(schedule), 5, (2,), karras(schedule, 5), Ancestral(), Langevin(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_of_any_shape_and_none_at_all(shape: tuple[int, ...], rows: int) -> None:
    class Shrinks(Denoiser):
        """The truth for N(0, 1) data of any shape: x0 = x/(1 + σ²)."""

        schedule, sigma_data = EDM(0.1, 10.0), 1.0

        def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
            level = self.schedule.at(t, like=x_t)
            x0 = x_t / (1 + level.sigma**2).to(x_t.dtype)
            return Estimate(x0, (x_t - x0) / level.sigma.to(x_t.dtype), level)

    for walk in WALKS.values():
        assert sample(Shrinks(), rows, shape, karras(EDM(0.1, 10.0), 4), *walk, seed=0).shape == (rows, *shape)


def test_one_level_is_enough_to_denoise(mixture: Mixture) -> None:
    model = mixture(EDM(0.1, 10.0))
    start = torch.ones(2, 2, dtype=torch.float64)
    x = sample(model, 2, (2,), torch.tensor([0.5], dtype=torch.float64), Heun(), seed=0, start=start)
    assert torch.equal(x, model(start, 0.5).x0)


# -- faults -----------------------------------------------------------------------------------------------------------


class Counting(Gaussian):
    """Standard normal data, and how often it was asked."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        self.calls += 1
        return super().forward(x_t, t)


BAD_GRIDS: dict[str, tuple[Tensor, str]] = {
    "no level": (torch.zeros(0), "at least one level"),
    "a number": (torch.tensor(1.0), "at least one level"),
    "a table": (torch.ones(2, 2), "at least one level"),
    "rising": (torch.tensor([1.0, 2.0]), "ends at its lowest level, got 2 at the end and 1 before"),
    "staying": (torch.tensor([2.0, 1.0, 1.0]), "never stays: levels 1 and 2 are 1"),
    "up at the end": (torch.tensor([3.0, 1.0, 2.0]), "ends at its lowest level, got 2"),
    "not a number": (torch.tensor([3.0, math.nan, 1.0]), "finite, got nan"),
    "infinite": (torch.tensor([math.inf, 1.0]), "finite"),
    "beyond the schedule": (torch.tensor([11.0, 1.0]), "stays between clean data and t = 10, got 11"),
    "below clean data": (torch.tensor([1.0, -0.5]), "got -0.5"),
}
BAD_STARTS: dict[str, tuple[Tensor, str]] = {
    "fewer rows": (torch.zeros(2, 2), r"a start is x of these rows, \(3, 2\) of a floating type, got \(2, 2\) of"),
    "one for all": (torch.zeros(1, 2), r"got \(1, 2\)"),
    "other rows": (torch.zeros(3, 4), r"got \(3, 4\)"),
    "whole numbers": (torch.zeros(3, 2, dtype=torch.int64), "of torch.int64"),
    "not a number": (torch.tensor([[0, 1], [0, math.nan], [1, 0]]), "1 of 3 rows of the start .*, row 1 first"),
}


@pytest.mark.parametrize("name", BAD_GRIDS)
def test_a_grid_that_leads_nowhere_is_refused_before_the_model_is_asked(name: str) -> None:
    grid, words = BAD_GRIDS[name]
    model = Counting()
    with pytest.raises(SamplingError, match=words):
        sample(model, 3, (2,), grid.double(), Euler(), seed=0)
    assert model.calls == 0


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_start_that_is_not_of_these_rows_is_refused_before_the_model_is_asked(name: str) -> None:
    start, words = BAD_STARTS[name]
    model = Counting()
    with pytest.raises(SamplingError, match=words):
        sample(model, 3, (2,), karras(model.schedule, 4), Euler(), seed=0, start=start)
    with pytest.raises(SamplingError, match="no drawing -1 rows"):
        sample(model, -1, (2,), karras(model.schedule, 4), Euler(), seed=0)
    assert model.calls == 0


@pytest.mark.parametrize("steps", [1, 0, -1])
def test_a_sampler_of_fewer_than_two_steps_is_refused_before_the_model_is_asked(steps: int) -> None:
    for preset in (presets.ddpm, presets.ddim, presets.ancestral, presets.euler, presets.heun):
        model = Counting()
        with pytest.raises(SamplingError, match=f"at least 2 steps, got {steps}"):
            preset(steps)(model, 3, (2,), seed=0)
        assert model.calls == 0


class Breaks(Gaussian):
    """Standard normal data, with an estimate that is not finite for two rows below a level."""

    def __init__(self, bad: float, first: int, below: float) -> None:
        super().__init__(torch.zeros(2), torch.eye(2), EDM(0.1, 10.0))
        self.bad, self.first, self.below = bad, first, below

    def forward(self, x_t: Tensor, t: Tensor | float) -> Estimate:
        level = self.schedule.at(t, like=x_t)
        x0 = x_t / (1 + level.sigma**2).to(x_t.dtype)
        if float(t) < self.below:
            x0[13 - self.first] = self.bad
            x0[17 - self.first] = self.bad
        return Estimate(x0, (x_t - x0) / level.sigma.to(x_t.dtype), level)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("shape", "rows"), [((2,), range(10, 20)), ((2,), 20), ((), range(10, 20))])
@pytest.mark.parametrize("below", [20.0, 6.0, 4.0])
def test_values_that_are_not_finite_are_refused_with_row_step_and_level(
    bad: float, shape: tuple[int, ...], rows: int | range, below: float
) -> None:
    # Of the levels 10, 5.05 and 0.1: what the model breaks at one shows in x at the next.
    first, count = (0, rows) if isinstance(rows, int) else (rows.start, len(rows))
    place = {
        20.0: "from step 1, level t = 5.05",
        6.0: "from step 2, level t = 0.1",
        4.0: "in the last estimate, of x0, after step 2, level t = 0.1",
    }
    with pytest.raises(SamplingError) as refusal:
        sample(Breaks(bad, first, below), rows, shape, uniform(EDM(0.1, 10.0), 3), Ancestral(), seed=0)
    assert str(refusal.value) == f"2 of {count} rows are not finite, row 13 the first, {place[below]}"


def test_a_corrector_that_breaks_is_named_at_its_level() -> None:
    def corrector(model: Denoiser, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        return x / 0 if noise.step == 1 else x

    with pytest.raises(SamplingError, match=r"row 0 the first, from step 1, level t = 5.05"):
        sample(Counting(), 3, (2,), uniform(EDM(0.1, 10.0), 3), Ancestral(), corrector, seed=0)


def test_a_broken_walk_is_told_once_and_leaves_nothing_on_the_model() -> None:
    told: list[int] = []
    model = Breaks(math.nan, 0, 20.0)
    with pytest.raises(SamplingError):
        sample(
            model, 20, (2,), uniform(EDM(0.1, 10.0), 3), Ancestral(), seed=0,
            on_step=lambda step, t, x, x0: told.append(step),
        )  # fmt: skip
    assert told == [0, 1, 2]
    assert not model._forward_hooks


@pytest.mark.parametrize("s_noise", [-0.1, math.nan, math.inf])
def test_noise_of_a_rise_that_cannot_be_is_refused(s_noise: float) -> None:
    with pytest.raises(SamplingError, match="s_noise must be finite"):
        sample(Counting(), 3, (2,), RISING, Euler(), seed=0, s_noise=s_noise)


def test_other_steps_of_a_named_sampler() -> None:
    sampler = presets.heun().with_steps(7)
    assert (sampler.steps, sampler.name, sampler.grid) == (7, "heun", presets.heun().grid)
    model = Counting()
    sampler(model, 2, (2,), seed=0)
    assert model.calls == 2 * 6 + 1  # two slopes a step, and Tweedie
