"""What each criterion is least at: a linear score on Gaussian data becomes −Σ⁻¹(x − μ), exactly and from samples."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from scorefield.exact import Gaussian
from scorefield.model import DataScore, EnergyDenoiser, NetworkDenoiser, ScoreModel, ScoreNetwork
from scorefield.noise import EDM, VP, Clean, Flow, Schedule
from scorefield.objectives.criteria import Criterion, Denoising, Explicit
from scorefield.objectives.implicit import FiniteDifference, Implicit, Sliced
from scorefield.objectives.kernels import GaussianKernel, KernelDenoising, NoiseKernel
from scorefield.parametrization import EPSILON, SCORE, VELOCITY, X0, V, edm_f
from scorefield.randomness import Noise, Stream

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
NOTATIONS = {"x0": X0, "epsilon": EPSILON, "score": SCORE, "v": V, "velocity": VELOCITY, "F": edm_f(0.8)}
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "edm": EDM(0.05, 20.0), "flow": Flow(0.01, 0.99)}
IMPLICIT: dict[str, Criterion] = {
    "implicit": Implicit(),
    "sliced": Sliced(reduced_variance=False),
    "reduced variance": Sliced(),
    "finite difference": FiniteDifference(step=1e-3),  # biased by 1e-6 at most
}
Rows = Callable[[Tensor, Tensor], tuple[Tensor, Noise]]


class Linear(nn.Module):
    """W x + b from zeros, of (x), (x, t) or (x, c_noise, condition)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, dtype=torch.float64)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c_noise: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        return self.linear(x)


def models(schedule: Schedule) -> dict[str, ScoreModel]:
    """A linear score in every dress that a schedule allows."""
    each: dict[str, ScoreModel] = {"network": ScoreNetwork(Linear(), schedule)}
    for name, notation in NOTATIONS.items():
        each[f"denoiser of {name}"] = NetworkDenoiser(Linear(), schedule, notation, 0.8)
    each["untold denoiser"] = NetworkDenoiser(Linear(), schedule, EPSILON, 0.8, noise_conditional=False)
    each["energy"] = EnergyDenoiser(Linear(), schedule, NOTATIONS["F"], 0.8)
    return each


def minimise(loss: Callable[[], Tensor], model: ScoreModel) -> None:
    """One step of Newton, which is all that a quadratic needs; along what does not matter to the loss, none."""
    assert isinstance(model, nn.Module)
    parameters = [*model.parameters()]
    gradient = flat(torch.autograd.grad(loss(), parameters, create_graph=True))
    rows = [flat(torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True)) for g in gradient]
    step = torch.linalg.lstsq(torch.stack(rows), gradient.detach(), rcond=1e-10, driver="gelsd").solution
    with torch.no_grad():
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters) - step, parameters)


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def error(model: ScoreModel, truth: Gaussian, t: float = 0.0) -> float:
    """How far the score is from the truth at rows of its own, relatively."""
    x = truth.sample(1000, seed=3, t=t)
    with torch.no_grad():
        found, true = model.score(x, torch.tensor(t, dtype=torch.float64)), truth.score(x, t)
    return float((found - true).norm() / true.norm())


# -- in expectation ---------------------------------------------------------------------------------------------------
#
# These losses are quadratic in x0, ε and v, so that the corners of a cube stand for all of the Gaussian (`corners`):
# nothing is left of chance, and the tolerance is rounding alone.


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_linear_score_becomes_that_of_the_data(name: str, corners: Rows) -> None:
    truth, model = Gaussian(MEAN, COVARIANCE, Clean()), DataScore(Linear())
    x0, noise = corners(MEAN, COVARIANCE)
    for criterion in (IMPLICIT[name], Explicit(truth)):
        minimise(lambda c=criterion: c(model, x0, torch.zeros(len(x0)), noise).mean(), model)
        assert error(model, truth) < 1e-5
        nn.init.ones_(model.network.linear.weight)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_a_linear_score_becomes_that_of_the_noisy_data_in_every_dress(
    schedule: str, sigma: float, corners: Rows
) -> None:
    truth = Gaussian(MEAN, COVARIANCE, SCHEDULES[schedule])
    t = truth.schedule.time_of_sigma(sigma)
    x0, noise = corners(MEAN, COVARIANCE)
    for criterion in (*IMPLICIT.values(), Explicit(truth), Denoising(SCORE), Denoising(NOTATIONS["F"])):
        for dress, model in models(truth.schedule).items():
            assert error(model, truth, float(t)) > 0.05
            minimise(lambda c=criterion, m=model: c(m, x0, t.expand(len(x0)), noise).mean(), model)
            assert error(model, truth, float(t)) < 1e-5, (criterion, dress)


@pytest.mark.parametrize(
    ("kernel", "added"),
    [
        (GaussianKernel(0.3), 0.3 * torch.eye(2)),
        (GaussianKernel(torch.tensor([0.2, 1.5])), torch.diag(torch.tensor([0.2, 1.5]))),
        (GaussianKernel(torch.tensor([[0.5, -0.3], [-0.3, 0.4]])), torch.tensor([[0.5, -0.3], [-0.3, 0.4]])),
    ],
    ids=["one variance", "diagonal", "full"],
)
def test_a_linear_score_becomes_that_of_data_with_a_kernels_noise(
    kernel: NoiseKernel, added: Tensor, corners: Rows
) -> None:
    truth = Gaussian(MEAN, COVARIANCE + added, Clean())
    x0, noise = corners(MEAN, COVARIANCE)
    for model in (DataScore(Linear()), ScoreNetwork(Linear(), EDM(0.1, 1.0))):
        loss = KernelDenoising(kernel)
        minimise(lambda m=model, c=loss: c(m, x0, torch.full((len(x0),), 0.5), noise).mean(), model)
        assert error(model, truth) < 1e-7
        # Without the noise of the kernel, or with another, it is not the same score.
        assert error(model, Gaussian(MEAN, COVARIANCE, Clean())) > 0.1


@pytest.mark.parametrize("step", [0.4, 0.2, 0.1])
def test_finite_differences_of_a_score_are_biased_as_by_their_step_in_noise(step: float, corners: Rows) -> None:
    x0, noise = corners(MEAN, COVARIANCE)
    model = DataScore(Linear())
    minimise(lambda: FiniteDifference(step=step)(model, x0, torch.zeros(len(x0)), noise).mean(), model)
    assert error(model, Gaussian(MEAN, COVARIANCE + step**2 * torch.eye(2), Clean())) < 1e-7
    assert error(model, Gaussian(MEAN, COVARIANCE, Clean())) > 0.2 * step**2


def test_the_bias_of_finite_differences_falls_with_the_square_of_the_step(corners: Rows) -> None:
    x0, noise = corners(MEAN, COVARIANCE)
    errors = []
    for step in (0.08, 0.04, 0.02):
        model = DataScore(Linear())
        minimise(lambda m=model, h=step: FiniteDifference(step=h)(m, x0, torch.zeros(len(x0)), noise).mean(), model)
        errors.append(error(model, Gaussian(MEAN, COVARIANCE, Clean())))
    assert all(1.9 < math.log2(a / b) < 2.1 for a, b in pairwise(errors)), errors


# -- from samples -----------------------------------------------------------------------------------------------------

ROWS = 1_000_000


def learnt(criterion: Criterion, model: ScoreModel, truth: Gaussian, t: float, data: Gaussian, seed: int = 2) -> float:
    """The error of what is learnt from rows drawn at random."""
    x0, noise = data.sample(ROWS, seed=seed), Noise(Stream(seed, "noise"), range(ROWS), 0)
    minimise(lambda: criterion(model, x0, torch.full((ROWS,), t, dtype=torch.float64), noise).mean(), model)
    return error(model, truth, t)


def linear(kind: Callable[..., ScoreModel], schedule: Schedule) -> ScoreModel:
    return DataScore(Linear()) if kind is DataScore else kind(Linear(), schedule, NOTATIONS["F"], 0.8)


DATA, LEVELS = Gaussian(MEAN, COVARIANCE, Clean()), Gaussian(MEAN, COVARIANCE, EDM(0.01, 10.0))
BLURRED = Gaussian(MEAN, COVARIANCE + 0.3 * torch.eye(2), Clean())
# Over seeds, the root mean square of each of these errors is 0.19 to 0.26 %, so that 1 % is four of them.
LEARNT: dict[str, tuple[Criterion, Callable[..., ScoreModel], Gaussian, float]] = {
    "implicit": (Implicit(), DataScore, DATA, 0.0),
    "sliced": (Sliced(), DataScore, DATA, 0.0),
    "kernel": (KernelDenoising(GaussianKernel(0.3)), DataScore, BLURRED, 0.0),
    "denoising": (Denoising(NOTATIONS["F"]), NetworkDenoiser, LEVELS, 0.7),
    "denoising of an energy": (Denoising(SCORE), EnergyDenoiser, LEVELS, 0.7),
}


@pytest.mark.parametrize("name", LEARNT)
def test_a_linear_score_is_learnt_to_a_per_cent_from_samples(name: str) -> None:
    criterion, kind, truth, t = LEARNT[name]
    assert learnt(criterion, linear(kind, truth.schedule), truth, t, DATA) < 0.01


def test_a_score_learnt_from_mirrored_data_is_caught() -> None:
    mirrored = Gaussian(-MEAN, COVARIANCE, Clean())
    assert learnt(Denoising(SCORE), linear(NetworkDenoiser, LEVELS.schedule), LEVELS, 0.7, mirrored) > 0.1
