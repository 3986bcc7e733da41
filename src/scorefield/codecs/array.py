"""Numeric arrays ↔ R^d: vectors element by element, larger arrays on one common scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.numeric import NumericColumn, finest
from scorefield.data.kinds import Array, Data
from scorefield.errors import DataError


@dataclass(frozen=True)
class ArrayCodec:
    """Rows of one shape: scalars and vectors as columns, (H, W) and larger as fields with one scale.

    Elements of a field are not scaled one by one, since that would amplify those that hardly vary.

    Args:
        columns: one for each element of a vector, one for all elements of a field.
        row_shape: of one row of the user's array.
        dtype: of the user's array.
        notes: what fitting found.
    """

    columns: tuple[NumericColumn, ...]
    row_shape: tuple[int, ...]
    dtype: str
    notes: tuple[str, ...] = ()
    kind = "array"

    @staticmethod
    def fit(array: Array) -> ArrayCodec:
        """Measure an array.

        Raises:
            DataError: when no element varies.
        """
        values = array.values
        row_shape = values.shape[1:]
        if len(row_shape) <= 1:
            flat = values.reshape(len(values), -1)
            columns = [NumericColumn.fit(f"element {i}", flat[:, i]) for i in range(flat.shape[1])]
        else:
            columns = [NumericColumn.fit("all elements", values.reshape(-1))]
        if all(np.array_equal(values[0], row) for row in values[1:]):
            raise DataError(f"{array.source}: all rows are equal, there is nothing to learn")
        constant = sum(column.scaler is None for column in columns)
        notes = (f"{constant} constant elements are not modelled but put back in samples",) if constant else ()
        return ArrayCodec(tuple(columns), row_shape, str(values.dtype), notes)

    @property
    def _is_field(self) -> bool:
        return len(self.row_shape) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        if not self._is_field:
            return (sum(column.scaler is not None for column in self.columns),)
        return (1, *self.row_shape) if len(self.row_shape) == 2 else self.row_shape

    @property
    def resolution(self) -> float | None:
        return finest(list(self.columns))

    def encode(self, data: Data) -> Tensor:
        values = self._values(data)
        if self._is_field:
            scaler = self.columns[0].scaler
            assert scaler is not None
            return scaler.forward(values).float().reshape(len(values), *self.shape)
        parts = [c.scaler.forward(values[:, i]) for i, c in enumerate(self.columns) if c.scaler is not None]
        return torch.stack(parts, dim=1).float()

    def decode(self, x: Tensor) -> Array:
        x = x.double().cpu()
        if self._is_field:
            values = self.columns[0].decode(x.reshape(-1))
        else:
            values = np.empty((len(x), len(self.columns)))
            position = 0
            for i, column in enumerate(self.columns):
                if column.scaler is None:
                    values[:, i] = column.low
                else:
                    values[:, i] = column.decode(x[:, position])
                    position += 1
        return Array(values.reshape(len(x), *self.row_shape).astype(self.dtype), source="decoded array")

    def log_jacobian(self, data: Data) -> Tensor:
        values = self._values(data)
        if self._is_field:
            scaler = self.columns[0].scaler
            assert scaler is not None
            return scaler.log_slope(values).flatten(1).sum(1)
        parts = [c.scaler.log_slope(values[:, i]) for i, c in enumerate(self.columns) if c.scaler is not None]
        return torch.stack(parts, dim=1).sum(1)

    def _values(self, data: Data) -> Tensor:
        if not isinstance(data, Array):
            raise DataError(f"the model was trained on an array, got {data.kind} from {data.source}")
        if data.values.shape[1:] != self.row_shape:
            raise DataError(f"{data.source}: rows have shape {data.values.shape[1:]}, expected {self.row_shape}")
        values = torch.from_numpy(data.values.astype(np.float64))
        return values if self._is_field else values.reshape(len(values), -1)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "columns": [column.to_json() for column in self.columns],
            "row_shape": list(self.row_shape),
            "dtype": self.dtype,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> ArrayCodec:
        """The codec whose `to_json` gave these fields."""
        columns = tuple(NumericColumn.from_json(column) for column in fields["columns"])
        return ArrayCodec(columns, tuple(fields["row_shape"]), fields["dtype"], tuple(fields["notes"]))

    def describe(self) -> list[str]:
        shown = [column.describe() for column in self.columns[:20]]
        left = len(self.columns) - len(shown)
        return [f"rows of shape {self.row_shape}, {self.dtype}", *shown, *([f"and {left} more"] if left else [])]
