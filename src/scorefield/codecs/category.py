"""Columns of names: each value a vertex, decoded as the nearest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.cells import Cells
from scorefield.codecs.vertices import BLUR, Vertices
from scorefield.data.clock import of_texts

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SIMPLEX = 128  # names; beyond, corners of a cube take less time and lose some of what a name goes with
_LISTED = 12  # names in a description

Value = str | bool | int | float


@dataclass(frozen=True)
class Category:
    """A column of names.

    Args:
        name: of the column.
        values: the names, growing.
        cube: whether they are corners of a cube, and not of a simplex.
    """

    name: str
    values: tuple[Value, ...]
    cube: bool
    kind = "category"

    @staticmethod
    def fit(name: str, column: pa.ChunkedArray, cube: bool | None = None) -> Category:
        """The names that are there, missing cells aside; `cube` is by their number unless told."""
        values = named(column).drop_null().unique().to_pylist()
        return Category(name, tuple(sorted(values)), len(values) > MOST_SIMPLEX if cube is None else cube)

    @property
    def vertices(self) -> Vertices:
        """The points of the names, in their order."""
        return Vertices(len(self.values), self.cube)

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        return self.vertices.features

    @property
    def filler(self) -> Tensor:
        """The deviation of each number where the cell is missing: a vertex of its own, in the middle."""
        return torch.full((self.features,), BLUR, dtype=torch.float64)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        return self.vertices.ends

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        return [(True, False, 0.0)] * self.features

    def codes(self, column: pa.ChunkedArray) -> np.ndarray:
        """The place (n,) of each value among the names, −1 for missing and unknown ones."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names = named(column)
        found = pc.fill_null(pc.index_in(names, value_set=pa.array(self.values, names.type)), -1)
        places: np.ndarray = found.to_numpy().astype(np.int64)
        return places

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        return self.vertices.blocks(start, flag)

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        codes = torch.from_numpy(self.codes(column)).clamp(min=0)
        return Cells.about(self.vertices.points[codes], BLUR)

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d)."""
        import pyarrow as pa

        nearest = pa.array(self.vertices.nearest(x).numpy())
        return self.array(kind).take(nearest)

    def array(self, kind: pa.DataType) -> pa.Array:
        """The names as values of an Arrow type, in their order."""
        import pyarrow as pa

        return of_texts(pa.array(self.values), kind) if pa.types.is_temporal(kind) else pa.array(self.values, kind)

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0; missing ones are no fault."""
        unknown = np.flatnonzero((self.codes(column) < 0) & ~column.is_null().to_numpy())
        names = named(column)
        return {
            int(row): f"was never {names[int(row)].as_py()!r} in training, known are {self.listed}" for row in unknown
        }

    @property
    def listed(self) -> str:
        """The names, not too many of them."""
        shown = ", ".join(str(value) for value in self.values[:_LISTED])
        return shown + (f" and {len(self.values) - _LISTED} more" if len(self.values) > _LISTED else "")

    def describe(self) -> str:
        """What it is, for `inspect`."""
        return f"{len(self.values)} names ({self.listed})" + (", as bits" if self.cube else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "name": self.name, "values": list(self.values), "cube": self.cube}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Category:
        """The column whose `to_json` gave these fields."""
        return Category(fields["name"], tuple(fields["values"]), fields["cube"])


def named(column: Any) -> Any:
    """Values, Arrow's array or chunked one, as names that JSON keeps: dates by their text, −0 as 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_temporal(column.type):
        return column.cast(pa.string())
    if pa.types.is_float16(column.type):  # with which Arrow does not reckon
        column = column.cast(pa.float32())
    return pc.add(column, pa.scalar(0.0, column.type)) if pa.types.is_floating(column.type) else column
