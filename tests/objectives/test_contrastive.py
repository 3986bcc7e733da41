"""Contrastive divergence has the gradient of the likelihood where its chains are long, and learns where they go on.

Statistical tests are seeded and held to 5 standard errors, a false alarm of 6e-7 for each number.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from scorefield.errors import OptionError
from scorefield.exact import Gaussian
from scorefield.model import EnergyDenoiser, ScoreModel
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VP
from scorefield.objectives.contrastive import Chain, ContrastiveDivergence, PersistentContrastiveDivergence
from scorefield.objectives.matching import ScoreMatching
from scorefield.objectives.times import Fixed, LogUniform
from scorefield.objectives.weights import one
from scorefield.parametrization import edm_f
from scorefield.randomness import Noise, Stream
from scorefield.samplers.langevin import Langevin, MetropolisLangevin

SCHEDULE = EDM(0.1, 10.0)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def drawn(rows: int | range, step: int = 0) -> Noise:
    return Noise(Stream(0, "noise"), range(rows) if isinstance(rows, int) else rows, step)


class Precision(nn.Module):
    """E = ½ θ‖x‖² with one θ, or one for each row so that gradients come row by row."""

    schedule, sigma_data = SCHEDULE, 1.0

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        return -self.theta * x

    def energy(self, x: Tensor, t: Tensor | float) -> Tensor:
        return (self.theta * x.square()).sum(1) / 2


def still(model: ScoreModel, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
    """A chain that stays where it is."""
    return x


def network() -> EnergyDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = MLP((2,), 16, 2)
        nn.init.normal_(inner.out.weight, std=0.1)
    return EnergyDenoiser(inner.double(), VP(), edm_f(0.8), 0.8)


# -- the gradient -----------------------------------------------------------------------------------------------------


def gap(chain: Chain, theta: float, sign: float = 1.0, rows: int = 20_000) -> float:
    """H₀: the expected gradient is that of −log p_θ, ½(E x_t² − 1/θ) for D = 1; how far it is, in standard errors.

    Data N(0, 1) at σ = 1, so that E x_t² = 2.
    """
    model = Precision(torch.full((rows, 1), theta, dtype=torch.float64))
    t = torch.ones(rows, dtype=torch.float64)
    losses = ContrastiveDivergence(chain)(model, normals(rows, 1), t, drawn(rows))
    (slopes,) = torch.autograd.grad(sign * losses.sum(), model.theta)
    return abs(float((slopes.mean() - (2 - 1 / theta) / 2) / (slopes.std() / math.sqrt(rows))))


@pytest.mark.parametrize("theta", [0.25, 0.5, 2.0])
def test_long_chains_have_the_gradient_of_the_likelihood(theta: float) -> None:
    # A chain forgets at the rate of θ; 60 moves of variance 0.8 leave (1 − 0.4θ)^60 of where it began, 0.002 at most.
    assert gap(MetropolisLangevin(60, 0.8), theta) < 5


def test_short_chains_plain_langevin_and_a_wrong_sign_are_seen() -> None:
    # CD-1 is biased towards the data; without refusal the variance is 1/(θ(1 − εθ/4)), here by a third too much.
    assert gap(MetropolisLangevin(1, 0.8), 2.0) > 5
    assert gap(Langevin(60, 0.5), 2.0) > 5
    assert gap(MetropolisLangevin(60, 0.8), 2.0, sign=-1.0) > 5
    # At the truth even short chains have none.
    assert gap(MetropolisLangevin(1, 0.8), 0.5) < 5


def test_a_chain_that_stays_teaches_nothing() -> None:
    model = network()
    t = VP().time_of_sigma(torch.linspace(0.2, 3, 8, dtype=torch.float64))
    losses = ContrastiveDivergence(still)(model, normals(8, 2), t, drawn(8))
    assert torch.equal(losses, torch.zeros(8, dtype=torch.float64))
    losses.sum().backward()
    assert not any(p.grad.any() for p in model.parameters())


def test_the_gradient_passes_through_the_energy_alone() -> None:
    # The same as with the chain's end as a constant, however the chain depends on the weights.
    model, t = network(), torch.full((6,), 0.3, dtype=torch.float64)
    ends: list[Tensor] = []

    def chain(model: ScoreModel, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        with torch.enable_grad():
            ends.append(Langevin(3, 0.5)(model, x, t, noise))
        return ends[-1]

    criterion = ContrastiveDivergence(chain)
    found = torch.autograd.grad(criterion(model, normals(6, 2), t, drawn(6)).sum(), list(model.parameters()))
    x_t = VP().add_noise(normals(6, 2), t, drawn(6).like(normals(6, 2)))
    loss = (model.energy(x_t, t) - model.energy(ends[0].detach(), t)).sum() / 2
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert ends[0].requires_grad  # it could have passed
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_regularisation_adds_the_squares_of_both_energies() -> None:
    model, t = network(), torch.full((5,), 0.3, dtype=torch.float64)
    losses = ContrastiveDivergence(still, regularisation=0.1)(model, normals(5, 2), t, drawn(5))
    energy = model.energy(VP().add_noise(normals(5, 2), t, drawn(5).like(normals(5, 2))), t)
    assert torch.allclose(losses, 0.1 * energy**2, rtol=1e-9)  # twice E², over D = 2


# -- chains -----------------------------------------------------------------------------------------------------------


def test_the_chain_has_noise_of_its_own() -> None:
    # Its first draw must not be the ε that made x_t: 200 numbers agree by chance with correlation below 5/√200.
    seen: list[tuple[Tensor, Tensor]] = []

    def chain(model: ScoreModel, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        seen.append((x, noise.like(x)))
        return x

    model, x0 = network(), normals(100, 2)
    t = torch.full((100,), 0.3, dtype=torch.float64)
    for criterion in (ContrastiveDivergence(chain), PersistentContrastiveDivergence(chain, 100, restart=0)):
        criterion(model, x0, t, drawn(100))
    for _, z in seen:
        correlation = torch.corrcoef(torch.stack((z.flatten(), drawn(100).like(x0).flatten())))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(200)
    assert torch.equal(seen[0][0], VP().add_noise(x0, t, drawn(100).like(x0)))  # they begin at the noisy data


def test_rows_at_levels_of_their_own_have_their_own_losses() -> None:
    objective = ScoreMatching(LogUniform(), ContrastiveDivergence(Langevin(3, 0.3)), one)
    model, x0, u = network(), normals(6, 2), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    together = objective(model, x0, drawn(6), u)
    assert together.shape == (6,)
    for i in range(6):
        alone = objective(model, x0[i : i + 1], drawn(range(i, i + 1)), u[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-8, atol=1e-10)
    again = objective(model, x0, drawn(6), u)
    assert torch.equal(again, together)
    assert not torch.equal(objective(model, x0, drawn(6, step=1), u), together)


# -- persistent chains ------------------------------------------------------------------------------------------------


def learnt(chain: Chain, restart: float) -> tuple[float, float]:
    """θ of `Precision` for N(0, 1) data at σ = 1 by persistent chains, and its standard error; the truth is ½."""
    model, x0 = Precision(torch.tensor([1.5], dtype=torch.float64)), normals(2000, 1)
    objective = ScoreMatching(Fixed(1.0), PersistentContrastiveDivergence(chain, 2000, restart), one)
    u, trace = torch.full((2000,), 0.5, dtype=torch.float64), []
    for step in range(300):
        (slope,) = torch.autograd.grad(objective(model, x0, drawn(2000, step), u).mean(), model.theta)
        with torch.no_grad():
            model.theta -= 0.3 * min(1.0, 10 / (step + 1)) * slope
        trace.append(float(model.theta.detach()))
    # 1/θ is matched to the mean square of x_t, whose error is that of Var x0 = 1 in 2000 rows, √(2/2000): the noise is
    # averaged over the steps. dθ = θ² d(1/θ).
    return sum(trace[150:]) / 150, 0.5**2 * math.sqrt(2 / 2000)


def test_persistent_chains_learn_the_precision_of_a_gaussian() -> None:
    theta, error = learnt(MetropolisLangevin(2, 1.0), restart=0.05)
    assert abs(theta - 0.5) < 5 * error
    # Caught: moves without refusal, whose variance is too large by 1/(1 − εθ/4).
    theta, error = learnt(Langevin(2, 1.0), restart=0.0)
    assert abs(theta - 0.5) > 5 * error


def test_the_chains_go_on_and_their_state_can_be_saved() -> None:
    model, t = network(), torch.full((8,), 0.3, dtype=torch.float64)
    kept, other = (PersistentContrastiveDivergence(Langevin(2, 0.5), 12, 0.2) for _ in range(2))
    assert kept.state() == {}
    other.load_state(kept.state())
    assert torch.equal(kept(model, normals(8, 2), t, drawn(8)), other(model, normals(8, 2), t, drawn(8)))
    state = {name: value.clone() for name, value in kept.state().items()}
    expected = [kept(model, normals(8, 2), t, drawn(8, step)) for step in (1, 2)]
    assert not torch.equal(state["particles"], kept.state()["particles"])
    fresh = PersistentContrastiveDivergence(Langevin(2, 0.5), 12, 0.2)
    fresh.load_state(state)
    assert all(
        torch.equal(fresh(model, normals(8, 2), t, drawn(8, s)), e) for s, e in zip((1, 2), expected, strict=True)
    )
    assert kept.particles is not None
    assert kept.particles.shape == (12, 2)
    assert kept.calls == 3
    # Two parts of one step do not move them alike.
    before = kept.particles
    kept(model, normals(8, 2), t, drawn(8, 2))
    first = kept.particles - before
    before = kept.particles
    kept(model, normals(8, 2), t, drawn(8, 2))
    assert not torch.allclose(kept.particles - before, first, rtol=0.1)


def test_a_look_at_held_out_data_does_not_move_them() -> None:
    model, t = network(), torch.full((8,), 0.3, dtype=torch.float64)
    criterion = PersistentContrastiveDivergence(Langevin(2, 0.5), 8)
    with torch.no_grad():
        assert criterion(model, normals(8, 2), t, drawn(8)).shape == (8,)
    assert criterion.particles is None
    criterion(model, normals(8, 2), t, drawn(8))
    before = criterion.state()
    with torch.no_grad():
        criterion(model, normals(3, 2), t[:3], drawn(3))
    assert all(torch.equal(value, criterion.state()[name]) for name, value in before.items())


def test_the_stated_share_begins_anew_at_the_data() -> None:
    # H₀: each of 4000 chains with probability ¼, at 5 standard errors; the others stay, for the chain does not move.
    model, t = Precision(torch.ones(1)), torch.ones(4000, dtype=torch.float64)
    criterion = PersistentContrastiveDivergence(still, 4000, 0.25)
    criterion(model, normals(4000, 1), t, drawn(4000))
    before = criterion.state()["particles"]
    criterion(model, normals(4000, 1, name="others"), t, drawn(4000, 1))
    x_t = SCHEDULE.add_noise(normals(4000, 1, name="others"), t, drawn(4000, 1).like(before))
    moved = (criterion.state()["particles"] != before).flatten()
    assert abs(float(moved.double().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    assert torch.isin(criterion.state()["particles"][moved], x_t).all()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_wrong_uses_are_refused() -> None:
    truth, t = Gaussian(torch.zeros(2), torch.eye(2), SCHEDULE), torch.full((4,), 0.5, dtype=torch.float64)
    for criterion in (ContrastiveDivergence(still), PersistentContrastiveDivergence(still)):
        with pytest.raises(OptionError, match="Gaussian has none: use EnergyDenoiser"):
            criterion(truth, normals(4, 2), t, drawn(4))
    with pytest.raises(OptionError, match=r"belong to one level, t = 0\.2"):
        PersistentContrastiveDivergence(still)(
            network(), normals(4, 2), torch.linspace(0.2, 0.5, 4, dtype=torch.float64), drawn(4)
        )
    criterion = PersistentContrastiveDivergence(still, 4)
    criterion(network(), normals(4, 2), t, drawn(4))
    with pytest.raises(OptionError, match=r"belong to one level, t = 0\.5"):
        criterion(network(), normals(4, 2), t / 2, drawn(4))
    for chains, restart in ((0, 0.1), (5, -0.1), (5, 1.1), (5, math.nan)):
        with pytest.raises(OptionError, match="chains ≥ 1 and 0 ≤ restart ≤ 1"):
            PersistentContrastiveDivergence(still, chains, restart)
    with pytest.raises(OptionError, match="a state of 5 chains was expected, got one of 4"):
        PersistentContrastiveDivergence(still, 5).load_state(criterion.state())
    with pytest.raises(OptionError, match="has particles, calls and t, got particles"):
        criterion.load_state({"particles": torch.zeros(4, 2)})
