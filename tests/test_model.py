"""Laws of denoisers: a change of schedule changes no x0, conditions stay where they were bound, rows are apart."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from scorefield.bounded import Bounded
from scorefield.errors import OptionError
from scorefield.exact import Empirical, Gaussian, GaussianMixture
from scorefield.model import DataScore, Denoiser, EnergyDenoiser, NetworkDenoiser, ScoreNetwork, reschedule
from scorefield.networks.mlp import MLP
from scorefield.noise import EDM, VE, VP, Clean, Cosine, Flow, Schedule, SubVP
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, Parametrization, V, edm_f
from scorefield.randomness import Stream
from scorefield.samplers.presets import heun

SIGMA_DATA = 0.6
SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "edm": EDM(0.01, 80.0),
    "flow": Flow(),
    "subvp": SubVP(),
    "cosine": Cosine(),
    "ve": VE(0.01, 80.0),
}
NOTATIONS = {"x0": X0, "epsilon": EPSILON, "score": SCORE, "v": V, "velocity": VELOCITY, "F": edm_f(SIGMA_DATA)}
SIGMAS = torch.logspace(math.log10(0.03), 1, 6, dtype=torch.float64)  # σ/α
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=SCHEDULES)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def mixture(schedule: Schedule) -> GaussianMixture:
    covariances = torch.stack((torch.eye(2) * 0.3, torch.tensor([[0.5, 0.3], [0.3, 0.2]])))
    return GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]]), covariances, schedule)


class Small(nn.Module):
    """A smooth map of any x, c_noise and condition, row by row, with fixed weights."""

    def __init__(self, elements: int, condition_features: int = 0) -> None:
        super().__init__()
        inputs = elements + 1 + condition_features
        self.weight = nn.Parameter(normals(1, elements, inputs, name="weight")[0] / math.sqrt(inputs))
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        self.seen.append((x, c_noise, condition))
        parts = [x.flatten(1), c_noise.reshape(-1, 1).expand(len(x), 1)]
        if condition is not None:
            parts.append(condition.expand(len(x), -1))
        return torch.tanh(torch.cat(parts, dim=1) @ self.weight.T).reshape(x.shape)


def network(
    schedule: Schedule, notation: Parametrization = EPSILON, shape: tuple[int, ...] = (2,), condition: int = 0
) -> NetworkDenoiser:
    return NetworkDenoiser(Small(math.prod(shape), condition), schedule, notation, SIGMA_DATA, condition)


# -- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(SCHEDULES, 2)))
def test_a_new_schedule_reads_the_same_model(old: str, new: str) -> None:
    schedule = SCHEDULES[new]
    moved, expected = reschedule(mixture(SCHEDULES[old]), schedule), mixture(schedule)
    x0, epsilon = normals(6, 2), normals(6, 2, name="noise")
    each_time = schedule.time_of_sigma(SIGMAS)
    for t in (each_time, each_time[2]):
        x_t = schedule.add_noise(x0, t, epsilon)
        found, truth = moved(x_t, t), expected(x_t, t)
        assert torch.allclose(found.x0, truth.x0, rtol=1e-8, atol=1e-9)
        assert torch.allclose(found.epsilon, truth.epsilon, rtol=1e-8, atol=1e-9)
        assert torch.allclose(moved.score(x_t, t), expected.score(x_t, t), rtol=1e-8, atol=1e-9)
        # The velocity is that of the new path, whose time runs differently.
        assert torch.allclose(found.velocity, truth.velocity, rtol=1e-8, atol=1e-8)
    assert moved.schedule is schedule
    assert moved.sigma_data == expected.sigma_data


@each_schedule
def test_there_and_back_is_the_same_model(schedule: Schedule) -> None:
    # No truth is needed for this: any network at all.
    model = network(schedule)
    again = reschedule(reschedule(model, EDM(0.01, 80.0)), schedule)
    t = schedule.time_of_sigma(SIGMAS)
    x_t = schedule.add_noise(normals(6, 2), t, normals(6, 2, name="noise"))
    assert torch.allclose(again(x_t, t).x0, model(x_t, t).x0, rtol=1e-8, atol=1e-8)
    assert torch.allclose(again(x_t, t).epsilon, model(x_t, t).epsilon, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("new", ["vp", "flow", "subvp", "cosine"])
def test_a_network_for_f_is_the_same_model_under_any_schedule(new: str) -> None:
    # c_in x_t, c_noise, c_skip and c_out depend on x_t/α and σ/α alone: the same weights under another schedule are the
    # rescheduled model.
    schedule = SCHEDULES[new]
    plain, moved = network(schedule, NOTATIONS["F"]), reschedule(network(EDM(0.01, 80.0), NOTATIONS["F"]), schedule)
    t = schedule.time_of_sigma(SIGMAS)
    x_t = schedule.add_noise(normals(6, 2), t, normals(6, 2, name="noise"))
    assert torch.allclose(plain(x_t, t).x0, moved(x_t, t).x0, rtol=1e-8, atol=1e-9)


def test_images_and_single_precision_may_be_rescheduled() -> None:
    moved = reschedule(network(VP(), X0, (3, 2, 2)).float(), Flow())
    x_t = normals(4, 3, 2, 2).float()
    estimate = moved(x_t, torch.tensor([0.1, 0.3, 0.6, 0.9]))
    assert (estimate.x0.shape, estimate.x0.dtype) == (x_t.shape, torch.float32)
    rows = [moved(x_t[i : i + 1], t).x0 for i, t in enumerate((0.1, 0.3, 0.6, 0.9))]
    assert torch.allclose(torch.cat(rows), estimate.x0, atol=1e-5)


# -- networks ---------------------------------------------------------------------------------------------------------


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_what_a_network_says_agrees_with_x_t(name: str, schedule: Schedule) -> None:
    model = network(schedule, NOTATIONS[name], (1, 2, 2))
    t = schedule.time_of_sigma(SIGMAS)
    x_t = schedule.add_noise(normals(6, 1, 2, 2), t, normals(6, 1, 2, 2, name="noise"))
    estimate = model(x_t, t)
    level = schedule.at(t, like=x_t)
    assert torch.allclose(schedule.add_noise(estimate.x0, t, estimate.epsilon), x_t, rtol=1e-9, atol=1e-10)
    assert torch.allclose(level.sigma * model.score(x_t, t), -estimate.epsilon, rtol=1e-9, atol=1e-10)
    # And it is the network's own output that was read.
    said = model.network(*model.network.seen[0])
    assert torch.allclose(NOTATIONS[name].of(estimate.x0, estimate.epsilon, level), said, rtol=1e-7, atol=1e-8)


@each_schedule
def test_a_network_sees_unit_variance_and_only_the_signal_to_noise_ratio(schedule: Schedule) -> None:
    model = network(schedule)
    t = schedule.time_of_sigma(SIGMAS)
    # The root mean square of α x0 + σ ε is that of the two unit vectors' images under the scaling.
    clean = SIGMA_DATA * torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(6, 2)
    noise = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(6, 2)
    model(schedule.add_noise(clean, t, noise), t)
    seen, c_noise, condition = model.network.seen[0]
    assert torch.allclose(seen.square().sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-10)
    assert torch.allclose(c_noise, SIGMAS.log() / 4, rtol=1e-9)  # Karras et al. 2022, Table 1
    assert condition is None


@each_schedule
def test_one_time_for_all_is_that_time_for_each(schedule: Schedule) -> None:
    model, x_t = network(schedule, V), normals(5, 2)
    t = float(schedule.time_of_sigma(0.5))
    one, each = model(x_t, t), model(x_t, torch.full((5,), t, dtype=torch.float64))
    assert torch.allclose(one.x0, each.x0, rtol=1e-12)
    assert torch.allclose(one.epsilon, each.epsilon, rtol=1e-12)


@pytest.mark.parametrize("condition", [0, 3])
def test_rows_know_nothing_of_their_neighbours(condition: int) -> None:
    model = network(VP(), EPSILON, condition=condition)
    x_t, t, c = normals(6, 2), SIGMAS / 20, normals(6, 3, name="condition")
    bound = model.given(c) if condition else model
    expected = bound(x_t, t).x0
    for others in (1e3, math.nan):
        disturbed, disturbed_c = torch.full_like(x_t, others), torch.full_like(c, others)
        disturbed[2], disturbed_c[2] = x_t[2], c[2]
        bound = model.given(disturbed_c) if condition else model
        assert torch.allclose(bound(disturbed, t).x0[2], expected[2], rtol=1e-12)


def test_a_network_in_half_precision_answers_in_the_type_of_x() -> None:
    class Half(Small):
        def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
            return super().forward(x.double(), c_noise.double(), condition).bfloat16()

    estimate = NetworkDenoiser(Half(2), VP(), EPSILON, 1.0)(normals(4, 2).float(), 0.3)
    assert (estimate.x0.dtype, estimate.epsilon.dtype) == (torch.float32, torch.float32)


@each_schedule
def test_a_network_that_is_not_told_the_noise_sees_x_t_alone(schedule: Schedule) -> None:
    model = NetworkDenoiser(Small(2), schedule, EPSILON, SIGMA_DATA, noise_conditional=False)
    t, x_t = schedule.time_of_sigma(SIGMAS), normals(6, 2)
    score = model.score(x_t, t)
    seen, c_noise, _ = model.network.seen[0]
    assert torch.allclose(seen, x_t / SIGMA_DATA, rtol=1e-12)
    assert not c_noise.any()
    # Song & Ermon 2020, technique 3: one network of x, divided by σ.
    level = schedule.at(t, like=x_t)
    same = model.network(x_t / SIGMA_DATA, torch.zeros(1, dtype=torch.float64), None)
    assert torch.allclose(score, -same / level.sigma, rtol=1e-10)
    told = network(schedule).score(x_t, t)
    assert (told - score).abs().max() > 1e-2


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
def test_a_second_half_of_the_output_is_the_share_of_the_variance(name: str, schedule: Schedule) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.share = Small(12), 3 * normals(1, 3, 2, 2, name="share")

        def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
            return torch.cat([self.mean(x, c_noise, condition), self.share.expand(x.shape)], dim=1)

    both = Both()
    plain = NetworkDenoiser(both.mean, schedule, NOTATIONS[name], SIGMA_DATA)
    model = NetworkDenoiser(both, schedule, NOTATIONS[name], SIGMA_DATA, learned_variance=True)
    t, x_t = schedule.time_of_sigma(SIGMAS), normals(6, 3, 2, 2)
    estimate, expected = model(x_t, t), plain(x_t, t)
    assert torch.equal(estimate.x0, expected.x0)
    assert torch.equal(estimate.epsilon, expected.epsilon)
    assert torch.equal(model.output(x_t, schedule.at(t, like=x_t)), plain.output(x_t, schedule.at(t, like=x_t)))
    assert expected.variance_share is None
    # −1 is β̃, 1 is β and 0 halfway between their logarithms; what lies beyond is beyond them.
    share = estimate.variance_share
    assert share is not None
    assert share.shape == x_t.shape
    for said, meant in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0), (3.0, 2.0)):
        both.share = torch.full_like(both.share, said)
        assert torch.equal(model(x_t, t).variance_share, torch.full_like(x_t, meant))
    assert share.std() > 0.1


# -- plain networks ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network of x alone, or of (x, t), that keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, *arguments: Tensor) -> Tensor:
        self.seen.append(arguments)
        return self.linear(arguments[0])


def test_a_plain_network_is_a_score_of_the_data_or_of_every_level() -> None:
    x, t = normals(4, 2).float(), torch.linspace(0.1, 0.4, 4, dtype=torch.float64)
    data, levels = DataScore(Plain()), ScoreNetwork(Plain(), VP())
    assert data.schedule == Clean()
    assert levels.schedule == VP()
    for time in (0.3, torch.tensor(0.3), t):
        assert torch.equal(data.score(x, time), data.network.linear(x))
        assert torch.equal(levels.score(x, time), levels.network.linear(x))
        assert data.network.seen[-1] == (x,)
        place, told = levels.network.seen[-1]
        assert place is x
        assert told.dtype == torch.float32
        assert torch.equal(told, torch.as_tensor(time, dtype=torch.float32))
    assert len([*data.parameters()]) == len([*levels.parameters()]) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert data.score(x, 0.0).dtype == levels.score(x, t).dtype == torch.float32


# -- energies ---------------------------------------------------------------------------------------------------------


def energy(
    schedule: Schedule, notation: Parametrization = EPSILON, shape: tuple[int, ...] = (2,), condition: int = 0
) -> EnergyDenoiser:
    return EnergyDenoiser(Small(math.prod(shape), condition), schedule, notation, SIGMA_DATA, condition)


@each_schedule
@pytest.mark.parametrize("name", NOTATIONS)
@pytest.mark.parametrize("told", [True, False])
def test_the_score_is_minus_the_gradient_of_the_energy(name: str, schedule: Schedule, told: bool) -> None:
    for shape in ((2,), (1, 2, 2)):
        model = energy(schedule, NOTATIONS[name], shape)
        model.noise_conditional = told
        each_time = schedule.time_of_sigma(SIGMAS)
        x = schedule.add_noise(normals(6, *shape), each_time, normals(6, *shape, name="noise"))
        for t in (each_time, each_time[3]):
            place = x.clone().requires_grad_()
            value = model.energy(place, t)
            assert value.shape == (6,)
            (slope,) = torch.autograd.grad(value.sum(), place)
            score = model.score(x, t)
            scale = score.abs().flatten(1).amax(1).reshape(-1, *[1] * len(shape))
            assert ((score + slope).abs() <= 1e-9 * scale).all()


@each_schedule
def test_an_energy_looks_the_same_with_and_without_gradients(schedule: Schedule) -> None:
    model, x = energy(schedule), normals(6, 2)
    t = schedule.time_of_sigma(SIGMAS)
    watched = model.score(x, t)
    assert watched.requires_grad
    with torch.no_grad():
        score, value = model.score(x, t), model.energy(x, t)
        again = model.score(x.clone().requires_grad_(), t)
    assert not any(part.requires_grad for part in (score, value, again))
    assert torch.equal(score, watched)
    assert torch.equal(again, watched)
    assert not x.requires_grad
    assert torch.equal(value, model.energy(x, t))


def test_the_gradient_of_an_energys_loss_is_that_of_finite_differences() -> None:
    # The parameters' gradient of a loss of a gradient: through autograd twice, and by central differences of the loss.
    model, x = energy(VP(), NOTATIONS["F"]), normals(6, 2)
    weight = model.network.weight

    def loss() -> Tensor:
        return (model.score(x, 0.3) - 1).square().mean()

    (slope,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        for place in ((0, 0), (1, 2), (0, 1)):
            kept, h = float(weight[place]), 1e-5
            values = []
            for side in (-h, h):
                weight[place] = kept + side
                values.append(float(loss()))
            weight[place] = kept
            assert float(slope[place]) == pytest.approx((values[1] - values[0]) / (2 * h), rel=1e-7)


def test_the_slope_of_an_energys_score_is_symmetric() -> None:
    # As that of a gradient is, and that of a network in its place is not.
    x, t = normals(1, 2), 0.3
    for kind, symmetric in ((EnergyDenoiser, True), (NetworkDenoiser, False)):
        model = kind(Small(2), VP(), EPSILON, SIGMA_DATA)
        slope = torch.autograd.functional.jacobian(lambda y, m=model: m.score(y, t), x)[0, :, 0]
        assert torch.allclose(slope, slope.mT, rtol=1e-9) == symmetric


@each_schedule
def test_an_untrained_energy_is_that_of_the_gaussian_that_f_takes_the_data_for(schedule: Schedule) -> None:
    model = EnergyDenoiser(MLP((2,), 8, 2).double(), schedule, NOTATIONS["F"], SIGMA_DATA)
    truth = Gaussian(torch.zeros(2), SIGMA_DATA**2 * torch.eye(2, dtype=torch.float64), schedule)
    t, x = schedule.time_of_sigma(SIGMAS), normals(6, 2)
    origin = torch.zeros_like(x)
    assert torch.allclose(model.score(x, t), truth.score(x, t), rtol=1e-9)
    known = truth.log_prob(origin, t) - truth.log_prob(x, t)
    assert torch.allclose(model.energy(x, t) - model.energy(origin, t), known, rtol=1e-9)


@each_schedule
def test_an_energy_keeps_its_weights_its_condition_and_its_type(schedule: Schedule) -> None:
    model, c = energy(schedule, NOTATIONS["F"], condition=3), normals(4, 3, name="condition")
    x, t = normals(4, 2), schedule.time_of_sigma(0.5)
    for call in (model.energy, model.score):
        with pytest.raises(OptionError, match="bind a condition with `given` first"):
            call(x, t)
    one, two = model.given(c), model.given(-c)
    assert isinstance(one, EnergyDenoiser)
    assert one.network is model.network
    assert (one.energy(x, t) - two.energy(x, t)).abs().max() > 1e-3
    assert (one.score(x, t) - two.score(x, t)).abs().max() > 1e-3
    place = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(one.energy(place, t).sum(), place)
    assert torch.allclose(one.score(x, t), -slope, rtol=1e-8)
    single = EnergyDenoiser(MLP((2,), 8, 2), schedule, NOTATIONS["F"], SIGMA_DATA)
    with torch.autocast("cpu", torch.bfloat16):
        assert single.energy(x.float(), t).dtype == single.score(x.float(), t).dtype == torch.float32


# -- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_is_bound_to_the_copy_alone() -> None:
    model = network(EDM(0.01, 80.0), condition=3)
    x_t, c = normals(4, 2), normals(4, 3, name="condition")
    one, two = model.given(c), model.given(-c)
    first, second = one(x_t, 0.5).x0, two(x_t, 0.5).x0
    assert (first - second).abs().max() > 1e-3  # the condition is heard
    assert torch.equal(one(x_t, 0.5).x0, first)  # and not forgotten for a later one
    assert torch.equal(one.given(-c)(x_t, 0.5).x0, second)
    assert model.condition is None
    with pytest.raises(OptionError, match="bind a condition with `given` first"):
        model(x_t, 0.5)


def test_bound_copies_share_their_weights_with_the_original() -> None:
    model = network(EDM(0.01, 80.0), condition=3)
    bound = model.given(normals(1, 3, name="condition"))
    x_t = normals(4, 2)
    before = bound(x_t, 0.5).x0
    with torch.no_grad():
        model.network.weight.mul_(2)
    assert bound.network is model.network
    assert [*map(id, bound.parameters())] == [*map(id, model.parameters())]
    assert (bound(x_t, 0.5).x0 - before).abs().max() > 1e-3
    bound(x_t, 0.5).x0.sum().backward()
    assert model.network.weight.grad.abs().max() > 0
    assert "condition" not in bound.state_dict()
    assert bound.state_dict().keys() == model.state_dict().keys()


def test_one_condition_serves_all_rows() -> None:
    model, x_t, c = network(VP(), condition=3), normals(4, 2), normals(1, 3, name="condition")
    assert torch.allclose(model.given(c)(x_t, 0.3).x0, model.given(c.expand(4, 3))(x_t, 0.3).x0, rtol=1e-12)


def test_a_rescheduled_model_takes_a_condition_too() -> None:
    model, c = network(EDM(0.01, 80.0), NOTATIONS["F"], condition=3), normals(4, 3, name="condition")
    moved = reschedule(model, VP())
    t = VP().time_of_sigma(0.5)
    x_t = VP().add_noise(normals(4, 2), t, normals(4, 2, name="noise"))
    expected = model.given(c)(x_t / VP().at(t).alpha, 0.5).x0
    assert torch.allclose(moved.given(c)(x_t, t).x0, expected, rtol=1e-9)
    with pytest.raises(OptionError, match="bind a condition"):
        moved(x_t, t)


@pytest.mark.parametrize("shape", [(4, 2), (4, 4), (3,), (4, 3, 1)])
def test_a_condition_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    for model in (network(VP(), condition=3), reschedule(network(VP(), condition=3), EDM(0.01, 80.0))):
        with pytest.raises(OptionError, match=r"shape \(B, 3\), got \(" + ", ".join(map(str, shape))):
            model.given(torch.zeros(shape))


def test_an_unconditional_model_refuses_every_condition() -> None:
    for shape in ((4, 2), (4, 0), (1,)):
        with pytest.raises(OptionError, match="condition"):
            network(VP()).given(torch.zeros(shape))
    for model in (Denoiser(), reschedule(Gaussian(torch.zeros(2), torch.eye(2)), VP())):
        with pytest.raises(OptionError, match="takes no condition"):
            model.given(torch.zeros(4, 2))


def test_a_denoiser_without_a_forward_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Denoiser()(torch.zeros(1, 2), 0.5)


@pytest.mark.parametrize("schedule", [EDM(0.01, 10.0), VP(), Flow()])
@pytest.mark.parametrize("kind", [NetworkDenoiser, EnergyDenoiser])
def test_a_level_without_noise_is_refused_by_a_network_that_is_told_levels(
    kind: type[NetworkDenoiser], schedule: Schedule
) -> None:
    model = kind(Small(2), schedule, edm_f(1.0), 1.0)
    with pytest.raises(OptionError, match=r"knows levels with noise only.*DataScore"):
        model.score(normals(3, 2), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("notation", [VELOCITY, X0, V])
def test_a_flow_can_be_asked_where_it_begins(notation: Parametrization) -> None:
    # At t = 1 there is no data left, α = 0; just below, the model says nearly the same.
    model = NetworkDenoiser(Small(2), Flow(), notation, 1.0)
    end, near = (model(normals(3, 2), t).x0 for t in (1.0, 1 - 1e-9))
    assert end.isfinite().all()
    assert torch.allclose(end, near, rtol=1e-4)


def test_an_energy_answers_in_inference_mode_too() -> None:
    model = EnergyDenoiser(Small(2), VP(), edm_f(1.0), 1.0)
    expected = model.score(normals(3, 2), 0.5).detach()
    with torch.inference_mode():
        assert torch.equal(model.score(normals(3, 2), 0.5), expected)


# -- kept near the data -----------------------------------------------------------------------------------------------


@each_schedule
def test_a_box_that_holds_the_data_changes_nothing_of_the_truth(schedule: Schedule) -> None:
    data = normals(50, 3, name="data")
    truth = Empirical(data, schedule)
    bounded = Bounded(truth, data.min(0).values, data.max(0).values, margin=0)
    t, x_t = schedule.time_of_sigma(SIGMAS), 5 * normals(6, 3)
    found, expected = bounded(x_t, t), truth(x_t, t)
    assert torch.allclose(found.x0, expected.x0, rtol=1e-12)
    assert torch.allclose(found.epsilon, expected.epsilon, rtol=1e-12)


@pytest.mark.parametrize("bounds", [0.1, 100.0])
def test_a_bounded_denoiser_reads_the_same_with_and_without_gradients(bounds: float) -> None:
    model = Bounded(network(VP(), edm_f(SIGMA_DATA)), torch.full((2,), -bounds), torch.full((2,), bounds))
    x_t = normals(6, 2)
    expected = model(x_t, 0.5)
    with torch.no_grad():
        found = model(x_t, 0.5)
    assert (found.x0.abs() < 1.2 * bounds - 1e-9).any()
    assert (found.x0.abs() >= 1.2 * bounds - 1e-9).any() == (bounds < 1)
    assert torch.equal(found.x0, expected.x0)
    assert torch.equal(found.epsilon, expected.epsilon)
    assert expected.epsilon.requires_grad
    assert not found.epsilon.requires_grad


@pytest.mark.parametrize("gradients", [True, False])
def test_a_compiled_denoiser_says_the_same_in_one_graph(gradients: bool) -> None:
    plain = Bounded(network(VP(), edm_f(SIGMA_DATA)), -torch.ones(2), torch.ones(2))
    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    x_t, t = normals(6, 2), torch.linspace(0.2, 0.8, 6, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        found, expected = compiled(x_t, t), plain(x_t, t)
    assert torch.allclose(found.x0, expected.x0, rtol=1e-12)
    assert torch.allclose(found.epsilon, expected.epsilon, rtol=1e-12)
    assert found.epsilon.requires_grad == gradients


class Runaway(nn.Module):
    """Far out it is wrong in proportion to how far."""

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
        return 40 * x


@each_schedule
def test_a_walk_that_a_network_drives_away_is_kept(schedule: Schedule) -> None:
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 3.0])
    model = NetworkDenoiser(Runaway(), schedule, edm_f(1.0), 1.0)
    bounded = Bounded(model, low, high)
    x_t, t = 9 * normals(6, 2), schedule.time_of_sigma(SIGMAS)
    estimate, level = bounded(x_t, t), schedule.at(t, like=x_t)
    # A tenth of the width is left on either side, and x0 and ε still make up x_t.
    assert (estimate.x0 >= torch.tensor([-1.2, -2.5]) - 1e-12).all()
    assert (estimate.x0 <= torch.tensor([1.2, 3.5]) + 1e-12).all()
    assert torch.allclose(level.alpha * estimate.x0 + level.sigma * estimate.epsilon, x_t, rtol=1e-10)
    inside = model(x_t, t).x0 == estimate.x0
    assert torch.equal(estimate.epsilon[inside], model(x_t, t).epsilon[inside])
    far = heun(30)(model, 200, (2,), seed=0)
    assert far.abs().max() > 1e3
    near = heun(30)(bounded, 200, (2,), seed=0)
    assert (near >= torch.tensor([-1.2, -2.5]) - 1e-5).all()
    assert (near <= torch.tensor([1.2, 3.5]) + 1e-5).all()


def test_a_bounded_denoiser_takes_a_condition_and_keeps_its_box() -> None:
    class Told(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor | None) -> Tensor:
            assert condition is not None
            return 100 * condition.expand_as(x)

    model = Bounded(NetworkDenoiser(Told(), VP(), X0, 1.0, condition_features=1), -torch.ones(2), torch.ones(2))
    given = model.given(torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64))
    assert torch.allclose(given(normals(3, 2), 0.5).x0, torch.tensor([[1.2], [-1.2], [0.0]]).double().expand(3, 2))
