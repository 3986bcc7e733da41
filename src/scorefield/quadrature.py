"""Integrals over an interval by Clenshaw and Curtis' rule, whose nodes are again nodes when the rule is refined.

    ∫_a^b f(x) dx ≈ (b − a)/2 Σ_j w_j f(x_j),   x_j = (a + b)/2 − (b − a)/2 cos(π j/n),   j = 0 … n            (1)

It integrates polynomials of degree n exactly, and its error falls geometrically with n where f is analytic
(Trefethen 2008, "Is Gauss quadrature better than Clenshaw–Curtis?", SIAM Review 50).
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


def _check(n: int) -> None:
    if n < 2 or n % 2:
        raise OptionError(f"Clenshaw and Curtis' rule needs an even number of intervals, at least 2, got {n}")
