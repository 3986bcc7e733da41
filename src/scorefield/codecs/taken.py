"""What each column of a table is taken for, and why: by its type and its values, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefield.codecs.calendar import Calendar
from scorefield.codecs.category import Category, named
from scorefield.codecs.clock import Clock
from scorefield.codecs.column import Column, Values
from scorefield.codecs.number import Number
from scorefield.codecs.ordered import Ordered
from scorefield.data.clock import is_clock, of_texts
from scorefield.data.kinds import Table
from scorefield.data.schema import suggestion
from scorefield.errors import DataError, OptionError

if TYPE_CHECKING:
    import pyarrow as pa

TYPES = ("number", "category", "date", "ordered:A<B<C", "out")
FEW = 20  # different numbers up to which each is a name, where rows are twenty times as many
_ROWS_EACH = 5  # rows for each name on average, fewer of which teach nothing of it
_FEW_NAMES = 20  # of which there may be fewer rows each
_LEAST_TOLD = 50  # rows from which values that never repeat are told from chance
_CHANCE = 20.0  # −log of the chance that numbers of a range would never repeat
_CHANCE_OF_ID = 3.0  # the same for a column that is called an identifier
_CALLED_ID = re.compile(r"(^|[^A-Za-z])[iI][dD]$|[a-z]I[dD]$")  # id, row_id, CustomerId, but not valid
_MOSTLY = 0.8  # of texts that are numbers, from which the others are worth a remark
_EXACT_INTEGERS = 2**51  # up to which float64 has the ends of their bins


@dataclass(frozen=True)
class Constant:
    """A column with one value, or none, in every row: put back as it was.

    Args:
        name: of the column.
        value: the value as text that Arrow reads, None where every cell is missing.
    """

    name: str
    value: str | None

    def describe(self) -> str:
        """A line for `inspect`."""
        what = "missing throughout" if self.value is None else f"constant {self.value}"
        return f"{self.name}: {what}, put back as it is"


@dataclass(frozen=True)
class LeftOut:
    """A column that is not modelled, and that samples do not have.

    Args:
        name: of the column.
        reason: in words.
    """

    name: str
    reason: str

    def describe(self) -> str:
        """A line for `inspect`."""
        return f"{self.name}: left out, {self.reason}"


Entry = Column | Constant | LeftOut


def take_columns(table: Table, asked: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """What every column is taken for, and sentences on those that are left out or put back.

    Args:
        table: as read.
        asked: types of columns by name, instead of what their values say.

    Raises:
        OptionError: for unknown columns and types, and types that do not fit.
        DataError: for numbers that no scale holds.
    """
    names = table.columns.column_names
    for name in asked:
        if name not in names:
            raise OptionError(f"--column-type {name}: no such column{suggestion(name, names)}; there are {names}")
    entries: list[Entry] = []
    for name, column in zip(names, table.columns.columns, strict=True):
        try:
            entries.append(_take(name, column, asked.get(name)))
        except DataError as error:
            raise DataError(f"{table.source}: {error}") from error
    left = [entry for entry in entries if isinstance(entry, LeftOut)]
    notes = [
        f"column {entry.name!r} is left out, {entry.reason}"
        + ("" if entry.name in asked else f"; --column-type {entry.name}=category would model it")
        for entry in left
    ]
    notes += [f"column {entry.describe()}" for entry in entries if isinstance(entry, Constant)]
    return entries, notes


def _take(name: str, column: pa.ChunkedArray, asked: str | None) -> Entry:
    """What a column is taken for, with the reason in words."""
    import pyarrow as pa

    if asked == "out":
        return LeftOut(name, "as asked")
    present = column.drop_null()
    distinct = present.unique()
    if len(distinct) == 0:
        return Constant(name, None)
    if len(distinct) == 1 and not column.null_count:
        return Constant(name, str(distinct[0].cast(pa.string()).as_py()))
    if asked is not None:
        return _column(name, column, *_asked(name, present, asked))
    return _column(name, column, *_seen(name, present, distinct))


def _column(name: str, column: pa.ChunkedArray, values: Values | None, why: str) -> Column | LeftOut:
    if values is None:
        return LeftOut(name, why)
    missing = column.null_count / len(column)
    return Column(name, values, gaps=bool(column.null_count), missing=missing, why=why)


def _seen(name: str, present: pa.ChunkedArray, distinct: pa.Array) -> tuple[Values | None, str]:
    """What the values that are there say."""
    import pyarrow as pa

    kind, rows, different = present.type, len(present), len(distinct)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return (Category.fit(name, present), "one date") if different == 1 else (Calendar.fit(name, present), "dates")
    if is_clock(kind):
        return _clock(name, present, different, "times of day" if pa.types.is_time(kind) else "durations")
    if pa.types.is_boolean(kind):
        return Category.fit(name, present), "truth values"
    if pa.types.is_string(kind):
        if different > _FEW_NAMES and rows < _ROWS_EACH * different:
            each = "every value is different" if different == rows else f"{different} different texts in {rows} rows"
            return None, f"{each}: an identifier or free text" + _nearly_numbers(present)
        return Category.fit(name, present), "text"
    if different == 1 or (different <= FEW and rows >= FEW * different):
        return Category.fit(name, present), "few different numbers"
    values = present.to_numpy()
    reason = _identifier(name, values, different) if values.dtype.kind in "iu" else ""
    return (None, reason) if reason else (Number.fit(name, values), "numbers")


def _clock(name: str, present: pa.ChunkedArray, different: int, what: str) -> tuple[Values | None, str]:
    """Of times and durations: names where they are few."""
    if different == 1 or (different <= FEW and len(present) >= FEW * different):
        return Category.fit(name, present), f"few different {what}"
    try:
        return Clock.fit(name, present), what
    except DataError:
        return None, f"{what} of a range too wide for their unit, {present.type}"


def _nearly_numbers(texts: pa.ChunkedArray) -> str:
    """A remark on texts most of which are numbers, with the first that is none."""
    import pyarrow.compute as pc

    number = pc.match_substring_regex(texts, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")
    count = pc.sum(number).as_py()
    if count < _MOSTLY * len(texts) or count == len(texts):
        return ""
    other = texts.filter(pc.invert(number))[0].as_py()
    return f" ({count} of {len(texts)} are numbers, {other!r} is none)"


def _identifier(name: str, values: np.ndarray, different: int) -> str:
    """Why whole numbers are an identifier, "" if they are none."""
    low, high = int(values.min()), int(values.max())
    if different == len(values) >= _LEAST_TOLD:
        if high - low + 1 == different:
            return f"every whole number from {low} to {high} once: row numbers"
        # Of n numbers out of R, all differ by chance with probability exp(−n²/2R).
        unlikely = different**2 / (2 * (high - low + 1))
        if unlikely > _CHANCE:
            return f"all {different} whole numbers are different, which is no chance: an identifier"
        if unlikely > _CHANCE_OF_ID and _CALLED_ID.search(name):
            return f"all {different} whole numbers are different, and it is called an identifier"
    if max(abs(low), abs(high)) > _EXACT_INTEGERS:
        return f"whole numbers up to {max(abs(low), abs(high))} cannot be told apart as float64: an identifier"
    return ""


def _asked(name: str, present: pa.ChunkedArray, asked: str) -> tuple[Values, str]:
    """What the user says."""
    import pyarrow as pa

    kind, one = present.type, len(present.unique()) == 1
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if asked == "category":
        return Category.fit(name, present), "as asked"
    if asked == "number" and (numeric or pa.types.is_boolean(kind)):
        values = present.cast(pa.float64()).to_numpy() if pa.types.is_boolean(kind) else present.to_numpy()
        return (Category.fit(name, present), "one number") if one else (Number.fit(name, values), "as asked")
    if asked == "number" and is_clock(kind):
        return (Category.fit(name, present), "one of them") if one else (Clock.fit(name, present), "as asked")
    if asked == "date" and (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        return (Category.fit(name, present), "one date") if one else (Calendar.fit(name, present), "as asked")
    if asked.startswith("ordered:"):
        order = _order(name, present, asked.removeprefix("ordered:"))
        return (Category.fit(name, present), "one value") if one else (Ordered.fit(name, present, order), "as asked")
    known = asked in ("number", "date")
    raise OptionError(
        f"--column-type {name}={asked}: "
        + (f"the column holds {kind}" if known else f"no such type; there are {', '.join(TYPES)}")
    )


def _order(name: str, present: pa.ChunkedArray, text: str) -> tuple[Any, ...]:
    """The values in the order of a text A<B<C, of the column's own type."""
    import pyarrow as pa

    words = [word.strip() for word in text.split("<")]
    try:
        order = named(of_texts(pa.array(words), present.type)).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise OptionError(f"--column-type {name}=ordered:{text}: no values of {present.type}: {error}") from error
    lacking = sorted(set(named(present).unique().to_pylist()) - set(order))
    if lacking or len(set(order)) < len(order):
        what = f"{lacking[0]!r} has no place in it" if lacking else "a value comes twice"
        raise OptionError(f"--column-type {name}=ordered:{text}: {what}")
    return tuple(order)
