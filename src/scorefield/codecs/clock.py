"""Columns of times of day and of durations: whole numbers of seconds, or of the part of one that they need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.between import Between
from scorefield.codecs.cells import Cells
from scorefield.codecs.number import Number
from scorefield.data.clock import PER_SECOND, cast, in_words, of_ticks, ticks
from scorefield.errors import OptionError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Clock:
    """A column of times of day, or of durations.

    Args:
        number: how they are encoded, counted by `per`.
        type_name: Arrow's name of their type, such as "time32[s]" or "duration[ms]".
        per: how many of the type's unit are one of the number's: nanoseconds that are whole seconds need no nine digits
            more, which float64 does not have for a month.
    """

    number: Number
    type_name: str
    per: int
    kind = "time"

    @staticmethod
    def fit(name: str, column: pa.ChunkedArray) -> Clock:
        """Measure the times that are there, missing cells aside."""
        counts = ticks(column.drop_null()).to_numpy()
        units = [per for per in (10**9, 10**6, 10**3) if per <= PER_SECOND[column.type.unit]]
        per = next((per for per in units if not (counts % per).any()), 1)
        return Clock(Number.fit(name, counts // per), str(column.type), per)

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
        import pyarrow as pa
        import pyarrow.compute as pc

        return self.number.cells(pc.divide(ticks(column).cast(pa.float64(), safe=False), float(self.per)))

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d), within the range that was seen."""
        import pyarrow as pa

        counts = np.round(self.number.decode(x, pa.float64()).to_numpy()).astype(np.int64)
        return of_ticks(counts * self.per, kind)

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0: any can."""
        return {}

    def describe(self) -> str:
        """What it is, for `inspect`."""
        value, kind, per = self.number.value, self.type, self.per
        what = "times of day" if self.type_name.startswith("time") else "durations"
        ends = [value.low, value.high, *self.number.spikes]
        often = ", ".join(in_words(spike * per, kind) for spike in self.number.spikes)
        return f"{what} from {in_words(min(ends) * per, kind)} to {in_words(max(ends) * per, kind)}" + (
            f"; many rows have {often}" if often else ""
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "number": self.number.to_json(), "type": self.type_name, "per": self.per}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Clock:
        """The column whose `to_json` gave these fields."""
        return Clock(Number.from_json(fields["number"]), fields["type"], fields["per"])


def counted(wish: Between, name: str, kind: pa.DataType, per: int = 1) -> Between:
    """The ends, text or times of a type, as numbers of so many of its units; as `in_numbers`.

    Args:
        wish: its ends may be text.
        name: of the column, for messages.
        kind, per: the type, and how many of its unit are one.

    Raises:
        OptionError: for ends that are no times.
    """
    import pyarrow as pa

    def end(value: Any) -> float | None:
        if value is None:
            return None
        count: int = ticks(cast(pa.array([value]), kind))[0].as_py()
        return count / per

    try:
        return replace(wish, low=end(wish.low), high=end(wish.high))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise OptionError(f"--given {name}: {error}") from error
