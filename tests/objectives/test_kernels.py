"""Kernels of noise: their draws have the density whose score they say, and matching it is explicit score matching.

Statistical tests are seeded: 5 standard errors, a false alarm of 6e-7 each, or √n·sup|F_n − F| < 2.7, one of 9.3e-7
(Massart 1990). A planted bug is further than 8 standard errors out, so that it is missed with probability 1.4e-3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal, Normal, StudentT

from scorefield.errors import OptionError
from scorefield.exact import GaussianMixture
from scorefield.noise import Clean, Schedule
from scorefield.objectives.kernels import GaussianKernel, KernelDenoising, LaplaceKernel, NoiseKernel, StudentKernel
from scorefield.randomness import Noise, Stream

FULL = torch.tensor([[0.5, -0.3], [-0.3, 0.4]], dtype=torch.float64)
DIAGONAL = torch.tensor([0.2, 1.5], dtype=torch.float64)
Apart = Callable[[Tensor, Tensor, Tensor], float]


def around(make: Callable[[Tensor], Distribution]) -> Callable[[Tensor], Distribution]:
    """A distribution for each number of a row, as one of the row."""
    return lambda x: Independent(make(x), 1)


# Each kernel, and what it should be: torch's own distribution of x̃ for given x.
KERNELS: dict[str, tuple[NoiseKernel, Callable[[Tensor], Distribution]]] = {
    "gaussian": (GaussianKernel(0.3), around(lambda x: Normal(x, math.sqrt(0.3)))),
    "diagonal": (GaussianKernel(DIAGONAL), around(lambda x: Normal(x, DIAGONAL.sqrt()))),
    "full": (GaussianKernel(FULL), lambda x: MultivariateNormal(x, FULL)),
    "laplace": (LaplaceKernel(0.6), around(lambda x: Laplace(x, 0.6))),
    "student": (StudentKernel(0.5, 3.0), around(lambda x: StudentT(3.0, x, 0.5))),
    "cauchy": (StudentKernel(0.5, 1.0), around(lambda x: StudentT(1.0, x, 0.5))),
    "heavy": (StudentKernel(0.5, 0.5), around(lambda x: StudentT(0.5, x, 0.5))),
}
each_kernel = pytest.mark.parametrize("name", KERNELS)


def normals(rows: int, *shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(rows, shape, dtype=torch.float64)


def noise(rows: int) -> Noise:
    return Noise(Stream(0, "noise"), range(rows), 0)


# -- the kernels ------------------------------------------------------------------------------------------------------


@each_kernel
def test_the_score_is_the_gradient_of_the_density(name: str) -> None:
    kernel, distribution = KERNELS[name]
    x, x_noisy = normals(50, 2), (3 * normals(50, 2, name="far")).requires_grad_()
    (gradient,) = torch.autograd.grad(distribution(x).log_prob(x_noisy).sum(), x_noisy)
    assert torch.allclose(kernel.score(x_noisy.detach(), x), gradient, rtol=1e-10)


MARGINALS: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "gaussian": (stats.norm(0, math.sqrt(0.3)).cdf,) * 2,
    "diagonal": (stats.norm(0, math.sqrt(0.2)).cdf, stats.norm(0, math.sqrt(1.5)).cdf),
    "full": (stats.norm(0, math.sqrt(0.5)).cdf, stats.norm(0, math.sqrt(0.4)).cdf),
    "laplace": (stats.laplace(0, 0.6).cdf,) * 2,
    "student": (stats.t(3.0, 0, 0.5).cdf,) * 2,
    "cauchy": (stats.t(1.0, 0, 0.5).cdf,) * 2,
    "heavy": (stats.t(0.5, 0, 0.5).cdf,) * 2,
}


def distance(values: Tensor, cdf: Callable[[Any], Any]) -> float:
    shares = torch.as_tensor(cdf(values.sort().values.numpy()))
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return float(torch.maximum((steps[1:] - shares).max(), (shares - steps[:-1]).max())) * math.sqrt(len(values))


@each_kernel
def test_draws_have_that_density_around_their_rows(name: str) -> None:
    rows, (kernel, _) = 20_000, KERNELS[name]
    x = 5 * normals(rows, 2)
    z = kernel.corrupt(x, noise(rows)) - x
    for column, cdf in zip(z.unbind(1), MARGINALS[name], strict=True):
        assert distance(column, cdf) < 2.7
        assert distance(1.3 * column, cdf) > 2.7  # another scale is caught
    # Nothing of the row is left in the noise, and only the full covariance ties its numbers to each other.
    ranks = torch.stack([column.argsort().argsort().double() for column in (*z.unbind(1), *x.unbind(1))])
    correlations = torch.corrcoef(ranks)
    correlations[0, 1] *= name != "full"
    correlations[1, 0] *= name != "full"
    assert (correlations - torch.eye(4)).abs().max() * math.sqrt(rows) < 5
    if name == "full":
        products = z[:, 0] * z[:, 1]
        assert abs(float((products.mean() + 0.3) / products.std())) * math.sqrt(rows) < 5
        assert abs(float((products.mean() - 0.3) / products.std())) * math.sqrt(rows) > 8


@each_kernel
@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 2, 1)])
def test_rows_of_any_shape_and_single_precision(name: str, shape: tuple[int, ...]) -> None:
    kernel, _ = KERNELS[name]
    x = normals(5, 2)
    flat = kernel.corrupt(x, noise(5))
    shaped = kernel.corrupt(x.view(5, *shape), noise(5))
    assert torch.equal(shaped.flatten(1), flat)
    assert torch.equal(kernel.score(shaped, x.view(5, *shape)).flatten(1), kernel.score(flat, x))
    single = kernel.corrupt(x.view(5, *shape).float(), noise(5))
    assert single.dtype == kernel.score(single, x.view(5, *shape).float()).dtype == torch.float32
    assert torch.allclose(single.double(), shaped, rtol=1e-3, atol=1e-4)


def test_heavy_tails_stay_finite_in_single_precision() -> None:
    # At ½ a degree of freedom one draw in ten million is beyond 1e14, whose square is no float32.
    kernel, x = StudentKernel(1.0, 0.5), torch.zeros(200_000, 2)
    x_noisy = kernel.corrupt(x, noise(len(x)))
    assert x_noisy.isfinite().all()
    assert x_noisy.abs().max() > 1e9
    assert kernel.score(x_noisy, x).isfinite().all()


# -- the gradient -----------------------------------------------------------------------------------------------------

PLACES = torch.tensor([[1.0, -0.5], [-1.0, 0.5], [0.3, 0.8]], dtype=torch.float64)


@dataclass
class Points:
    """Three equally likely points with a kernel's noise, whose density is a mixture of the kernel."""

    distribution: Callable[[Tensor], Distribution]

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        place = x.detach().requires_grad_()
        parts = torch.stack([self.distribution(point.expand_as(x)).log_prob(place) for point in PLACES])
        return torch.autograd.grad(torch.logsumexp(parts, 0).sum(), place)[0]


@dataclass
class Bent:
    """A truth and a bend, bounded since Student's noise has no variance, with parameters of its own in each row."""

    truth: Points | GaussianMixture
    theta: Tensor
    schedule = Clean()

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, c, d = self.theta.unbind(1)
        bend = torch.stack((a * x[:, 0].tanh() + b * x[:, 1].sin(), c * (x[:, 0] * x[:, 1]).tanh() + d), dim=1)
        return self.truth.score(x, 0.0) + bend


def gap(kernel: NoiseKernel, distribution: Callable[[Tensor], Distribution], apart: Apart) -> float:
    """H₀: the gradient is that of explicit score matching for the density of x̃; in standard errors of 20 000 rows."""
    rows = 20_000
    theta = torch.full((rows, 4), 0.4, dtype=torch.float64, requires_grad=True)
    model = Bent(Points(distribution), theta)
    x0 = PLACES[(3 * Stream(1, "places").uniform(rows)).long()]
    t = torch.zeros(rows)
    x_noisy = kernel.corrupt(x0, noise(rows))
    explicit = (model.score(x_noisy, t) - model.truth.score(x_noisy, 0.0)).square().mean(1)
    return apart(KernelDenoising(kernel)(model, x0, t, noise(rows)), explicit, theta)


@each_kernel
def test_the_gradient_is_that_of_explicit_score_matching(name: str, apart: Apart) -> None:
    assert gap(*KERNELS[name], apart) < 5


@dataclass(frozen=True)
class Wrong:
    """A kernel's draws with a score that is printed wrong."""

    kernel: NoiseKernel
    wrong: Callable[[Tensor], Tensor]

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        return self.kernel.corrupt(x, noise)

    def score(self, x_noisy: Tensor, x: Tensor) -> Tensor:
        return self.wrong(x_noisy - x)


PRINTED_WRONG: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "gaussian: plus": ("gaussian", lambda z: z / 0.3),
    "gaussian: over σ": ("gaussian", lambda z: -z / math.sqrt(0.3)),
    "diagonal: over σ": ("diagonal", lambda z: -z / DIAGONAL.sqrt()),
    "full: times Σ": ("full", lambda z: -z @ FULL),
    "full: the root": ("full", lambda z: -z @ torch.linalg.inv(torch.linalg.cholesky(FULL)).mT),
    "full: its diagonal alone": ("full", lambda z: -z / FULL.diagonal()),
    "laplace: no sign": ("laplace", lambda z: -torch.ones_like(z) / 0.6),
    "laplace: plus": ("laplace", lambda z: z.sign() / 0.6),
    "laplace: over b²": ("laplace", lambda z: -z.sign() / 0.36),
    "laplace: that of a Gaussian": ("laplace", lambda z: -z / (2 * 0.36)),
    "student: ν for ν + 1": ("student", lambda z: -3 * z / (3 * 0.25 + z.square())),
    "student: plus": ("student", lambda z: 4 * z / (3 * 0.25 + z.square())),
    "student: b for b²": ("student", lambda z: -4 * z / (3 * 0.5 + z.square())),
    "cauchy: ν for ν + 1": ("cauchy", lambda z: -z / (0.25 + z.square())),
}


@pytest.mark.parametrize("bug", PRINTED_WRONG)
def test_scores_that_are_printed_wrong_are_caught(bug: str, apart: Apart) -> None:
    name, wrong = PRINTED_WRONG[bug]
    kernel, distribution = KERNELS[name]
    assert gap(Wrong(kernel, wrong), distribution, apart) > 8


def test_gaussian_kernels_of_a_mixture_give_the_mixture_with_their_covariance(
    mixture: Callable[[Schedule], GaussianMixture], apart: Apart
) -> None:
    # As above, on data that are no points: E[score of the kernel given x̃] is the score of the blurred mixture.
    # At the truth the gradient of explicit score matching is zero. Caught: the score of the data without the noise.
    rows, data = 20_000, mixture(Clean())
    clean = torch.einsum("kij,kj,klj->kil", data.eigenvectors, data.eigenvalues, data.eigenvectors)
    x0, t = data.sample(rows, seed=1), torch.zeros(rows)
    for covariance in (torch.tensor(0.3, dtype=torch.float64), DIAGONAL, FULL):
        added = covariance if covariance.ndim == 2 else torch.diag(covariance.expand(2))
        blurred = GaussianMixture(data.weights, data.means, clean + added, Clean())
        for truth in (blurred, data):
            theta = torch.zeros(rows, 4, dtype=torch.float64, requires_grad=True)
            model = Bent(truth, theta)
            z = apart(KernelDenoising(GaussianKernel(covariance))(model, x0, t, noise(rows)), 0 * theta.sum(1), theta)
            assert z < 5 if truth is blurred else z > 8


# -- faults -----------------------------------------------------------------------------------------------------------

WITHOUT_WIDTH: dict[str, Any] = {
    "zero": 0.0,
    "negative": -1.0,
    "not a number": math.nan,
    "without end": math.inf,
    "a zero": torch.tensor([1.0, 0.0]),
    "a negative": torch.tensor([1.0, -2.0]),
    "not positive": torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
    "zeros": torch.zeros(2, 2),
    "singular": torch.ones(2, 2),
    "singular but for rounding": torch.tensor([[0.1, 0.3], [0.3, 0.9]], dtype=torch.float64),
    "not symmetric": torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
    "infinite in one direction": torch.tensor([[math.inf, 0.0], [0.0, 1.0]]),
}


@pytest.mark.parametrize("name", WITHOUT_WIDTH)
def test_a_covariance_without_a_density_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="not symmetric and positive definite: the kernel has no density in some dir"):
        GaussianKernel(WITHOUT_WIDTH[name])


@pytest.mark.parametrize("shape", [(0,), (2, 3), (2, 2, 2), (0, 0)])
def test_a_covariance_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    words = rf"a covariance has shape \(\), \(D,\) or \(D, D\), got \({', '.join(map(str, shape))}"
    with pytest.raises(OptionError, match=words):
        GaussianKernel(torch.ones(shape))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_without_width_is_refused(scale: float) -> None:
    for make in (LaplaceKernel, lambda b: StudentKernel(b, 3.0)):
        with pytest.raises(OptionError, match=f"scale must be positive and finite, got {scale}"):
            make(scale)


@pytest.mark.parametrize("degrees", [0.0, -1.0, 0.3, math.nan, math.inf])
def test_degrees_of_freedom_that_cannot_be_are_refused(degrees: float) -> None:
    with pytest.raises(OptionError, match=f"needs degrees of freedom of 0.5 or more, got {degrees}"):
        StudentKernel(1.0, degrees)


def test_a_kernel_without_a_score_is_refused() -> None:
    class Dropping:
        """Half the numbers lost: no density."""

        def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
            return x * (noise.like(x) > 0)

    for kernel in (Dropping(), 0.3, None):
        with pytest.raises(OptionError, match=f"{type(kernel).__name__} has no score .* so no density to match"):
            KernelDenoising(kernel)  # type: ignore[arg-type]
