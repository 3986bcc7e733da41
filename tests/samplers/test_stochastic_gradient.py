"""Scores from mini-batches have no bias, and the noise they bring widens a Gaussian posterior by the known amount."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.noise import Clean
from scorefield.randomness import Noise, Stream
from scorefield.samplers.chains import Chains, run_chains
from scorefield.samplers.langevin import Langevin, MetropolisLangevin
from scorefield.samplers.stochastic_gradient import Decay, Posterior, StochasticLangevin

ROWS, TIME = 50, torch.zeros((), dtype=torch.float64)


def regression_data() -> Tensor:
    """Pairs (x_i, y_i) with y ≈ 0.7 x, (N, 2)."""
    x, noise = Stream(0, "data").normal(2, (ROWS,), dtype=torch.float64)
    return torch.stack((x, 0.7 * x + noise), dim=1)


DATA = regression_data()
# y_i ~ N(θ x_i, 1) and θ ~ N(0, 1): a posterior N(μ, 1/P), P = 1 + Σ x², μ = Σ x y/P.
PRECISION = 1 + float(DATA[:, 0].square().sum())
MEAN = float((DATA[:, 0] * DATA[:, 1]).sum()) / PRECISION


def log_prior(theta: Tensor) -> Tensor:
    return -theta.square().sum(1) / 2


def log_likelihood(theta: Tensor, rows: Tensor) -> Tensor:
    return -(rows[..., 1] - theta * rows[..., 0]).square() / 2


def posterior(centred: bool = False) -> Posterior:
    return Posterior(log_prior, log_likelihood, DATA, torch.tensor([MEAN], dtype=torch.float64) if centred else None)


@dataclass(frozen=True, eq=False)
class Unscaled(Posterior):
    """Planted: the likelihood of a mini-batch taken for that of all rows."""

    def estimate(self, x: Tensor, t: Tensor, batch: Tensor) -> Tensor:
        share = batch.shape[1] / self.terms
        prior = -x
        return prior + share * (super().estimate(x, t, batch) - prior)


def test_the_posterior_is_the_known_one() -> None:
    theta = torch.tensor([[-0.3], [0.2], [MEAN]], dtype=torch.float64)
    expected = -PRECISION * (theta - MEAN)
    for model in (posterior(), posterior(centred=True)):
        assert torch.allclose(model.score(theta, TIME), expected)
        energies = model.energy(theta, TIME)
        assert torch.allclose(energies - energies[2], PRECISION * (theta - MEAN).square().flatten() / 2)


@pytest.mark.parametrize("centred", [False, True])
def test_an_estimate_from_every_row_once_is_the_score(centred: bool) -> None:
    theta = torch.tensor([[-0.3], [2.0]], dtype=torch.float64)
    batch = torch.stack((torch.arange(ROWS), torch.arange(ROWS).flip(0)))
    model = posterior(centred)
    assert torch.allclose(model.estimate(theta, TIME, batch), model.score(theta, TIME), rtol=1e-12)


def estimates(model: Posterior, theta: float, batch: int) -> Tensor:
    """Of many chains at one place, as the kernel makes them: what is left of a move of ε = 2 without its noise."""
    chains = 20_000
    x = torch.full((chains, 1), theta, dtype=torch.float64)
    noise = Noise(Stream(0, "chains"), range(chains), 0)
    moved = StochasticLangevin(2.0, batch)(model, x, TIME, noise)
    return (moved - x - math.sqrt(2) * noise.like(x)).flatten()


@pytest.mark.parametrize("centred", [False, True])
def test_an_estimate_has_no_bias_and_less_noise_with_a_control_variate(centred: bool) -> None:
    # H₀: the mean of 20 000 estimates is the score, within 5 standard errors; false alarm 6e-7. Caught: mini-batches
    # that are not scaled by N/n.
    theta = MEAN + 0.2
    found = estimates(posterior(centred), theta, 5)
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) + PRECISION * 0.2) < 5 * error
    if centred:
        assert float(found.std()) < 0.5 * float(estimates(posterior(), theta, 5).std())
    else:
        wrong = estimates(Unscaled(log_prior, log_likelihood, DATA), theta, 5)
        assert abs(float(wrong.mean()) + PRECISION * 0.2) > 5 * float(wrong.std()) / math.sqrt(len(wrong))


def test_the_noise_of_an_estimate_falls_as_one_over_the_batch() -> None:
    # Draws with replacement: a variance of N²/n times that of a row's slope, here within 5 of the errors of a variance
    # of 20 000 nearly normal numbers, √(2/20 000) = 1 %. Caught: draws without replacement, less by 1 − n/N = 0.5.
    x, y = DATA.T
    spread = float((x * (y - x * (MEAN + 0.2))).var(unbiased=False))
    for batch in (5, 25):
        found = float(estimates(posterior(), MEAN + 0.2, batch).var())
        assert found == pytest.approx(ROWS**2 / batch * spread, rel=0.07)


def chains(model: Any, kernel: Any, draws: int = 1000, thin: int = 5) -> Chains:
    start = MEAN + Stream(0, "start").normal(60, (1,), dtype=torch.float64) / math.sqrt(PRECISION)
    return run_chains(model, start, kernel, draws, seed=1, warmup=100, thin=thin)


def test_with_all_rows_it_is_plain_langevin_to_the_bit() -> None:
    model, step = posterior(), 0.5 / PRECISION
    assert torch.equal(chains(model, StochasticLangevin(step), 50).draws, chains(model, Langevin(step=step), 50).draws)
    assert not torch.equal(
        chains(model, StochasticLangevin(step, 5), 50).draws, chains(model, Langevin(step=step), 50).draws
    )


def settled_variance(epsilon: float, batch: int, centred: bool) -> float:
    """(4), from v = (1 − εP/2)² v + ε + (ε²/4)(V + K v), with the estimate's variances V and K from its rows.

    At θ̂ + δ a row's slope is x r − x² δ, r its residual at θ̂ = μ. A control variate takes x r away, and leaves the mean
    of the products of the two at zero; without it they only add to a skewness, for E δ = 0.
    """
    x, y = DATA.T
    scale = ROWS**2 / batch
    V = 0.0 if centred else scale * float((x * (y - x * MEAN)).var(unbiased=False))
    K = scale * float(x.square().var(unbiased=False))
    return (epsilon + V * epsilon**2 / 4) / (1 - (1 - epsilon * PRECISION / 2) ** 2 - K * epsilon**2 / 4)


@pytest.mark.parametrize("centred", [False, True])
def test_a_gaussian_posterior_is_as_wide_as_derived(centred: bool) -> None:
    # H₀: mean μ, variance (4). The mean within 5 Monte Carlo errors; the variance within 5 of the error of the mean of
    # squares, from its own effective size; false alarms 6e-7. Caught: the posterior's own variance 1/P, the other
    # estimate's, and mini-batches that are not scaled.
    epsilon, batch = 0.4 / PRECISION, 5
    found = chains(posterior(centred), StochasticLangevin(epsilon, batch))
    summary = found.summary()
    assert abs(float(summary.mean) - MEAN) < 5 * float(summary.mcse)

    def apart(found: Chains, variance: float) -> float:
        squares = type(found)((found.draws - MEAN).square(), found.position, None).summary()
        return abs(float(squares.mean) - variance) / float(squares.mcse)

    expected = settled_variance(epsilon, batch, centred)
    assert apart(found, expected) < 5
    assert apart(found, 1 / PRECISION) > 5
    assert apart(found, settled_variance(epsilon, batch, not centred)) > 5
    assert settled_variance(epsilon, batch, True) < settled_variance(epsilon, batch, False)
    if not centred:
        planted = chains(Unscaled(log_prior, log_likelihood, DATA), StochasticLangevin(epsilon, batch), 200)
        assert apart(planted, expected) > 5


def test_metropolis_rule_finds_the_same_posterior_without_any_excess() -> None:
    # H₀: N(μ, 1/P), as above; false alarm 6e-7 each.
    found = chains(posterior(), MetropolisLangevin(step=2 / PRECISION), 400, thin=2)
    squares = Chains((found.draws - MEAN).square(), found.position, None).summary()
    assert abs(float(found.summary().mean) - MEAN) < 5 * float(found.summary().mcse)
    assert abs(float(squares.mean) - 1 / PRECISION) < 5 * float(squares.mcse)


class Flat:
    """No score at all, and a record of the mini-batches that were asked for."""

    schedule = Clean()
    terms = 1000

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def estimate(self, x: Tensor, t: Tensor, batch: Tensor) -> Tensor:
        self.batches.append(batch)
        return torch.zeros_like(x)


def test_each_chain_and_move_has_a_mini_batch_of_its_own_in_any_company() -> None:
    model, alone = Flat(), Flat()
    start, kernel = torch.zeros(6, 2), StochasticLangevin(0.1, 8)
    whole = run_chains(model, start, kernel, 10, seed=0)
    batches = torch.stack(model.batches)
    assert (batches.shape, int(batches.min()) >= 0, int(batches.max()) < 1000) == ((10, 6, 8), True, True)
    assert len({tuple(batch) for batch in batches.flatten(0, 1).tolist()}) == 60
    part = run_chains(alone, start[2:5], kernel, 10, seed=0, rows=range(2, 5))
    assert torch.equal(torch.stack(alone.batches), batches[:, 2:5])
    assert torch.equal(part.draws, whole.draws[2:5])
    # Chi-squared of 10 bins over many draws: mean 9, deviation √18; 5 of them, and each row is as likely as any other.
    many = Flat()
    run_chains(many, torch.zeros(100, 1), StochasticLangevin(0.1, 100), 5, seed=0)
    counts = torch.stack(many.batches).flatten().div(100, rounding_mode="floor").bincount(minlength=10).double()
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 9 + 5 * math.sqrt(18)


def test_steps_shrink_as_their_rule_says_and_go_on_where_they_stopped() -> None:
    # Without a score a move is √ε_k z, so that moves by two rules differ by the ratio of their steps. With a = 8, b = 1
    # and γ = 1/3: ε = 8, 8/2^{1/3}, …, and the eighth, k = 7, is 4.
    start = torch.zeros(1, 1, dtype=torch.float64)
    shrinking = StochasticLangevin(Decay(8.0, 1.0, 1 / 3))
    found = run_chains(Flat(), start, shrinking, 8, seed=0)
    unit = run_chains(Flat(), start, StochasticLangevin(1.0), 8, seed=0)
    ratio = found.draws.flatten().diff(prepend=torch.zeros(1)) / unit.draws.flatten().diff(prepend=torch.zeros(1))
    assert float(ratio[0] ** 2) == pytest.approx(8)
    assert float(ratio[7] ** 2) == pytest.approx(4)
    assert (ratio.diff() < 0).all()
    first = run_chains(Flat(), start, shrinking, 5, seed=0)
    assert torch.equal(run_chains(Flat(), first.position, shrinking, 3, seed=0).draws, found.draws[:, 5:])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StochasticLangevin(0.0), "positive"),
        (lambda: StochasticLangevin(math.nan), "positive"),
        (lambda: StochasticLangevin(0.1, 0), "1 row"),
        (lambda: Decay(0.0), "a > 0"),
        (lambda: Decay(1.0, 0.0), "b > 0"),
        (lambda: Decay(1.0, 1.0, 1.5), "γ"),
        (lambda: Posterior(log_prior, log_likelihood, DATA[:0]), "1 row"),
        (lambda: chains(posterior(), StochasticLangevin(0.001, ROWS + 1), 1), "leave batch out"),
    ],
)
def test_wrong_options_are_refused(make: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        make()
