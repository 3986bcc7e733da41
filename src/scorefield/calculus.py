"""Derivatives of vector fields: the divergence, exact or estimated by random probes.

    div v = Σ_i ∂v_i/∂x_i = E[zᵀ (∂v/∂x) z]   for any z with E[z zᵀ] = I                     (1)

(Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Field = Callable[[Tensor], Tensor]


def plain_attention(wanted: bool = True) -> AbstractContextManager[None]:
    """Attention within is made of plain products, which have every derivative; the fused operators have only the first.

    Args:
        wanted: False for a context that changes nothing.
    """
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def divergence(field: Field, x: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The field at x and its exact divergence, one backward pass an element.

    Args:
        field: maps (B, *shape) to (B, *shape), row by row.
        x: (B, *shape).
        create_graph: whether the results can be differentiated again.

    Returns:
        the field (B, *shape) and its divergence (B,).
    """
    with torch.enable_grad(), plain_attention(create_graph):
        value, pull = _with_pullback(field, x, create_graph)
        total = x.new_zeros(len(x))
        for i in range(math.prod(value.shape[1:])):
            unit = torch.zeros_like(value).flatten(1)
            unit[:, i] = 1
            total = total + pull(unit.reshape(value.shape)).flatten(1)[:, i]
    return (value, total) if create_graph else (value.detach(), total.detach())


def hutchinson_divergence(
    field: Field, x: Tensor, probes: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """The field at x and one unbiased estimate of its divergence for each probe, (1).

    Args:
        field: maps (B, *shape) to (B, *shape), row by row.
        x: (B, *shape).
        probes: (P, B, *shape), mean zero and identity covariance, such as normals or random signs.
        create_graph: whether the results can be differentiated again.

    Returns:
        the field (B, *shape) and the estimates (P, B).
    """
    with torch.enable_grad(), plain_attention(create_graph):
        value, pull = _with_pullback(field, x, create_graph)
        total = torch.stack([(pull(z) * z).flatten(1).sum(1) for z in probes])
    return (value, total) if create_graph else (value.detach(), total.detach())


def _with_pullback(field: Field, x: Tensor, create_graph: bool) -> tuple[Tensor, Field]:
    """The field at x and z ↦ zᵀ ∂field/∂x there.

    Under `torch.compile` the slope is traced into the field's own graph: what was compiled has no second derivative.
    """
    if torch.compiler.is_compiling():
        value, pull = torch.func.vjp(lambda y: field(y) + 0 * y, x)  # type: ignore[misc]
        return value, lambda z: cast(Tensor, pull(z)[0])
    x = x if x.requires_grad else x.detach().requires_grad_()
    value = _tied(field(x), x)
    return value, lambda z: torch.autograd.grad(value, x, z, retain_graph=True, create_graph=create_graph)[0]


def _tied(value: Tensor, x: Tensor) -> Tensor:
    """A field that does not depend on x at all is constant: its slope is zero, which autograd would refuse to say."""
    return value if value.requires_grad else value + 0 * x
