"""Divergences against traces that are known, and random probes against the exact one."""

import math

import pytest
import torch
from torch import Tensor

from scorefield.calculus import Field, divergence, hutchinson_divergence
from scorefield.exact import Gaussian, GaussianMixture
from scorefield.noise import VP
from scorefield.randomness import Stream

MATRIX = torch.tensor([[2.0, 5.0, -1.0], [0.5, -3.0, 4.0], [7.0, 1.0, 0.25]], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ MATRIX.T + 1


def curved(x: Tensor) -> Tensor:
    """A field that couples all elements of a row, with divergence Σ cos xᵢ + Σ xᵢ₋₁ (cyclic)."""
    flat = x.flatten(1)
    return (flat.sin() + flat * flat.roll(1, dims=1)).reshape(x.shape)


def divergence_of_curved(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat.cos().sum(1) + flat.sum(1)


def normals(*shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(shape[0], shape[1:], dtype=torch.float64)


# -- exact ------------------------------------------------------------------------------------------------------------


def test_a_linear_field_has_its_trace() -> None:
    x = normals(5, 3)
    value, total = divergence(linear, x)
    assert torch.equal(value, linear(x))
    assert torch.allclose(total, torch.full((5,), 2.0 - 3.0 + 0.25, dtype=torch.float64), rtol=1e-12)


def test_the_score_of_a_gaussian_has_minus_the_trace_of_its_precision() -> None:
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    model = Gaussian(torch.ones(2), covariance, VP())
    level = VP().at(0.3)
    spread = level.alpha**2 * covariance + level.sigma**2 * torch.eye(2, dtype=torch.float64)
    _, total = divergence(lambda x: model.score(x, 0.3), normals(5, 2))
    assert torch.allclose(total, -torch.linalg.inv(spread).trace().expand(5), rtol=1e-10)


def test_the_score_of_a_mixture_has_the_laplacian_of_log_prob() -> None:
    model = GaussianMixture(torch.ones(2), torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.eye(2).repeat(2, 1, 1) / 4)
    x = normals(6, 2)
    _, total = divergence(lambda y: model.score(y, 0.5), x)
    h = 1e-4
    steps = h * torch.eye(2, dtype=torch.float64)
    around = sum(model.log_prob(x + sign * e, 0.5) for e in steps for sign in (-1, 1))
    assert torch.allclose(total, (around - 4 * model.log_prob(x, 0.5)) / h**2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 2, 4)])
def test_rows_of_any_shape(shape: tuple[int, ...]) -> None:
    x = normals(4, *shape)
    value, total = divergence(curved, x)
    assert (value.shape, total.shape) == (x.shape, (4,))
    if math.prod(shape) > 1:  # a single element is its own neighbour
        assert torch.allclose(total, divergence_of_curved(x), rtol=1e-12)
    estimate = hutchinson_divergence(curved, x, normals(3, 4, *shape, name="probes"))
    assert torch.equal(estimate[0], value)
    assert estimate[1].shape == (3, 4)


def test_a_row_does_not_feel_its_neighbours() -> None:
    x = normals(4, 3)
    _, total = divergence(curved, x)
    _, alone = divergence(curved, x[2:3])
    assert torch.allclose(alone, total[2:3], rtol=1e-13)


def test_no_rows_have_no_divergence() -> None:
    value, total = divergence(curved, torch.zeros(0, 3))
    assert (value.shape, total.shape) == ((0, 3), (0,))


def test_a_field_that_does_not_depend_on_x_has_none() -> None:
    x = normals(4, 3)
    for field in (torch.ones_like, lambda y: torch.stack((y[:, 1], 0 * y[:, 0], y[:, 0]), dim=1)):
        assert torch.equal(divergence(field, x)[1], torch.zeros(4, dtype=torch.float64))
    constant = hutchinson_divergence(torch.ones_like, x, normals(2, 4, 3))
    assert torch.equal(constant[1], torch.zeros(2, 4, dtype=torch.float64))


# -- random probes ----------------------------------------------------------------------------------------------------


def bias_in_standard_errors(field: Field, x: Tensor, probes: Tensor) -> float:
    """H₀: the mean over probes is the exact divergence, at each row. The largest difference in standard errors."""
    _, exact = divergence(field, x)
    _, estimates = hutchinson_divergence(field, x, probes)
    errors = estimates.std(0) / math.sqrt(len(probes))
    return float(((estimates.mean(0) - exact) / errors).abs().max())


def test_random_probes_are_unbiased() -> None:
    # Four rows and four pairs, threshold 5: a false alarm of 1e-5. Caught: probes of the wrong variance, and one number
    # for all elements of a row, whose covariance is not the identity.
    x, probes = normals(4, 3), normals(4000, 4, 3, name="probes")
    for field in (linear, curved):
        assert bias_in_standard_errors(field, x, probes) < 5
        assert bias_in_standard_errors(field, x, probes.sign()) < 5
    assert bias_in_standard_errors(lambda y: linear(y) + 5 * y, x, 1.2 * probes) > 5
    assert bias_in_standard_errors(linear, x, probes[..., :1].expand_as(probes)) > 5


def test_signs_are_exact_for_a_diagonal_field_and_normals_are_not() -> None:
    x = normals(5, 3)
    signs = normals(6, 5, 3, name="signs").sign()
    _, estimates = hutchinson_divergence(lambda y: y**3, x, signs)
    assert torch.allclose(estimates, (3 * x**2).sum(1).expand(6, 5), rtol=1e-12)


def test_unit_probes_give_the_diagonal_one_by_one() -> None:
    x = normals(5, 3)
    units = torch.eye(3, dtype=torch.float64).repeat_interleave(5, 0).view(3, 5, 3)
    _, diagonal = hutchinson_divergence(linear, x, units)
    assert torch.allclose(diagonal, MATRIX.diagonal()[:, None].expand(3, 5), rtol=1e-12)
    # Scaled by √D they have the identity as their covariance: their mean is the exact divergence.
    _, estimates = hutchinson_divergence(curved, x, math.sqrt(3) * units)
    assert torch.allclose(estimates.mean(0), divergence(curved, x)[1], rtol=1e-12)


# -- derivatives of derivatives ---------------------------------------------------------------------------------------


def test_results_can_be_differentiated_again_where_asked() -> None:
    # div of curved is Σ cos xᵢ + Σ xᵢ, with gradient 1 − sin xᵢ.
    x = normals(5, 3).requires_grad_()
    units = math.sqrt(3) * torch.eye(3, dtype=torch.float64).repeat_interleave(5, 0).view(3, 5, 3)
    for total in (
        divergence(curved, x, create_graph=True)[1],
        hutchinson_divergence(curved, x, units, create_graph=True)[1].mean(0),
    ):
        (gradient,) = torch.autograd.grad(total.sum(), x)
        assert torch.allclose(gradient, 1 - x.detach().sin(), rtol=1e-10, atol=1e-12)


def test_parameters_are_reached_through_the_divergence() -> None:
    # div (θ² sin x) = θ² Σ cos xᵢ, whose derivative in θ is 2θ Σ cos xᵢ.
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x = normals(5, 3)
    value, total = divergence(lambda y: theta**2 * y.sin(), x, create_graph=True)
    (slope,) = torch.autograd.grad(total.sum(), theta, retain_graph=True)
    assert float(slope) == pytest.approx(float(2 * 1.5 * x.cos().sum()), rel=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    assert float(slope) == pytest.approx(float(2 * 1.5 * x.sin().sum()), rel=1e-12)


@pytest.mark.parametrize("grad", [True, False])
def test_without_being_asked_nothing_is_kept(grad: bool) -> None:
    x = normals(5, 3).requires_grad_(grad)
    probes = normals(2, 5, 3, name="probes")
    with torch.no_grad():  # as within a sampler
        results = [*divergence(curved, x), *hutchinson_divergence(curved, x, probes)]
    assert not any(result.requires_grad for result in results)
    assert x.grad is None
    assert x.requires_grad is grad
