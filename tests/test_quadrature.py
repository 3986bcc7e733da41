"""Clenshaw and Curtis' rule against exact integrals, numpy's interpolants and the rate at which it must converge."""

import itertools
import math

import numpy as np
import pytest
import torch

from scorefield.errors import OptionError
from scorefield.quadrature import coefficients, interpolation, nodes, weights


def integral(f, a: float, b: float, n: int) -> float:  # type: ignore[no-untyped-def]
    return float((b - a) / 2 * weights(n) @ f(nodes(a, b, n)))


@pytest.mark.parametrize("n", [2, 4, 8, 10, 32])
def test_polynomials_up_to_its_degree_are_integrated_exactly(n: int) -> None:
    a, b = -0.7, 1.9
    for degree in range(n + 1):
        exact = (b ** (degree + 1) - a ** (degree + 1)) / (degree + 1)
        assert integral(lambda x, k=degree: x**k, a, b, n) == pytest.approx(exact, rel=1e-12, abs=1e-13)
    # An even power beyond its degree, centred on the interval, is not.
    centred = integral(lambda x: (x - 0.6) ** (n + 2), a, b, n)
    assert abs(centred / (2 * 1.3 ** (n + 3) / (n + 3)) - 1) > 1e-12


@pytest.mark.parametrize("n", [2, 6, 16, 40])
def test_weights_are_the_integrals_of_the_polynomials_through_the_nodes(n: int) -> None:
    x, w = nodes(-1, 1, n).numpy(), weights(n).numpy()
    # The polynomial that is one at node j and zero at the others, in Chebyshev's basis, integrated by Gauss' rule.
    coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(x, n))
    at, gauss = np.polynomial.legendre.leggauss(n + 1)
    assert np.allclose(gauss @ np.polynomial.chebyshev.chebvander(at, n) @ coefficients, w, rtol=0, atol=1e-13)
    assert w.sum() == pytest.approx(2, rel=1e-14)
    assert (w > 0).all()
    assert np.allclose(w, w[::-1], rtol=0, atol=1e-15)


def test_every_second_node_of_a_refined_rule_is_one_of_the_rule() -> None:
    for n in (2, 8, 64):
        assert torch.allclose(nodes(0.003, 1.57, 2 * n)[::2], nodes(0.003, 1.57, n), rtol=0, atol=1e-15)


def test_ends_are_met_to_the_bit_and_nodes_run_the_way_asked_for() -> None:
    for a, b in ((0.1, 0.7), (1e-3, math.pi / 2), (2.0, -1.0)):
        x = nodes(a, b, 16)
        assert (float(x[0]), float(x[-1])) == (a, b)
        assert ((x.diff() * (b - a)) > 0).all()
    assert integral(torch.exp, 1.0, 0.0, 16) == pytest.approx(1 - math.e, rel=1e-13)
    assert integral(torch.exp, 1.0, 1.0, 16) == 0


def test_the_error_falls_geometrically_by_where_the_function_is_singular() -> None:
    # 1/(1 + 16x²) has poles at ±i/4, on the ellipse with ρ = 1/4 + √(1 + 1/16) = 1.281. The error of an interpolatory
    # rule falls at least as ρ^{−n}; two of Clenshaw and Curtis', n apart, by no more than its square (Trefethen 2008).
    exact, rho = math.atan(4) / 2, 0.25 + math.sqrt(1 + 1 / 16)
    errors = [abs(integral(lambda x: 1 / (1 + 16 * x**2), -1, 1, n) - exact) for n in (16, 32, 48, 64)]
    for before, after in itertools.pairwise(errors):
        assert rho**-32 / 4 < after / before < rho**-16 * 4, errors


@pytest.mark.parametrize("n", [2, 8, 32, 128])
def test_slopes_are_those_of_the_polynomial_through_the_nodes(n: int) -> None:
    x = nodes(-1, 1, n)
    for degree in (0, 1, 2, n // 2, n):
        # Chebyshev's T_k has the slope k U_{k−1}, k² at the end.
        found = interpolation(n, n)[1] @ torch.cos(degree * torch.acos(x))
        inner = torch.sin(degree * torch.acos(x[1:-1])) * degree / (1 - x[1:-1] ** 2).sqrt()
        assert torch.allclose(found[1:-1], inner, rtol=0, atol=1e-12 * n**3)
        assert float(found[-1]) == pytest.approx(degree**2, abs=1e-12 * n**3)
    assert float((interpolation(n, n)[1] @ x.abs() - x.sign()).abs().max()) > 0.1  # what is no polynomial


@pytest.mark.parametrize("n", [-2, 0, 1, 7])
def test_rules_without_an_even_number_of_intervals_are_refused(n: int) -> None:
    for make in (weights, coefficients, lambda n: interpolation(2, n), lambda n: nodes(0, 1, n)):
        with pytest.raises(OptionError, match=f"even number of intervals, at least 2, got {n}"):
            make(n)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (8, 32), (16, 6)])
def test_polynomials_through_the_nodes_are_known_at_others(n: int, m: int) -> None:
    here, there = nodes(-1, 1, n), nodes(-1, 1, m)
    values, slopes = interpolation(n, m)
    for degree in range(n + 1):
        assert torch.allclose(values @ here**degree, there**degree, atol=1e-12)
        assert torch.allclose(slopes @ here**degree, degree * there ** max(0, degree - 1), atol=1e-10)


def test_coefficients_are_those_of_chebyshev_polynomials() -> None:
    x = nodes(-1, 1, 12)
    for k in range(13):
        unit = torch.zeros(13, dtype=torch.float64)
        unit[k] = 1
        assert torch.allclose(coefficients(12) @ torch.cos(k * torch.acos(x)), unit, atol=1e-12)
