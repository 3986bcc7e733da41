"""Numeric columns: what each is taken for, its scaler, and how its values are rounded on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.scalers import Scaler, fit_scaler, scaler_from_json
from scorefield.errors import DataError
from scorefield.randomness import Stream

_MOST_DECIMALS = 4
_EXACT_INTEGERS = 2**53
_LEAST_SPAN = 1e-150
_MEASURED = 1 << 22  # values from which a scaler is fitted
_CHUNK = 1 << 20
_CHANCE = 1e-6  # that continuous values lie on a grid by coincidence


@dataclass(frozen=True)
class NumericColumn:
    """One column of numbers.

    Args:
        name: for messages.
        scaler: its map to a scale of order one, or None for a constant column, which is not modelled.
        decimals: digits after the point that all values have at most, None for continuous values; 0 for integers.
        low, high: the range of the values; integers are kept within it.
        integer: whether the values are integers.
    """

    name: str
    scaler: Scaler | None
    decimals: int | None
    low: float
    high: float
    integer: bool

    @staticmethod
    def fit(name: str, values: np.ndarray) -> NumericColumn:
        """Measure a column of finite numbers, (n,)."""
        integer = values.dtype.kind in "iub"
        low, high = values.min().item(), values.max().item()
        if integer and max(abs(low), abs(high)) > _EXACT_INTEGERS:
            raise DataError(
                f"column {name!r}: integers up to {max(abs(low), abs(high))} cannot be told apart as float64; "
                "if it is an identifier leave it out with --columns"
            )
        if 0 < float(high) - float(low) < _LEAST_SPAN:
            raise DataError(f"column {name!r} spans only {high - low:g}, whose square is no float64: rescale it")
        scaler = None if low == high else fit_scaler(torch.from_numpy(_looked_at(values).astype(np.float64)))
        return NumericColumn(name, scaler, 0 if integer else decimals_of(values), float(low), float(high), integer)

    @property
    def resolution(self) -> float | None:
        """The step of the grid of encoded values, None where they are continuous or ranks."""
        return None if self.decimals is None or self.scaler is None else self.scaler.step(10.0**-self.decimals)

    def decode(self, scaled: Tensor) -> np.ndarray:
        """Values (n,) float64 from scaled ones, on the column's own grid."""
        assert self.scaler is not None
        values: np.ndarray = self.scaler.inverse(scaled.double()).numpy()
        if self.decimals is not None:
            values = np.round(values, self.decimals)
        return np.clip(values, self.low, self.high) if self.integer else values

    def describe(self) -> str:
        """A line for `inspect`."""
        if self.scaler is None:
            return f"{self.name}: constant {self.low:g}, not modelled"
        if self.integer:
            kind = "integers"
        elif self.decimals is None:
            kind = "continuous"
        else:
            kind = f"at most {self.decimals} decimals"
        return f"{self.name}: {kind}, {self.low:g} to {self.high:g}, {self.scaler.kind}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scaler = None if self.scaler is None else self.scaler.to_json()
        return {
            "name": self.name,
            "scaler": scaler,
            "decimals": self.decimals,
            "low": self.low,
            "high": self.high,
            "integer": self.integer,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> NumericColumn:
        """The column whose `to_json` gave these fields."""
        scaler = None if fields["scaler"] is None else scaler_from_json(fields["scaler"])
        return NumericColumn(
            fields["name"], scaler, fields["decimals"], fields["low"], fields["high"], fields["integer"]
        )


def spans(columns: Sequence[NumericColumn]) -> tuple[Tensor, Tensor]:
    """Smallest and largest encoded value of each modelled column, each (D,) float32."""
    ends = [
        column.scaler.forward(torch.tensor([column.low, column.high], dtype=torch.float64))
        for column in columns
        if column.scaler is not None
    ]
    low, high = torch.stack(ends).float().unbind(1)
    return low, high


def grids(columns: Sequence[NumericColumn]) -> tuple[float, ...] | None:
    """The grid of each modelled column; None as soon as one is continuous."""
    steps = [column.resolution for column in columns if column.scaler is not None]
    known = tuple(step for step in steps if step is not None)
    return known if known and len(known) == len(steps) else None


def finest(columns: Sequence[NumericColumn]) -> float | None:
    """The finest grid of several columns; None as soon as one modelled column is continuous."""
    return min(grids(columns) or (), default=None)


def decimals_of(values: np.ndarray) -> int | None:
    """How many decimals suffice for every value, None if more than four or where that cannot be told.

    Far from zero the floats themselves lie on a grid: float32 near 10⁶ knows no more than sixteenths. So a grid of
    decimals is seen only where it is 16 times coarser than the floats' own, and where so many different values do not
    lie on it by coincidence. Whole numbers are floats exactly, which makes them plain to see twice as coarse already.
    """
    values = values.astype(np.float64) if values.dtype.kind in "iub" else values.reshape(-1)
    kind = values.dtype.type
    spacing = float(np.spacing(max(abs(values.min()), abs(values.max()), np.finfo(kind).tiny)))
    different = len(np.unique(values[:1000]))
    for decimals in range(_MOST_DECIMALS + 1):
        for off, coarser in ((0, 2), (2, 16)) if decimals == 0 else ((2, 16),):
            step = 10.0**-decimals
            if step < coarser * spacing or ((2 * off + 1) * spacing / step) ** different > _CHANCE:
                continue
            parts = (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
            if _on_grid(values[:1000], decimals, off) and all(_on_grid(part, decimals, off) for part in parts):
                return decimals
    return None


def _on_grid(values: np.ndarray, decimals: int, off: int) -> bool:
    """Whether rounded values, as floats of the same type, are the values or at most `off` of its steps away."""
    rounded = np.round(values.astype(np.float64), decimals).astype(values.dtype)
    return bool((np.abs(rounded - values) <= off * np.spacing(np.abs(values))).all())


def _looked_at(values: np.ndarray) -> np.ndarray:
    """The values that a scaler is fitted to: all, or random ones of very many and the extremes."""
    if len(values) <= _MEASURED:
        return values
    positions = (Stream(0, "values measured").uniform(_MEASURED) * len(values)).long().numpy()
    return np.concatenate([values[positions], [values.min(), values.max()]])
