"""Effective sample sizes, R̂ and standard errors of chains whose autocorrelation, place and width are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.diagnostics import summarise
from scorefield.errors import OptionError
from scorefield.randomness import Stream


def autoregressive(rho: float, chains: int, draws: int, elements: int, seed: int = 0) -> Tensor:
    """x_{k+1} = ρ x_k + √(1 − ρ²) z, which has the law N(0, 1) and the autocorrelation ρ^k, (C, N, elements)."""
    z = Stream(seed, "autoregressive").normal(chains, (draws, elements), dtype=torch.float64)
    x = [z[:, 0]]
    for k in range(1, draws):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * z[:, k])
    return torch.stack(x, dim=1)


def grid() -> Tensor:
    return torch.linspace(-12, 12, 24_001, dtype=torch.float64)


def expectation(values: Tensor, shift: float = 0.0) -> float:
    """Of a function on the grid, under N(shift, 1)."""
    x = grid()
    density = torch.exp(-((x - shift) ** 2) / 2) / math.sqrt(2 * math.pi)
    return float((values * density).sum() * (x[1] - x[0]))


def tail_correlation(rho: float) -> float:
    """The correlation of two indicators below the 5 % quantile, of normals correlated by ρ."""
    if abs(rho) < 1e-9:
        return 0.0
    quantile = torch.special.ndtri(torch.tensor(0.05, dtype=torch.float64))
    x = grid()
    below = torch.special.ndtr((quantile - rho * x) / math.sqrt(1 - rho**2)) * (x <= quantile)
    return (expectation(below) - 0.05**2) / (0.05 * 0.95)


def within(found: Tensor, expected: float, slack: float) -> bool:
    """H₀: the mean over elements is the expected one, to a share `slack` of bias, within 5 of its standard errors."""
    error = float(found.std()) / math.sqrt(len(found))
    return abs(float(found.mean()) - expected) < 5 * error + slack * expected


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_the_effective_sizes_of_autoregressive_chains_are_the_known_ones(rho: float) -> None:
    # τ = 1 + 2 Σ ρ^k = (1 + ρ)/(1 − ρ), so ESS = n(1 − ρ)/(1 + ρ): more than n for antithetic chains. The indicators of
    # the tail have correlations of their own. A cut series is biased by a few percent, so 6 % is allowed.
    # False alarm: 20 elements, 5 standard errors, about 1e-4 by Student's law. Caught: draws counted as independent.
    draws = autoregressive(rho, 4, 4000, 20)
    found = summarise(draws)
    size, tau = 16_000, (1 + rho) / (1 - rho)
    assert within(found.ess_bulk, size / tau, 0.06)
    if rho:
        assert not within(found.ess_bulk, size, 0.06)
    # The smaller of two estimates, so a little too small.
    tail = 1 + 2 * sum(tail_correlation(rho**k) for k in range(1, 120))
    assert within(found.ess_tail, size / tail, 0.12)
    assert float(found.r_hat.max()) < 1.02


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_the_mean_is_as_far_off_as_its_error_says(rho: float) -> None:
    # The true mean is 0, so z = mean/MCSE has E z² = 1; over 400 elements its mean has the error √(2/400) = 0.07.
    # H₀ within 5 of them, false alarm 6e-7. Caught: an error of sd/√n, which for ρ = 0.9 gives 19.
    found = summarise(autoregressive(rho, 4, 500, 400, seed=1))
    square = float((found.mean / found.mcse).square().mean())
    assert abs(square - 1) < 0.35
    plain = float((found.mean / found.sd).square().mean() * 2000)
    assert (abs(plain - 1) < 0.35) == (rho == 0)
    assert abs(float(found.sd.mean()) - 1) < 0.05


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_chains_at_two_places_have_the_known_r_hat(shift: float) -> None:
    # Two chains N(±δ/2, 1): pooled ranks turn x into z = Φ⁻¹(½Φ(x + δ/2) + ½Φ(x − δ/2)), of mean ±m and variance v in a
    # chain. The four halves' means have the variance 4m²/3, so R̂ → √(1 + 4m²/3v).
    x = grid()
    ranks = (torch.special.ndtr(x + shift / 2) + torch.special.ndtr(x - shift / 2)) / 2
    z = torch.special.ndtri(ranks.clamp(1e-300, 1 - 1e-16))
    m = expectation(z, shift / 2)
    v = expectation(z**2, shift / 2) - m**2
    draws = autoregressive(0.0, 2, 20_000, 3)
    draws[0] += shift / 2
    draws[1] -= shift / 2
    expected = math.sqrt(1 + 4 * m**2 / (3 * v))
    assert summarise(draws).r_hat.tolist() == pytest.approx([expected] * 3, rel=0.02)
    assert expected > 1.03


def shifted(x: Tensor) -> None:
    x[0] += 0.5


def widened(x: Tensor) -> None:
    x[0] *= 3


def drifting(x: Tensor) -> None:
    x += torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)[:, None]


@pytest.mark.parametrize("spoil", [shifted, widened, drifting])
def test_r_hat_sees_what_is_wrong(spoil: Callable[[Tensor], None]) -> None:
    # A chain elsewhere; one of another width, which folded ranks see alone; a drift of all, which halves see alone.
    draws = autoregressive(0.0, 4, 1000, 5)
    assert float(summarise(draws).r_hat.max()) < 1.01
    spoil(draws)
    assert float(summarise(draws).r_hat.min()) > 1.02


def test_ranks_do_not_care_for_heavy_tails() -> None:
    draws = autoregressive(0.3, 4, 500, 5)
    heavy = torch.tan(math.pi * (torch.special.ndtr(draws) - 0.5))  # Cauchy: no mean, no variance
    plain, found = summarise(draws), summarise(heavy)
    assert torch.equal(found.ess_bulk, plain.ess_bulk)
    assert torch.equal(found.ess_tail, plain.ess_tail)
    # Folding at the median keeps no order, but is no worse for it.
    assert float((found.r_hat - plain.r_hat).abs().max()) < 0.01


def test_what_cannot_be_said_is_nan_and_spoils_no_other_element() -> None:
    draws = autoregressive(0.0, 3, 50, 6).reshape(3, 50, 2, 3)
    whole = summarise(draws)
    assert whole.r_hat.shape == (2, 3)
    broken = draws.clone()
    broken[1, 7, 0, 0] = math.nan
    broken[2, 3, 0, 1] = math.inf
    found = summarise(broken)
    for name in ("mcse", "ess_bulk", "ess_tail", "r_hat"):
        part, other = getattr(found, name), getattr(whole, name)
        assert part[0, :2].isnan().all()
        assert torch.equal(part[0, 2:], other[0, 2:])
        assert torch.equal(part[1], other[1])


def test_chains_that_stand_still_are_defined() -> None:
    same = summarise(torch.full((3, 10), 2.0))
    assert (float(same.mean), float(same.sd), float(same.mcse)) == (2, 0, 0)
    assert math.isnan(float(same.r_hat))
    apart = summarise(torch.arange(3.0).reshape(3, 1).expand(3, 10))
    assert float(apart.r_hat) == math.inf
    assert float(apart.ess_bulk) < 10


def test_one_chain_and_few_draws_are_defined() -> None:
    draws = autoregressive(0.0, 1, 1000, 1)
    one = summarise(draws)
    assert math.isnan(float(one.r_hat))
    assert 500 < float(one.ess_bulk) < 2000
    short = summarise(draws[:, :3])
    assert all(math.isnan(float(part)) for part in (short.r_hat, short.ess_bulk, short.ess_tail, short.mcse))
    assert float(short.mean) == pytest.approx(float(draws[0, :3].mean()))
    assert math.isnan(float(summarise(draws[:, :1]).sd))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0)])
def test_no_draws_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="chains, draws"):
        summarise(torch.zeros(shape))
