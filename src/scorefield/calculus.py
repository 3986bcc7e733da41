"""Derivatives of vector fields: the divergence, exact or estimated by random probes.

    div v = Σ_i ∂v_i/∂x_i = E[zᵀ (∂v/∂x) z]   for any z with E[z zᵀ] = I                     (1)

(Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def divergence(field: Field, x: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """The field at x and its exact divergence, one backward pass an element.

    Args:
        field: maps (B, *shape) to (B, *shape), row by row.
        x: (B, *shape).
        create_graph: whether the results can be differentiated again.

    Returns:
        the field (B, *shape) and its divergence (B,).
    """
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = _tied(field(x), x)
        total = x.new_zeros(len(x))
        for i, component in enumerate(value.flatten(1).unbind(1)):
            (slope,) = torch.autograd.grad(component.sum(), x, retain_graph=True, create_graph=create_graph)
            total = total + slope.flatten(1)[:, i]
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
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = _tied(field(x), x)
        estimates = []
        for z in probes:
            (product,) = torch.autograd.grad(value, x, z, retain_graph=True, create_graph=create_graph)
            estimates.append((product * z).flatten(1).sum(1))
    total = torch.stack(estimates)
    return (value, total) if create_graph else (value.detach(), total.detach())


def _tied(value: Tensor, x: Tensor) -> Tensor:
    """A field that does not depend on x at all is constant: its slope is zero, which autograd would refuse to say."""
    return value if value.requires_grad else value + 0 * x
