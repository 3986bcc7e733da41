"""Mean and covariance of data, full or of low rank, and functions of the covariance in closed form.

    Σ = V diag(λ) Vᵀ + ν (I − V Vᵀ),   f(Σ) = V diag(f(λ)) Vᵀ + f(ν) (I − V Vᵀ)                               (1)

λ are the largest variances along orthonormal axes V, ν is the mean variance beside them: probabilistic principal
components (Tipping & Bishop 1999). Of many dimensions only some axes are kept; a diagonal in place of ν would leave
no closed form of f(Σ). Noise keeps the family, as the covariance of x_t is α²Σ + σ²I.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from scorefield.randomness import Stream

ALL_AXES = 512  # up to this many numbers in a row the covariance is kept whole
_AXES = 128
_ROWS = 1 << 14  # from which few axes of many dimensions are measured
_ROUNDS = 8  # of subspace iteration
_PARTS = "mean", "axes", "variances", "rest"

Made = TypeVar("Made")

# A function of a variance, applied entry by entry.
Spectral = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Moments:
    """A mean and a covariance (1).

    Args:
        mean: (*shape), or () for one number throughout.
        axes: V, (D, k), orthonormal columns; k = 0 where variance is the same in every direction.
        variances: λ, (k,).
        rest: ν, ().
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor
    _kept: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    @property
    def axes_across(self) -> Tensor:
        """Vᵀ, (k, D)."""
        return self.axes.T

    @staticmethod
    @lru_cache(maxsize=16)  # so that what is made once of moments is made once of these too
    def isotropic(variance: float) -> Moments:
        """Mean zero and the same variance in every direction, of rows of any shape."""
        nothing = torch.zeros(0, dtype=torch.float64)
        rest = torch.tensor(variance, dtype=torch.float64)
        return Moments(torch.zeros((), dtype=torch.float64), nothing.reshape(0, 0), nothing, rest)

    @staticmethod
    def of(mean: Tensor, covariance: Tensor) -> Moments:
        """A mean (*shape) and a full covariance (D, D)."""
        variances, axes = torch.linalg.eigh(covariance.double())
        # Laid out as they are once loaded, so that products with them are the same to the bit.
        zero = torch.zeros((), dtype=torch.float64)
        return Moments(mean.double(), axes.contiguous(), variances.clamp(min=0), zero)

    def whole(self, elements: int) -> Moments:
        """These with all axes of so many numbers, where they have none: the same variance along each."""
        if len(self.variances):
            return self
        return self.once(
            elements,
            lambda: Moments(
                self.mean.expand(elements),
                torch.eye(elements, dtype=torch.float64, device=self.rest.device),
                self.rest.expand(elements),
                torch.zeros_like(self.rest),
            ),
        )

    def to(self, like: Tensor) -> Moments:
        """These on the device of a tensor, mean and axes of its type; variances stay float64."""
        kind, device = like.dtype, like.device
        return self.once(
            (kind, device),
            lambda: Moments(
                self.mean.to(device, kind),
                self.axes.to(device, kind),
                self.variances.to(device),
                self.rest.to(device),
            ),
        )

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is made of these under a key: the first time it is asked for, and then as it was."""
        if key not in self._kept:
            with torch.inference_mode(False):  # or gradients could never be taken through what is kept
                self._kept[key] = make()
        return cast(Made, self._kept[key])

    def __reduce__(self) -> tuple[Any, ...]:
        return Moments, tuple(getattr(self, name) for name in _PARTS)  # without what is kept

    def to_tensors(self, prefix: str) -> dict[str, Tensor]:
        """Each by its name, to be stored; `from_tensors` makes them again."""
        return {prefix + name: getattr(self, name).contiguous().cpu() for name in _PARTS}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], prefix: str, shape: Sequence[int]) -> Moments | None:
        """Those that are among some tensors, and are taken out of them; None where there are none.

        Raises:
            KeyError: where only some of the four are there.
            ValueError: where they are not of rows of this shape.
        """
        if not any(name.startswith(prefix) for name in tensors):
            return None
        found = Moments(*(tensors.pop(prefix + name) for name in _PARTS))
        kept, elements = found.variances.numel(), math.prod(shape)
        fits = (found.variances.ndim, found.rest.ndim, found.axes.shape[-1:]) == (1, 0, (kept,))
        if not fits or found.mean.shape not in ((), tuple(shape)) or found.axes.numel() != elements * kept:
            shapes = {name: tuple(getattr(found, name).shape) for name in _PARTS}
            raise ValueError(f"mean and covariance are not of rows of shape {tuple(shape)}: {shapes}")
        return found

    def apply(self, f: Spectral, x: Tensor) -> Tensor:
        """f(Σ) x of each row, (B, *shape) as x.

        Args:
            f: maps variances (k,) or () to as many, or to (B, k) and (B, 1), another function for each row.
            x: (B, *shape), of the type of mean and axes.
        """
        flat, rest = x.reshape(len(x), math.prod(x.shape[1:])), f(self.rest.reshape(1))
        if len(self.variances) == flat.shape[1]:
            # There is nothing beside the axes; f(ν), large as it may be, would be added and taken away again.
            return ((f(self.variances).to(x) * (flat @ self.axes)) @ self.axes.T).reshape(x.shape)
        found = rest.to(x) * flat
        if len(self.variances):
            found = found + ((f(self.variances) - rest).to(x) * (flat @ self.axes)) @ self.axes.T
        return found.reshape(x.shape)

    def total(self, f: Spectral, elements: int) -> Tensor:
        """tr f(Σ) for rows of so many elements: () or, of an f with a value for each row, (B,)."""
        beside = elements - len(self.variances)
        return f(self.variances).sum(-1) + beside * f(self.rest.reshape(1)).squeeze(-1)


def measure_moments(x: Tensor, seed: int = 0) -> Moments:
    """Mean and covariance of rows, all of the covariance where a row has up to 512 numbers, else 128 axes of it.

    Args:
        x: (n, *shape), at least one row.
        seed: of the rows from which axes are measured where there are very many, and of where the search for axes
            begins.
    """
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    mean = torch.stack([part.double().sum(0) for part in flat.split(4096)]).sum(0) / len(flat)
    if flat.shape[1] <= ALL_AXES:
        parts = [part.double() - mean for part in flat.split(4096)]
        covariance = torch.stack([part.T @ part for part in parts]).sum(0) / len(flat)
        return Moments.of(mean.reshape(x.shape[1:]), covariance)
    if len(flat) > _ROWS:
        flat = flat[torch.from_numpy(Stream(seed, "rows of moments").permutation(len(flat))[:_ROWS].copy())]
    centred = (flat - mean.to(flat)).float()
    axes = Stream(seed, "axes of moments").normal(flat.shape[1], (min(_AXES, len(flat)),), dtype=torch.float32)
    for _ in range(_ROUNDS):
        axes = torch.linalg.qr(centred.T @ (centred @ axes))[0]
    # Within the span found, the axes that diagonalise.
    inside = (centred @ axes).double()
    variances, turn = torch.linalg.eigh(inside.T @ inside / len(flat))
    beside = flat.shape[1] - len(variances)
    rest = (centred.double().square().sum() / len(flat) - variances.sum()).clamp(min=0) / beside
    return Moments(mean.reshape(x.shape[1:]), axes.double() @ turn, variances.clamp(min=0), rest)
