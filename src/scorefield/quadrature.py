"""Integrals over an interval by Clenshaw and Curtis' rule, and polynomials through its nodes.

    ∫_a^b f(x) dx ≈ (b − a)/2 Σ_j w_j f(x_j),   x_j = (a + b)/2 − (b − a)/2 cos(π j/n),   j = 0 … n            (1)

It integrates polynomials of degree n exactly, and its error falls geometrically with n where f is analytic
(Trefethen 2008, "Is Gauss quadrature better than Clenshaw–Curtis?", SIAM Review 50). Every second node of it is a node
of the rule with half as many intervals, so that nothing is lost when it is refined.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from scorefield.errors import OptionError


def nodes(a: float, b: float, n: int) -> Tensor:
    """x_0 … x_n of (1) from a to b, (n + 1,) float64; every second one is a node of n/2."""
    _check(n)
    j = torch.arange(n + 1, dtype=torch.float64)
    x = (a + b) / 2 - (b - a) / 2 * torch.cos(math.pi * j / n)
    x[0], x[-1] = a, b  # not to within rounding
    return x


@lru_cache
def weights(n: int) -> Tensor:
    """w_0 … w_n of (1), (n + 1,) float64, whose sum is 2.

    Each is the integral over [−1, 1] of the polynomial that is 1 at its node and 0 at the others, by the integrals
    2/(1 − k²) of the even Chebyshev polynomials T_k.

    Args:
        n: even, at least 2.
    """
    _check(n)
    j, k = torch.arange(n + 1, dtype=torch.float64), torch.arange(0, n + 1, 2, dtype=torch.float64)
    ends_of_k = torch.where((k == 0) | (k == n), 0.5, 1.0).double()
    cosines = torch.cos(math.pi * torch.outer(j, k) / n)
    ends_of_j = torch.where((j == 0) | (j == n), 0.5, 1.0).double()
    return ends_of_j * (2 / n) * (cosines @ (ends_of_k * 2 / (1 - k**2)))


@lru_cache
def coefficients(n: int) -> Tensor:
    """From values at the n + 1 nodes to the Chebyshev coefficients of their polynomial, (n + 1, n + 1) float64."""
    _check(n)
    return torch.linalg.inv(_chebyshev(n, n))


@lru_cache
def interpolation(n: int, m: int) -> tuple[Tensor, Tensor]:
    """From values at the n + 1 nodes to their polynomial, and to its slope, at the m + 1 nodes: (m + 1, n + 1) each.

    The slope is with respect to x on [−1, 1]; on [a, b] it is 2/(b − a) times that.
    """
    _check(m)
    # T_k′ = k U_{k−1}, and U_{k−1} = (−1)^{k−1} sin kφ/sin φ at x = −cos φ, of which the limits at the ends are ±k.
    k, phi = torch.arange(n + 1, dtype=torch.float64), math.pi * torch.arange(1, m, dtype=torch.float64) / m
    sign = 1 - 2 * (k % 2)
    inside = -sign * torch.sin(torch.outer(phi, k)) / torch.sin(phi).unsqueeze(1)
    slopes = k * torch.cat([(-sign * k).unsqueeze(0), inside, k.unsqueeze(0)])
    return _chebyshev(n, m) @ coefficients(n), slopes @ coefficients(n)


def _chebyshev(n: int, m: int) -> Tensor:
    """T_0 … T_n at the m + 1 nodes −cos φ, where T_k = (−1)^k cos kφ: (m + 1, n + 1)."""
    k, phi = torch.arange(n + 1, dtype=torch.float64), math.pi * torch.arange(m + 1, dtype=torch.float64) / m
    return (1 - 2 * (k % 2)) * torch.cos(torch.outer(phi, k))


def _check(n: int) -> None:
    if n < 2 or n % 2:
        raise OptionError(f"Clenshaw and Curtis' rule needs an even number of intervals, at least 2, got {n}")
