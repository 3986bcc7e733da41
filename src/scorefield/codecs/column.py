"""A column of a table in a row of numbers: whether its cell is missing, where it ever was, and then its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.calendar import Calendar
from scorefield.codecs.category import Category
from scorefield.codecs.cells import Cells
from scorefield.codecs.clock import Clock
from scorefield.codecs.number import Number
from scorefield.codecs.ordered import Ordered
from scorefield.codecs.vertices import BLUR, REACH, Vertices

if TYPE_CHECKING:
    import pyarrow as pa

FLAG = Vertices(2)  # 1 for a cell that is there, −1 for a missing one


class Values(Protocol):
    """What the cells of a column hold: `Number`, `Category`, `Ordered`, `Calendar` or `Clock`."""

    kind: str

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        ...

    @property
    def filler(self) -> Tensor:
        """The deviation (d,) of each number about 0 where the cell is missing."""
        ...

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        ...

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        ...

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        ...

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        ...

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values of an Arrow type from (n, d)."""
        ...

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0; missing ones are no fault here."""
        ...

    def describe(self) -> str:
        """What it is, for `inspect`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ...


KINDS: dict[str, Any] = {kind.kind: kind for kind in (Number, Category, Ordered, Calendar, Clock)}


@dataclass(frozen=True)
class Column:
    """One modelled column.

    Args:
        name: of the column.
        values: what its cells hold.
        gaps: whether cells were missing in training, so that a first number says whether this one is.
        missing: the share of them.
        why: it is taken for what it is.
    """

    name: str
    values: Values
    gaps: bool = False
    missing: float = 0.0
    why: str = ""

    @property
    def features(self) -> int:
        """Numbers of an encoded cell."""
        return self.gaps + self.values.features

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        low, high = self.values.ends
        if not self.gaps:
            return low, high
        below, above = FLAG.ends
        free = REACH * self.values.filler
        return torch.cat([below, low.minimum(-free)]), torch.cat([above, high.maximum(free)])

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        own = self.values.numbers
        return [(True, False, 0.0)] * (1 + len(own)) if self.gaps else own

    def blocks(self, start: int) -> list[Block]:
        """The numbers that stand about vertices, for a column whose first number stands there in a row."""
        flag = [Block(start, FLAG.points, BLUR)] if self.gaps else []
        return flag + self.values.blocks(start + self.gaps, start if self.gaps else -1)

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n cells; a missing one says so where some were in training, and its value may be any."""
        absent = torch.from_numpy(np.array(column.is_null().to_numpy()))
        own = self.values.cells(column)
        if not self.gaps and not bool(absent.any()):
            return own
        blank = Cells.about(torch.zeros_like(own.centre), 1.0)
        blank = Cells(blank.centre, self.values.filler.expand_as(blank.centre), blank.blurred, blank.log_slope)
        filled = blank.where(absent, own)
        if not self.gaps:
            return filled
        return Cells.beside([Cells.about(FLAG.points[absent.long()], BLUR), filled])

    def known(self, column: pa.ChunkedArray) -> Tensor:
        """(n, d) bool, which numbers of a cell to be filled are known: that it is there, its value if it has one."""
        present = torch.from_numpy(~column.is_null().to_numpy()).unsqueeze(1)
        flag = torch.ones(len(column), int(self.gaps), dtype=torch.bool)
        return torch.cat([flag, present.expand(-1, self.values.features)], dim=1)

    def present(self, cells: Cells) -> Cells:
        """The same cells, each said to be there."""
        if not self.gaps:
            return cells
        centre = cells.centre.clone()
        centre[:, 0] = FLAG.points[0, 0]
        return Cells(centre, cells.extent, cells.blurred, cells.log_slope)

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n cells of an Arrow type from (n, d)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self.values.decode(x[:, int(self.gaps) :], kind)
        if not self.gaps:
            return values
        absent = pa.array(FLAG.nearest(x[:, :1]).numpy() == 1)
        return pc.if_else(absent, pa.scalar(None, kind), values)

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells have no density, by row from 0."""
        found = self.values.unusable(column)
        if not self.gaps:
            for row in np.flatnonzero(column.is_null().to_numpy()):
                found.setdefault(int(row), "is missing, which it never was in training")
        return found

    def describe(self) -> str:
        """A line for `inspect`."""
        gaps = f"; {self.missing:.1%} missing" if self.gaps else ""
        return f"{self.name}: {self.values.describe()}{gaps} [{self.why}]"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "values": self.values.to_json(),
            "gaps": self.gaps,
            "missing": self.missing,
            "why": self.why,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Column:
        """The column whose `to_json` gave these fields."""
        values = KINDS[fields["values"]["kind"]].from_json(fields["values"])
        return Column(fields["name"], values, fields["gaps"], fields["missing"], fields["why"])
