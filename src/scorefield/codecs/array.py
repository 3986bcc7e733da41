"""Numeric arrays ↔ R^d: vectors element by element, larger arrays on one common scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.base import Numbers
from scorefield.codecs.numeric import NumericColumn, finest, numbers_of, spans, steps_of
from scorefield.data.arrays import image_layout
from scorefield.data.checks import HUGE
from scorefield.data.kinds import Array, Data, Table
from scorefield.errors import DataError

_AT_ONCE = 1 << 22  # numbers as float64, so that a large array is never copied whole


@dataclass(frozen=True)
class ArrayCodec:
    """Rows of one shape: scalars and vectors as columns, (H, W) and larger as fields with one scale.

    Elements of a field are not scaled one by one, since that would amplify those that hardly vary.

    Args:
        columns: one for each element of a vector, one for all elements of a field.
        row_shape: of one row of the user's array.
        dtype: of the user's array.
        notes: what fitting found.
        channels_last: whether rows are (H, W, C), which networks are given as (C, H, W).
        name: the key of the user's array within an .npz file, or "".
    """

    columns: tuple[NumericColumn, ...]
    row_shape: tuple[int, ...]
    dtype: str
    notes: tuple[str, ...] = ()
    channels_last: bool = False
    name: str = ""
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
        notes = [f"{constant} constant elements are not modelled but put back in samples"] if constant else []
        layout = image_layout(values.shape)
        if len(row_shape) == 3:
            notes.append(_layout_note(row_shape, layout))
        return ArrayCodec(tuple(columns), row_shape, str(values.dtype), tuple(notes), layout == "NHWC", array.name)

    @property
    def _is_field(self) -> bool:
        return len(self.row_shape) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        if not self._is_field:
            return (sum(column.scaler is not None for column in self.columns),)
        if self.channels_last:
            return (self.row_shape[-1], *self.row_shape[:-1])
        return (1, *self.row_shape) if len(self.row_shape) == 2 else self.row_shape

    @property
    def resolution(self) -> float | None:
        return finest(self.columns)

    @property
    def steps(self) -> tuple[float, ...] | None:
        return steps_of(self.columns)

    @property
    def numbers(self) -> Numbers:
        each = numbers_of(self.columns)
        if not self._is_field:
            return each
        return Numbers(each.names, *(a.expand(self.shape) for a in (each.gridded, each.integer, each.log_width)))

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        return spans(self.columns)

    def encode(self, data: Data) -> Tensor:
        x = torch.empty((len(data), *self.shape))
        for rows, values in self._parts(data):
            x[rows] = self._spread(values, None)[0].float()
        return x

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = [self._spread(values, None if u is None else u[rows]) for rows, values in self._parts(data)]
        empty = torch.empty((0, *self.shape), dtype=torch.float64), torch.empty(0, dtype=torch.float64)
        encoded, jacobian = zip(empty, *parts, strict=True)
        return torch.cat(encoded), torch.cat(jacobian)

    def _spread(self, values: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `spread`, for rows as `_parts` gives them."""
        if not self._is_field:
            modelled = [i for i, column in enumerate(self.columns) if column.scaler is not None]
            offsets = [None] * len(modelled) if u is None else u.unbind(1)
            moved = [self.columns[i].spread(values[:, i], each) for i, each in zip(modelled, offsets, strict=True)]
            return torch.stack([x for x, _ in moved], dim=1), torch.stack([slope for _, slope in moved], dim=1).sum(1)
        values = (values.movedim(-1, 1) if self.channels_last else values).reshape(len(values), *self.shape)
        x, slopes = self.columns[0].spread(values, u)
        return x, slopes.flatten(1).sum(1)

    def unusable(self, data: Data) -> dict[int, str]:
        array = self._checked(data)
        found: dict[int, str] = {}
        for rows in self._chunks(len(array)):
            flat = array.values[rows].reshape(len(array.values[rows]), -1)
            for row, place in zip(*np.nonzero(~(np.abs(flat.astype(np.float64)) <= HUGE)), strict=True):
                reason = f"element {int(place)} (counted from 0) is {flat[row, place]}, expected a finite number"
                found.setdefault(rows.start + int(row), reason)
            if self._is_field:
                continue
            for i, column in enumerate(self.columns):
                if column.scaler is None:
                    for row in np.flatnonzero(flat[:, i] != column.low):
                        found.setdefault(rows.start + int(row), f"{column.name} is {column.other_than(flat[row, i])}")
        return dict(sorted(found.items()))

    def decode(self, x: Tensor) -> Array:
        values = np.empty((len(x), *self.row_shape), dtype=self.dtype)
        for rows in self._chunks(len(x)):
            values[rows] = self._decoded(x[rows].double().cpu())
        return Array(values, source="decoded array", name=self.name)

    def _decoded(self, x: Tensor) -> np.ndarray:
        """Rows (n, *row_shape) float64 from encoded ones."""
        if self._is_field:
            x = x.movedim(1, -1) if self.channels_last else x
            return self.columns[0].decode(x.reshape(-1)).reshape(len(x), *self.row_shape)
        values = np.empty((len(x), len(self.columns)))
        position = 0
        for i, column in enumerate(self.columns):
            if column.scaler is None:
                values[:, i] = column.low
            else:
                values[:, i] = column.decode(x[:, position])
                position += 1
        return values.reshape(len(x), *self.row_shape)

    def _parts(self, data: Data) -> Iterator[tuple[slice, Tensor]]:
        """The rows some at a time, as float64; vectors as (n, elements); refuses an array of another form."""
        array = self._checked(data)
        for rows in self._chunks(len(array)):
            values = torch.from_numpy(array.values[rows].astype(np.float64))
            yield rows, values if self._is_field else values.reshape(len(values), -1)

    def _checked(self, data: Data) -> Array:
        """The array, or one whose elements are the columns of a table, as in a .csv of rows that were drawn."""
        if isinstance(data, Table):
            data = _of_columns(data, self.row_shape)
        if not isinstance(data, Array):
            raise DataError(f"the model was trained on an array, got {data.kind} from {data.source}")
        if data.values.shape[1:] != self.row_shape:
            raise DataError(f"{data.source}: rows have shape {data.values.shape[1:]}, expected {self.row_shape}")
        return data

    def _chunks(self, count: int) -> Iterator[slice]:
        """Ranges of rows, a bounded number of elements in each."""
        step = max(1, _AT_ONCE // max(1, int(np.prod(self.row_shape))))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "columns": [column.to_json() for column in self.columns],
            "row_shape": list(self.row_shape),
            "dtype": self.dtype,
            "notes": list(self.notes),
            "channels_last": self.channels_last,
            "name": self.name,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> ArrayCodec:
        """The codec whose `to_json` gave these fields."""
        columns = tuple(NumericColumn.from_json(column) for column in fields["columns"])
        return ArrayCodec(
            columns,
            tuple(fields["row_shape"]),
            fields["dtype"],
            tuple(fields["notes"]),
            fields["channels_last"],
            fields["name"],
        )

    def describe(self) -> list[str]:
        shown = [column.describe() for column in self.columns[:20]]
        left = len(self.columns) - len(shown)
        return [f"rows of shape {self.row_shape}, {self.dtype}", *shown, *([f"and {left} more"] if left else [])]


def _of_columns(table: Table, row_shape: tuple[int, ...]) -> Array:
    """An array of the columns of a table.

    Raises:
        DataError: for columns that are not its elements, in their order and all there.
    """
    import pyarrow as pa

    names, count = table.columns.column_names, math.prod(row_shape)
    if len(names) != count or (table.header and names != [str(place) for place in range(count)]):
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise DataError(
            f"{table.source}: the model was trained on an array, {count} numbers a row; a table may hold them in "
            f"{count} columns without names, or named 0 to {count - 1}, got {len(names)}: {shown}"
        )
    for name, column in zip(names, table.columns.columns, strict=True):
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) or column.null_count:
            what = "has missing cells" if column.null_count else f"holds {column.type}"
            raise DataError(f"{table.source}: the model was trained on an array of numbers, column {name!r} {what}")
    values = np.column_stack([column.to_numpy() for column in table.columns.columns])
    return Array(values.reshape(len(table), *row_shape), source=table.source)


def _layout_note(shape: tuple[int, ...], layout: str) -> str:
    """How rows of three axes are taken."""
    if layout == "NHWC":
        return f"rows of shape {shape} are taken as {shape[2]} channels, last, of {shape[0]}×{shape[1]}"
    taken = f"rows of shape {shape} are taken as {shape[0]} channels, first, of {shape[1]}×{shape[2]}"
    doubt = {"either": ", though the last axis could be the channels", "": ", though no image has this shape"}
    return taken + (f"{doubt[layout]}: transpose them if that is wrong" if layout in doubt else "")
