"""Tables of numeric columns ↔ R^d: each column on its own scaler, constant ones put back as they were."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.codecs.base import Numbers
from scorefield.codecs.numeric import NumericColumn, finest, numbers_of, spans, steps_of
from scorefield.data.checks import HUGE
from scorefield.data.kinds import Data, Table
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_LISTED = 10  # columns that a refusal names


@dataclass(frozen=True)
class TableCodec:
    """The columns of a table, in order, with the Arrow type of each.

    Args:
        columns: what each column is.
        types: the Arrow type of each, as text.
        header: whether the file had names.
        notes: what fitting found.
    """

    columns: tuple[NumericColumn, ...]
    types: tuple[str, ...]
    header: bool
    notes: tuple[str, ...] = ()
    kind = "table"

    @staticmethod
    def fit(table: Table) -> TableCodec:
        """Measure the columns of a table.

        Raises:
            DataError: for columns that are not numeric or have missing cells, which a later version handles, and when
                no column varies.
        """
        columns, reasons = fit_columns(table)
        _refuse(table, reasons)
        notes = [
            f"column {column.name!r} is constant ({column.low:g}): it is not modelled but put back in samples"
            for column in columns
            if column.scaler is None
        ]
        if all(column.scaler is None for column in columns):
            raise DataError(f"{table.source}: no column varies, there is nothing to learn")
        types = tuple(str(field.type) for field in table.columns.schema)
        return TableCodec(tuple(columns), types, table.header, tuple(notes))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._modelled),)

    @property
    def resolution(self) -> float | None:
        return finest(self.columns)

    @property
    def steps(self) -> tuple[float, ...] | None:
        return steps_of(self.columns)

    @property
    def numbers(self) -> Numbers:
        return numbers_of(self.columns)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        return spans(self.columns)

    @property
    def _modelled(self) -> list[NumericColumn]:
        return [column for column in self.columns if column.scaler is not None]

    def encode(self, data: Data) -> Tensor:
        values = self._values(data)
        encoded = [column.scaler.forward(values[column.name]).float() for column in self._modelled if column.scaler]
        return torch.stack(encoded, dim=1)

    def decode(self, x: Tensor) -> Table:
        import pyarrow as pa

        scaled = dict(zip((column.name for column in self._modelled), x.double().cpu().unbind(1), strict=True))
        arrays = []
        for column, type_name in zip(self.columns, self.types, strict=True):
            values = column.decode(scaled[column.name]) if column.scaler else np.full(len(x), column.low)
            arrays.append(pa.array(values).cast(arrow_type(type_name), safe=False))
        names = [column.name for column in self.columns]
        return Table(pa.table(arrays, names=names), header=self.header, source="decoded table")

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        values = self._values(data)
        offsets = [None] * len(self._modelled) if u is None else u.unbind(1)
        moved = [c.spread(values[c.name], each) for c, each in zip(self._modelled, offsets, strict=True)]
        return torch.stack([x for x, _ in moved], dim=1), torch.stack([slope for _, slope in moved], dim=1).sum(1)

    def unusable(self, data: Data) -> dict[int, str]:
        data = self._checked(data, missing=True)
        found: dict[int, str] = {}
        for column in self.columns:
            cells = data.columns[column.name]
            gaps = cells.is_null().to_numpy()
            for row in np.flatnonzero(gaps):
                found.setdefault(int(row), f"column {column.name!r} is missing")
            values = cells.to_numpy()
            good = np.abs(np.where(gaps, 0, values)) <= HUGE
            for row in np.flatnonzero(~good):
                found.setdefault(int(row), f"column {column.name!r} is {values[row]}, expected a finite number")
            if column.scaler is None:
                for row in np.flatnonzero(good & ~gaps & (values != column.low)):
                    found.setdefault(int(row), f"column {column.name!r} is {column.other_than(values[row])}")
        return dict(sorted(found.items()))

    def _values(self, data: Data) -> dict[str, Tensor]:
        """The modelled columns as float64; refuses a table of another form, and missing cells."""
        table = self._checked(data, missing=False)
        return {
            column.name: torch.from_numpy(table.columns[column.name].to_numpy().astype(np.float64))
            for column in self._modelled
        }

    def _checked(self, data: Data, missing: bool) -> Table:
        """The table; refuses one of another form, and missing cells unless these are allowed."""
        if not isinstance(data, Table):
            raise DataError(f"the model was trained on a table, got {data.kind} from {data.source}")
        present = data.columns.column_names
        absent = [column.name for column in self.columns if column.name not in present]
        if absent:
            raise DataError(f"{data.source}: columns {absent} are missing, the model was trained with them")
        reasons = {column.name: _comes_later(data.columns[column.name], missing) for column in self.columns}
        _refuse(data, {name: reason for name, reason in reasons.items() if reason})
        return data

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "columns": [column.to_json() for column in self.columns],
            "types": list(self.types),
            "header": self.header,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> TableCodec:
        """The codec whose `to_json` gave these fields."""
        columns = tuple(NumericColumn.from_json(column) for column in fields["columns"])
        return TableCodec(columns, tuple(fields["types"]), fields["header"], tuple(fields["notes"]))

    def describe(self) -> list[str]:
        return [column.describe() for column in self.columns]


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of this name, such as "int64" or "double"."""
    import pyarrow as pa

    return pa.type_for_alias(name)


def fit_columns(table: Table) -> tuple[list[NumericColumn], dict[str, str]]:
    """What each column is taken for, and of those that cannot be modelled the reason, by name."""
    columns, reasons = [], {}
    for name, column in zip(table.columns.column_names, table.columns.columns, strict=True):
        reason = _comes_later(column)
        if reason:
            reasons[name] = reason
            continue
        try:
            columns.append(NumericColumn.fit(name, column.to_numpy()))
        except DataError as error:
            reasons[name] = str(error).removeprefix(f"column {name!r}").removeprefix(":").strip()
    return columns, reasons


def choice(names: Sequence[str]) -> str:
    """The option that chooses these columns, ready to copy."""
    return f"--columns {shlex.quote(','.join(names))}"


def _refuse(table: Table, reasons: dict[str, str]) -> None:
    """Refuse a table for some of its columns, up to ten of them with the reason, and say how to do without them."""
    if not reasons:
        return
    listed = [f"column {name!r} {reason}" for name, reason in list(reasons.items())[:_LISTED]]
    if len(reasons) > _LISTED:
        listed.append(f"and {len(reasons) - _LISTED} more")
    usable = [name for name in table.columns.column_names if name not in reasons]
    raise DataError(
        f"{table.source}: {'; '.join(listed)}; this version models complete columns of numbers; a column of names or "
        "truth values can be a condition with --condition; "
        + (f"the others are {choice(usable)}" if usable else "there are no others to choose with --columns")
    )


def _comes_later(column: pa.ChunkedArray, missing: bool = False) -> str:
    """Why this version does not model a column, "" if it does; missing cells are a reason unless they are allowed."""
    import pyarrow.types as kinds

    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type)):
        return f"holds {column.type}"
    if column.null_count and not missing:
        first = int(np.flatnonzero(column.is_null().to_numpy())[0])
        return f"has {column.null_count} missing cells, the first in data row {first + 1}"
    return ""
