"""Columns of names in an order: each value its rank, spread over the rank's own bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.category import Category, Value
from scorefield.codecs.cells import Cells
from scorefield.codecs.number import Number

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ordered:
    """A column of names in the order that the user gave.

    Args:
        names: in their order.
        ranks: the column of their ranks.
    """

    names: Category
    ranks: Number
    kind = "ordered"

    @staticmethod
    def fit(name: str, column: pa.ChunkedArray, order: tuple[Value, ...]) -> Ordered:
        """Measure the ranks of the values that are there, which must all be in the order, missing cells aside."""
        names = Category(name, order, cube=False)
        return Ordered(names, Number.fit(name, names.codes(column.drop_null()), ranks=True))

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        return self.ranks.features

    @property
    def filler(self) -> Tensor:
        """The deviation of each number where the cell is missing."""
        return self.ranks.filler

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        return self.ranks.ends

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        return [(True, False, 0.0)] * self.features

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        return self.ranks.blocks(start, flag)

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        return self.ranks.cells(self.ranked(column))

    def ranked(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The rank of each value, 0 for missing ones."""
        import pyarrow as pa

        return pa.chunked_array([pa.array(np.maximum(self.names.codes(column), 0))])

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d)."""
        import pyarrow as pa

        return self.names.array(kind).take(self.ranks.decode(x, pa.int64()))

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0; missing ones are no fault."""
        return self.names.unusable(column)

    def describe(self) -> str:
        """What it is, for `inspect`."""
        return f"{len(self.names.values)} names in order, {' < '.join(map(str, self.names.values))}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "names": self.names.to_json(), "ranks": self.ranks.to_json()}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Ordered:
        """The column whose `to_json` gave these fields."""
        return Ordered(Category.from_json(fields["names"]), Number.from_json(fields["ranks"]))
