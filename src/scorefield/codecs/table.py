"""Tables ↔ R^d: each column its own numbers, what never varies put back as it was, what cannot be learned left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Blocks
from scorefield.codecs.base import Numbers
from scorefield.codecs.cells import Cells
from scorefield.codecs.column import Column
from scorefield.codecs.degenerate import degenerate
from scorefield.codecs.number import Number
from scorefield.codecs.taken import Constant, Entry, LeftOut, take_columns
from scorefield.data.clock import cast, of_texts
from scorefield.data.kinds import Data, Table
from scorefield.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


_LOOKED_AT = 100_000  # rows


@dataclass(frozen=True)
class TableCodec:
    """The columns of a table, in order, with the Arrow type of each.

    Args:
        entries: what each column is.
        types: the Arrow type of each, as text.
        header: whether the file had names.
        notes: what fitting found.
        dependent: a sentence on continuous columns that are linear functions of each other, "" where there are none.
    """

    entries: tuple[Entry, ...]
    types: tuple[str, ...]
    header: bool
    notes: tuple[str, ...] = ()
    dependent: str = ""
    kind = "table"

    @staticmethod
    def fit(table: Table, asked: Mapping[str, str] | None = None) -> TableCodec:
        """Measure the columns of a table.

        Args:
            table: as read.
            asked: types of columns by name (`taken.TYPES`), instead of what their values say.

        Raises:
            DataError: when no column varies.
            OptionError: for types that are not there or do not fit.
        """
        entries, notes = take_columns(table, asked or {})
        if not any(isinstance(entry, Column) and entry.features for entry in entries):
            reasons = "; ".join(entry.describe() for entry in entries)
            raise DataError(f"{table.source}: no column varies, there is nothing to learn ({reasons})")
        types = tuple(str(field.type) for field in table.columns.schema)
        return TableCodec(tuple(entries), types, table.header, tuple(notes), _dependent(table, entries))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Those that are modelled, in their order."""
        return tuple(entry for entry in self.entries if isinstance(entry, Column))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns that samples have."""
        return tuple(entry.name for entry in self.entries if not isinstance(entry, LeftOut))

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(column.features for column in self.columns),)

    def place(self, name: str) -> slice:
        """Where the numbers of a modelled column stand in an encoded row."""
        start = 0
        for column in self.columns:
            if column.name == name:
                return slice(start, start + column.features)
            start += column.features
        raise KeyError(name)

    @property
    def resolution(self) -> float | None:
        return None  # what is rounded is spread over its bins

    @property
    def steps(self) -> tuple[float, ...] | None:
        return None

    @property
    def numbers(self) -> Numbers:
        names = [column.name for column in self.columns for _ in range(column.features)]
        gridded, integer, log_width = zip(*(n for column in self.columns for n in column.numbers), strict=True)
        return Numbers(
            tuple(names), torch.tensor(gridded), torch.tensor(integer), torch.tensor(log_width, dtype=torch.float64)
        )

    @property
    def blocks(self) -> Blocks | None:
        """The numbers of a row that stand about vertices, None where there are none."""
        parts = [part for column in self.columns for part in column.blocks(self.place(column.name).start)]
        return Blocks(parts, self.shape[0]) if parts else None

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        low, high = zip(*(column.ends for column in self.columns), strict=True)
        return torch.cat(low).float(), torch.cat(high).float()

    def cells(self, data: Data) -> Cells:
        """Of n rows.

        Raises:
            DataError: for a table of another form, and values that were never seen.
        """
        table = self._checked(data)
        return Cells.beside([column.cells(self._arrow(table, column)) for column in self.columns])

    def encode(self, data: Data) -> Tensor:
        return self.spread(data)[0].float()

    def spread(self, data: Data, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        unusable = self.unusable(data)
        if unusable:
            row, reason = next(iter(unusable.items()))
            raise DataError(f"{data.source}: data row {row + 1}: {reason}")
        return self.cells(data).at(u)

    def to_fill(self, data: Data) -> tuple[Cells, Tensor]:
        """The cells of rows with holes, each said to be there, and which numbers (n, D) are known.

        Raises:
            DataError: for a table of another form.
        """
        table = self._checked(data)
        arrows = [(column, self._arrow(table, column)) for column in self.columns]
        cells = Cells.beside([column.present(column.cells(cells)) for column, cells in arrows])
        return cells, torch.cat([column.known(cells) for column, cells in arrows], dim=1)

    def check_seen(self, data: Data) -> None:
        """Refuse rows with values that were never seen; missing cells are no fault.

        Raises:
            DataError: with the first row.
        """
        for row, reason in self.unusable(data, gaps=True).items():
            raise DataError(f"{data.source}: data row {row + 1}: {reason}")

    def decode(self, x: Tensor) -> Table:
        import pyarrow as pa

        x = x.double().cpu()
        parts = iter(x.split([column.features for column in self.columns], dim=1))
        arrays = []
        for entry, type_name in zip(self.entries, self.types, strict=True):
            kind = arrow_type(type_name)
            if isinstance(entry, Column):
                arrays.append(entry.decode(next(parts), kind))
            elif isinstance(entry, Constant):
                constant = pa.nulls(1, kind) if entry.value is None else of_texts(pa.array([entry.value]), kind)
                arrays.append(constant.take(pa.array(np.zeros(len(x), dtype=np.int64))))
        return Table(pa.table(arrays, names=list(self.names)), header=self.header, source="decoded table")

    def unusable(self, data: Data, gaps: bool = False) -> dict[int, str]:
        """As every codec's; with `gaps`, missing cells are no fault."""
        table = self._checked(data)
        found: dict[int, str] = {}
        for entry, type_name in zip(self.entries, self.types, strict=True):
            if isinstance(entry, LeftOut):
                continue
            if isinstance(entry, Column):
                arrow = self._arrow(table, entry)
                reasons = entry.values.unusable(arrow) if gaps else entry.unusable(arrow)
            else:
                reasons = _other(entry, table, type_name, gaps)
            for row, reason in reasons.items():
                found.setdefault(row, f"column {entry.name!r} {reason}")
        return dict(sorted(found.items()))

    def type_of(self, entry: Entry) -> pa.DataType:
        """The Arrow type of a column."""
        return arrow_type(self.types[self.entries.index(entry)])

    def _arrow(self, table: Table, column: Column) -> pa.ChunkedArray:
        """The cells of a column, of its type."""
        return _as(table, column.name, _kept(column, self.types[self.entries.index(column)]))

    def _checked(self, data: Data) -> Table:
        """The table; refuses one of another form."""
        if not isinstance(data, Table):
            raise DataError(f"the model was trained on a table, got {data.kind} from {data.source}")
        present = data.columns.column_names
        absent = [name for name in self.names if name not in present]
        if absent:
            more = [name for name in present if name not in {entry.name for entry in self.entries}]
            others = f", and has {more} instead" if more else ""
            raise DataError(f"{data.source}: columns {absent} are missing{others}; the model was trained with them")
        return data

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "columns": [_entry_to_json(entry) for entry in self.entries],
            "types": list(self.types),
            "header": self.header,
            "notes": list(self.notes),
            "dependent": self.dependent,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> TableCodec:
        """The codec whose `to_json` gave these fields."""
        entries = tuple(_entry_from_json(entry) for entry in fields["columns"])
        notes = tuple(fields["notes"])
        return TableCodec(entries, tuple(fields["types"]), fields["header"], notes, fields["dependent"])

    def describe(self) -> list[str]:
        return [entry.describe() for entry in self.entries]


def _dependent(table: Table, entries: Sequence[Entry]) -> str:
    """A sentence on continuous columns that are linear functions of each other, "" where there are none.

    It is told from the values themselves: by ranks each to a normal, they are so only nearly.
    """
    names = [
        entry.name
        for entry in entries
        if isinstance(entry, Column) and isinstance(entry.values, Number) and entry.values.is_continuous
    ]
    if len(names) < 2:
        return ""
    some = table.columns.select(names).slice(0, _LOOKED_AT)
    values = np.stack([some[name].to_numpy().astype(np.float64) for name in names], axis=1)
    values = values[~np.isnan(values).any(axis=1)]
    if len(values) <= len(names):
        return ""
    z = torch.from_numpy((values - values.mean(axis=0)) / values.std(axis=0).clip(min=1e-300))
    return degenerate(z.T @ z / len(z), names) or ""


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of this name, such as "int64", "double" or "timestamp[us, tz=UTC]"."""
    import pyarrow as pa

    if name.startswith("timestamp["):
        unit, _, zone = name.removeprefix("timestamp[").removesuffix("]").partition(", tz=")
        return pa.timestamp(unit, zone or None)
    return pa.type_for_alias(name.removesuffix("[day]"))


def _kept(column: Column, type_name: str) -> str:
    """The type that cells are brought to before they are encoded: numbers stay as they are, others the column's."""
    return "" if isinstance(column.values, Number) else type_name


def _as(table: Table, name: str, type_name: str) -> pa.ChunkedArray:
    """A column of another table as one of this type, or of any numeric type for "".

    Raises:
        DataError: where it does not fit, with the first cell that does not.
    """
    import pyarrow as pa

    column = table.columns[name]
    kind = arrow_type(type_name) if type_name else None
    if kind == column.type:
        return column
    if kind is None and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column
    expected = "numbers" if kind is None else str(kind)
    try:
        return cast(column, pa.float64() if kind is None else kind)
    except (pa.ArrowException, NotImplementedError, ValueError) as error:
        raise DataError(
            f"{table.source}: column {name!r} holds {column.type}, the model was trained with {expected}: {error}"
        ) from error


def _other(entry: Constant, table: Table, type_name: str, gaps: bool) -> dict[int, str]:
    """The rows in which a constant column has another value, for which no density is known."""
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = table.columns[entry.name].is_null().to_numpy()
    if entry.value is None:
        return {int(row): "is there, which it never was in training" for row in np.flatnonzero(~absent)}
    column, value = _as(table, entry.name, type_name), of_texts(pa.array([entry.value]), arrow_type(type_name))[0]
    if pa.types.is_float16(column.type):  # which Arrow does not compare
        column, value = column.cast(pa.float32()), value.cast(pa.float32())
    same = pc.fill_null(pc.equal(column, value), gaps).to_numpy()
    return {
        int(row): f"is {'missing' if absent[row] else column[int(row)]}, which was always {entry.value} in training: "
        "no density is known for another value"
        for row in np.flatnonzero(~same)
    }


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Column):
        return {"is": "modelled", **entry.to_json()}
    return {"is": "constant" if isinstance(entry, Constant) else "left out", **asdict(entry)}


def _entry_from_json(fields: dict[str, Any]) -> Entry:
    fields = dict(fields)
    match fields.pop("is"):
        case "modelled":
            return Column.from_json(fields)
        case "constant":
            return Constant(**fields)
        case _:
            return LeftOut(**fields)
