"""Rows times coefficients of a level, where these go from float64 to the type of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.compiler import is_compiling

_FULL = torch.float32, torch.float64

# A function of the level, one for all rows as a plain number or shaped to broadcast over them.
Coefficient = Tensor | float


def mix(a: Coefficient, x: Tensor, b: Coefficient, y: Tensor) -> Tensor:
    """a·x + b·y, like x; the coefficients are brought from float64 to its type only here.

    Args:
        a, b: coefficients that broadcast over x, both tensors or both plain numbers.
        x, y: tensors of one shape.
    """
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return times(float(a), x).add_(y, alpha=float(b))
    return torch.addcmul(a.to(x) * x, b.to(x), y)


def times(a: float, x: Tensor) -> Tensor:
    """a·x."""
    # In lower precision a number is rounded after the product, and a tensor before it.
    return x * _kept(a, x.dtype, x.device) if x.dtype in _FULL and not is_compiling() else a * x


def mix_all(a: float, x: Tensor, b: Sequence[float], y: Sequence[Tensor]) -> Tensor:
    """a·x + Σ_j b_j·y_j, like x; of as many y as there are b."""
    total = times(a, x)
    for place, factor in enumerate(b):
        total.add_(y[place], alpha=factor)
    return total


@lru_cache(maxsize=4096)
def _kept(a: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A plain number as a tensor (), kept: to make one takes longer than a product."""
    with torch.inference_mode(False):
        return torch.tensor(a, dtype=dtype, device=device)
