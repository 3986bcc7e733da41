"""Dequantisation: bounds below the true probability of bins, which many draws meet; bits in any unit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scorefield.errors import OptionError
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.likelihood.dequantisation import (
    Dequantiser,
    bits_per_dim,
    mean_density,
    through,
    uniform,
    variational,
)

Spread = Callable[[Tensor], tuple[Tensor, Tensor]]
ALL = torch.ones(2, dtype=torch.bool)


def mixture(means: list[list[float]], deviations: list[list[float]]) -> GaussianMixture:
    """Equal parts of Gaussians with independent numbers, whose bins have a probability in closed form."""
    spread = torch.tensor(deviations, dtype=torch.float64)
    return GaussianMixture(torch.ones(len(means)), torch.tensor(means), torch.diag_embed(spread.square()))


def truth(model: GaussianMixture, whole: Tensor) -> Tensor:
    """log P of the bins of width one about integers (B, D), by differences of Φ; deviations are read off the axes."""
    spread = torch.einsum("kij,kj,kij->ki", model.eigenvectors, model.eigenvalues, model.eigenvectors).sqrt()
    up, down = (torch.special.ndtr((whole.unsqueeze(1) + half - model.means) / spread) for half in (0.5, -0.5))
    return ((up - down).prod(2) @ model.weights).log()


def spread_of(whole: Tensor, scale: float = 1.0, shift: float = 0.0) -> Spread:
    """The codec of integers that are divided by a scale and shifted."""

    def spread(u: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = torch.full((len(whole),), -whole.shape[1] * math.log(scale), dtype=torch.float64)
        return (whole + u - 0.5) / scale - shift, jacobian

    return spread


def score_of(model: GaussianMixture) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(model.log_prob(x).sum(), x)
        return found

    return score


def weights(model: GaussianMixture, spread: Spread, q: Dequantiser, draws: int) -> Tensor:
    """log w_k of every row, (draws, B)."""
    found = []
    for k in range(draws):
        u, log_q = q.draw(k)
        x, jacobian = spread(u)
        found.append(model.log_prob(x) + jacobian - log_q)
    return torch.stack(found)


SMOOTH = mixture([[0.3, 1.0], [3.0, -1.0]], [[0.6, 0.9], [0.8, 0.5]])
COMB = mixture([[k + 0.2, 0.5 * k - 0.1] for k in range(4)], [[0.02, 0.3]] * 4)


def rows_of(model: GaussianMixture, count: int, seed: int = 0) -> Tensor:
    return model.sample(count, seed).round()


# -- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "gap"), [(SMOOTH, 0.03), (COMB, 0.2)], ids=["smooth", "comb"])
def test_oracle_uniform_is_below_variational_which_is_below_the_truth(model: GaussianMixture, gap: float) -> None:
    """Means over 60 rows of 200 draws, compared within 4 standard errors: a false alarm in 30 000.

    Planted bugs: without the entropy −log q the variational bound stands far above the truth (last lines).
    """
    whole = rows_of(model, 60)
    spread, true = spread_of(whole), truth(model, whole)
    fitted = variational(through(spread, score_of(model)), range(60), ALL, 0)
    bounds, errors = {}, {}
    for name, q in {"uniform": uniform(range(60), ALL, 0), "variational": fitted}.items():
        log_w = weights(model, spread, q, 200)
        bounds[name] = float((log_w.mean(0) - true).mean())
        errors[name] = float(log_w.std(0).square().sum().sqrt() / 200**0.5 / 60)
    assert bounds["uniform"] < 4 * errors["uniform"]
    assert bounds["variational"] < 4 * errors["variational"]
    assert bounds["variational"] > bounds["uniform"] + 4 * errors["uniform"]
    assert bounds["variational"] > -gap
    if model is COMB:  # peaks of 0.02 of a bin: uniform offsets hardly ever hit them
        assert bounds["uniform"] < -20
        bug = torch.stack([model.log_prob(spread(fitted.draw(k)[0])[0]) for k in range(20)])
        assert float((bug.mean(0) - true).mean()) > 1


@pytest.mark.parametrize("model", [SMOOTH, COMB], ids=["smooth", "comb"])
def test_oracle_many_draws_meet_the_truth_within_their_own_error(model: GaussianMixture) -> None:
    """H₀: (estimate − truth)/error is standard normal over 80 rows. Its root mean square stays within 4/√160 of one.

    The estimate's bias is half its variance, below a tenth of an error here. Planted bug: an error that forgets to
    divide by K is 16 times too large.
    """
    whole = rows_of(model, 80, seed=1)
    spread = spread_of(whole)
    fitted = variational(through(spread, score_of(model)), range(80), ALL, 3)
    log_w = weights(model, spread, fitted, 256)
    found, error = mean_density(log_w, torch.zeros_like(log_w))
    assert float(error.max()) < 0.12
    z = (found - truth(model, whole)) / error
    size = float(z.square().mean().sqrt())
    assert abs(size - 1) < 4 / 160**0.5
    assert abs(size / 16 - 1) > 4 / 160**0.5


def test_more_draws_give_a_tighter_bound() -> None:
    """Burda et al.'s chain: in expectation K = 1, 4, 16 rise towards the truth; means over 400 rows and 4 errors."""
    whole = rows_of(SMOOTH, 400, seed=2)
    log_w = weights(SMOOTH, spread_of(2 * whole, 2.0), uniform(range(400), ALL, 1), 48)
    true = truth(mixture([[0.6, 2.0], [6.0, -2.0]], [[1.2, 1.8], [1.6, 1.0]]), 2 * whole)
    gaps = []
    for draws in (1, 4, 16):
        parts = torch.stack([mean_density(part, torch.zeros_like(part))[0] for part in log_w.split(draws)])
        gaps.append(float((parts.mean(0) - true).mean()))
    assert gaps[0] < gaps[1] < gaps[2] < 0.005


# -- offsets ----------------------------------------------------------------------------------------------------------


def test_law_the_density_of_offsets_is_that_of_their_draws() -> None:
    """Draws against the integral of q: P(u < c) for a fitted q by 20 000 rows, and ∫ q = 1 by its importance weights.

    4 standard errors of either, a false alarm in 8000; planted bug: with e^{−l} for e^l in log q the integral is off.
    """
    shape, count = torch.ones(1, dtype=torch.bool), 20_000
    m, l = torch.full((count, 1), 0.4, dtype=torch.float64), torch.full((count, 1), -0.5, dtype=torch.float64)  # noqa: E741
    u, log_q = Dequantiser(m, l, shape, range(count), 0).draw(0)
    for c in (0.2, 0.5, 0.8):  # u < c where logit(v) < (logit c − m)/e^l
        p = 1 / (1 + math.exp(-(math.log(c / (1 - c)) - 0.4) / math.exp(-0.5)))
        assert abs(float((u < c).double().mean()) - p) < 4 * (p * (1 - p) / count) ** 0.5
    inverse = (-log_q).exp()
    assert abs(float(inverse.mean()) - 1) < 4 * float(inverse.std()) / count**0.5
    assert abs(float((inverse * math.exp(1)).mean()) - 1) > 1


def test_numbers_without_bins_stay_in_the_middle_and_cost_nothing() -> None:
    gridded = torch.tensor([True, False])
    whole = rows_of(SMOOTH, 5)
    q = variational(through(spread_of(whole), score_of(SMOOTH)), range(5), gridded, 0, steps=20)
    u, _ = q.draw(0)
    assert (u[:, 1] == 0.5).all()
    assert (u[:, 0] != 0.5).all()
    none = variational(lambda u: pytest.fail("asked for a score"), range(5), ~ALL, 0)
    assert (none.draw(3)[1] == 0).all()
    assert (uniform(range(5), ALL, 0).draw(3)[1].abs() < 1e-12).all()


def test_law_a_row_is_the_same_alone_and_among_others() -> None:
    """Bit for bit; planted bug: offsets keyed by the place in the batch differ (last line)."""
    whole = rows_of(COMB, 7)
    together = variational(through(spread_of(whole), score_of(COMB)), range(10, 17), ALL, 0, steps=30)
    alone = variational(through(spread_of(whole[4:6]), score_of(COMB)), range(14, 16), ALL, 0, steps=30)
    for mine, theirs in zip(alone.draw(2), together.draw(2), strict=True):
        torch.testing.assert_close(mine, theirs[4:6], rtol=0, atol=1e-12)
    assert not torch.allclose(uniform(range(2), ALL, 0).draw(2)[0], uniform(range(14, 16), ALL, 0).draw(2)[0])


def test_law_offsets_stay_within_their_bins_however_steep_the_density() -> None:
    steep = variational(lambda u: 1e9 * (2 - u), range(4), ALL, 0, steps=50)
    for k in range(20):
        u, log_q = steep.draw(k)
        assert ((u >= 0) & (u < 1)).all()
        assert log_q.isfinite().all()


def test_law_the_gradient_through_a_codec_is_that_of_the_density() -> None:
    whole = rows_of(SMOOTH, 6)
    spread = spread_of(whole, 3.0, 0.7)
    u = uniform(range(6), ALL, 0).draw(0)[0]
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    up, down = (torch.stack([SMOOTH.log_prob(spread(u + sign * s)[0]) for s in step], dim=1) for sign in (1, -1))
    found = through(spread, score_of(SMOOTH))(u)
    torch.testing.assert_close(found, (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(through(spread, score_of_exact)(u), -(spread(u)[0]) / 3)
    assert (through(lambda u: (whole, whole.sum(1)), score_of(SMOOTH))(u) == 0).all()


def score_of_exact(x: Tensor) -> Tensor:
    return -x


# -- errors and bits --------------------------------------------------------------------------------------------------


def test_the_errors_of_single_densities_are_passed_on() -> None:
    log_w, errors = torch.zeros(4, 3), torch.full((4, 3), 0.2)
    found, error = mean_density(log_w, errors)
    assert found.tolist() == pytest.approx([0, 0, 0])
    assert error.tolist() == pytest.approx([0.1] * 3)  # four equal parts of independent error: half of one
    value, error = mean_density(torch.tensor([[1.5]]), torch.tensor([[0.3]]))
    assert (float(value), float(error)) == pytest.approx((1.5, 0.3))


def test_law_an_integer_costs_the_same_bits_in_every_unit() -> None:
    """The same bytes as 0 … 255, as [0, 1] in bins of 1/256 and as [−1, 1] less a mean in bins of 2/255, and the truth.

    Planted bug: without D log δ the second is eight bits too low (last line).
    """
    means, deviations, units = [100.0, 130.0, 20.0], [30.0, 2.0, 0.3], ((1.0, 0.0), (256.0, 0.0), (127.5, 0.92))
    bytes_model = Gaussian(torch.tensor(means), torch.diag(torch.tensor(deviations, dtype=torch.float64) ** 2))
    whole = rows_of(bytes_model, 12)
    gridded = torch.ones(3, dtype=torch.bool)
    bits, raw = [], []
    for scale, shift in units:
        model = Gaussian(
            torch.tensor(means, dtype=torch.float64) / scale - shift,
            torch.diag((torch.tensor(deviations, dtype=torch.float64) / scale) ** 2),
        )
        spread = spread_of(whole, scale, shift)
        q = variational(through(spread, score_of(model)), range(12), gridded, 0, steps=60)
        log_w = weights(model, spread, q, 64)
        log_p, error = mean_density(log_w, torch.zeros_like(log_w))
        bits.append(bits_per_dim(log_p, 3))
        raw.append(bits_per_dim(log_p + 3 * math.log(scale), 3))
    scale_free = bits_per_dim(truth(bytes_model, whole), 3)
    assert ((bits[0] - scale_free).abs() < 5 * error / (3 * math.log(2)) + 1e-4).all()
    torch.testing.assert_close(bits[1], bits[0], rtol=0, atol=1e-6)
    assert ((bits[2] - scale_free).abs() < 5 * error / (3 * math.log(2)) + 1e-4).all()  # other rounding, other fit
    torch.testing.assert_close(bits[1] - raw[1], torch.full((12,), 8.0, dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_fair_choice_of_256_is_eight_bits() -> None:
    assert float(bits_per_dim(torch.tensor(-5 * math.log(256)), 5)) == pytest.approx(8)


def test_no_steps_are_refused() -> None:
    with pytest.raises(OptionError, match="at least 1 step, got 0"):
        variational(lambda u: u, range(2), ALL, 0, steps=0)
