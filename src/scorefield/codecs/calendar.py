"""Columns of dates and times as their calendar parts: the day, or week and weekday where these differ, and the time.

Weeks and days are numbers on a grid; a weekday is a name, so that a column without Sundays gets none; a time of day is
a number of seconds on the grid that it was written on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.blocks import Block
from scorefield.codecs.category import Category
from scorefield.codecs.cells import Cells
from scorefield.codecs.number import Number
from scorefield.data.clock import DAY, PER_SECOND

if TYPE_CHECKING:
    import pyarrow as pa

_MONDAY = 4  # the first Monday, in days since 1970
_UNEVEN = 60.0  # χ² of six degrees of freedom beyond which weekdays differ, by chance in one of 10¹⁰ columns
_FEWEST_WEEKS = 4
_AVOIDED = 23.0  # −log of the chance that some weekdays never come, one in 10¹⁰
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

Part = Number | Category


@dataclass(frozen=True)
class Calendar:
    """A column of dates or times.

    Args:
        name: of the column.
        parts: by name, "day", "week", "weekday" and "seconds"; those that are constant by their value.
        first, last: the range of the days that were seen, from 1970 on.
    """

    name: str
    parts: dict[str, Part | int | float]
    first: int
    last: int
    kind = "date"

    @staticmethod
    def fit(name: str, column: pa.ChunkedArray) -> Calendar:
        """Measure the dates that are there, missing cells aside."""
        days, seconds = _days_and_seconds(column.drop_null())
        weeks, weekdays = np.divmod(days - _MONDAY, 7)
        parts = {"week": weeks, "weekday": weekdays} if _uneven(weekdays) else {"day": days}
        taken = {key: _part(key, values) for key, values in {**parts, "seconds": seconds}.items()}
        return Calendar(name, taken, int(days.min()), int(days.max()))

    @property
    def modelled(self) -> dict[str, Part]:
        """The parts that vary."""
        return {key: part for key, part in self.parts.items() if not isinstance(part, int | float)}

    @property
    def features(self) -> int:
        """Numbers of an encoded value."""
        return sum(part.features for part in self.modelled.values())

    @property
    def filler(self) -> Tensor:
        """The deviation of each number where the cell is missing."""
        return torch.cat([part.filler for part in self.modelled.values()])

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and largest encoded values, (d,) each."""
        low, high = zip(*(part.ends for part in self.modelled.values()), strict=True)
        return torch.cat(low), torch.cat(high)

    @property
    def numbers(self) -> list[tuple[bool, bool, float]]:
        """Of each number: whether it has a cell, is an integer, and the log width of its bin."""
        return [number for part in self.modelled.values() for number in part.numbers]

    def blocks(self, start: int, flag: int) -> list[Block]:
        """Those from a place in a row on, where another number says whether the cell is missing; −1 for none."""
        found: list[Block] = []
        for part in self.modelled.values():
            found += part.blocks(start, flag)
            start += part.features
        return found

    def cells(self, column: pa.ChunkedArray) -> Cells:
        """Of n values; missing ones are of no account."""
        values = self._values(column)
        return Cells.beside([part.cells(_column(key, values[key])) for key, part in self.modelled.items()])

    def decode(self, x: Tensor, kind: pa.DataType) -> pa.Array:
        """n values from (n, d)."""
        import pyarrow as pa

        widths = [part.features for part in self.modelled.values()]
        drawn = dict(zip(self.modelled, x.split(widths, dim=1), strict=True))
        values: dict[str, np.ndarray] = {}
        for key, part in self.parts.items():
            if isinstance(part, int | float):
                values[key] = np.full(len(x), part)
            elif isinstance(part, Category):
                codes = part.vertices.nearest(drawn[key]).numpy()
                values[key] = np.array([_WEEKDAYS.index(str(value)) for value in part.values])[codes]
            else:
                values[key] = part.decode(drawn[key], pa.float64()).to_numpy()
        days = values["day"] if "day" in values else 7 * values["week"] + values["weekday"] + _MONDAY
        return _dates(np.round(days).astype(np.int64).clip(self.first, self.last), values["seconds"], kind)

    def unusable(self, column: pa.ChunkedArray) -> dict[int, str]:
        """Why cells cannot be encoded, by row from 0: a weekday or a time of day that there never was."""
        present = ~column.is_null().to_numpy()
        values, found = self._values(column), {}
        for key, part in self.parts.items():
            if isinstance(part, int | float):
                for row in np.flatnonzero(present & (values[key] != part)):
                    found[int(row)] = f"has {key} {values[key][row]}, which was always {part} in training"
            elif isinstance(part, Category):
                wrong = part.unusable(_column(key, values[key]))
                found |= {row: reason for row, reason in wrong.items() if present[row]}
        return found

    def _values(self, column: pa.ChunkedArray) -> dict[str, np.ndarray]:
        """Every part of n values; of missing ones, of the first of January 1970."""
        days, seconds = _days_and_seconds(column)
        return {
            "day": days,
            "week": (days - _MONDAY) // 7,
            "weekday": (days - _MONDAY) % 7,
            "seconds": seconds,
        }

    def describe(self) -> str:
        """What it is, for `inspect`."""
        return "dates by " + ", ".join(f"{key} ({part.describe()})" for key, part in self.modelled.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {key: part if isinstance(part, int | float) else part.to_json() for key, part in self.parts.items()}
        return {"kind": self.kind, "name": self.name, "parts": parts, "first": self.first, "last": self.last}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Calendar:
        """The column whose `to_json` gave these fields."""
        kinds: dict[str, type[Number] | type[Category]] = {Number.kind: Number, Category.kind: Category}
        parts = {
            key: part if isinstance(part, int | float) else kinds[part["kind"]].from_json(part)
            for key, part in fields["parts"].items()
        }
        return Calendar(fields["name"], parts, fields["first"], fields["last"])


def _uneven(weekdays: np.ndarray) -> bool:
    """Whether some weekdays are rarer than chance would have them, or never come."""
    counts, expected = np.bincount(weekdays, minlength=7), len(weekdays) / 7
    never = int((counts == 0).sum())
    # Of n days, k given weekdays are none by chance with probability (1 − k/7)ⁿ.
    avoided = math.log(math.comb(7, never)) + len(weekdays) * math.log1p(-never / 7) if never < 7 else 0.0
    told = len(weekdays) >= 7 * _FEWEST_WEEKS and float(((counts - expected) ** 2).sum() / expected) > _UNEVEN
    return told or avoided < -_AVOIDED


def _part(key: str, values: np.ndarray) -> Part | int | float:
    """What a part is: its one value, a weekday's names, or numbers."""
    if values.min() == values.max():
        constant: int | float = values[0].item()
        return constant
    return Category.fit(key, _column(key, values)) if key == "weekday" else Number.fit(key, values)


def _column(key: str, values: np.ndarray) -> pa.ChunkedArray:
    """A part as a column: weekdays by their names, others as numbers."""
    import pyarrow as pa

    if key == "weekday":
        return pa.chunked_array([pa.array(np.array(_WEEKDAYS, dtype=object)[values], pa.string())])
    return pa.chunked_array([pa.array(values)])


def _days_and_seconds(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970, (n,) int64, and seconds of the day, int64 where they are whole; zeros for missing cells."""
    import pyarrow as pa

    if pa.types.is_date(column.type):
        days = column.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy().astype(np.int64)
        return days, np.zeros(len(days), dtype=np.int64)
    a_second = PER_SECOND[column.type.unit]
    ticks = column.cast(pa.int64()).fill_null(0).to_numpy()
    days, rest = np.divmod(ticks, DAY * a_second)
    seconds = rest / a_second
    return days, seconds.astype(np.int64) if (rest % a_second == 0).all() else seconds


def _dates(days: np.ndarray, seconds: np.ndarray, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_date(kind):
        return pa.array(days.astype(np.int32)).cast(pa.date32()).cast(kind)
    a_second = PER_SECOND[kind.unit]
    seconds = np.clip(seconds, 0, DAY - 1 / a_second)
    ticks = days * (DAY * a_second) + np.round(seconds * a_second).astype(np.int64)
    return pa.array(ticks).cast(kind)
