"""Columns of times of day and of durations: numbers of the unit that they are kept in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.between import Between
from scorefield.codecs.cells import Cells
from scorefield.codecs.number import Number
from scorefield.data.clock import in_words, of_texts, of_ticks, ticks

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Clock:
    """A column of times of day, or of durations.

    Args:
        number: how their whole numbers are encoded.
        type_name: Arrow's name of their type, such as "time32[s]" or "duration[ms]".
    """

    number: Number
    type_name: str
    kind = "time"

    @staticmethod
    def fit(name: str, column: pa.ChunkedArray) -> Clock:
        """Measure the times that are there, missing cells aside."""
        return Clock(Number.fit(name, ticks(column.drop_null()).to_numpy()), str(column.type))

    @property
    def type(self) -> pa.DataType:
        """Arrow's type."""
        import pyarrow as pa

        return pa.type_for_alias(self.type_name)

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        return self.number.features

    @property
    def filler(self) -> Tensor:
        """The deviation of each number where the cell is missing."""
        return self.number.filler

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        return self.number.ends

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        return self.number.numbers

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        return self.number.blocks(start, flag)

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        return self.number.cells(ticks(column))

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d), within the range that was seen."""
        import pyarrow as pa

        return of_ticks(self.number.decode(x, pa.float64()).to_numpy(), kind)

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0: any can."""
        return {}

    def in_ticks(self, wish: Between) -> Between:
        """A range whose ends are text or times, in whole numbers.

        Raises:
            ValueError: for text that is no time.
            pyarrow.ArrowException: for what is neither.
        """
        import pyarrow as pa

        def end(value: Any) -> int | None:
            if value is None:
                return None
            kind = self.type
            known = pa.array([value])
            count: int = ticks(of_texts(known, kind) if isinstance(value, str) else known.cast(kind))[0].as_py()
            return count

        return replace(wish, low=end(wish.low), high=end(wish.high))

    def describe(self) -> str:
        """What it is, for `inspect`."""
        value, kind = self.number.value, self.type
        what = "times of day" if self.type_name.startswith("time") else "durations"
        ends = [value.low, value.high, *self.number.spikes]
        often = ", ".join(in_words(spike, kind) for spike in self.number.spikes)
        return f"{what} from {in_words(min(ends), kind)} to {in_words(max(ends), kind)}" + (
            f"; many rows have {often}" if often else ""
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "number": self.number.to_json(), "type": self.type_name}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Clock:
        """The column whose `to_json` gave these fields."""
        return Clock(Number.from_json(fields["number"]), fields["type"])
