"""Measured moments against the covariance that data were drawn from, and its functions against dense ones."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from scorefield.moments import Moments, measure_moments
from scorefield.randomness import Stream


def normals(*shape: int, name: str = "x") -> Tensor:
    return Stream(0, name).normal(shape[0], shape[1:], dtype=torch.float64)


def dense(moments: Moments, f, elements: int) -> Tensor:  # type: ignore[no-untyped-def]
    """f(Σ) as a matrix, by the eigenvectors of Σ written out."""
    beside = torch.eye(elements, dtype=torch.float64) - moments.axes @ moments.axes.T
    sigma = (moments.axes * moments.variances) @ moments.axes.T + moments.rest * beside
    values, vectors = torch.linalg.eigh(sigma)
    return (vectors * f(values.clamp(min=0))) @ vectors.T


def low_rank() -> Moments:
    axes = torch.linalg.qr(normals(12, 3))[0]
    return Moments(normals(12), axes, torch.tensor([4.0, 2.0, 0.5]).double(), torch.tensor(0.1).double())


def full() -> Moments:
    a = normals(12, 12, name="a")
    return Moments.of(normals(12), a @ a.T / 12)


# -- functions of a covariance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moments", [low_rank(), full()], ids=["low rank", "full"])
def test_functions_and_traces_are_those_of_the_dense_matrix(moments: Moments) -> None:
    x = normals(5, 3, 4, name="rows")
    for f in (lambda c: c, lambda c: (c + 0.3) ** -0.5, lambda c: (1 + c).log()):
        matrix = dense(moments, f, 12)
        expected = (x.reshape(5, 12) @ matrix).reshape(5, 3, 4)
        assert torch.allclose(moments.apply(f, x), expected, rtol=1e-11, atol=1e-11)
        assert float(moments.total(f, 12)) == pytest.approx(float(matrix.trace()), rel=1e-11)


@pytest.mark.parametrize("moments", [low_rank(), full(), Moments.isotropic(2.5)], ids=["low rank", "full", "isotropic"])
def test_each_row_may_have_its_own_function(moments: Moments) -> None:
    x, scale = normals(4, 12), torch.tensor([[0.5], [1.0], [2.0], [7.0]], dtype=torch.float64)
    found, total = moments.apply(lambda c: (c + scale) ** -0.5, x), moments.total(lambda c: (c + scale).log(), 12)
    assert total.shape == (4,)
    for row, s in enumerate(scale.flatten().tolist()):
        alone = moments.apply(lambda c, s=s: (c + s) ** -0.5, x[row : row + 1])
        assert torch.allclose(found[row], alone[0], rtol=1e-13, atol=1e-13)
        assert float(total[row]) == pytest.approx(float(moments.total(lambda c, s=s: (c + s).log(), 12)), rel=1e-13)


def test_the_same_variance_everywhere_is_of_any_shape() -> None:
    moments = Moments.isotropic(2.5)
    for shape in ((3, 5), (2, 1, 4, 4), (3,), (0, 7)):
        x = torch.ones(shape, dtype=torch.float64)
        assert torch.equal(moments.apply(torch.sqrt, x), torch.full(shape, math.sqrt(2.5), dtype=torch.float64))
    assert float(moments.total(torch.log, 7)) == pytest.approx(7 * math.log(2.5))


def test_a_row_of_functions_does_not_feel_the_others() -> None:
    moments, x = full(), normals(40, 12)
    whole = moments.apply(torch.sqrt, x)
    changed = x.clone()
    changed[1:] *= 1e6
    assert torch.allclose(moments.apply(torch.sqrt, changed)[0], whole[0], rtol=1e-13)


def test_of_a_full_covariance_nothing_large_is_added_and_taken_away() -> None:
    # In single precision: f(0) = 1e6 beside an f(λ) of one would leave errors of 1e6·6e-8.
    moments, x = full(), normals(20, 12)
    exact = moments.apply(lambda c: 1e-6 / (1e-12 + c) ** 0.5, x)
    rounded = moments.to(torch.zeros((), dtype=torch.float32)).apply(lambda c: 1e-6 / (1e-12 + c) ** 0.5, x.float())
    assert float((rounded - exact).norm() / exact.norm()) < 1e-4


# -- measured ---------------------------------------------------------------------------------------------------------


def test_a_covariance_is_measured_whole_where_rows_are_short() -> None:
    x = normals(9000, 2, 3) @ torch.tensor([[1.0, 0, 0], [0.5, 2, 0], [0, 1, 0.1]], dtype=torch.float64) + 100
    moments = measure_moments(x.float())
    flat = x.float().double().reshape(len(x), 6)
    assert moments.mean.shape == (2, 3)
    assert torch.allclose(moments.mean.flatten(), flat.mean(0), rtol=1e-13)
    assert torch.allclose(dense(moments, lambda c: c, 6), torch.cov(flat.T, correction=0), atol=1e-10)
    assert moments.axes.shape == (6, 6)


def test_few_axes_of_many_dimensions_are_found_with_the_rest_beside_them() -> None:
    # Σ = V diag(9, …, 2) Vᵀ + 0.04 (I − V Vᵀ) in 600 dimensions, n = 4000 rows. An eigenvalue of a sample covariance is
    # off by √(2/n) = 2.2 % (one standard error) and upwards by ν(D − k)/n; five standard errors make 12 %: false alarm
    # below 1e-5. The angle of the span with the true one has a square of about νD/(nλ) < 0.01 an axis.
    size, rows = 600, 4000
    axes = torch.linalg.qr(normals(size, 8, name="axes"))[0]
    variances = torch.arange(2, 10, dtype=torch.float64)
    z, beside = normals(rows, 8, name="z"), 0.2 * normals(rows, size, name="noise")
    x = (z * variances.sqrt()) @ axes.T + beside - beside @ axes @ axes.T + 3
    moments = measure_moments(x.reshape(rows, 1, 20, 30))
    assert moments.mean.shape == (1, 20, 30)
    assert moments.axes.shape == (size, 128)
    assert torch.allclose(moments.axes.T @ moments.axes, torch.eye(128, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(moments.variances[-8:], variances, rtol=0.12)
    assert float((moments.axes[:, -8:].T @ axes).square().sum()) > 8 * 0.98  # the span, principal angles below 8°
    # No variance is lost: what the axes do not hold is beside them.
    assert float(moments.total(lambda c: c, size)) == pytest.approx(float(x.var(0, correction=0).sum()), rel=1e-5)
    assert float(moments.rest) < 0.04 < float(moments.variances[0])  # the largest of chance come first


def test_the_axes_are_the_largest_of_the_sample_and_the_same_for_the_same_seed() -> None:
    x = (normals(300, 600) * torch.linspace(3, 0.1, 600, dtype=torch.float64)).float()
    first, again, other = (measure_moments(x, seed) for seed in (0, 0, 1))
    assert torch.equal(first.axes, again.axes)
    assert torch.equal(first.variances, again.variances)
    sample = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0))[-20:]
    for found in (first, other):
        assert torch.allclose(found.variances[-20:], sample, rtol=1e-3)


def test_fewer_rows_than_numbers_and_one_row_alone() -> None:
    x = normals(4, 9)
    moments = measure_moments(x)
    assert int((moments.variances > 1e-12).sum()) == 3
    one = measure_moments(x[:1])
    assert torch.equal(one.mean, x[0])
    assert float(one.variances.max()) == 0
    for rows in (1, 5):  # and of the other kind
        wide = measure_moments(normals(rows, 700))
        assert wide.axes.shape == (700, rows)
        assert all(part.isfinite().all() for part in (wide.mean, wide.axes, wide.variances, wide.rest))
        assert float(wide.total(lambda c: c, 700)) == pytest.approx(
            float(normals(rows, 700).var(0, correction=0).sum()), rel=1e-5, abs=1e-9
        )
        y = wide.apply(lambda c: (0.1 + c) ** -0.5, normals(2, 700))
        assert y.isfinite().all()


def test_the_order_of_rows_changes_nothing_but_rounding() -> None:
    x = normals(50, 6)
    a, b = measure_moments(x), measure_moments(x.flip(0))
    assert torch.allclose(dense(a, lambda c: c, 6), dense(b, lambda c: c, 6), atol=1e-14)


@pytest.mark.parametrize("moments", [full(), low_rank()])
def test_copies_and_pickles_are_without_what_is_kept(moments: Moments) -> None:
    x = torch.zeros(1)
    moments.to(x).whole(5)
    moments.once("a key", lambda: lambda: None)  # which no pickle takes
    for again in (copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))):
        torch.testing.assert_close(again.axes, moments.axes)
        torch.testing.assert_close(again.axes_across, moments.axes.T)
        torch.testing.assert_close(again.mean, moments.mean)
        assert again.once("a key", lambda: 1) == 1
    assert moments.once("a key", lambda: 1) != 1
